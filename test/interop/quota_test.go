//go:build interop

package interop

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// What a quota refuses is told to the caller, who may try again, and is never delivered; what it holds back from a consumer arrives later.
func TestQuotasSlowDownAndLoseNothing(t *testing.T) {
	t.Parallel()
	for _, language := range languages {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			topic, group := "quota-"+language, "quota-"+language
			shared.admin(t, "topic", "create", topic)
			shared.admin(t, "quota", "set", "topic", topic, "--send-messages", "20")
			shared.admin(t, "quota", "set", "group", group, "--receive-messages", "20", "--in-flight", "10")
			var messages []message
			for i := range 80 {
				messages = append(messages, message{Body: fmt.Sprint(i)})
			}
			c := start(t, shared, language,
				role{Name: "p", Kind: "produce", Topic: topic, Retry: true, Messages: messages},
				role{Name: "c", Kind: "push", Topic: topic, Group: group, Filter: "*"})
			c.Await(t, "all are sent and arrive", patience, func() bool { return len(c.All("p", "closed")) > 0 && len(c.All("c", "message")) >= len(messages) })

			refused := c.All("p", "error")
			if len(refused) == 0 && (language == "python" || language == "node") { // Go and Java wait a little and try again by themselves
				t.Fatal("no send was refused")
			}
			for _, e := range refused {
				if !strings.Contains(e.Message, "quota") {
					t.Errorf("%s names no quota", e.Gist())
				}
			}
			var sent, got []string
			for _, e := range c.All("p", "sent") {
				sent = append(sent, e.ID)
			}
			for _, e := range c.All("c", "message") {
				got = append(got, e.ID)
			}
			slices.Sort(sent)
			slices.Sort(got)
			if !slices.Equal(sent, got) {
				t.Errorf("%d were sent, %d arrived:\n%v\n%v", len(sent), len(got), sent, got)
			}
		})
	}
}
