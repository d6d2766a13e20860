//go:build interop

package interop

import (
	"slices"
	"testing"
	"time"
)

// What is committed arrives, what is rolled back does not, and a transaction left open ends as the producer's checker says when it is asked.
func TestTransactionsEndAsTheProducerDecides(t *testing.T) {
	const topic = "transactions"
	shared.admin(t, "topic", "create", topic, "--type", "transaction", "--queues", "2")
	consumer := start(t, shared, "java", role{Name: "push", Kind: "push", Topic: topic, Group: "transactions", Filter: "*"})
	producers := map[string]*client{}
	for _, language := range languages {
		var messages []message
		for _, m := range []message{
			{Body: "committed", Tx: "commit"},
			{Body: "rolled back", Tx: "rollback"},
			{Body: "left to commit", Tx: "leave", Properties: map[string]string{"resolve": "commit"}},
			{Body: "left to roll back", Tx: "leave", Properties: map[string]string{"resolve": "rollback"}},
		} {
			messages = append(messages, m.Known(language+"/"+m.Body))
		}
		producers[language] = start(t, shared, language, role{Name: "produce", Kind: "produce", Topic: topic, Messages: messages, Stay: true})
	}
	for _, language := range languages {
		t.Run(language, func(t *testing.T) {
			p := producers[language]
			p.Await(t, "all is sent", patience, func() bool { return len(p.All("produce", "done")) > 0 || len(p.All("produce", "error")) > 0 })
			for _, e := range p.All("produce", "error") {
				t.Error(e.Gist())
			}
			for _, name := range []string{language + "/committed", language + "/left to commit"} {
				consumer.Await(t, name+" arrives", patience, func() bool { return len(consumer.OfCase("push", name)) > 0 })
			}
		})
	}
	// Any producer of the topic may be asked, whoever sent the message.
	for _, name := range []string{"/left to commit", "/left to roll back"} {
		for _, language := range languages {
			checked := func() bool {
				return slices.ContainsFunc(languages, func(asked string) bool { return len(producers[asked].OfCase("produce", language+name)) > 0 })
			}
			for deadline := time.Now().Add(patience); !checked(); time.Sleep(50 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("no producer was asked about %s%s", language, name)
				}
			}
		}
	}
	time.Sleep(time.Second) // what should not come has had its chance
	for _, language := range languages {
		for _, name := range []string{"/committed", "/left to commit", "/rolled back", "/left to roll back"} {
			want := 0
			if name == "/committed" || name == "/left to commit" {
				want = 1
			}
			if got := len(consumer.OfCase("push", language+name)); got != want {
				t.Errorf("%s%s was delivered %d times, want %d", language, name, got, want)
			}
		}
	}
}
