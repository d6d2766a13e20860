package api

import (
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker"
)

func TestPollWait(t *testing.T) {
	ask := func(d time.Duration) timespan {
		return timespan{set: true, seconds: int64(d / time.Second), nanos: int32(d % time.Second)}
	}
	for _, c := range []struct {
		name    string
		asked   timespan
		left    time.Duration
		request time.Duration
		version string
		want    time.Duration
		reason  broker.Reason
	}{
		{name: "Java asks for its await and has 3 s more", asked: ask(10 * time.Second), left: 13 * time.Second, want: 10 * time.Second},
		{name: "Go asks for nothing", left: 13 * time.Second, want: 11500 * time.Millisecond},
		{name: "Go with a longer request timeout", left: 20 * time.Second, request: 10 * time.Second, want: 15 * time.Second},
		{name: "Rust asks for more than the most", asked: ask(40 * time.Second), left: 40 * time.Second, want: 20 * time.Second},
		{name: "less than the least", asked: ask(time.Second), left: 8 * time.Second, want: 5 * time.Second},
		{name: "negative", asked: ask(-time.Hour), left: 8 * time.Second, want: 5 * time.Second},
		{name: "as long as the call: answer before its timer", asked: ask(15 * time.Second), left: 15 * time.Second, want: 14900 * time.Millisecond},
		{name: "longer than the call", asked: ask(15 * time.Second), left: 7 * time.Second, want: 6900 * time.Millisecond},
		{name: "no deadline and nothing asked", left: noDeadline, want: 20 * time.Second},
		{name: "no deadline", asked: ask(9 * time.Second), left: noDeadline, want: 9 * time.Second},
		{name: "a call too short, new client", asked: ask(time.Second), left: 4 * time.Second, version: "5.0.3", reason: broker.IllegalPollingTime},
		{name: "a call too short, later client", left: 4 * time.Second, version: "5.1.4", reason: broker.IllegalPollingTime},
		{name: "a call too short, old client", left: 4 * time.Second, version: "5.0.2", reason: broker.BadRequest},
		{name: "a call too short, no version", left: 4 * time.Second, reason: broker.BadRequest},
		{name: "a call that is over", left: 0, version: "5.1.4", reason: broker.IllegalPollingTime},
	} {
		t.Run(c.name, func(t *testing.T) {
			request := c.request
			if request == 0 {
				request = defaultRequestTimeout
			}
			got, err := pollWait(c.asked, c.left, request, c.version)
			if c.reason != 0 {
				if err == nil || broker.ReasonOf(err) != c.reason {
					t.Fatalf("%v, %v: want reason %d", got, err, c.reason)
				}
				return
			}
			if err != nil || got != c.want {
				t.Fatalf("%v, %v, want %v", got, err, c.want)
			}
		})
	}
}
