package api

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/session"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

func defaultGroup() group.Group {
	return group.Group{MaxAttempts: broker.DefaultAttempts, Retry: group.Retry{Steps: group.DefaultSteps()}}
}

func TestMergedProducerSettings(t *testing.T) {
	sent := &v2.Settings{
		ClientType:       v2.ClientType_PRODUCER.Enum(),
		AccessPoint:      &v2.Endpoints{Scheme: v2.AddressScheme_IPv4, Addresses: []*v2.Address{{Host: "10.0.0.1", Port: 8081}}},
		RequestTimeout:   durationpb.New(7 * time.Second),
		UserAgent:        &v2.UA{Language: v2.Language_JAVA, Version: "5.2.0", Hostname: "h"},
		ClientProperties: map[string]string{"team": "a"},
		Metric:           &v2.Metric{On: true},
		PubSub: &v2.Settings_Publishing{Publishing: &v2.Publishing{
			Topics: []*v2.Resource{{Name: "t", ResourceNamespace: "ns"}},
		}},
	}
	before := proto.CloneOf(sent)
	got := merge(sent, session.Producer, group.Group{})
	if !proto.Equal(sent, before) {
		t.Error("the client's settings were changed in place")
	}
	want := proto.CloneOf(sent)
	want.Metric = &v2.Metric{}
	want.BackoffPolicy = &v2.RetryPolicy{MaxAttempts: 3, Strategy: &v2.RetryPolicy_ExponentialBackoff{
		ExponentialBackoff: &v2.ExponentialBackoff{
			Initial: durationpb.New(10 * time.Millisecond), Max: durationpb.New(time.Second), Multiplier: 2,
		},
	}}
	want.GetPublishing().MaxBodySize = 4194304
	want.GetPublishing().ValidateMessageType = true
	if !proto.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestMergedConsumerSettings(t *testing.T) {
	fifo := defaultGroup()
	fifo.FIFO, fifo.MaxAttempts, fifo.Retry = true, 4, group.Retry{Steps: []time.Duration{time.Second, time.Minute}}
	grow := defaultGroup()
	grow.Retry = group.Retry{Initial: time.Second, Max: 5 * time.Second, Multiplier: 2}
	flat := defaultGroup()
	flat.Retry, flat.MaxAttempts = group.Retry{Initial: time.Second, Max: time.Hour, Multiplier: 1}, 3
	for _, c := range []struct {
		name  string
		role  session.Role
		group group.Group
		fifo  bool
		max   int32
		steps string
		lite  int32
	}{
		{name: "defaults", role: session.PushConsumer, group: defaultGroup(), max: 17,
			steps: "1s 5s 10s 30s 1m0s 2m0s 3m0s 4m0s 5m0s 6m0s 7m0s 8m0s 9m0s 10m0s 20m0s 30m0s 1h0m0s 2h0m0s"},
		{name: "simple", role: session.SimpleConsumer, group: fifo, fifo: true, max: 4, steps: "1s 1m0s"},
		{name: "exponential is listed", role: session.PushConsumer, group: grow, max: 17, steps: "1s 2s 4s 5s"},
		{name: "exponential without growth ends", role: session.PushConsumer, group: flat, max: 3, steps: "1s 1s 1s"},
		{name: "lite", role: session.LitePushConsumer, group: fifo, fifo: true, max: 4, steps: "1s 1m0s", lite: 2000},
	} {
		t.Run(c.name, func(t *testing.T) {
			sent := &v2.Settings{
				ClientType: v2.ClientType_PUSH_CONSUMER.Enum(),
				PubSub: &v2.Settings_Subscription{Subscription: &v2.Subscription{
					Group:              &v2.Resource{Name: "g"},
					Subscriptions:      []*v2.SubscriptionEntry{{Topic: &v2.Resource{Name: "t"}}},
					LongPollingTimeout: durationpb.New(time.Second),
				}},
			}
			got := merge(sent, c.role, c.group)
			sub := got.GetSubscription()
			if !proto.Equal(sub.GetGroup(), sent.GetSubscription().GetGroup()) || len(sub.GetSubscriptions()) != 1 {
				t.Errorf("what the client said is not in %v", sub)
			}
			if sub.Fifo == nil || *sub.Fifo != c.fifo || sub.GetReceiveBatchSize() != 32 || sub.GetLongPollingTimeout().AsDuration() != 20*time.Second {
				t.Errorf("subscription %v", sub)
			}
			if sub.GetLiteSubscriptionQuota() != c.lite || (sub.LiteSubscriptionQuota != nil) != (c.lite != 0) {
				t.Errorf("lite quota in %v", sub)
			}
			var steps []string
			for _, d := range got.GetBackoffPolicy().GetCustomizedBackoff().GetNext() {
				steps = append(steps, d.AsDuration().String())
			}
			if s := strings.Join(steps, " "); s != c.steps || got.GetBackoffPolicy().GetMaxAttempts() != c.max {
				t.Errorf("%d attempts with steps %s, want %d with %s", got.GetBackoffPolicy().GetMaxAttempts(), s, c.max, c.steps)
			}
		})
	}
}

func TestRoleOfSettings(t *testing.T) {
	publishing := &v2.Settings_Publishing{Publishing: &v2.Publishing{}}
	subscription := &v2.Settings_Subscription{Subscription: &v2.Subscription{}}
	for _, c := range []struct {
		typ  v2.ClientType
		s    *v2.Settings
		want session.Role // 0: refused
	}{
		{v2.ClientType_PRODUCER, &v2.Settings{PubSub: publishing}, session.Producer},
		{v2.ClientType_CLIENT_TYPE_UNSPECIFIED, &v2.Settings{PubSub: publishing}, session.Producer},
		{v2.ClientType_PUSH_CONSUMER, &v2.Settings{PubSub: subscription}, session.PushConsumer},
		{v2.ClientType_SIMPLE_CONSUMER, &v2.Settings{PubSub: subscription}, session.SimpleConsumer},
		{v2.ClientType_PULL_CONSUMER, &v2.Settings{PubSub: subscription}, session.PullConsumer},
		{v2.ClientType_LITE_PUSH_CONSUMER, &v2.Settings{PubSub: subscription}, session.LitePushConsumer},
		{v2.ClientType_LITE_SIMPLE_CONSUMER, &v2.Settings{PubSub: subscription}, session.LiteSimpleConsumer},
		{v2.ClientType_CLIENT_TYPE_UNSPECIFIED, &v2.Settings{PubSub: subscription}, session.PushConsumer},
		{v2.ClientType_PRODUCER, &v2.Settings{PubSub: subscription}, 0},
		{v2.ClientType_PUSH_CONSUMER, &v2.Settings{PubSub: publishing}, 0},
		{v2.ClientType(99), &v2.Settings{PubSub: subscription}, 0},
		{v2.ClientType_PRODUCER, &v2.Settings{}, 0},
	} {
		c.s.ClientType = c.typ.Enum()
		got, err := roleOf(c.s)
		if got != c.want || (err == nil) != (c.want != 0) {
			t.Errorf("%v: %d, %v, want %d", c.s, got, err, c.want)
		}
	}
}

func TestClientLabels(t *testing.T) {
	many := func(n, value int) map[string]string {
		m := map[string]string{}
		for i := range n {
			m[fmt.Sprintf("k%d", i)] = strings.Repeat("v", value)
		}
		return m
	}
	for _, c := range []struct {
		name   string
		labels map[string]string
		wrong  string // what the refusal names; "" = accepted
	}{
		{"none", nil, ""},
		{"all there may be", many(32, 100), ""},
		{"one more", many(33, 1), "33 entries, at most 32"},
		{"empty key", map[string]string{"": "v"}, `key ""`},
		{"key begins with a digit", map[string]string{"1a": "v"}, `key "1a"`},
		{"longest key", map[string]string{strings.Repeat("k", 64): "v"}, ""},
		{"longer key", map[string]string{strings.Repeat("k", 65): "v"}, "64"},
		{"reserved key", map[string]string{"rocketmq.x": "v"}, "reserved"},
		{"longest value, in characters", map[string]string{"k": strings.Repeat("名", 256)}, ""},
		{"longer value", map[string]string{"k": strings.Repeat("v", 257)}, "256"},
		{"too many bytes", many(32, 128), "at most 4096"},
	} {
		err := checkLabels(c.labels)
		switch st := statusFor(discard, err); {
		case c.wrong == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.wrong != "" && (st.Code != v2.Code_INVALID_CLIENT_PROPERTIES || !strings.Contains(st.Message, c.wrong)):
			t.Errorf("%s: %v, want it to name %q", c.name, st, c.wrong)
		}
	}
}

func TestStepsNeverEmptyAndNeverBeyondTheLimit(t *testing.T) {
	for _, g := range []group.Group{
		{MaxAttempts: 1, Retry: group.Retry{Initial: time.Second, Max: time.Minute, Multiplier: 2}},
		{MaxAttempts: 1000, Retry: group.Retry{Initial: time.Millisecond, Max: 1<<63 - 1, Multiplier: 1e9}},
		{MaxAttempts: 1000, Retry: group.Retry{Initial: time.Millisecond, Max: time.Hour, Multiplier: 1}},
	} {
		got := steps(g)
		if len(got) == 0 || len(got) > broker.MaxRetrySteps {
			t.Errorf("%+v: %d steps", g.Retry, len(got))
		}
		if slices.ContainsFunc(got, func(d *durationpb.Duration) bool { return d.AsDuration() <= 0 || !d.IsValid() }) {
			t.Errorf("%+v: a step that is not positive in %v", g.Retry, got)
		}
	}
}
