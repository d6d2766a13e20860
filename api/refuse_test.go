package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/topic"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

type withStatus interface{ GetStatus() *v2.Status }

// TestBadInputIsRefusedByName holds every refusal to its code and to a text
// that names the field or the limit.
func TestBadInputIsRefusedByName(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	f.topic("fifo", topic.FIFO, 1)
	f.topic("tx", topic.Transaction, 1)
	ctx := as("c")
	long := func(n int) string { return strings.Repeat("x", n) }
	name := func(s string) *v2.Resource { return &v2.Resource{Name: s} }
	send := func(change func(*v2.Message)) func() (withStatus, error) {
		return func() (withStatus, error) {
			m := plain("t", "id", "body")
			change(m)
			return f.SendMessage(ctx, &v2.SendMessageRequest{Messages: []*v2.Message{m}})
		}
	}
	receive := func(change func(*v2.ReceiveMessageRequest)) func() (withStatus, error) {
		return func() (withStatus, error) {
			req := receiving("t", "g")
			change(req)
			st, _ := f.receive(ctx, req)
			return &v2.HeartbeatResponse{Status: st}, nil
		}
	}
	pull := func(change func(*v2.PullMessageRequest)) func() (withStatus, error) {
		return func() (withStatus, error) {
			req := &v2.PullMessageRequest{
				Group: name("g"), MessageQueue: &v2.MessageQueue{Topic: name("t")}, LongPollingTimeout: durationpb.New(5 * time.Second),
			}
			change(req)
			stream, err := f.PullMessage(ctx, req)
			if err != nil {
				return nil, err
			}
			return stream.Recv()
		}
	}
	many := map[string]string{}
	for i := range 129 {
		many[fmt.Sprint("k", i)] = "v"
	}
	queue := &v2.MessageQueue{Topic: name("t")}

	for _, c := range []struct {
		name string
		call func() (withStatus, error)
		code v2.Code
		says string
	}{
		{"send nothing", func() (withStatus, error) { return f.SendMessage(ctx, &v2.SendMessageRequest{}) }, v2.Code_MESSAGE_CORRUPTED, "no message"},
		{"send an empty message", func() (withStatus, error) {
			return f.SendMessage(ctx, &v2.SendMessageRequest{Messages: []*v2.Message{{}}})
		}, v2.Code_ILLEGAL_TOPIC, "topic"},
		{"send for two topics", func() (withStatus, error) {
			return f.SendMessage(ctx, &v2.SendMessageRequest{Messages: []*v2.Message{plain("t", "a", "b"), plain("u", "a", "b")}})
		}, v2.Code_MESSAGE_CORRUPTED, `"u"`},
		{"no topic", send(func(m *v2.Message) { m.Topic = nil }), v2.Code_ILLEGAL_TOPIC, "topic"},
		{"topic too long", send(func(m *v2.Message) { m.Topic = name(long(128)) }), v2.Code_ILLEGAL_TOPIC, "127"},
		{"topic with a blank", send(func(m *v2.Message) { m.Topic = name("a b") }), v2.Code_ILLEGAL_TOPIC, "characters"},
		{"system topic", send(func(m *v2.Message) { m.Topic = name("rmq_sys_x") }), v2.Code_ILLEGAL_TOPIC, "cannot access system topic"},
		{"unknown topic", send(func(m *v2.Message) { m.Topic = name("nowhere") }), v2.Code_TOPIC_NOT_FOUND, "nowhere"},
		{"no system properties", send(func(m *v2.Message) { m.SystemProperties = nil }), v2.Code_ILLEGAL_MESSAGE_ID, "id"},
		{"empty body", send(func(m *v2.Message) { m.Body = nil }), v2.Code_MESSAGE_BODY_EMPTY, "body"},
		{"body too large", send(func(m *v2.Message) { m.Body = make([]byte, 4<<20+1) }), v2.Code_MESSAGE_BODY_TOO_LARGE, "4194304"},
		{"body far too large", send(func(m *v2.Message) { m.Body = make([]byte, 16<<20) }), v2.Code_MESSAGE_BODY_TOO_LARGE, "4194304"},
		{"too many properties", send(func(m *v2.Message) { m.UserProperties = many }), v2.Code_MESSAGE_PROPERTIES_TOO_LARGE, "128"},
		{"properties too large", send(func(m *v2.Message) { m.UserProperties = map[string]string{"k": long(16 << 10)} }), v2.Code_MESSAGE_PROPERTIES_TOO_LARGE, "16384"},
		{"reserved property", send(func(m *v2.Message) { m.UserProperties = map[string]string{"UNIQ_KEY": "v"} }), v2.Code_ILLEGAL_MESSAGE_PROPERTY_KEY, "UNIQ_KEY"},
		{"control character in a value", send(func(m *v2.Message) { m.UserProperties = map[string]string{"k": "\x00"} }), v2.Code_ILLEGAL_MESSAGE_PROPERTY_KEY, "control"},
		{"tag with a bar", send(func(m *v2.Message) { m.SystemProperties.Tag = ptr("a|b") }), v2.Code_ILLEGAL_MESSAGE_TAG, "tag"},
		{"blank tag", send(func(m *v2.Message) { m.SystemProperties.Tag = ptr(" ") }), v2.Code_ILLEGAL_MESSAGE_TAG, "tag"},
		{"tag too large", send(func(m *v2.Message) { m.SystemProperties.Tag = ptr(long(16<<10 + 1)) }), v2.Code_MESSAGE_PROPERTIES_TOO_LARGE, "16384"},
		{"control character in a key", send(func(m *v2.Message) { m.SystemProperties.Keys = []string{"a\x00"} }), v2.Code_ILLEGAL_MESSAGE_KEY, "key"},
		{"blank id", send(func(m *v2.Message) { m.SystemProperties.MessageId = " " }), v2.Code_ILLEGAL_MESSAGE_ID, "id"},
		{"group too long", send(func(m *v2.Message) { m.SystemProperties.MessageGroup = ptr(long(64)) }), v2.Code_ILLEGAL_MESSAGE_GROUP, "63"},
		{"due in two years", send(func(m *v2.Message) {
			m.SystemProperties.DeliveryTimestamp = timestamppb.New(time.Now().Add(2 * 366 * 24 * time.Hour))
		}), v2.Code_ILLEGAL_DELIVERY_TIME, broker.DefaultMaxDelay.String()},
		{"due beyond all time", send(func(m *v2.Message) {
			m.SystemProperties.DeliveryTimestamp = &timestamppb.Timestamp{Seconds: 1<<63 - 1}
		}), v2.Code_ILLEGAL_DELIVERY_TIME, broker.DefaultMaxDelay.String()},
		{"ordered message to a plain topic", send(func(m *v2.Message) { m.SystemProperties.MessageGroup = ptr("g") }), v2.Code_MESSAGE_PROPERTY_CONFLICT_WITH_TYPE, "type"},
		{"plain message to a fifo topic", send(func(m *v2.Message) { m.Topic = name("fifo") }), v2.Code_MESSAGE_PROPERTY_CONFLICT_WITH_TYPE, "type"},
		{"recovery too long", send(func(m *v2.Message) {
			m.Topic, m.SystemProperties.MessageType = name("tx"), v2.MessageType_TRANSACTION
			m.SystemProperties.OrphanedTransactionRecoveryDuration = durationpb.New(2 * time.Hour)
		}), v2.Code_BAD_REQUEST, "3600"},

		{"receive without anything", func() (withStatus, error) {
			st, _ := f.receive(ctx, &v2.ReceiveMessageRequest{})
			return &v2.HeartbeatResponse{Status: st}, nil
		}, v2.Code_ILLEGAL_TOPIC, "topic"},
		{"receive from nowhere", receive(func(r *v2.ReceiveMessageRequest) { r.MessageQueue.Topic = name("nowhere") }), v2.Code_TOPIC_NOT_FOUND, "nowhere"},
		{"receive without group", receive(func(r *v2.ReceiveMessageRequest) { r.Group = nil }), v2.Code_ILLEGAL_CONSUMER_GROUP, "group"},
		{"group too long", receive(func(r *v2.ReceiveMessageRequest) { r.Group = name(long(121)) }), v2.Code_ILLEGAL_CONSUMER_GROUP, "120"},
		{"group of the system", receive(func(r *v2.ReceiveMessageRequest) { r.Group = name("CID_RMQ_SYS_x") }), v2.Code_ILLEGAL_CONSUMER_GROUP, "reserved"},
		{"invisible left out", receive(func(r *v2.ReceiveMessageRequest) { r.InvisibleDuration = nil }), v2.Code_ILLEGAL_INVISIBLE_TIME, "the invisibleTime is too small"},
		{"invisible too short", receive(func(r *v2.ReceiveMessageRequest) { r.InvisibleDuration = durationpb.New(9 * time.Second) }), v2.Code_ILLEGAL_INVISIBLE_TIME, "the invisibleTime is too small"},
		{"invisible too long", receive(func(r *v2.ReceiveMessageRequest) { r.InvisibleDuration = durationpb.New(13 * time.Hour) }), v2.Code_ILLEGAL_INVISIBLE_TIME, "the invisibleTime is too large"},
		{"bars only", receive(func(r *v2.ReceiveMessageRequest) { r.FilterExpression = &v2.FilterExpression{Expression: "||"} }), v2.Code_ILLEGAL_FILTER_EXPRESSION, "filter"},
		{"empty SQL", receive(func(r *v2.ReceiveMessageRequest) {
			r.FilterExpression = &v2.FilterExpression{Type: v2.FilterType_SQL}
		}), v2.Code_ILLEGAL_FILTER_EXPRESSION, "empty"},
		{"unknown filter type", receive(func(r *v2.ReceiveMessageRequest) { r.FilterExpression = &v2.FilterExpression{Type: 7} }), v2.Code_ILLEGAL_FILTER_EXPRESSION, "7"},
		{"call shorter than a poll", func() (withStatus, error) {
			st, _ := f.receive(within(ctx, t, 4*time.Second), receiving("t", "g"))
			return &v2.HeartbeatResponse{Status: st}, nil
		}, v2.Code_ILLEGAL_POLLING_TIME, "5s"},

		{"ack nothing", func() (withStatus, error) {
			return f.AckMessage(ctx, &v2.AckMessageRequest{Group: name("g"), Topic: name("t")})
		}, v2.Code_BAD_REQUEST, "no message"},
		{"ack without topic", func() (withStatus, error) {
			return f.AckMessage(ctx, &v2.AckMessageRequest{Group: name("g"), Entries: []*v2.AckMessageEntry{{}}})
		}, v2.Code_ILLEGAL_TOPIC, "topic"},
		{"change without group", func() (withStatus, error) {
			return f.ChangeInvisibleDuration(ctx, &v2.ChangeInvisibleDurationRequest{Topic: name("t")})
		}, v2.Code_ILLEGAL_CONSUMER_GROUP, "group"},
		{"change to less than nothing", func() (withStatus, error) {
			return f.ChangeInvisibleDuration(ctx, &v2.ChangeInvisibleDurationRequest{
				Topic: name("t"), Group: name("g"), InvisibleDuration: durationpb.New(-time.Second),
			})
		}, v2.Code_ILLEGAL_INVISIBLE_TIME, "the invisibleTime is too small"},
		{"change beyond 12 h", func() (withStatus, error) {
			return f.ChangeInvisibleDuration(ctx, &v2.ChangeInvisibleDurationRequest{
				Topic: name("t"), Group: name("g"), InvisibleDuration: &durationpb.Duration{Seconds: 1<<63 - 1},
			})
		}, v2.Code_ILLEGAL_INVISIBLE_TIME, "the invisibleTime is too large"},
		{"forward with no handle", func() (withStatus, error) {
			return f.ForwardMessageToDeadLetterQueue(ctx, &v2.ForwardMessageToDeadLetterQueueRequest{Topic: name("t"), Group: name("g")})
		}, v2.Code_INVALID_RECEIPT_HANDLE, "holds no messages"},

		{"route of nothing", func() (withStatus, error) { return f.QueryRoute(ctx, &v2.QueryRouteRequest{}) }, v2.Code_ILLEGAL_TOPIC, "topic"},
		{"route of nowhere", func() (withStatus, error) { return f.QueryRoute(ctx, &v2.QueryRouteRequest{Topic: name("nowhere")}) }, v2.Code_TOPIC_NOT_FOUND, "nowhere"},
		{"assignment without group", func() (withStatus, error) {
			return f.QueryAssignment(ctx, &v2.QueryAssignmentRequest{Topic: name("t")})
		}, v2.Code_ILLEGAL_CONSUMER_GROUP, "group"},

		{"pull from no queue", pull(func(r *v2.PullMessageRequest) { r.MessageQueue = nil }), v2.Code_ILLEGAL_TOPIC, "topic"},
		{"pull from any queue", pull(func(r *v2.PullMessageRequest) { r.MessageQueue.Id = -1 }), v2.Code_BAD_REQUEST, "queue"},
		{"pull before the beginning", pull(func(r *v2.PullMessageRequest) { r.Offset = -1 }), v2.Code_ILLEGAL_OFFSET, "-1"},
		{"negative offset", func() (withStatus, error) {
			return f.UpdateOffset(ctx, &v2.UpdateOffsetRequest{Group: name("g"), MessageQueue: queue, Offset: -1})
		}, v2.Code_ILLEGAL_OFFSET, "-1"},
		{"offset of a group that has none", func() (withStatus, error) {
			return f.GetOffset(ctx, &v2.GetOffsetRequest{Group: name("nobody"), MessageQueue: queue})
		}, v2.Code_CONSUMER_GROUP_NOT_FOUND, "nobody"},
		{"offset by time without time", func() (withStatus, error) {
			return f.QueryOffset(ctx, &v2.QueryOffsetRequest{MessageQueue: queue, QueryOffsetPolicy: v2.QueryOffsetPolicy_TIMESTAMP})
		}, v2.Code_BAD_REQUEST, "timestamp"},
		{"offset by no policy", func() (withStatus, error) {
			return f.QueryOffset(ctx, &v2.QueryOffsetRequest{MessageQueue: queue, QueryOffsetPolicy: 9})
		}, v2.Code_BAD_REQUEST, "9"},

		{"end a transaction of no topic", func() (withStatus, error) {
			return f.EndTransaction(ctx, &v2.EndTransactionRequest{TransactionId: "x"})
		}, v2.Code_ILLEGAL_TOPIC, "topic"},
		{"end no transaction", func() (withStatus, error) {
			return f.EndTransaction(ctx, &v2.EndTransactionRequest{Topic: name("tx"), TransactionId: " "})
		}, v2.Code_INVALID_TRANSACTION_ID, "blank"},
		{"end a made-up transaction", func() (withStatus, error) {
			return f.EndTransaction(ctx, &v2.EndTransactionRequest{Topic: name("tx"), TransactionId: "AAAA", Resolution: v2.TransactionResolution_COMMIT})
		}, v2.Code_INVALID_TRANSACTION_ID, "not one of"},
		{"recall of no topic", func() (withStatus, error) {
			return f.RecallMessage(ctx, &v2.RecallMessageRequest{RecallHandle: "x"})
		}, v2.Code_ILLEGAL_TOPIC, "topic"},
		{"lite subscription to no topic", func() (withStatus, error) {
			return f.SyncLiteSubscription(ctx, &v2.SyncLiteSubscriptionRequest{})
		}, v2.Code_ILLEGAL_TOPIC, "blank"},
		{"lite subscription below a topic without", func() (withStatus, error) {
			return f.SyncLiteSubscription(ctx, &v2.SyncLiteSubscriptionRequest{Topic: name("t"), Group: name("g"), LiteTopicSet: []string{"x"}})
		}, v2.Code_MESSAGE_PROPERTY_CONFLICT_WITH_TYPE, "no lite topics"},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, err := c.call()
			if err != nil {
				t.Fatal(err)
			}
			if st := resp.GetStatus(); st.GetCode() != c.code || !strings.Contains(st.GetMessage(), c.says) {
				t.Errorf("%v, want %v that says %q", st, c.code, c.says)
			}
		})
	}
}

