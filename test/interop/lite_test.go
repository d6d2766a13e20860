//go:build interop

package interop

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Lite topics are made by their first message, from every language; a consumer gets those it has subscribed to, each in order, also while a
// message of one fails or is suspended, and no others.
func TestLiteTopicsReachThoseWhoSubscribedInOrder(t *testing.T) {
	t.Parallel()
	const topic, perLite = "lites", 4
	shared.admin(t, "topic", "create", topic, "--type", "lite", "--queues", "1", "--lite-ttl", "1h")
	kinds := map[string][]string{"go": {"lite"}, "java": {"lite"}, "python": {"lite", "lite_simple"}, "node": {"lite"}}
	type consumer struct {
		c              *client
		language, kind string
		mine           []string
	}
	var consumers []consumer
	for _, language := range languages {
		for _, kind := range kinds[language] {
			group := fmt.Sprintf("lites-%s-%s", language, kind)
			shared.admin(t, "group", "create", group, "--fifo", "--lite-topic", topic, "--retry-steps", "1s,1s,1s", "--max-attempts", "5")
			var mine []string // also of what this language sends itself, and two that nobody has sent to yet
			for _, from := range languages {
				mine = append(mine, from+"-0")
			}
			r := role{Name: kind, Kind: kind, Topic: topic, Group: group, Lites: mine, InvisibleS: 10}
			switch {
			case language == "node": // gives a message up at its first failure, and can suspend
				r.Suspend = map[string]int{"java-0/1": 2000}
			case kind == "lite":
				r.Fail = map[string]int{"java-0/1": 1}
			}
			consumers = append(consumers, consumer{start(t, shared, language, r), language, kind, mine})
		}
	}
	for _, k := range consumers {
		k.c.Await(t, k.kind+" has started", patience, func() bool { return len(k.c.All(k.kind, "started")) > 0 })
	}
	var producers []*client
	for _, language := range languages {
		var messages []message
		for i := range perLite {
			for l := range 2 {
				m := message{Body: "b", Lite: fmt.Sprintf("%s-%d", language, l)}
				messages = append(messages, m.Known(fmt.Sprintf("%s/%d", m.Lite, i)))
			}
		}
		producers = append(producers, start(t, shared, language, role{Name: "produce", Kind: "produce", Topic: topic, Messages: messages}))
	}
	for _, p := range producers {
		p.Produced(t, "produce", 2*perLite)
	}
	for _, k := range consumers {
		t.Run(k.language+"/"+k.kind, func(t *testing.T) {
			want := len(k.mine) * perLite
			if k.kind == "lite" {
				want++ // what failed or was suspended
			}
			defer func() {
				for _, e := range k.c.All("", "error") {
					t.Error(e.Gist())
				}
			}()
			k.c.Await(t, "all messages are consumed", patience, func() bool { return len(k.c.All(k.kind, "message")) >= want })
			next := map[string]int{}
			for _, e := range k.c.All(k.kind, "message") {
				if e.Lite == nil || !slices.Contains(k.mine, *e.Lite) {
					t.Fatalf("%s is of a lite topic that was not subscribed to", e.Gist())
				}
				if name := fmt.Sprintf("%s/%d", *e.Lite, next[*e.Lite]); e.Properties["case"] != name {
					t.Errorf("got %s, want %s next in its lite topic", e.Gist(), name)
				}
				if e.Action == "ok" || e.Action == "ack" {
					next[*e.Lite]++
				}
			}
			if again := k.c.OfCase(k.kind, "java-0/1"); k.language == "node" && len(again) == 2 {
				if waited := again[1].AtMS - again[0].AtMS; waited < 1900 || again[1].Attempt != 1 {
					t.Errorf("suspended for 2 s, it came after %d ms as attempt %d, which a suspended one does not use up", waited, again[1].Attempt)
				}
			}
		})
	}
}

// In an exclusive group a lite topic belongs to the client that subscribed to it last, in whatever language. The one before is told so over
// Telemetry and gets no more of it. Java shows that it heard; Go does not show it, and Node.js does not know the command.
func TestExclusiveLiteTopicGoesOverToTheLastToSubscribe(t *testing.T) {
	t.Parallel()
	const topic, group = "lites-exclusive", "lites-exclusive"
	shared.admin(t, "topic", "create", topic, "--type", "lite", "--queues", "1")
	shared.admin(t, "group", "create", group, "--fifo", "--lite-topic", topic, "--lite-exclusive")
	lite := func(name string) message { return message{Body: "b", Lite: "x"}.Known(name) }
	var before *client
	for i, language := range []string{"java", "node", "go"} {
		c := start(t, shared, language, role{Name: "lite", Kind: "lite", Topic: topic, Group: group, Lites: []string{"x"}})
		c.Await(t, "it has subscribed", patience, func() bool { return len(c.All("lite", "started")) > 0 })
		if before != nil && before.Language == "java" {
			before.Await(t, "it is told that it lost the lite topic", patience, func() bool { return len(before.All("lite", "lost")) > 0 })
			if e := before.All("lite", "lost")[0]; e.Lite == nil || *e.Lite != "x" {
				t.Errorf("%s lost %v", before.Language, e.Lite)
			}
		}
		name := fmt.Sprint("for ", language)
		produce(t, shared, "go", topic, []message{lite(name)})
		c.Await(t, name+" arrives", patience, func() bool { return len(c.OfCase("lite", name)) > 0 })
		if before != nil && len(before.All("lite", "message")) != 1 {
			t.Errorf("%s, which lost the lite topic, has %d messages of it, want the %dth alone", before.Language, len(before.All("lite", "message")), i)
		}
		before = c
	}
}

