package api

import (
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/gantry-mq/gantry/broker/access"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// As Node.js does it: the header has the namespace, the resources have none.
func TestTwoNamespacesOfEqualNamesAreApart(t *testing.T) {
	f := startWithUsers(t, Options{})
	for _, ns := range []string{"a", "b"} {
		if _, err := f.broker.CreateTopic(t.Context(), topic.Topic{Name: record.Resource{Namespace: ns, Name: "orders"}, Queues: 1}); err != nil {
			t.Fatal(err)
		}
	}
	for user, ns := range map[string]string{"shop": "a", "idle": "b"} {
		_, err := f.broker.Grant(t.Context(), access.Policy{User: user, Actions: access.All, Resource: access.Pattern{Type: access.Namespace, Match: access.Literal, Name: ns}})
		if err != nil {
			t.Fatal(err)
		}
	}
	shop := metadata.AppendToOutgoingContext(signed("shop"), headerNamespace, "a")
	idle := metadata.AppendToOutgoingContext(signed("idle"), headerNamespace, "b")
	for _, body := range []string{"1", "2"} {
		if why := f.refusedBy(shop, plain("orders", body, body)); why != "" {
			t.Fatal(why)
		}
	}
	if why := f.refusedBy(idle, plain("orders", "3", "3")); why != "" {
		t.Fatal(why)
	}
	if _, ms := f.receive(idle, receiving("orders", "G")); strings.Join(bodies(ms), "") != "3" || ms[0].GetTopic().GetResourceNamespace() != "b" {
		t.Errorf("%v", ms)
	}
	_, ms := f.receive(shop, receiving("orders", "G"))
	if strings.Join(bodies(ms), "") != "12" {
		t.Fatalf("%v", ms)
	}
	ack, err := f.AckMessage(shop, &v2.AckMessageRequest{Group: &v2.Resource{Name: "G"}, Topic: &v2.Resource{Name: "orders"},
		Entries: []*v2.AckMessageEntry{{MessageId: "1", ReceiptHandle: ms[0].SystemProperties.GetReceiptHandle()}}})
	if err != nil || ack.GetStatus().GetCode() != v2.Code_OK {
		t.Errorf("%v, %v", ack, err)
	}
	route, err := f.QueryRoute(shop, &v2.QueryRouteRequest{Topic: &v2.Resource{Name: "orders"}})
	if err != nil || route.GetStatus().GetCode() != v2.Code_OK {
		t.Errorf("%v, %v", route, err)
	}

	// Permissions are asked about the namespace that is meant.
	foreign := metadata.AppendToOutgoingContext(signed("shop"), headerNamespace, "b")
	if r, err := f.SendMessage(foreign, &v2.SendMessageRequest{Messages: []*v2.Message{plain("orders", "x", "x")}}); err != nil || r.GetStatus().GetCode() != v2.Code_FORBIDDEN {
		t.Errorf("another's namespace: %v, %v", r, err)
	}
	if r, err := f.SendMessage(signed("shop"), &v2.SendMessageRequest{Messages: []*v2.Message{plain("orders", "x", "x")}}); err != nil || r.GetStatus().GetCode() != v2.Code_FORBIDDEN {
		t.Errorf("no namespace: %v, %v", r, err)
	}

	// A quota of one leaves the other alone.
	f.quota(signed("admin"), gantryv1.QuotaKind_QUOTA_NAMESPACE, "a", &gantryv1.QuotaLimits{SendBytes: proto.Uint64(1)})
	if why := f.refusedBy(shop, plain("orders", "4", "4")); why != "" {
		t.Error(why)
	}
	if why := f.refusedBy(shop, plain("orders", "5", "5")); !strings.Contains(why, `namespace "a"`) {
		t.Errorf("%q", why)
	}
	if why := f.refusedBy(idle, plain("orders", "6", "6")); why != "" {
		t.Error(why)
	}

	list := func(user string) string {
		r, err := gantryv1.NewNamespacesClient(f.dial()).List(signed(user), &gantryv1.ListNamespacesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, n := range r.GetNamespaces() {
			if n.GetTopics() != 1 || n.GetGroups() != 1 || n.GetMessagesIn() == 0 || n.GetMessagesOut() == 0 {
				t.Errorf("%v", n)
			}
			out = append(out, n.GetName())
		}
		return strings.Join(out, " ")
	}
	if got := list("admin") + "|" + list("shop"); got != "a b|a" {
		t.Errorf("%q", got)
	}
}

func TestAHeaderAndAResourceThatDisagreeAreRefused(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	ctx := metadata.AppendToOutgoingContext(as("c"), headerNamespace, "a")
	b := func(name string) *v2.Resource { return &v2.Resource{ResourceNamespace: "b", Name: name} }
	check := func(what string, st *v2.Status, err error) {
		t.Helper()
		if err != nil || st.GetCode() != v2.Code_BAD_REQUEST || !strings.Contains(st.GetMessage(), `x-mq-namespace says "a"`) {
			t.Errorf("%s: %v, %v", what, st, err)
		}
	}
	m := plain("t", "1", "1")
	m.Topic = b("t")
	sent, err := f.SendMessage(ctx, &v2.SendMessageRequest{Messages: []*v2.Message{plain("t", "0", "0"), m}})
	check("send", sent.GetStatus(), err)
	acked, err := f.AckMessage(ctx, &v2.AckMessageRequest{Topic: &v2.Resource{Name: "t"}, Group: b("g")})
	check("ack", acked.GetStatus(), err)
	route, err := f.QueryRoute(ctx, &v2.QueryRouteRequest{Topic: b("t")})
	check("route", route.GetStatus(), err)
	req := receiving("t", "g")
	req.Group = b("g")
	stream, err := f.ReceiveMessage(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	r, err := stream.Recv()
	check("receive", r.GetStatus(), err)
	commands, err := f.Telemetry(ctx)
	if err != nil {
		t.Fatal(err)
	}
	err = commands.Send(&v2.TelemetryCommand{Command: &v2.TelemetryCommand_Settings{Settings: &v2.Settings{PubSub: &v2.Settings_Publishing{
		Publishing: &v2.Publishing{Topics: []*v2.Resource{{Name: "t"}, b("t")}},
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := commands.Recv()
	check("telemetry", c.GetStatus(), err)
}