// Every RPC of the service, with nothing in its request and nobody named.
func TestCallsThatDoNotSayWhoCallsGetAnOrdinaryAnswer(t *testing.T) {
	f := start(t, Options{})
	cc := f.dial()
	methods := v2.File_apache_rocketmq_v2_service_proto.Services().ByName("MessagingService").Methods()
	for i := range methods.Len() {
		method := messagingPrefix + string(methods.Get(i).Name())
		for _, c := range []struct {
			name string
			ctx  context.Context
			code v2.Code
		}{
			{"no header", context.Background(), v2.Code_CLIENT_ID_REQUIRED},
			{"blank", as("  "), v2.Code_CLIENT_ID_REQUIRED},
			{"longer than an id", as(strings.Repeat("i", 513)), v2.Code_BAD_REQUEST},
		} {
			t.Run(method+", "+c.name, func(t *testing.T) {
				stream, err := cc.NewStream(within(c.ctx, t, 20*time.Second), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
				if err != nil {
					t.Fatal(err)
				}
				if err := stream.SendMsg(&v2.HeartbeatRequest{}); err != nil && !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
				stream.CloseSend()
				answer := refusal(method, statusOK)
				proto.Reset(answer)
				if err := stream.RecvMsg(answer); err != nil {
					t.Fatal(err)
				}
				if got := answer.(withStatus).GetStatus(); got.GetCode() != c.code || !strings.Contains(got.GetMessage(), headerClientID) {
					t.Errorf("%v", answer)
				}
				if err := stream.RecvMsg(answer); !errors.Is(err, io.EOF) {
					t.Errorf("then %v", err)
				}
			})
		}
	}
}

func TestPanicEndsTheCallOnly(t *testing.T) {
	var logged strings.Builder
	s := &Server{log: slog.New(slog.NewTextHandler(&logged, nil)), messaging: &messaging{}}
	boom := func(context.Context, any) (any, error) { panic("boom") }
	ctx := metadata.NewIncomingContext(context.Background(), metadata.Pairs(headerClientID, "c"))
	resp, err := s.unary(ctx, nil, &grpc.UnaryServerInfo{FullMethod: v2.MessagingService_AckMessage_FullMethodName}, boom)
	if ack, ok := resp.(*v2.AckMessageResponse); err != nil || !ok || ack.Status.Code != v2.Code_INTERNAL_SERVER_ERROR {
		t.Errorf("messaging: %v, %v", resp, err)
	}
	if _, err := s.unary(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/gantry.v1.Management/ServerInfo"}, boom); status.Code(err) != codes.Internal {
		t.Errorf("management: %v", err)
	}
	err = s.stream(nil, fakeStream{ctx: ctx}, &grpc.StreamServerInfo{FullMethod: v2.MessagingService_Telemetry_FullMethodName},
		func(any, grpc.ServerStream) error { panic("boom") })
	if status.Code(err) != codes.Internal {
		t.Errorf("stream: %v", err)
	}
	if n := strings.Count(logged.String(), "panic=boom"); n != 3 || !strings.Contains(logged.String(), "refuse_test.go") {
		t.Errorf("%d panics logged with their stack:\n%s", n, &logged)
	}
}

type fakeStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s fakeStream) Context() context.Context { return s.ctx }

// A request whose end never comes holds its call, and nothing else.
func TestHalfSentRequestsDoNotOutliveShutdown(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	cc := f.dial()
	for _, method := range []string{v2.MessagingService_SendMessage_FullMethodName, v2.MessagingService_ReceiveMessage_FullMethodName, v2.MessagingService_Telemetry_FullMethodName} {
		for range 20 {
			if _, err := cc.NewStream(as("half"), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.send("t", "id", "others are served") // and the streams above have arrived with it
	gone := f.dial()
	for range 20 {
		if _, err := gone.NewStream(as("gone"), &grpc.StreamDesc{ClientStreams: true}, v2.MessagingService_SendMessage_FullMethodName); err != nil {
			t.Fatal(err)
		}
	}
	healthy(t, gone)
	gone.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := f.server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown with calls that never end: %v", err)
	}
}
