//go:build interop

package interop

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"testing"
)

// The clients of three nodes with two shards take each for a broker: what they send is spread over both and all of it arrives, transactions end,
// delayed messages come and are taken back, and the death of a shard's leader is that of one broker's.
func TestClientsUseAllShards(t *testing.T) {
	const plain, fifo, later, halves, many = "spread", "spread-fifo", "spread-later", "spread-halves", 40
	nodes := newCluster(t, "shards", 2)
	b := nodes[0]
	b.admin(t, "cluster", "transfer", "n2", "--shard", "1")
	for topic, kind := range map[string]string{plain: "normal", fifo: "fifo", later: "delay", halves: "transaction"} {
		b.admin(t, "topic", "create", topic, "--type", kind, "--queues", "2")
	}
	for _, language := range languages {
		t.Run(language, func(t *testing.T) {
			b.admin(t, "group", "create", "spread-fifo-"+language, "--fifo")
			known := func(topic string, of ...message) (all []message) {
				for i, m := range of {
					all = append(all, m.Known(fmt.Sprintf("%s/%s/%d", language, topic, i)))
				}
				return all
			}
			var spread, ordered, delayed, transactions []message
			for i := range many {
				spread = append(spread, message{Body: fmt.Sprint("m", i)})
				ordered = append(ordered, message{Body: fmt.Sprint("o", i), Group: fmt.Sprint("g", i%8)})
				switch {
				case i < 8: // so many that both shards have some to take back
					delayed = append(delayed, message{Body: fmt.Sprint("back", i), DelayS: 3600, Recall: 1})
				case i < 12:
					delayed = append(delayed, message{Body: fmt.Sprint("later", i), DelayS: 2})
				case i < 16:
					transactions = append(transactions, message{Body: "half", Tx: "commit"}, message{Body: "half", Tx: "rollback"}, message{Body: "half", Tx: "leave", Properties: map[string]string{"resolve": "commit"}})
				}
			}
			before := ends(t, b, plain)
			produce := map[string][]message{plain: known(plain, spread...), fifo: known(fifo, ordered...), later: known(later, delayed...), halves: known(halves, transactions...)}
			var roles []role
			for topic, messages := range produce {
				group := "spread-" + language
				if topic == fifo {
					group = "spread-fifo-" + language
				}
				roles = append(roles,
					role{Name: "send " + topic, Kind: "produce", Topic: topic, Messages: messages, Stay: topic == halves},
					role{Name: "push " + topic, Kind: "push", Topic: topic, Group: group, Filter: "*"})
			}
			if language != "node" { // its simple consumer polls queue 0 only
				roles = append(roles, role{Name: "simple", Kind: "simple", Topic: plain, Group: "spread-simple-" + language, Filter: "*", InvisibleS: 60})
			}
			c := start(t, b, language, roles...)
			arrives := func(role, topic string, i int) {
				t.Helper()
				name := fmt.Sprintf("%s/%s/%d", language, topic, i)
				c.Await(t, name+" arrives at "+role, patience, func() bool { return len(c.OfCase(role, name)) > 0 })
			}
			for i := range many {
				arrives("push "+plain, plain, i)
				arrives("push "+fifo, fifo, i)
				if language != "node" {
					arrives("simple", plain, i)
				}
			}
			for i, m := range transactions {
				if m.Tx != "rollback" {
					arrives("push "+halves, halves, i)
				}
			}
			for i := 8; i < 12; i++ {
				arrives("push "+later, later, i)
			}
			c.Await(t, "what was to come in an hour is taken back", patience, func() bool { return len(c.All("send "+later, "recalled")) == 8 })
			for _, e := range c.All("", "error") {
				t.Error(e.Gist())
			}
			for shard, end := range ends(t, b, plain) {
				if end == before[shard] {
					t.Errorf("none of %d messages went to shard %d", many, shard)
				}
			}
			inOrder(t, c, "push "+fifo, known(fifo, ordered...))
			for i, m := range transactions {
				if name := fmt.Sprintf("%s/%s/%d", language, halves, i); m.Tx == "rollback" && len(c.OfCase("push "+halves, name)) > 0 {
					t.Errorf("%s was rolled back and arrived", name)
				}
			}
		})
	}
	t.Run("a leader dies", func(t *testing.T) {
		out, err := exec.Command(gantry, "cluster", "status", "--shard", "1", "--json", "--server", b.listen).Output()
		var of []nodeStatus
		if err == nil {
			err = json.Unmarshal(out, &of)
		}
		at := slices.IndexFunc(of, func(s nodeStatus) bool { return s.Role == "leader" })
		if err != nil || at < 0 {
			t.Fatalf("nobody leads shard 1: %v: %s", err, out)
		}
		at = int(of[at].Name[1] - '1')
		leader, other := nodes[at], nodes[(at+1)%3]
		goOnAfter(t, other, other.listen, languages, func() { leader.kill() })
	})
}

// ends is how many messages a topic has had, by shard.
func ends(t *testing.T, b *broker, topic string) (all []int64) {
	t.Helper()
	for shard := range 2 {
		out, err := exec.Command(gantry, "topic", "describe", topic, "--shard", fmt.Sprint(shard), "--json", "--server", b.listen).Output()
		var d struct{ Messages int64 }
		if err == nil {
			err = json.Unmarshal(out, &d)
		}
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		all = append(all, d.Messages)
	}
	return all
}

// inOrder checks that the messages of each message group came in the order in which they were sent.
func inOrder(t *testing.T, c *client, role string, sent []message) {
	t.Helper()
	last := map[string]int{}
	for _, e := range c.All(role, "message") {
		for i, m := range sent {
			if e.Properties["case"] != m.Properties["case"] {
				continue
			}
			if before, ok := last[m.Group]; ok && before > i && e.Delivery == 1 {
				t.Errorf("of message group %s, message %d came after %d", m.Group, i, before)
			}
			last[m.Group] = max(last[m.Group], i)
		}
	}
}
