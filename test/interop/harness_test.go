//go:build interop

package interop

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/internal/brokertest"
)

// patience bounds every wait for something that should happen soon.
const patience = 60 * time.Second

var (
	workDir  string // binaries, logs and data of this run
	gantry   string // the binary under test
	goClient string // clients/go, built
	shared   *broker
	closing  sync.WaitGroup // clients told to stop; a graceful stop waits for the last long poll
)

func TestMain(m *testing.M) {
	code, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		code = 1
	}
	os.Exit(code)
}

func runAll(m *testing.M) (int, error) {
	var err error
	if workDir, err = os.MkdirTemp("", "gantry-interop-"); err != nil {
		return 0, err
	}
	gantry, goClient = os.Getenv("GANTRY_BIN"), filepath.Join(workDir, "goclient")
	if gantry == "" {
		gantry = filepath.Join(workDir, "gantry")
		if err := goBuild("../..", gantry, "./cmd/gantry"); err != nil {
			return 0, err
		}
	}
	if err := goBuild("clients/go", goClient, "."); err != nil {
		return 0, err
	}
	if shared, err = newBroker("shared"); err != nil {
		return 0, err
	}
	if err := shared.start(); err != nil {
		return 0, err
	}
	code := m.Run()
	closing.Wait()
	shared.kill()
	if code != 0 {
		fmt.Println("logs and data kept in", workDir)
		return code, nil
	}
	return 0, os.RemoveAll(workDir)
}

func goBuild(dir, output, pkg string) error {
	cmd := exec.Command("go", "build", "-o", output, pkg)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s in %s: %w\n%s", pkg, dir, err, out)
	}
	return nil
}

// broker is one gantry server, which can be killed and started again on the same ports and data.
type broker struct {
	name, listen, http, peer, log string
	args                          []string // of serve, besides
	cmd                           *exec.Cmd
}

func newBroker(name string) (*broker, error) {
	at, err := brokertest.FindAddrs(2, 1)
	if err != nil {
		return nil, err
	}
	return &broker{name: name, log: filepath.Join(workDir, name+".log"), listen: at[0], http: at[1]}, nil
}

