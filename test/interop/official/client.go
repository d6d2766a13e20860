package official

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Client is one running program. Its methods may be called by any goroutine.
type Client struct {
	Language string
	input    io.Closer
	ended    chan struct{}

	mu      sync.Mutex
	events  []Event
	noise   bytes.Buffer
	changed chan struct{} // closed and replaced at each event
}

func (c *Client) read(r io.Reader) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e Event
		err := json.Unmarshal(lines.Bytes(), &e)
		c.mu.Lock()
		if err == nil && e.Event != "" {
			c.events = append(c.events, e)
		} else {
			fmt.Fprintf(&c.noise, "%s\n", lines.Bytes())
		}
		close(c.changed)
		c.changed = make(chan struct{})
		c.mu.Unlock()
	}
}

// Stop asks for a graceful end and does not wait for it.
func (c *Client) Stop() { c.input.Close() }

// All returns the events of a role ("" is every role) of one kind so far.
func (c *Client) All(role, kind string) []Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Event
	for _, e := range c.events {
		if (role == "" || e.Role == role) && e.Event == kind {
			out = append(out, e)
		}
	}
	return out
}

// OfCase returns the deliveries of one message, by the value of its property "case".
func (c *Client) OfCase(role, name string) []Event {
	return slices.DeleteFunc(c.All(role, "message"), func(e Event) bool { return e.Properties["case"] != name })
}

// Await waits until done, or fails the test with the client's story.
func (c *Client) Await(t *testing.T, what string, limit time.Duration, done func() bool) {
	t.Helper()
	deadline := time.After(limit)
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		if done() {
			return
		}
		select {
		case <-changed:
		case <-c.ended:
			if !done() {
				t.Fatalf("the %s client ended before %s", c.Language, what)
			}
			return
		case <-deadline:
			t.Fatalf("the %s client: %s did not happen in %v", c.Language, what, limit)
		}
	}
}

// Produced waits until a producing role is done and returns the ids it was given.
func (c *Client) Produced(t *testing.T, role string, n int) []string {
	t.Helper()
	c.Await(t, role+" is done", Patience, func() bool { return len(c.All(role, "closed")) > 0 || len(c.All(role, "error")) > 0 })
	if errs := c.All(role, "error"); len(errs) > 0 {
		t.Fatalf("%s", errs[0].Gist())
	}
	sent := c.All(role, "sent")
	if len(sent) != n {
		t.Fatalf("%s client: %d of %d messages sent", c.Language, len(sent), n)
	}
	ids := make([]string, n)
	for _, e := range sent {
		ids[e.Index] = e.ID
	}
	return ids
}

// story is what the client did, at the end of a failed test.
func (c *Client) story() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "the %s client:\n", c.Language)
	events := c.events
	if len(events) > 80 {
		fmt.Fprintf(&b, "  ... %d events\n", len(events)-80)
		events = events[len(events)-80:]
	}
	for _, e := range events {
		fmt.Fprintf(&b, "  %d %s\n", e.AtMS%1000000, e.Gist())
	}
	noise := c.noise.String()
	if len(noise) > 4000 {
		noise = "..." + noise[len(noise)-4000:]
	}
	b.WriteString(noise)
	return b.String()
}
