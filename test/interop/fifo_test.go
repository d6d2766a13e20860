//go:build interop

package interop

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"
)

// Message groups are consumed strictly in order, also while one of their messages fails: nothing of its group passes it.
func TestFIFOKeepsOrderWithinMessageGroupAcrossFailures(t *testing.T) {
	const topic, groups, perGroup = "fifo", 3, 8
	shared.admin(t, "topic", "create", topic, "--type", "fifo", "--queues", "4")
	for _, language := range languages {
		var messages []message
		for i := range perGroup {
			for g := range groups {
				m := message{Body: fmt.Sprint(i), Group: fmt.Sprintf("%s-%d", language, g)}
				messages = append(messages, m.Known(fmt.Sprintf("%s/%d", m.Group, i)))
			}
		}
		produce(t, shared, language, topic, messages)
	}
	for _, language := range languages {
		t.Run(language, func(t *testing.T) {
			group := "fifo-" + language
			shared.admin(t, "group", "create", group, "--fifo", "--retry-steps", "1s,1s,1s", "--max-attempts", "5")
			fail := map[string]int{"go-0/3": 2, "java-1/0": 1, "python-2/7": 1, "node-1/4": 2}
			if language == "node" {
				fail = nil // it gives a message up at its first failure
			}
			refusals := 0
			for _, n := range fail {
				refusals += n
			}
			c := start(t, shared, language, role{Name: "push", Kind: "push", Topic: topic, Group: group, Filter: "*", Fail: fail})
			c.Await(t, "all messages are consumed", patience, func() bool { return len(c.All("push", "message")) >= len(languages)*groups*perGroup+refusals })
			next := map[string]int{} // per message group
			for _, e := range c.All("push", "message") {
				mg := *e.Group
				if want := fmt.Sprintf("%s/%d", mg, next[mg]); e.Properties["case"] != want {
					t.Errorf("got %s, want %s next in its message group", e.Gist(), want)
				}
				if e.Action == "ok" {
					next[mg]++
				}
			}
			for mg, n := range next {
				if n != perGroup {
					t.Errorf("message group %s: %d consumed, want %d", mg, n, perGroup)
				}
			}
		})
	}
}

// The order within a message group holds while messages fail, the broker dies by SIGKILL and comes back, and a second consumer of the group joins:
// no message is handled for the first time before the one ahead of it is done.
func TestFIFOKeepsOrderAcrossRedeliveryRestartAndScaleOut(t *testing.T) {
	t.Parallel()
	const topic, groups, perGroup = "fifo-restart", 6, 25
	b, err := newBroker("fifo")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closing.Go(func() { time.Sleep(10 * time.Second); b.kill() }) }) // clients stop more quietly with a broker
	b.admin(t, "topic", "create", topic, "--type", "fifo", "--queues", "4")
	fifo := []string{"go", "java", "python"}
	consume := func(language string) *client {
		return start(t, b, language, role{Name: "push", Kind: "push", Topic: topic, Group: "fifo-restart-" + language, Filter: "*",
			Fail: map[string]int{"0/3": 1, "1/12": 1, "2/20": 1}})
	}
	consumers := map[string][]*client{}
	for _, language := range fifo {
		b.admin(t, "group", "create", "fifo-restart-"+language, "--fifo", "--retry-steps", "1s,1s,1s", "--max-attempts", "20")
		consumers[language] = []*client{consume(language)}
	}
	var messages []message
	for i := range perGroup {
		for g := range groups {
			messages = append(messages, message{Body: "b", Group: fmt.Sprint(g)}.Known(fmt.Sprintf("%d/%d", g, i)))
		}
	}
	send := func(messages []message) *client {
		return start(t, b, "go", role{Name: "produce", Kind: "produce", Topic: topic, Messages: messages, IntervalMS: 30, Retry: true})
	}
	half := len(messages) / 2
	p := send(messages[:half])
	for _, language := range fifo {
		c := consumers[language][0]
		c.Await(t, "consuming has begun", patience, func() bool { return len(c.All("push", "message")) >= groups })
	}
	p.Await(t, "some are sent", patience, func() bool { return len(p.All("produce", "sent")) >= half/2 })
	b.kill()
	if err := b.start(); err != nil {
		t.Fatal(err)
	}
	for _, language := range fifo {
		consumers[language] = append(consumers[language], consume(language))
	}
	p.Await(t, "half is sent", 2*patience, func() bool { return len(p.All("produce", "sent")) >= half })
	for _, language := range fifo {
		c := consumers[language][1]
		c.Await(t, "the second consumer has joined", patience, func() bool { return len(c.All("push", "started")) > 0 })
	}
	p = send(messages[half:])
	p.Await(t, "all is sent", patience, func() bool { return len(p.All("produce", "sent")) >= len(messages)-half })
	for _, language := range fifo {
		t.Run(language, func(t *testing.T) {
			done := func() map[string]bool {
				out := map[string]bool{}
				for _, c := range consumers[language] {
					for _, e := range c.All("push", "message") {
						if e.Action == "ok" {
							out[e.Properties["case"]] = true
						}
					}
				}
				return out
			}
			for deadline := time.Now().Add(2 * patience); len(done()) < len(messages); time.Sleep(100 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("%d of %d messages are consumed", len(done()), len(messages))
				}
			}
			if len(consumers[language][1].All("push", "message")) == 0 {
				t.Error("the second consumer got nothing")
			}
			var all []event
			for _, c := range consumers[language] {
				all = append(all, c.All("push", "message")...)
			}
			// Of two processes at the same millisecond, in the order of what they say.
			slices.SortStableFunc(all, func(a, b event) int { return cmp.Compare(a.AtMS, b.AtMS) })
			finished := map[string]int{} // by message group: the first so many are done
			for _, e := range all {
				var i int
				mg := *e.Group
				if _, err := fmt.Sscanf(e.Properties["case"], mg+"/%d", &i); err != nil {
					t.Fatal(err)
				}
				if i > finished[mg] {
					t.Errorf("%s came when %d of its message group were done", e.Gist(), finished[mg])
				}
				if e.Action == "ok" {
					finished[mg] = max(finished[mg], i+1)
				}
			}
			t.Logf("%d and %d deliveries of %d messages", len(consumers[language][0].All("push", "message")), len(consumers[language][1].All("push", "message")), len(messages))
		})
	}
}
