package api

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/session"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

func (f *fixture) telemetry(ctx context.Context) v2.MessagingService_TelemetryClient {
	f.t.Helper()
	stream, err := f.Telemetry(ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	return stream
}

func consumerSettings(group, filter string) *v2.TelemetryCommand {
	return &v2.TelemetryCommand{Command: &v2.TelemetryCommand_Settings{Settings: &v2.Settings{
		ClientType:     v2.ClientType_PUSH_CONSUMER.Enum(),
		RequestTimeout: durationpb.New(3 * time.Second),
		UserAgent:      &v2.UA{Language: v2.Language_GOLANG, Version: "5.1.4", Hostname: "host"},
		PubSub: &v2.Settings_Subscription{Subscription: &v2.Subscription{
			Group: &v2.Resource{Name: group},
			Subscriptions: []*v2.SubscriptionEntry{{
				Topic: &v2.Resource{Name: "t"}, Expression: &v2.FilterExpression{Type: v2.FilterType_TAG, Expression: filter},
			}},
		}},
	}}}
}

func producerSettings(topics ...string) *v2.TelemetryCommand {
	p := &v2.Publishing{}
	for _, t := range topics {
		p.Topics = append(p.Topics, &v2.Resource{Name: t})
	}
	return &v2.TelemetryCommand{Command: &v2.TelemetryCommand_Settings{Settings: &v2.Settings{
		ClientType: v2.ClientType_PRODUCER.Enum(), PubSub: &v2.Settings_Publishing{Publishing: p},
	}}}
}

// settle sends settings and returns the answer, which must be complete.
func settle(t *testing.T, stream v2.MessagingService_TelemetryClient, cmd *v2.TelemetryCommand) *v2.Settings {
	t.Helper()
	if err := stream.Send(cmd); err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if answer.GetStatus().GetCode() != v2.Code_OK || answer.GetSettings() == nil {
		t.Fatalf("answer %v", answer)
	}
	return answer.GetSettings()
}

func TestSettingsAreAnsweredAndRegistered(t *testing.T) {
	f := start(t, Options{})
	f.group(group.Group{Name: record.Resource{Name: "ordered"}, FIFO: true, MaxAttempts: 5, Retry: group.Retry{Steps: []time.Duration{time.Second}}})
	stream := f.telemetry(as("c1"))
	got := settle(t, stream, consumerSettings("ordered", "a || b"))
	if !got.GetSubscription().GetFifo() || got.GetBackoffPolicy().GetMaxAttempts() != 5 || len(got.GetBackoffPolicy().GetCustomizedBackoff().GetNext()) != 1 {
		t.Errorf("settings of an ordered group: %v", got)
	}
	c, ok := f.broker.Sessions().Get("c1")
	if !ok || c.Role != session.PushConsumer || c.Group.Name != "ordered" || c.Language != "GO" || c.Version != "5.1.4" ||
		c.Host != "host" || c.Remote == "" || !c.Streaming || c.RequestTimeout != 3*time.Second ||
		len(c.Subscriptions) != 1 || c.Subscriptions[0].Filter != "a || b" {
		t.Errorf("registered %+v, %v", c, ok)
	}
	// The same stream again, with another group: an update.
	if got := settle(t, stream, consumerSettings("fresh", "*")); got.GetSubscription().GetFifo() || got.GetBackoffPolicy().GetMaxAttempts() != 17 {
		t.Errorf("settings of a new group: %v", got)
	}
	if _, ok := f.broker.Group(record.Resource{Name: "fresh"}); !ok {
		t.Error("the group did not come into being")
	}
	// A producer may start without a topic and must get its answer.
	p := settle(t, f.telemetry(as("p1")), producerSettings())
	if p.GetPublishing().GetMaxBodySize() != 4<<20 || p.GetBackoffPolicy().GetExponentialBackoff() == nil {
		t.Errorf("producer settings: %v", p)
	}
	stream.CloseSend()
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the client closed its side: %v", err)
	}
	if c, ok := f.broker.Sessions().Get("c1"); !ok || c.Streaming {
		t.Errorf("after its stream ended: %+v, %v", c, ok)
	}
}

