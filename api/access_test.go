package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/access"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
	"github.com/gantry-mq/gantry/proto/stream"
)

func testMasterKey(t testing.TB) *access.MasterKey {
	t.Helper()
	k, err := access.ParseMasterKey(access.NewMasterKey())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

const testSecret = "a-test-secret"

// startWithUsers serves a broker that asks who calls: admin is a super user, shop and
// idle have no policies yet, off is disabled.
func startWithUsers(t *testing.T, o Options) *fixture {
	t.Helper()
	o.Auth = &Auth{Clock: access.Clock{Skew: 5 * time.Minute}}
	f := start(t, o)
	for _, u := range []access.User{{Name: "admin", Super: true, Enabled: true}, {Name: "shop", Enabled: true}, {Name: "idle", Enabled: true}, {Name: "off"}} {
		if _, err := f.broker.CreateUser(t.Context(), u, testSecret); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// signed is the context of a call by a user, whose client has the user's name.
func signed(user string) context.Context { return signedWith(user, testSecret) }

func signedWith(user, secret string) context.Context {
	authorization, date := access.Sign(user, secret, time.Now())
	return metadata.AppendToOutgoingContext(as(user), headerAuthorization, authorization, headerDateTime, date)
}

func (f *fixture) grant(user string, t access.Type, name string, actions access.Actions) uint64 {
	f.t.Helper()
	p, err := f.broker.Grant(f.t.Context(), access.Policy{User: user, Actions: actions, Resource: access.Pattern{Type: t, Match: access.Literal, Name: name}})
	if err != nil {
		f.t.Fatal(err)
	}
	return p.ID
}

func TestEveryMethodHasARule(t *testing.T) {
	s := New(openBroker(t), Options{})
	registered := map[string]bool{}
	for service, info := range s.grpc.GetServiceInfo() {
		for _, m := range info.Methods {
			name := "/" + service + "/" + m.Name
			registered[name] = true
			if _, ok := rules[name]; !ok {
				t.Errorf("%s has no rule", name)
			}
		}
	}
	for name := range rules {
		if !registered[name] {
			t.Errorf("there is a rule of %s, and no such method", name)
		}
	}
}

// outcomeOf calls a method with an empty request and returns the code of the answer: a
// messaging client's, or gRPC's.
func outcomeOf(t *testing.T, ctx context.Context, cc *grpc.ClientConn, method string, info grpc.MethodInfo) (v2.Code, codes.Code) {
	t.Helper()
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		t.Fatal(err)
	}
	d := found.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(name))
	blank := func(d protoreflect.MessageDescriptor) proto.Message {
		typ, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
		if err != nil {
			t.Fatal(err)
		}
		return typ.New().Interface()
	}
	req, resp := blank(d.Input()), blank(d.Output())
	switch r := req.(type) { // the first request decides about the stream
	case *gantryv1.PublishRequest:
		r.Content = &gantryv1.PublishRequest_Open{Open: &gantryv1.PublishOpen{ProducerId: 1, ClientId: "c", Topic: &gantryv1.StreamResource{Name: "orders"}}}
	case *gantryv1.ConsumeRequest:
		r.Content = &gantryv1.ConsumeRequest_Subscribe{Subscribe: &gantryv1.Subscribe{ClientId: "c"}}
	case *v2.TelemetryCommand:
		r.Command = &v2.TelemetryCommand_Settings{Settings: &v2.Settings{PubSub: &v2.Settings_Publishing{
			Publishing: &v2.Publishing{Topics: []*v2.Resource{{Name: "orders"}}},
		}}}
	case *v2.SendMessageRequest:
		r.Messages = []*v2.Message{{}}
	case *v2.HeartbeatRequest:
		r.Group = &v2.Resource{Name: "G"}
	case *v2.NotifyClientTerminationRequest:
		r.Group = &v2.Resource{Name: "G"}
	}
	if !info.IsClientStream && !info.IsServerStream {
		err = cc.Invoke(ctx, method, req, resp)
	} else {
		var st grpc.ClientStream
		st, err = cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
		if err == nil {
			st.SendMsg(req) // an error is the answer's
			if !info.IsClientStream {
				st.CloseSend()
			}
			if err = st.RecvMsg(resp); errors.Is(err, io.EOF) {
				t.Fatalf("%s ends without an answer", method)
			}
		}
	}
	code := v2.Code(0)
	switch r := resp.(type) {
	case interface{ GetStatus() *v2.Status }:
		code = r.GetStatus().GetCode()
	case *gantryv1.ConsumeResponse:
		code = v2.Code(r.GetStatus().GetCode())
	}
	return code, status.Code(err)
}

func TestEveryMethodRefusesWhoMayNotCallIt(t *testing.T) {
	f := startWithUsers(t, Options{})
	unsigned := as("c")
	forged, date := access.Sign("admin", testSecret, time.Now())
	old, oldDate := access.Sign("admin", testSecret, time.Now().Add(-450*time.Second)) // between two time zones
	with := func(authorization, date string) context.Context {
		return metadata.AppendToOutgoingContext(as("c"), headerAuthorization, authorization, headerDateTime, date)
	}
	callers := map[string]context.Context{
		"no signature": unsigned, "an unknown user": signed("nobody"), "a wrong secret": signedWith("admin", "not-the-secret"),
		"a disabled user": signed("off"), "an altered signature": with(forged[:len(forged)-1]+"x", date), "an old signature": with(old, oldDate),
		"another date": with(forged, "20200101T000000Z"), "basic authentication": with("Basic YWRtaW46YS10ZXN0LXNlY3JldA==", date),
	}
	tried, sources := 0, byte(0)
	for service, info := range f.server.grpc.GetServiceInfo() {
		for _, m := range info.Methods {
			method := "/" + service + "/" + m.Name
			r := rules[method]
			if r.open || strings.HasPrefix(service, "grpc.reflection.v1alpha") { // which has no linked types
				continue
			}
			sources++ // so that none is locked out
			cc := f.dial(grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
				d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, 0, sources)}}
				return d.DialContext(ctx, "tcp", addr)
			}))
			gets := grpc.MethodInfo{IsClientStream: m.IsClientStream, IsServerStream: m.IsServerStream}
			for name, ctx := range callers {
				tried++
				code, rpc := outcomeOf(t, within(ctx, t, 10*time.Second), cc, method, gets)
				if code != v2.Code_UNAUTHORIZED && rpc != codes.Unauthenticated {
					t.Errorf("%s by %s: %v, %v", method, name, code, rpc)
				}
			}
			code, rpc := outcomeOf(t, within(signed("idle"), t, 10*time.Second), cc, method, gets)
			own := strings.HasPrefix(method, "/gantry.v1.Access/") && (m.Name == "DescribeUser" || m.Name == "Test")
			switch refused := code == v2.Code_FORBIDDEN || rpc == codes.PermissionDenied; {
			case r.needs == nil || own:
				if refused || rpc == codes.Unauthenticated {
					t.Errorf("%s by a user without policies: %v, %v, but it is for all users", method, code, rpc)
				}
			case !refused:
				t.Errorf("%s by a user without policies: %v, %v", method, code, rpc)
			}
		}
	}
	t.Logf("%d calls of %d methods were tried", tried, sources)
	if tried < 400 {
		t.Errorf("%d calls were tried", tried)
	}
}

