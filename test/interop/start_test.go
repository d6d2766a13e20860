//go:build interop

package interop

import (
	"strings"
	"testing"
)

func TestUnknownTopicFailsAtStart(t *testing.T) {
	const topic = "no-such-topic"
	for _, language := range languages {
		t.Run(language, func(t *testing.T) {
			kinds := []string{"produce", "push", "simple"}
			var roles []role
			for _, kind := range kinds {
				roles = append(roles, role{Name: kind, Kind: kind, Topic: topic, Group: "unknown-" + kind + "-" + language, Filter: "*", InvisibleS: 30, Messages: cases("lost")})
			}
			c := start(t, shared, language, roles...)
			for _, kind := range kinds {
				c.Await(t, kind+" fails", patience, func() bool { return len(c.All(kind, "error")) > 0 })
				e := c.All(kind, "error")[0]
				// Python, and Node.js consumers, keep the code from the application.
				if (language == "go" || language == "java") && !strings.Contains(e.Message, "40402") && !strings.Contains(e.Message, "TOPIC_NOT_FOUND") {
					t.Errorf("%s does not say TOPIC_NOT_FOUND", e.Gist())
				}
				if language == "python" && kind != "push" {
					continue // starts without a route and fails at the first use
				}
				if e.Op != "start" || len(c.All(kind, "started")) > 0 {
					t.Errorf("started before %s", e.Gist())
				}
			}
		})
	}
}