func TestBadSettingsEndTheStream(t *testing.T) {
	f := start(t, Options{})
	labelled := producerSettings()
	labelled.GetSettings().ClientProperties = map[string]string{"rocketmq.x": "y"}
	sql := consumerSettings("g", "")
	sql.GetSettings().GetSubscription().Subscriptions[0].Expression.Type = v2.FilterType_SQL
	huge := producerSettings()
	huge.GetSettings().UserAgent = &v2.UA{Hostname: strings.Repeat("h", maxSettingsBytes)}
	for name, c := range map[string]struct {
		cmd  *v2.TelemetryCommand
		says string
	}{
		"neither half":    {&v2.TelemetryCommand{Command: &v2.TelemetryCommand_Settings{Settings: &v2.Settings{}}}, "no publishing or subscription"},
		"nil settings":    {&v2.TelemetryCommand{Command: &v2.TelemetryCommand_Settings{}}, "no publishing or subscription"},
		"illegal topic":   {producerSettings("good", "bad topic"), "ILLEGAL_TOPIC"},
		"illegal group":   {consumerSettings("", "*"), "ILLEGAL_CONSUMER_GROUP"},
		"reserved group":  {consumerSettings("DEFAULT_CONSUMER", "*"), "ILLEGAL_CONSUMER_GROUP"},
		"illegal filter":  {consumerSettings("g", "||"), "ILLEGAL_FILTER_EXPRESSION"},
		"empty SQL":       {sql, "ILLEGAL_FILTER_EXPRESSION"},
		"too large":       {huge, "1048576"},
		"reserved labels": {labelled, "INVALID_CLIENT_PROPERTIES"},
	} {
		t.Run(name, func(t *testing.T) {
			stream := f.telemetry(as(name))
			if err := stream.Send(c.cmd); err != nil {
				t.Fatal(err)
			}
			_, err := stream.Recv()
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), c.says) ||
				!strings.Contains(err.Error(), "process client telemetryCommand failed.") {
				t.Errorf("%v, want INVALID_ARGUMENT that says %q", err, c.says)
			}
			if f.broker.Sessions().Live(name) {
				t.Error("the client was registered")
			}
		})
	}
}

func TestOtherCommandsOfAClientAreTaken(t *testing.T) {
	f := start(t, Options{})
	stream := f.telemetry(as("c"))
	for _, cmd := range []*v2.TelemetryCommand{
		{},
		{Command: &v2.TelemetryCommand_VerifyMessageResult{VerifyMessageResult: &v2.VerifyMessageResult{Nonce: "n"}}},
		{Status: statusOK, Command: &v2.TelemetryCommand_ThreadStackTrace{}},
	} {
		if err := stream.Send(cmd); err != nil {
			t.Fatal(err)
		}
	}
	settle(t, stream, producerSettings("t"))
}

func TestCommandsGoToTheNewestStream(t *testing.T) {
	f := start(t, Options{})
	older, newer := f.telemetry(as("c")), f.telemetry(as("c"))
	settle(t, older, producerSettings("t"))
	settle(t, newer, producerSettings("t"))
	expect := func(stream v2.MessagingService_TelemetryClient, nonce string) {
		t.Helper()
		if err := f.broker.Sessions().Send("c", session.Reconnect{Nonce: nonce}); err != nil {
			t.Fatal(err)
		}
		got, err := stream.Recv()
		if err != nil || got.GetReconnectEndpointsCommand().GetNonce() != nonce {
			t.Fatalf("%v, %v", got, err)
		}
	}
	expect(newer, "1")
	older.CloseSend()
	if _, err := older.Recv(); !errors.Is(err, io.EOF) {
		t.Fatalf("the older stream got %v", err)
	}
	expect(newer, "2") // the late end of the old stream detached nothing
	if !f.broker.Sessions().Live("c") {
		t.Error("the client is gone with its old stream")
	}
}

func TestSlowReaderDoesNotBlockCommands(t *testing.T) {
	f := start(t, Options{})
	settle(t, f.telemetry(as("c")), producerSettings("t"))
	nonce := strings.Repeat("n", 64<<10)
	var err error
	for range 10_000 { // far more than windows and buffers hold
		if err = f.broker.Sessions().Send("c", session.Reconnect{Nonce: nonce}); err != nil {
			break
		}
	}
	if !errors.Is(err, errSlowClient) {
		t.Errorf("Send to a client that does not read: %v", err)
	}
}