func TestPoliciesDecideAboutMessages(t *testing.T) {
	f := startWithUsers(t, Options{})
	for _, name := range []string{"orders", "pay"} {
		f.topic(name, topic.Normal, 1)
	}
	f.grant("shop", access.Topic, "orders", access.Pub|access.Sub)
	f.grant("shop", access.Group, "billing", access.Sub)
	send := func(topics ...string) v2.Code {
		t.Helper()
		req := &v2.SendMessageRequest{}
		for _, name := range topics {
			req.Messages = append(req.Messages, plain(name, "id", "x"))
		}
		resp, err := f.SendMessage(signed("shop"), req)
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetStatus().GetCode()
	}
	for _, c := range []struct {
		topics []string
		want   v2.Code
	}{
		{[]string{"orders"}, v2.Code_OK}, {[]string{"pay"}, v2.Code_FORBIDDEN},
		{[]string{"orders", "pay"}, v2.Code_FORBIDDEN}, {[]string{"orders", "orders", "pay", "orders"}, v2.Code_FORBIDDEN},
		{[]string{"orders", "orders"}, v2.Code_OK},
	} {
		if got := send(c.topics...); got != c.want {
			t.Errorf("send to %v: %v", c.topics, got)
		}
	}
	receive := func(topic, group string) (v2.Code, string) {
		t.Helper()
		st, err := f.ReceiveMessage(within(signed("shop"), t, 10*time.Second), receiving(topic, group))
		if err != nil {
			t.Fatal(err)
		}
		code, handle := v2.Code(0), ""
		for {
			r, err := st.Recv()
			if err != nil {
				return code, handle
			}
			if s := r.GetStatus(); s != nil {
				code = s.GetCode()
			}
			if m := r.GetMessage(); m != nil {
				handle = m.GetSystemProperties().GetReceiptHandle()
			}
		}
	}
	code, handle := receive("orders", "billing")
	if code != v2.Code_OK || handle == "" {
		t.Fatal(code)
	}
	if code, _ := receive("orders", "others"); code != v2.Code_FORBIDDEN {
		t.Errorf("receive by a group that is not granted: %v", code)
	}
	if code, _ := receive("pay", "billing"); code != v2.Code_FORBIDDEN {
		t.Errorf("receive from a topic that is not granted: %v", code)
	}
	for _, c := range []struct {
		topic, group string
		want         v2.Code
	}{{"pay", "billing", v2.Code_FORBIDDEN}, {"orders", "others", v2.Code_FORBIDDEN}, {"orders", "billing", v2.Code_OK}} {
		ack, err := f.AckMessage(signed("shop"), &v2.AckMessageRequest{
			Topic: &v2.Resource{Name: c.topic}, Group: &v2.Resource{Name: c.group}, Entries: []*v2.AckMessageEntry{{ReceiptHandle: handle}},
		})
		if err != nil || ack.GetStatus().GetCode() != c.want {
			t.Errorf("ack as of %s, %s: %v, %v", c.topic, c.group, ack, err)
		}
	}
	// A client id is its first user's: nobody else beats or ends it.
	settings := &v2.TelemetryCommand{Command: &v2.TelemetryCommand_Settings{Settings: &v2.Settings{PubSub: &v2.Settings_Publishing{Publishing: &v2.Publishing{Topics: []*v2.Resource{{Name: "orders"}}}}}}}
	stream, err := f.Telemetry(within(signed("shop"), t, 10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(settings); err != nil {
		t.Fatal(err)
	}
	if answer, err := stream.Recv(); err != nil || answer.GetStatus().GetCode() != v2.Code_OK {
		t.Fatal(answer, err)
	}
	authorization, date := access.Sign("idle", testSecret, time.Now())
	end, err := f.NotifyClientTermination(metadata.AppendToOutgoingContext(as("shop"), headerAuthorization, authorization, headerDateTime, date), &v2.NotifyClientTerminationRequest{})
	if err != nil || end.GetStatus().GetCode() != v2.Code_FORBIDDEN {
		t.Errorf("another user ends the client: %v, %v", end, err)
	}
	if c, ok := f.broker.Sessions().Get("shop"); !ok || c.User != "shop" {
		t.Errorf("the client is %+v", c)
	}
}

// Namespaces isolate names, permissions and lists.
func TestNamespacesIsolate(t *testing.T) {
	f := startWithUsers(t, Options{})
	for _, ns := range []string{"a", "b"} {
		if _, err := f.broker.CreateTopic(t.Context(), topic.Topic{Name: record.Resource{Namespace: ns, Name: "orders"}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.broker.Grant(t.Context(), access.Policy{User: "shop", Actions: access.All, Resource: access.Pattern{Type: access.Namespace, Match: access.Literal, Name: "a"}}); err != nil {
		t.Fatal(err)
	}
	for ns, want := range map[string]v2.Code{"a": v2.Code_OK, "b": v2.Code_FORBIDDEN, "": v2.Code_FORBIDDEN} {
		m := plain("orders", "id", "in "+ns)
		m.Topic.ResourceNamespace = ns
		resp, err := f.SendMessage(signed("shop"), &v2.SendMessageRequest{Messages: []*v2.Message{m}})
		if err != nil || resp.GetStatus().GetCode() != want {
			t.Errorf("namespace %q: %v, %v", ns, resp, err)
		}
	}
	for user, want := range map[string][]string{"shop": {"a"}, "idle": nil, "admin": {"a", "b"}} {
		list, err := f.admin.ListTopics(signed(user), &gantryv1.ListTopicsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, tp := range list.GetTopics() {
			got = append(got, tp.GetNamespace())
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s lists the topics of %v, want %v", user, got, want)
		}
	}
	for ns, want := range map[string]uint64{"a": 1, "b": 0} {
		st, err := f.broker.TopicStatus(record.Resource{Namespace: ns, Name: "orders"})
		if err != nil {
			t.Fatal(err)
		}
		n := uint64(0)
		for _, q := range st.Queues {
			n += uint64(q.Max)
		}
		if n != want {
			t.Errorf("the topic of namespace %q has %d messages", ns, n)
		}
	}
}

func TestAPublisherWithoutHTTP2IsAskedWhoItIs(t *testing.T) {
	f := startWithUsers(t, Options{})
	f.topic("orders", topic.Normal, 1)
	f.plain = true
	open := &gantryv1.PublishOpen{ProducerId: 1, ClientId: "c", Topic: &gantryv1.StreamResource{Name: "orders"}}
	try := func() error {
		st, err := f.dialPublish(within(t.Context(), t, 20*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Send(&gantryv1.PublishRequest{Content: &gantryv1.PublishRequest_Open{Open: open}}); err != nil {
			t.Fatal(err)
		}
		_, err = st.Recv()
		return err
	}
	if err := try(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("without credentials: %v", err)
	}
	open.Authorization, open.DateTime = access.Sign("shop", "not the secret", time.Now())
	if err := try(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("with a wrong secret: %v", err)
	}
	open.Authorization, open.DateTime = access.Sign("shop", testSecret, time.Now())
	if err := try(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("without a policy: %v", err)
	}
	f.grant("shop", access.Topic, "orders", access.Pub)
	if err := try(); err != nil {
		t.Errorf("with one: %v", err)
	}
}

// A user that is disabled, and a policy that is gone, end what is open.
func TestRevocationEndsOpenStreams(t *testing.T) {
	for what, revoke := range map[string]func(*fixture, []uint64) error{
		"the user is disabled": func(f *fixture, _ []uint64) error {
			off := false
			_, err := f.broker.UpdateUser(context.Background(), "shop", broker.UserChange{Enabled: &off})
			return err
		},
		"the policies are revoked": func(f *fixture, ids []uint64) error {
			var errs []error
			for _, id := range ids {
				_, err := f.broker.Revoke(context.Background(), id)
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		},
	} {
		for _, plainly := range []bool{false, true} {
			t.Run(what, func(t *testing.T) {
				f := startWithUsers(t, Options{})
				f.topic("orders", topic.Normal, 1)
				ids := []uint64{f.grant("shop", access.Topic, "orders", access.Pub|access.Sub), f.grant("shop", access.Group, "billing", access.Sub)}
				ctx := within(signed("shop"), t, 30*time.Second)

				telemetry, err := f.Telemetry(ctx)
				if err != nil {
					t.Fatal(err)
				}
				telemetry.Send(&v2.TelemetryCommand{Command: &v2.TelemetryCommand_Settings{Settings: &v2.Settings{
					ClientType: v2.ClientType_PUSH_CONSUMER.Enum(), PubSub: &v2.Settings_Subscription{Subscription: &v2.Subscription{
						Group:         &v2.Resource{Name: "billing"},
						Subscriptions: []*v2.SubscriptionEntry{{Topic: &v2.Resource{Name: "orders"}, Expression: &v2.FilterExpression{Expression: "*"}}},
					}}}}})
				if _, err := telemetry.Recv(); err != nil {
					t.Fatal(err)
				}
				poll, err := f.ReceiveMessage(ctx, func() *v2.ReceiveMessageRequest {
					r := receiving("orders", "billing")
					r.LongPollingTimeout.Seconds = 20
					return r
				}())
				if err != nil {
					t.Fatal(err)
				}

				f.plain = plainly
				p := f.publisher(ctx, 1, "orders", func(o *gantryv1.PublishOpen) {
					o.Authorization, o.DateTime = access.Sign("shop", testSecret, time.Now())
				})
				signIn := func(s *gantryv1.Subscribe) {
					s.Authorization, s.DateTime = access.Sign("shop", testSecret, time.Now())
				}
				reader := f.consumer(ctx, "orders", "", earliest(), signIn)
				p.good(packOf("1"))
				reader.take(1)

				// The poll got the message, or the consumer's place is taken: poll again, for nothing.
				for {
					if _, err := poll.Recv(); err != nil {
						break
					}
				}
				if poll, err = f.ReceiveMessage(ctx, receiving("orders", "billing")); err != nil {
					t.Fatal(err)
				}

				if err := revoke(f, ids); err != nil {
					t.Fatal(err)
				}
				for {
					m, err := telemetry.Recv()
					if err != nil {
						if code := status.Code(err); code != codes.Unauthenticated && code != codes.PermissionDenied {
							t.Errorf("the command stream ends with %v", err)
						}
						break
					}
					if code := m.GetStatus().GetCode(); code != v2.Code_UNAUTHORIZED && code != v2.Code_FORBIDDEN {
						t.Errorf("the command stream says %v", m)
					}
				}
				refused := false
				for {
					m, err := poll.Recv()
					if err != nil {
						break
					}
					code := m.GetStatus().GetCode()
					refused = refused || code == v2.Code_UNAUTHORIZED || code == v2.Code_FORBIDDEN
				}
				if !refused {
					t.Error("the poll is not told")
				}
				for err = nil; err == nil; {
					r := new(stream.ConsumeResponse)
					if err = reader.stream.RecvMsg(r); err == nil {
						refusedAs(t, "the reader", v2.Code(r.Other.GetStatus().GetCode()), codes.OK)
						break
					}
					refusedAs(t, "the reader", 0, status.Code(err))
				}
				for err = nil; err == nil; {
					_, err = p.stream.Recv()
				}
				refusedAs(t, "the publisher", 0, status.Code(err))
			})
		}
	}
}

// refusedAs checks that a refusal is one of who calls, or of what it may do.
func refusedAs(t *testing.T, who string, code v2.Code, rpc codes.Code) {
	t.Helper()
	if code != v2.Code_UNAUTHORIZED && code != v2.Code_FORBIDDEN && rpc != codes.Unauthenticated && rpc != codes.PermissionDenied {
		t.Errorf("%s is told %v, %v", who, code, rpc)
	}
}

func TestAPublisherMayNotLeaveItsTopics(t *testing.T) {
	f := startWithUsers(t, Options{})
	for _, name := range []string{"orders", "pay"} {
		f.topic(name, topic.Normal, 1)
	}
	f.grant("shop", access.Topic, "orders", access.Pub)
	p := f.publisher(within(signed("shop"), t, 30*time.Second), 1, "orders")
	publish := func(topic string) v2.Code {
		t.Helper()
		p.last++
		b := stream.GetBuffer(1)
		defer b.Release()
		b.B = append(b.B, packOf("x")...)
		p.send(&stream.PublishRequest{Batch: stream.Batch{Sequence: p.last, Topic: topic, Queue: stream.AnyQueue, Records: b.B, Buffer: b}})
		return v2.Code(p.receive().GetResult().GetStatus().GetCode())
	}
	command := func(c *gantryv1.PublishRequest) v2.Code {
		t.Helper()
		p.send(&stream.PublishRequest{Other: c})
		return v2.Code(p.receive().GetDone().GetStatus().GetCode())
	}
	pay := &gantryv1.StreamResource{Name: "pay"}
	for what, c := range map[string]struct{ got, want v2.Code }{
		"the topic of open": {publish(""), 0}, "it by name": {publish("orders"), 0}, "another": {publish("pay"), v2.Code_FORBIDDEN},
		"a name of 1 MB":    {publish(strings.Repeat("x", 1<<20)), v2.Code_FORBIDDEN},
		"a transaction":     {command(&gantryv1.PublishRequest{Content: &gantryv1.PublishRequest_End{End: &gantryv1.EndTransaction{Topic: pay}}}), v2.Code_FORBIDDEN},
		"a recall":          {command(&gantryv1.PublishRequest{Content: &gantryv1.PublishRequest_Recall{Recall: &gantryv1.RecallMessage{Topic: pay}}}), v2.Code_FORBIDDEN},
		"after the refusal": {publish("orders"), 0},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v, want %v", what, c.got, c.want)
		}
	}
	if _, err := f.broker.Grant(t.Context(), access.Policy{User: "shop", Actions: access.Pub, Resource: access.Pattern{Type: access.Topic, Match: access.Literal, Name: "pay"}}); err != nil {
		t.Fatal(err)
	}
	if code := publish("pay"); code != 0 {
		t.Errorf("granted meanwhile: %v", code)
	}
}

func TestTheGatewayTakesTheSameUsers(t *testing.T) {
	f := startWithUsers(t, Options{})
	f.grant("shop", access.Topic, "orders", access.Create)
	h := f.server.HTTP()
	call := func(method, user, secret, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodPost, "http://localhost/api/gantry.v1."+method, strings.NewReader(body))
		r.Header.Set("X-Gantry", "1")
		r.Header.Set("Content-Type", "application/json")
		if user != "" {
			r.SetBasicAuth(user, secret)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	for _, c := range []struct {
		user, secret, topic string
		want                int
	}{
		{"", "", "orders", 401}, {"nobody", testSecret, "orders", 401}, {"shop", "wrong-secret", "orders", 401}, {"off", testSecret, "orders", 401},
		{"shop", testSecret, "pay", 403}, {"shop", testSecret, "orders", 200},
	} {
		w := call("Management/CreateTopic", c.user, c.secret, `{"name":"`+c.topic+`"}`)
		if w.Code != c.want || (w.Code == 401) != (w.Header().Get("WWW-Authenticate") != "") {
			t.Errorf("%s creates %s: %d %s", c.user, c.topic, w.Code, w.Body)
		}
	}
	for user, want := range map[string]int{"": 401, "shop": 403, "admin": 404} { // answered with a stream
		if w := call("DeadLetters/Export", user, testSecret, `{"group":"g"}`); w.Code != want {
			t.Errorf("%q exports dead letters: %d %s", user, w.Code, w.Body)
		}
	}
}

// logged is a logger's output, which goroutines write.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestRefusalsAreWrittenDownOnceEachAndSafely(t *testing.T) {
	var out logged
	f := startWithUsers(t, Options{Logger: slog.New(slog.NewTextHandler(&out, nil))})
	header := "MQv2-HMAC-SHA1 Credential=evil\"level=INFO, Signature=" + strings.Repeat("0", 40)
	for range 200 {
		ctx := metadata.AppendToOutgoingContext(as("c"), headerAuthorization, header, headerDateTime, "20200101T000000Z")
		if resp, err := f.QueryRoute(ctx, &v2.QueryRouteRequest{}); err != nil || resp.GetStatus().GetCode() != v2.Code_UNAUTHORIZED {
			t.Fatal(resp, err)
		}
	}
	if resp, err := gantryv1.NewAccessClient(f.dial()).CreateUser(signed("admin"), &gantryv1.CreateUserRequest{Name: "new"}); err != nil || resp.GetSecret() == "" || strings.Contains(out.String(), resp.GetSecret()) {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "authentication failed"); n == 0 || n > 100 {
		t.Errorf("200 failures are %d lines", n)
	}
	for _, want := range []string{`user="evil\"level=INFO"`, "locked out", "component=audit method=/gantry.v1.Access/CreateUser user=admin"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the log does not have %s: %s", want, out.String())
		}
	}
	if strings.Contains(out.String(), testSecret) {
		t.Error("a secret is in the log")
	}
}
