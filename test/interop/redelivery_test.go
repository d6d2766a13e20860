//go:build interop

package interop

import (
	"slices"
	"testing"
	"time"
)

func cases(names ...string) []message {
	var out []message
	for _, name := range names {
		out = append(out, message{Body: "body of " + name}.Known(name))
	}
	return out
}

func TestFailedMessageComesBackToPushConsumerWithAttemptRaised(t *testing.T) {
	const topic = "failing"
	shared.admin(t, "topic", "create", topic, "--type", "normal", "--queues", "2")
	names := []string{"first", "flaky", "third", "fourth"}
	produce(t, shared, "go", topic, cases(names...))
	for _, language := range languages {
		t.Run(language, func(t *testing.T) {
			group := "failing-" + language
			shared.admin(t, "group", "create", group, "--retry-steps", "1s,2s,2s", "--max-attempts", "5")
			c := start(t, shared, language, role{Name: "push", Kind: "push", Topic: topic, Group: group, Filter: "*", Fail: map[string]int{"flaky": 2}})
			c.Await(t, "all messages are consumed", patience, func() bool { return len(c.All("push", "message")) >= len(names)+2 })
			for _, name := range names {
				want := []int{1}
				if name == "flaky" {
					want = []int{1, 2, 3}
				}
				deliveries := c.OfCase("push", name)
				var attempts []int
				for i, e := range deliveries {
					attempts = append(attempts, e.Attempt)
					// Node.js asks for an immediate redelivery, whatever the group's steps are.
					if waited := e.AtMS - deliveries[max(i-1, 0)].AtMS; i > 0 && language != "node" && waited < int64(i)*1000-100 {
						t.Errorf("%s: attempt %d came %d ms after the failure of the one before; the group's step is %d s", name, e.Attempt, waited, i)
					}
				}
				if !slices.Equal(attempts, want) {
					t.Errorf("%s: attempts %v, want %v", name, attempts, want)
				}
			}
		})
	}
}

func TestSimpleConsumerDecidesWhenMessagesComeBack(t *testing.T) {
	const topic = "simple"
	shared.admin(t, "topic", "create", topic, "--type", "normal", "--queues", "1")
	produce(t, shared, "python", topic, cases("acked", "left", "changed", "changed and acked"))
	var clients []*client
	for _, language := range languages {
		clients = append(clients, start(t, shared, language, role{
			Name: "simple", Kind: "simple", Topic: topic, Group: "simple-" + language, Filter: "*", InvisibleS: 10,
			Plan: map[string][]string{"left": {"leave", "ack"}, "changed": {"change:14", "ack"}, "changed and acked": {"change:10+ack"}},
		}))
	}
	for _, c := range clients {
		t.Run(c.Language, func(t *testing.T) {
			c.Await(t, "the two messages came back", 2*patience, func() bool { return len(c.OfCase("simple", "left")) >= 2 && len(c.OfCase("simple", "changed")) >= 2 })
			// "changed" came back 14 s after its change; what was acked had less to wait for.
			for name, after := range map[string]time.Duration{"acked": 0, "left": 10 * time.Second, "changed": 14 * time.Second, "changed and acked": 0} {
				deliveries := c.OfCase("simple", name)
				if after == 0 {
					if len(deliveries) != 1 {
						t.Errorf("%s: delivered %d times, want once", name, len(deliveries))
					}
					continue
				}
				if len(deliveries) != 2 || deliveries[0].Attempt != 1 || deliveries[1].Attempt != 2 {
					t.Errorf("%s: deliveries %v, want attempts 1 and 2", name, deliveries)
					continue
				}
				// A client that has just started may take a second from the server's answer to the application.
				if waited := time.Duration(deliveries[1].AtMS-deliveries[0].AtMS) * time.Millisecond; waited < after-2*time.Second || waited > after+5*time.Second {
					t.Errorf("%s: came back after %v, want about %v", name, waited, after)
				}
			}
			for _, e := range c.All("", "error") {
				t.Error(e.Gist())
			}
		})
	}
}