// A client that subscribes to more lite topics than its group allows is told so in words that its language knows.
func TestLiteSubscriptionsBeyondTheQuotaAreRefused(t *testing.T) {
	t.Parallel()
	const topic, group = "lites-quota", "lites-quota"
	shared.admin(t, "topic", "create", topic, "--type", "lite", "--queues", "1")
	shared.admin(t, "group", "create", group, "--fifo", "--lite-topic", topic, "--lite-quota", "2")
	var clients []*client
	for _, language := range languages {
		clients = append(clients, start(t, shared, language, role{Name: "lite", Kind: "lite", Topic: topic, Group: group, Lites: []string{"a", "b", "c"}}))
	}
	for _, c := range clients {
		t.Run(c.Language, func(t *testing.T) {
			c.Await(t, "it has started", patience, func() bool { return len(c.All("lite", "started")) > 0 })
			errs := c.All("lite", "error")
			if len(errs) != 1 || errs[0].Op != "subscribe" {
				t.Fatalf("%d errors, want the one of the third subscription", len(errs))
			}
			if m := strings.ToLower(errs[0].Message); !strings.Contains(m, "quota") && !strings.Contains(m, "lite subscriptions") {
				t.Errorf("%s says nothing of a quota", errs[0].Gist())
			}
		})
	}
}

// A message that is recalled before it is due is never delivered; recalling it again is refused, and so is recalling what was delivered.
func TestRecalledMessageIsNotDelivered(t *testing.T) {
	t.Parallel()
	const topic = "recalled"
	shared.admin(t, "topic", "create", topic, "--type", "delay", "--queues", "1")
	consumer := start(t, shared, "go", role{Name: "push", Kind: "push", Topic: topic, Group: "recalled", Filter: "*"})
	producers := map[string]*client{}
	for _, language := range languages {
		producers[language] = start(t, shared, language, role{Name: "produce", Kind: "produce", Topic: topic, Messages: []message{
			message{Body: "b", DelayS: 8, Recall: 2}.Known(language + "/recalled"),
			message{Body: "b", DelayS: 8}.Known(language + "/kept"),
		}})
	}
	for _, language := range languages {
		t.Run(language, func(t *testing.T) {
			p := producers[language]
			p.Await(t, "it is done", patience, func() bool { return len(p.All("produce", "closed")) > 0 })
			sent, recalled, refused := p.All("produce", "sent"), p.All("produce", "recalled"), p.All("produce", "error")
			if len(sent) != 2 || len(recalled) != 1 || recalled[0].ID != sent[0].ID {
				t.Errorf("sent %v, recalled %v", sent, recalled)
			}
			if len(refused) != 1 || refused[0].Op != "recall" {
				t.Errorf("the second recall of a message was not refused: %v", refused)
			}
			consumer.Await(t, "the other message arrives", patience, func() bool { return len(consumer.OfCase("push", language+"/kept")) > 0 })
		})
	}
	// What was recalled would have been due before.
	for _, language := range languages {
		if got := consumer.OfCase("push", language+"/recalled"); len(got) > 0 {
			t.Errorf("%s was recalled", got[0].Gist())
		}
	}
}

// Of what waits, a consumer gets the messages of the highest priority first.
func TestHighestPriorityIsDeliveredFirst(t *testing.T) {
	t.Parallel()
	const topic = "priority"
	shared.admin(t, "topic", "create", topic, "--type", "priority", "--queues", "10")
	for _, language := range languages {
		var messages []message
		for _, p := range []int{2, 8, 5} {
			messages = append(messages, message{Body: "b", Priority: p}.Known(fmt.Sprintf("%d/%s", p, language)))
		}
		produce(t, shared, language, topic, messages)
	}
	var clients []*client
	for _, language := range []string{"go", "java", "python"} {
		clients = append(clients, start(t, shared, language, role{Name: "simple", Kind: "simple", Topic: topic, Group: "priority-" + language, Filter: "*", InvisibleS: 30}))
	}
	for _, c := range clients {
		t.Run(c.Language, func(t *testing.T) {
			c.Await(t, "all messages are here", patience, func() bool { return len(c.All("simple", "message")) >= 3*len(languages) })
			var got []string
			for _, e := range c.All("simple", "message") {
				got = append(got, e.Properties["case"][:1])
			}
			if want := strings.Repeat("8", len(languages)) + strings.Repeat("5", len(languages)) + strings.Repeat("2", len(languages)); strings.Join(got, "") != want {
				t.Errorf("priorities in the order %v, want %s", got, want)
			}
		})
	}
}
