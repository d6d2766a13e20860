//go:build interop

package interop

import (
	"fmt"
	"testing"
)

// Every consumer language gets every message of every producer language once, byte for byte, in both ways of consuming. The groups are not
// created beforehand: clients merely name them.
func TestEveryPairOfLanguagesRoundTripsEveryMessage(t *testing.T) {
	const topic, huge = "roundtrip", "roundtrip-4mib"
	shared.admin(t, "topic", "create", topic, "--type", "normal", "--queues", "1") // a simple consumer of Node.js polls queue 0 only
	shared.admin(t, "topic", "create", huge, "--type", "normal", "--queues", "1")
	sent, sentHuge := map[string]message{}, map[string]message{}
	for _, language := range languages {
		messages := corpus(t, language)
		for i, id := range produce(t, shared, language, topic, messages) {
			sent[id] = messages[i]
		}
		if language == "go" {
			continue
		}
		messages = []message{message{BodyFile: bodyFile(t, random(4*mib)), Tag: "4MiB"}.Known(language + "-4mib")}
		sentHuge[produce(t, shared, language, huge, messages)[0]] = messages[0]
	}
	for _, language := range languages {
		t.Run(language, func(t *testing.T) {
			roles := []role{
				{Name: "push", Kind: "push", Topic: topic, Group: "roundtrip-push-" + language, Filter: "*"},
				{Name: "simple", Kind: "simple", Topic: topic, Group: "roundtrip-simple-" + language, Filter: "*", InvisibleS: 60},
			}
			if language != "node" {
				roles = append(roles, role{Name: "huge", Kind: "push", Topic: huge, Group: "roundtrip-huge-" + language, Filter: "*"})
			}
			c := start(t, shared, language, roles...)
			for _, r := range roles {
				want := sent
				if r.Name == "huge" {
					want = sentHuge
				}
				c.Await(t, fmt.Sprintf("%s has %d messages", r.Name, len(want)), patience, func() bool { return len(c.All(r.Name, "message")) >= len(want) })
				exactly(t, c, r.Name, want)
			}
			for _, e := range c.All("", "error") {
				t.Error(e.Gist())
			}
		})
	}
}

// exactly checks that a role got the messages, each once and unchanged, and nothing else.
func exactly(t *testing.T, c *client, role string, want map[string]message) {
	t.Helper()
	got := map[string]bool{}
	for _, e := range c.All(role, "message") {
		m, known := want[e.ID]
		switch {
		case !known:
			t.Errorf("unknown or unwanted message: %s", e.Gist())
			continue
		case got[e.ID] || e.Attempt != 1:
			t.Errorf("delivered again: %s", e.Gist())
		}
		got[e.ID] = true
		for _, d := range differences(t, e, m) {
			t.Errorf("%s %s: %s", role, m.Properties["case"], d)
		}
	}
	for id, m := range want {
		if !got[id] {
			t.Errorf("%s misses %s (%s)", role, m.Properties["case"], id)
		}
	}
}
