//go:build interop

package interop

import (
	"fmt"
	"testing"
	"time"
)

// The broker dies by SIGKILL under producers and consumers of all languages, which stay up and go on: what was acknowledged arrives everywhere.
func TestKilledBrokerLosesNothingAndClientsGoOn(t *testing.T) {
	b, err := newBroker("restart")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closing.Go(func() { time.Sleep(10 * time.Second); b.kill() }) }) // clients stop more quietly with a broker
	goOnAfter(t, b, b.listen, languages, func() {
		b.kill()
		time.Sleep(time.Second)
		if err := b.start(); err != nil {
			t.Fatal(err)
		}
	})
}

// goOnAfter has clients of some languages, which are given endpoint, produce and consume, does something in the middle, and wants all that was acknowledged to arrive everywhere. b is
// for the operator.
func goOnAfter(t *testing.T, b *broker, endpoint string, languages []string, something func()) {
	const topic, perLanguage = "restart", 300
	b.admin(t, "topic", "create", topic, "--type", "normal", "--queues", "2")
	var clients []*client
	for _, language := range languages {
		var messages []message
		for i := range perLanguage {
			messages = append(messages, message{Body: fmt.Sprintf("%s %d", language, i)}.Known(fmt.Sprintf("%s/%d", language, i)))
		}
		roles := []role{
			{Name: "produce", Kind: "produce", Topic: topic, Messages: messages, IntervalMS: 50, Retry: true},
			{Name: "push", Kind: "push", Topic: topic, Group: "restart-push-" + language, Filter: "*"},
			{Name: "simple", Kind: "simple", Topic: topic, Group: "restart-simple-" + language, Filter: "*", InvisibleS: 15},
		}
		if language == "node" {
			roles = roles[:2] // its simple consumer polls queue 0 only
		}
		clients = append(clients, programs.Start(t, endpoint, language, roles...))
	}
	for _, c := range clients {
		c.Await(t, "a third is sent and consuming has begun", patience, func() bool {
			return len(c.All("produce", "sent")) >= perLanguage/3 && len(c.All("push", "message")) > 0 && (c.Language == "node" || len(c.All("simple", "message")) > 0)
		})
	}
	something()
	restarted := time.Now()
	sent := map[string]string{}
	for _, c := range clients {
		c.Await(t, "all is sent", 2*patience, func() bool { return len(c.All("produce", "sent")) >= perLanguage })
		for _, e := range c.All("produce", "sent") {
			sent[e.ID] = fmt.Sprintf("%s/%d", c.Language, e.Index)
		}
	}
	t.Logf("all producers done %v after the restart", time.Since(restarted).Round(time.Second))
	for _, c := range clients {
		t.Run(c.Language, func(t *testing.T) {
			for _, role := range []string{"push", "simple"} {
				if role == "simple" && c.Language == "node" {
					continue
				}
				missing := func() []string {
					got := map[string]bool{}
					for _, e := range c.All(role, "message") {
						got[e.ID] = true
					}
					var out []string
					for id, name := range sent {
						if !got[id] {
							out = append(out, name+" "+id)
						}
					}
					return out
				}
				defer func() {
					if left := missing(); len(left) > 0 {
						t.Errorf("%s misses %q", role, left)
					}
				}()
				c.Await(t, role+" has everything acknowledged", 2*patience, func() bool { return len(missing()) == 0 })
				t.Logf("%s: %d deliveries of %d acknowledged messages, complete %v after the restart", role, len(c.All(role, "message")), len(sent), time.Since(restarted).Round(time.Second))
			}
		})
	}
}