func TestHeartbeatNeedsSettings(t *testing.T) {
	f := start(t, Options{})
	beat := func(id, group string) v2.Code {
		t.Helper()
		resp, err := f.Heartbeat(as(id), &v2.HeartbeatRequest{Group: &v2.Resource{Name: group}, ClientType: v2.ClientType_PUSH_CONSUMER})
		if err != nil {
			t.Fatal(err)
		}
		return resp.Status.Code
	}
	bye := func(id, group string) v2.Code {
		t.Helper()
		resp, err := f.NotifyClientTermination(as(id), &v2.NotifyClientTerminationRequest{Group: &v2.Resource{Name: group}})
		if err != nil {
			t.Fatal(err)
		}
		return resp.Status.Code
	}
	if got := beat("c", "g"); got != v2.Code_UNRECOGNIZED_CLIENT_TYPE {
		t.Errorf("before settings: %v", got)
	}
	settle(t, f.telemetry(as("c")), consumerSettings("g", "*"))
	settle(t, f.telemetry(as("p")), producerSettings("t"))
	for _, c := range []struct {
		id, group string
		want      v2.Code
	}{
		{"c", "g", v2.Code_OK},
		{"c", "", v2.Code_ILLEGAL_CONSUMER_GROUP},
		{"c", "bad group", v2.Code_ILLEGAL_CONSUMER_GROUP},
		{"p", "", v2.Code_OK}, // producers have none
	} {
		if got := beat(c.id, c.group); got != c.want {
			t.Errorf("%s in %q: %v, want %v", c.id, c.group, got, c.want)
		}
	}
	if got := bye("c", "bad group"); got != v2.Code_ILLEGAL_CONSUMER_GROUP {
		t.Errorf("goodbye from a bad group: %v", got)
	}
	if a, b := bye("c", "g"), bye("c", "g"); a != v2.Code_OK || b != v2.Code_UNRECOGNIZED_CLIENT_TYPE {
		t.Errorf("goodbye: %v, again %v", a, b)
	}
	if got := beat("c", "g"); got != v2.Code_UNRECOGNIZED_CLIENT_TYPE {
		t.Errorf("after goodbye: %v", got)
	}
}

// The two ends of an auto-renewed lease: the client says goodbye, or falls
// silent with its stream still open.
func TestAutoRenewedMessagesLiveAsLongAsTheirClient(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, f *fixture) time.Duration{
		"goodbye": func(t *testing.T, f *fixture) time.Duration {
			f.NotifyClientTermination(as("holder"), &v2.NotifyClientTerminationRequest{Group: &v2.Resource{Name: "g"}})
			return 5 * time.Second
		},
		"silence": func(*testing.T, *fixture) time.Duration { return broker.ClientExpiry + 10*time.Second },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := startInBubble(t)
				f.topic("t", topic.Normal, 1)
				settle(t, f.telemetry(as("holder")), consumerSettings("g", "*"))
				f.send("t", "id", "x")
				req := receiving("t", "g")
				req.AutoRenew, req.InvisibleDuration = true, nil
				if _, got := f.receive(as("holder"), req); len(got) != 1 {
					t.Fatal("nothing received")
				}
				for range 60 { // 10 min, far beyond the 60 s a lease would last otherwise
					time.Sleep(10 * time.Second)
					resp, err := f.Heartbeat(as("holder"), &v2.HeartbeatRequest{Group: &v2.Resource{Name: "g"}})
					if err != nil || resp.Status.Code != v2.Code_OK {
						t.Fatalf("%v, %v", resp, err)
					}
				}
				if st, _ := f.receive(as("other"), receiving("t", "g")); st.Code != v2.Code_MESSAGE_NOT_FOUND {
					t.Fatalf("while its client lives: %v", st)
				}
				time.Sleep(end(t, f))
				if _, got := f.receive(as("other"), receiving("t", "g")); len(got) != 1 || got[0].SystemProperties.GetDeliveryAttempt() != 2 {
					t.Errorf("after its client's end: %v", got)
				}
			})
		})
	}
}

// A client that beats and has no command stream, as some are for minutes after the broker
// has come back: what it was handed out just before its connection broke comes again,
// what it has had for longer does not.
func TestWhatALostConnectionMayHaveTakenAlongComesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startInBubble(t)
		f.topic("t", topic.Normal, 1)
		want := v2.Code_UNRECOGNIZED_CLIENT_TYPE // the first time, and known from then on
		beat := func() {
			t.Helper()
			resp, err := f.Heartbeat(as("holder"), &v2.HeartbeatRequest{ClientType: v2.ClientType_PUSH_CONSUMER, Group: &v2.Resource{Name: "g"}})
			if err != nil || resp.Status.Code != want {
				t.Fatalf("%v, %v", resp, err)
			}
			want = v2.Code_OK
		}
		req := receiving("t", "g")
		req.AutoRenew, req.InvisibleDuration = true, nil
		broken := f.dial()
		other := *f
		other.MessagingServiceClient = v2.NewMessagingServiceClient(broken)
		beat()
		for _, m := range []struct {
			id   string
			then time.Duration
		}{{"old", 20 * time.Second}, {"new", 10 * time.Second}} {
			f.send("t", m.id, "x")
			if _, got := other.receive(as("holder"), req); len(got) != 1 || got[0].SystemProperties.GetMessageId() != m.id {
				t.Fatalf("%v, want %s", got, m.id)
			}
			time.Sleep(m.then)
			beat()
		}
		broken.Close()
		var again []*v2.Message
		for range 12 {
			time.Sleep(10 * time.Second)
			beat()
			_, got := f.receive(as("holder"), req)
			again = append(again, got...)
		}
		if len(again) != 1 || again[0].SystemProperties.GetMessageId() != "new" || again[0].SystemProperties.GetDeliveryAttempt() != 2 {
			t.Errorf("%v came again", again)
		}
	})
}