func (b *broker) start() error {
	log, err := os.OpenFile(b.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	b.cmd = exec.Command(gantry, "serve", "--data", filepath.Join(workDir, b.name+".data"), "--listen", b.listen, "--http", b.http)
	b.cmd.Args = append(b.cmd.Args, b.args...)
	b.cmd.Stdout, b.cmd.Stderr = log, log
	if err := b.cmd.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if resp, err := http.Get("http://" + b.http + "/readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
	}
	b.kill()
	return fmt.Errorf("%s did not become ready; see %s", b.name, b.log)
}

// kill ends the server with SIGKILL.
func (b *broker) kill() {
	b.cmd.Process.Kill()
	b.cmd.Wait()
}

// admin runs an operator command against the server.
func (b *broker) admin(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command(gantry, append(args, "--server", b.listen)...).CombinedOutput()
	if err != nil {
		t.Fatalf("gantry %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

var languages = []string{"go", "java", "python", "node"}

func command(language, spec string) *exec.Cmd {
	switch language {
	case "go":
		return exec.Command(goClient, spec)
	case "java":
		return exec.Command("java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Duser.home="+workDir, "-cp", "clients/java/target/classes:clients/java/target/lib/*",
			"interop.Client", spec)
	case "python":
		return exec.Command("clients/python/.venv/bin/python", "clients/python/client.py", spec)
	case "node":
		return exec.Command("node", "clients/node/client.js", spec)
	}
	panic(language)
}

type role struct {
	Name       string              `json:"name"`
	Kind       string              `json:"kind"`
	Topic      string              `json:"topic"`
	Group      string              `json:"group,omitempty"`
	Filter     string              `json:"filter,omitempty"`
	SQL        bool                `json:"sql,omitempty"`
	Fail       map[string]int      `json:"fail,omitempty"`
	Plan       map[string][]string `json:"plan,omitempty"`
	InvisibleS int                 `json:"invisible_s,omitempty"`
	IntervalMS int                 `json:"interval_ms,omitempty"`
	Retry      bool                `json:"retry,omitempty"`
	Stay       bool                `json:"stay,omitempty"`
	Lites      []string            `json:"lites,omitempty"`
	Suspend    map[string]int      `json:"suspend,omitempty"`
	User       string              `json:"user,omitempty"`
	Secret     string              `json:"secret,omitempty"`
	Namespace  string              `json:"namespace,omitempty"`
	Messages   []message           `json:"messages,omitempty"`
}

type message struct {
	Body       string            `json:"body,omitempty"`
	BodyFile   string            `json:"body_file,omitempty"`
	Tag        string            `json:"tag,omitempty"`
	Keys       []string          `json:"keys,omitempty"`
	Properties map[string]string `json:"properties,omitempty"`
	Group      string            `json:"group,omitempty"`
	DelayS     int               `json:"delay_s,omitempty"`
	Lite       string            `json:"lite,omitempty"`
	Priority   int               `json:"priority,omitempty"`
	Recall     int               `json:"recall,omitempty"`
	Tx         string            `json:"transaction,omitempty"`
}

type event struct {
	Role       string            `json:"role"`
	Event      string            `json:"event"`
	AtMS       int64             `json:"at_ms"`
	Op         string            `json:"op"`
	Message    string            `json:"message"`
	Index      int               `json:"index"`
	ID         string            `json:"id"`
	Size       int               `json:"size"`
	SHA256     string            `json:"sha256"`
	Tag        *string           `json:"tag"`
	Keys       []string          `json:"keys"`
	Properties map[string]string `json:"properties"`
	Group      *string           `json:"group"`
	Lite       *string           `json:"lite"`
	Attempt    int               `json:"attempt"`
	Delivery   int               `json:"delivery"`
	Action     string            `json:"action"`
}

func (e event) gist() string {
	switch e.Event {
	case "sent":
		return fmt.Sprintf("%s sent %d %s", e.Role, e.Index, e.ID)
	case "error":
		return fmt.Sprintf("%s error in %s: %s", e.Role, e.Op, e.Message)
	case "message":
		return fmt.Sprintf("%s message %s case=%q attempt=%d delivery=%d %s", e.Role, e.ID, e.Properties["case"], e.Attempt, e.Delivery, e.Action)
	}
	return e.Role + " " + e.Event
}

// client is one running program of an official client.
type client struct {
	language string
	input    io.Closer
	ended    chan struct{}

	mu      sync.Mutex
	events  []event
	noise   bytes.Buffer
	changed chan struct{} // closed and replaced at each event
}

var specs struct {
	sync.Mutex
	n int
}

func start(t *testing.T, b *broker, language string, roles ...role) *client {
	t.Helper()
	return startAt(t, b.listen, language, roles...)
}

// startAt is start for a client that is given this endpoint.
func startAt(t *testing.T, endpoint, language string, roles ...role) *client {
	t.Helper()
	specs.Lock()
	specs.n++
	name := filepath.Join(workDir, fmt.Sprintf("%03d-%s", specs.n, language))
	specs.Unlock()
	data, err := json.MarshalIndent(map[string]any{"endpoint": endpoint, "roles": roles}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name+".json", data, 0o600); err != nil {
		t.Fatal(err)
	}
	c := &client{language: language, ended: make(chan struct{}), changed: make(chan struct{})}
	cmd := command(language, name+".json")
	// Only the place of the clients' log files is changed.
	cmd.Env = append(os.Environ(), "HOME="+workDir, "rocketmq.client.logRoot="+workDir)
	cmd.Stderr = &locked{c}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start the %s client (run setup.sh first?): %v", language, err)
	}
	c.input = in
	record, err := os.Create(name + ".events")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.ended)
		c.read(io.TeeReader(out, record))
		cmd.Wait()
		record.Close()
	}()
	t.Cleanup(func() {
		c.stop()
		if t.Failed() {
			t.Log(c.story())
		}
		closing.Add(1)
		go func() {
			defer closing.Done()
			select {
			case <-c.ended:
			case <-time.After(patience):
				cmd.Process.Kill()
				<-c.ended
			}
		}()
	})
	return c
}

type locked struct{ c *client }

func (l *locked) Write(p []byte) (int, error) {
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	return l.c.noise.Write(p)
}

func (c *client) read(r io.Reader) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e event
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

// stop asks for a graceful end and does not wait for it.
func (c *client) stop() { c.input.Close() }

// all returns the events of a role ("" is every role) of one kind so far.
func (c *client) all(role, kind string) []event {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []event
	for _, e := range c.events {
		if (role == "" || e.Role == role) && e.Event == kind {
			out = append(out, e)
		}
	}
	return out
}

// await waits until done, or fails the test with the client's story.
func (c *client) await(t *testing.T, what string, limit time.Duration, done func() bool) {
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
				t.Fatalf("the %s client ended before %s", c.language, what)
			}
			return
		case <-deadline:
			t.Fatalf("the %s client: %s did not happen in %v", c.language, what, limit)
		}
	}
}

// story is what the client did, at the end of a failed test.
func (c *client) story() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "the %s client:\n", c.language)
	events := c.events
	if len(events) > 80 {
		fmt.Fprintf(&b, "  ... %d events\n", len(events)-80)
		events = events[len(events)-80:]
	}
	for _, e := range events {
		fmt.Fprintf(&b, "  %d %s\n", e.AtMS%1000000, e.gist())
	}
	noise := c.noise.String()
	if len(noise) > 4000 {
		noise = "..." + noise[len(noise)-4000:]
	}
	b.WriteString(noise)
	return b.String()
}

// produce sends the messages with one client and returns their ids, in order.
func produce(t *testing.T, b *broker, language, topic string, messages []message) []string {
	t.Helper()
	c := start(t, b, language, role{Name: "produce", Kind: "produce", Topic: topic, Messages: messages})
	return c.produced(t, "produce", len(messages))
}

// produced waits until a producing role is done and returns the ids it was given.
func (c *client) produced(t *testing.T, role string, n int) []string {
	t.Helper()
	c.await(t, role+" is done", patience, func() bool { return len(c.all(role, "closed")) > 0 || len(c.all(role, "error")) > 0 })
	if errs := c.all(role, "error"); len(errs) > 0 {
		t.Fatalf("%s", errs[0].gist())
	}
	sent := c.all(role, "sent")
	if len(sent) != n {
		t.Fatalf("%s client: %d of %d messages sent", c.language, len(sent), n)
	}
	ids := make([]string, n)
	for _, e := range sent {
		ids[e.Index] = e.ID
	}
	return ids
}
