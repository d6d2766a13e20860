//go:build interop

package interop

import (
	"testing"
	"time"
)

// A message that fails as often as its group allows goes to the group's dead-letter queue, unchanged, and does not hold up the others. In an
// ordered group it is the client that sends it there.
func TestMessageThatAlwaysFailsEndsInDeadLetterQueue(t *testing.T) {
	sent := map[string]message{}
	for _, kind := range []string{"normal", "fifo"} {
		topic := "dead-" + kind
		shared.admin(t, "topic", "create", topic, "--type", kind, "--queues", "1")
		var messages []message
		for _, name := range []string{"before", "poison", "after"} {
			m := message{Body: "body of " + name, Tag: "T", Keys: []string{"k1", "k2"}}
			if kind == "fifo" {
				m.Group = "one"
			}
			messages = append(messages, m.Known(name))
		}
		for i, id := range produce(t, shared, "go", topic, messages) {
			sent[id] = messages[i]
		}
	}
	for _, language := range languages {
		for _, kind := range []string{"normal", "fifo"} {
			t.Run(language+"/"+kind, func(t *testing.T) {
				group := "dead-" + kind + "-" + language
				args := []string{"group", "create", group, "--max-attempts", "2", "--retry-steps", "1s"}
				failures := 2
				if kind == "fifo" {
					args = append(args, "--fifo")
					if language == "node" {
						failures = 1 // it gives up at the first failure
					}
				}
				shared.admin(t, args...)
				c := start(t, shared, language, role{Name: "push", Kind: "push", Topic: "dead-" + kind, Group: group, Filter: "*", Fail: map[string]int{"poison": 100}})
				c.Await(t, "all were tried", patience, func() bool {
					return len(c.OfCase("push", "before")) >= 1 && len(c.OfCase("push", "after")) >= 1 && len(c.OfCase("push", "poison")) >= failures
				})
				dead := deadLetters(t, language, group)
				e := dead.All("dlq", "message")[0]
				if sent[e.ID].Properties["case"] != "poison" {
					t.Errorf("the dead-letter queue holds %s", e.Gist())
				}
				m := sent[e.ID]
				m.Group = ""
				e.Group = nil // whether a dead letter keeps its message group is the broker's choice
				for _, d := range differences(t, e, m) {
					t.Error(d)
				}
				if got := len(c.OfCase("push", "poison")); got != failures {
					t.Errorf("the message was tried %d times, want %d", got, failures)
				}
			})
		}
	}
}

// deadLetters consumes a group's dead-letter queue, which comes into being with its first message, until that is there.
func deadLetters(t *testing.T, language, group string) *client {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(500 * time.Millisecond) {
		c := start(t, shared, language, role{Name: "dlq", Kind: "push", Topic: "%DLQ%" + group, Group: "undertaker-" + group, Filter: "*"})
		c.Await(t, "the dead-letter queue answers", patience, func() bool { return len(c.All("dlq", "message")) > 0 || len(c.All("dlq", "error")) > 0 })
		if len(c.All("dlq", "message")) > 0 {
			return c
		}
		c.Stop()
		if time.Now().After(deadline) {
			t.Fatalf("no dead letter of %s in %v", group, patience)
		}
	}
}
