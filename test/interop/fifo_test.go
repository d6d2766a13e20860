//go:build interop

package interop

import (
	"fmt"
	"testing"
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
				messages = append(messages, m.known(fmt.Sprintf("%s/%d", m.Group, i)))
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
			c.await(t, "all messages are consumed", patience, func() bool { return len(c.all("push", "message")) >= len(languages)*groups*perGroup+refusals })
			next := map[string]int{} // per message group
			for _, e := range c.all("push", "message") {
				mg := *e.Group
				if want := fmt.Sprintf("%s/%d", mg, next[mg]); e.Properties["case"] != want {
					t.Errorf("got %s, want %s next in its message group", e.gist(), want)
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
