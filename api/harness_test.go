package api

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// TestMain fails when a goroutine of this project outlives the tests: every
// server and broker has been shut down by then.
func TestMain(m *testing.M) {
	code := m.Run()
	buf := make([]byte, 1<<20)
	for range 100 { // goroutines that were told to end may need a turn to do so
		if leaked(buf) == "" {
			os.Exit(code)
		}
		time.Sleep(10 * time.Millisecond)
	}
	println(leaked(buf))
	os.Exit(1)
}

func leaked(buf []byte) string {
	stacks := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
	for _, s := range stacks[1:] { // the first is this one
		if strings.Contains(s, "github.com/gantry-mq/gantry/") {
			return s
		}
	}
	return ""
}

// fixture is a broker in a directory of its own behind a server, and a client.
type fixture struct {
	v2.MessagingServiceClient
	t        testing.TB
	broker   *broker.Broker
	server   *Server
	addr     string
	plain    bool // consume without HTTP/2
	barriers int  // see inFlight
	admin    gantryv1.ManagementClient
	dial     func(...grpc.DialOption) *grpc.ClientConn
}

// start serves on a port of the loopback interface.
func start(t testing.TB, o Options) *fixture {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := serve(t, o, l, func(opts ...grpc.DialOption) (*grpc.ClientConn, error) {
		return grpc.NewClient(l.Addr().String(), opts...)
	})
	f.plain = withoutHTTP2
	return f
}

// startInBubble serves in memory, for tests whose time is virtual.
func startInBubble(t *testing.T) *fixture {
	// A sync.Pool may hold on to a channel of this bubble, which must not be
	// used outside of it, or the other way round. Two collections empty it.
	empty := func() { runtime.GC(); runtime.GC() }
	empty()
	t.Cleanup(empty)
	l := bufconn.Listen(1 << 20)
	return serve(t, Options{}, l, func(opts ...grpc.DialOption) (*grpc.ClientConn, error) {
		return grpc.NewClient("passthrough:///127.0.0.1:8081", append(opts, grpc.WithContextDialer(
			func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))...)
	})
}

// openBroker is for tests of the server alone.
func openBroker(t *testing.T) *broker.Broker {
	t.Helper()
	b, err := broker.Open(t.Context(), broker.Options{Dir: t.TempDir(), SegmentSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func serve(t testing.TB, o Options, l net.Listener, dial func(...grpc.DialOption) (*grpc.ClientConn, error)) *fixture {
	t.Helper()
	opts := broker.Options{Dir: t.TempDir(), SegmentSize: 16 << 20, AutoCreateGroups: true}
	if o.Auth != nil {
		opts.MasterKey = testMasterKey(t)
	}
	b, err := broker.Open(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if o.Logger == nil {
		o.Logger = discard
	}
	s := New(b, o)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout/2)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	f := &fixture{t: t, broker: b, server: s, addr: l.Addr().String()}
	f.dial = func(opts ...grpc.DialOption) *grpc.ClientConn {
		t.Helper()
		if len(opts) == 0 {
			opts = []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
		}
		cc, err := dial(append(opts, grpc.WithNoProxy())...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cc.Close() })
		return cc
	}
	cc := f.dial()
	f.MessagingServiceClient = v2.NewMessagingServiceClient(cc)
	f.admin = gantryv1.NewManagementClient(cc)
	return f
}

// as is the context of a call by the client named id.
func as(id string) context.Context {
	return metadata.AppendToOutgoingContext(context.Background(),
		headerClientID, id, headerLanguage, "GO", headerClientVersion, "5.1.4")
}

func within(ctx context.Context, t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(ctx, d)
	t.Cleanup(cancel)
	return ctx
}

func (f *fixture) topic(name string, typ topic.Type, queues uint32) {
	f.t.Helper()
	if _, err := f.broker.CreateTopic(context.Background(), topic.Topic{Name: record.Resource{Name: name}, Type: typ, Queues: queues}); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) group(g group.Group) {
	f.t.Helper()
	if _, err := f.broker.CreateGroup(context.Background(), g); err != nil {
		f.t.Fatal(err)
	}
}

// send stores one message that must be accepted.
func (f *fixture) send(topic, id, body string) {
	f.t.Helper()
	resp, err := f.SendMessage(as("producer"), &v2.SendMessageRequest{Messages: []*v2.Message{plain(topic, id, body)}})
	if err != nil || resp.GetStatus().GetCode() != v2.Code_OK {
		f.t.Fatalf("send: %v, %v", resp, err)
	}
}

func plain(topic, id, body string) *v2.Message {
	return &v2.Message{
		Topic: &v2.Resource{Name: topic}, Body: []byte(body), SystemProperties: &v2.SystemProperties{MessageId: id},
	}
}

// receiving is a receive with what most tests want.
func receiving(topic, group string) *v2.ReceiveMessageRequest {
	return &v2.ReceiveMessageRequest{
		Group:              &v2.Resource{Name: group},
		MessageQueue:       &v2.MessageQueue{Topic: &v2.Resource{Name: topic}, Id: -1},
		BatchSize:          32,
		InvisibleDuration:  durationpb.New(30 * time.Second),
		LongPollingTimeout: durationpb.New(5 * time.Second),
	}
}

// receive collects a receive's stream and checks what must hold of every one.
func (f *fixture) receive(ctx context.Context, req *v2.ReceiveMessageRequest) (*v2.Status, []*v2.Message) {
	f.t.Helper()
	stream, err := f.ReceiveMessage(ctx, req)
	if err != nil {
		f.t.Fatal(err)
	}
	var status *v2.Status
	var messages []*v2.Message
	times := 0
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			f.t.Fatalf("receive: %v", err)
		}
		switch c := resp.Content.(type) {
		case *v2.ReceiveMessageResponse_Status:
			if status != nil || len(messages) > 0 || times > 0 {
				f.t.Fatalf("a status out of place: %v", c)
			}
			status = c.Status
		case *v2.ReceiveMessageResponse_Message:
			if times > 0 {
				f.t.Fatal("a message after the delivery time")
			}
			messages = append(messages, c.Message)
		case *v2.ReceiveMessageResponse_DeliveryTimestamp:
			times++
		default:
			f.t.Fatal("a response without content")
		}
	}
	if status == nil || status.Message == "" || times != 1 || (len(messages) > 0) != (status.Code == v2.Code_OK) {
		f.t.Fatalf("status %v, %d messages, %d delivery times", status, len(messages), times)
	}
	return status, messages
}

func bodies(messages []*v2.Message) []string {
	var s []string
	for _, m := range messages {
		s = append(s, string(m.Body))
	}
	return s
}
