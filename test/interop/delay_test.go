//go:build interop

package interop

import (
	"testing"
	"time"
)

func TestDelayedMessageArrivesWhenItIsDue(t *testing.T) {
	const topic, delay = "delayed", 5
	shared.admin(t, "topic", "create", topic, "--type", "delay", "--queues", "2")
	consumer := start(t, shared, "go", role{Name: "push", Kind: "push", Topic: topic, Group: "delayed", Filter: "*"})
	producers := map[string]*client{}
	for _, language := range languages {
		later, past := message{Body: "later", DelayS: delay}, message{Body: "past", DelayS: -20}
		producers[language] = start(t, shared, language, role{Name: "produce", Kind: "produce", Topic: topic,
			Messages: []message{later.Known(language + "/later"), past.Known(language + "/past")}})
	}
	for _, language := range languages {
		t.Run(language, func(t *testing.T) {
			producers[language].Produced(t, "produce", 2)
			started := producers[language].All("produce", "started")[0]
			for _, sent := range producers[language].All("produce", "sent") {
				name, want := language+"/later", delay*time.Second
				if sent.Index == 1 {
					name, want = language+"/past", 0
				}
				consumer.Await(t, name+" arrives", patience, func() bool { return len(consumer.OfCase("push", name)) > 0 })
				// The client named the time between these two events, which on a busy machine
				// are seconds apart. Python names whole seconds.
				arrived := consumer.OfCase("push", name)[0].AtMS
				longest, shortest := time.Duration(arrived-started.AtMS)*time.Millisecond, time.Duration(arrived-sent.AtMS)*time.Millisecond
				if longest < want-1100*time.Millisecond || shortest > want+3*time.Second {
					t.Errorf("%s arrived after %v to %v, want %v", name, shortest, longest, want)
				}
			}
		})
	}
}
