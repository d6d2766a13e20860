package api

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

func TestTopicTypesAreNumberedAlike(t *testing.T) {
	for typ := topic.Normal; typ <= topic.Mixed; typ++ {
		if name := gantryv1.TopicType_name[int32(typ)]; !strings.EqualFold(name, typ.String()) {
			t.Errorf("%v is %s on the wire", typ, name)
		}
	}
	if len(gantryv1.TopicType_name) != int(topic.Mixed)+1 {
		t.Error("a type of the wire is not one of the broker")
	}
}

func TestTopicsFromCreationToDeletion(t *testing.T) {
	f := start(t, Options{})
	ctx := context.Background()
	created, err := f.admin.CreateTopic(ctx, &gantryv1.CreateTopicRequest{Name: "orders", Type: gantryv1.TopicType_FIFO, Queues: 3})
	if err != nil || created.Topic.Name != "orders" || created.Topic.Type != gantryv1.TopicType_FIFO || created.Topic.Queues != 3 || created.Topic.Created.AsTime().IsZero() {
		t.Fatalf("%v, %v", created, err)
	}
	if d, err := f.admin.CreateTopic(ctx, &gantryv1.CreateTopicRequest{Name: "defaults", Namespace: "ns"}); err != nil ||
		d.Topic.Type != gantryv1.TopicType_NORMAL || d.Topic.Queues != broker.DefaultQueues {
		t.Fatalf("%v, %v", d, err)
	}
	f.topic("t", topic.Normal, 1)
	f.send("t", "id", "x")
	f.receive(as("c"), receiving("t", "g")) // a send is answered before it is indexed
	described, err := f.admin.DescribeTopic(ctx, &gantryv1.DescribeTopicRequest{Name: "t"})
	if err != nil || described.Messages != 1 || len(described.Queues) != 1 || described.Queues[0].MaxOffset != 1 || described.Queues[0].MinOffset != 0 {
		t.Errorf("%v, %v", described, err)
	}
	names := func(req *gantryv1.ListTopicsRequest) string {
		t.Helper()
		resp, err := f.admin.ListTopics(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		var s []string
		for _, tp := range resp.Topics {
			s = append(s, tp.Namespace+"/"+tp.Name)
		}
		return strings.Join(s, " ")
	}
	if got := names(&gantryv1.ListTopicsRequest{}); got != "/orders /t ns/defaults" {
		t.Errorf("all topics: %s", got)
	}
	if got := names(&gantryv1.ListTopicsRequest{Namespace: ptr("")}); got != "/orders /t" {
		t.Errorf("without namespace: %s", got)
	}
	if _, err := f.admin.DeleteTopic(ctx, &gantryv1.DeleteTopicRequest{Name: "orders"}); err != nil {
		t.Fatal(err)
	}
	if got := names(&gantryv1.ListTopicsRequest{Namespace: ptr("")}); got != "/t" {
		t.Errorf("after deletion: %s", got)
	}
}

func TestGroupsFromCreationToDeletion(t *testing.T) {
	f := start(t, Options{})
	ctx := context.Background()
	steps := &gantryv1.RetrySteps{Steps: []*durationpb.Duration{durationpb.New(time.Second), durationpb.New(time.Minute)}}
	lite := &gantryv1.LiteOptions{Exclusive: true, Quota: 5, ResetTaken: true, ResetLeft: true}
	created, err := f.admin.CreateGroup(ctx, &gantryv1.CreateGroupRequest{
		Name: "g", Fifo: true, MaxAttempts: 4, Retry: &gantryv1.CreateGroupRequest_Steps{Steps: steps}, Lite: lite,
	})
	if err != nil || !created.Group.Fifo || !proto.Equal(created.Group.Lite, lite) || created.Group.MaxAttempts != 4 || !proto.Equal(created.Group.GetSteps(), steps) {
		t.Fatalf("%v, %v", created, err)
	}
	exponential := &gantryv1.ExponentialRetry{Initial: durationpb.New(time.Second), Max: durationpb.New(time.Hour), Multiplier: 3}
	grow, err := f.admin.CreateGroup(ctx, &gantryv1.CreateGroupRequest{Name: "grow", Retry: &gantryv1.CreateGroupRequest_Exponential{Exponential: exponential}})
	if err != nil || grow.Group.MaxAttempts != broker.DefaultAttempts || !proto.Equal(grow.Group.GetExponential(), exponential) {
		t.Fatalf("%v, %v", grow, err)
	}
	if d, err := f.admin.CreateGroup(ctx, &gantryv1.CreateGroupRequest{Name: "plain"}); err != nil || d.Group.Lite != nil || len(d.Group.GetSteps().GetSteps()) != 18 {
		t.Fatalf("%v, %v", d, err)
	}

	f.topic("t", topic.Normal, 1)
	for _, id := range []string{"a", "b", "c"} {
		f.send("t", id, id)
	}
	req := receiving("t", "grow")
	req.BatchSize = 1
	for range 3 { // a send is answered before it is indexed
		f.receive(as("c"), req)
	}
	settle(t, f.telemetry(as("member")), consumerSettings("plain", "*"))
	req.Group.Name = "plain"
	for range 2 {
		if st, got := f.receive(as("member"), req); len(got) != 1 {
			t.Fatal(st)
		}
	}
	described, err := f.admin.DescribeGroup(ctx, &gantryv1.DescribeGroupRequest{Name: "plain"})
	if err != nil || len(described.Topics) != 1 || len(described.Clients) != 1 {
		t.Fatalf("%v, %v", described, err)
	}
	want := &gantryv1.GroupTopic{Name: "t", Lag: 1, InFlight: 2, Queues: []*gantryv1.GroupQueue{
		{Cursor: 2, MaxOffset: 3, Lag: 1, InFlight: 2},
	}}
	if !proto.Equal(described.Topics[0], want) {
		t.Errorf("progress %v, want %v", described.Topics[0], want)
	}
	if c := described.Clients[0]; c.Id != "member" || c.Language != "GO" || c.Version != "5.1.4" || c.Host != "host" || c.RemoteAddress == "" || c.LastSeen.AsTime().IsZero() {
		t.Errorf("member %v", c)
	}
	list, err := f.admin.ListGroups(ctx, &gantryv1.ListGroupsRequest{})
	if err != nil || len(list.Groups) != 3 || list.Groups[0].Name != "g" || list.Groups[2].Name != "plain" {
		t.Errorf("%v, %v", list, err)
	}
	if _, err := f.admin.DeleteGroup(ctx, &gantryv1.DeleteGroupRequest{Name: "plain"}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.admin.DescribeGroup(ctx, &gantryv1.DescribeGroupRequest{Name: "plain"}); status.Code(err) != codes.NotFound {
		t.Errorf("after deletion: %v", err)
	}
}

func TestManagementRefusesWithStatuses(t *testing.T) {
	f := start(t, Options{})
	ctx := context.Background()
	f.topic("taken", topic.Normal, 1)
	if _, err := f.broker.EnsureGroup(ctx, record.Resource{Name: "taken"}); err != nil {
		t.Fatal(err)
	}
	d := durationpb.New
	group := func(req *gantryv1.CreateGroupRequest) func() error {
		return func() error { _, err := f.admin.CreateGroup(ctx, req); return err }
	}
	top := func(req *gantryv1.CreateTopicRequest) func() error {
		return func() error { _, err := f.admin.CreateTopic(ctx, req); return err }
	}
	for name, c := range map[string]struct {
		call func() error
		code codes.Code
		says string
	}{
		"topic without name":  {top(&gantryv1.CreateTopicRequest{}), codes.InvalidArgument, "topic"},
		"topic of no type":    {top(&gantryv1.CreateTopicRequest{Name: "x", Type: 257}), codes.InvalidArgument, "257"},
		"too many queues":     {top(&gantryv1.CreateTopicRequest{Name: "x", Queues: 1025}), codes.InvalidArgument, "1024"},
		"bad namespace":       {top(&gantryv1.CreateTopicRequest{Name: "x", Namespace: "a b"}), codes.InvalidArgument, "namespace"},
		"topic twice":         {top(&gantryv1.CreateTopicRequest{Name: "taken", Queues: 1}), codes.AlreadyExists, "taken"},
		"group without name":  {group(&gantryv1.CreateGroupRequest{}), codes.InvalidArgument, "group"},
		"group twice":         {group(&gantryv1.CreateGroupRequest{Name: "taken"}), codes.AlreadyExists, "taken"},
		"too many attempts":   {group(&gantryv1.CreateGroupRequest{Name: "x", MaxAttempts: 1001}), codes.InvalidArgument, "1000"},
		"negative attempts":   {group(&gantryv1.CreateGroupRequest{Name: "x", MaxAttempts: -1}), codes.InvalidArgument, "1000"},
		"lite of one and all": {group(&gantryv1.CreateGroupRequest{Name: "x", Lite: &gantryv1.LiteOptions{Exclusive: true, Shared: true}}), codes.InvalidArgument, "exclusive"},
		"no step":             {group(&gantryv1.CreateGroupRequest{Name: "x", Retry: &gantryv1.CreateGroupRequest_Steps{}}), codes.InvalidArgument, "1 to 64"},
		"step of nothing":     {group(&gantryv1.CreateGroupRequest{Name: "x", Retry: &gantryv1.CreateGroupRequest_Steps{Steps: &gantryv1.RetrySteps{Steps: []*durationpb.Duration{d(0)}}}}), codes.InvalidArgument, "positive"},
		"nothing exponential": {group(&gantryv1.CreateGroupRequest{Name: "x", Retry: &gantryv1.CreateGroupRequest_Exponential{}}), codes.InvalidArgument, "initial"},
		"shrinking retry":     {group(&gantryv1.CreateGroupRequest{Name: "x", Retry: &gantryv1.CreateGroupRequest_Exponential{Exponential: &gantryv1.ExponentialRetry{Initial: d(1e9), Max: d(2e9), Multiplier: 0.5}}}), codes.InvalidArgument, "multiplier"},
		"describe no topic": {func() error {
			_, err := f.admin.DescribeTopic(ctx, &gantryv1.DescribeTopicRequest{Name: "no"})
			return err
		}, codes.NotFound, "no"},
		"delete no topic": {func() error { _, err := f.admin.DeleteTopic(ctx, &gantryv1.DeleteTopicRequest{Name: "no"}); return err }, codes.NotFound, "no"},
		"delete no group": {func() error { _, err := f.admin.DeleteGroup(ctx, &gantryv1.DeleteGroupRequest{Name: "no"}); return err }, codes.NotFound, "no"},
		"topic in a namespace": {func() error {
			_, err := f.admin.DescribeTopic(ctx, &gantryv1.DescribeTopicRequest{Name: "taken", Namespace: "ns"})
			return err
		}, codes.NotFound, "taken"},
	} {
		err := c.call()
		if st := status.Convert(err); st.Code() != c.code || !strings.Contains(st.Message(), c.says) {
			t.Errorf("%s: %v, want %v that says %q", name, err, c.code, c.says)
		}
	}
}

func TestServerInfoSaysWhatTheBinaryKnows(t *testing.T) {
	f := start(t, Options{Advertise: "mq:1", Version: "v1", Commit: "abc", DataDir: "/data", Durability: "sync", FormatVersion: 3})
	got, err := f.admin.ServerInfo(context.Background(), &gantryv1.ServerInfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Uptime.AsDuration() < 0 {
		t.Errorf("uptime %v", got.Uptime)
	}
	got.Uptime = nil
	want := &gantryv1.ServerInfoResponse{
		Name: f.broker.Name(), Version: "v1", Commit: "abc", DataDir: "/data", Durability: "sync", AdvertisedEndpoints: []string{"mq:1"}, FormatVersion: 3, Shards: 1,
	}
	if !proto.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// Namespaces isolate on the whole way.
func TestNamespacesDoNotMix(t *testing.T) {
	f := start(t, Options{})
	for _, ns := range []string{"", "ns"} {
		if _, err := f.admin.CreateTopic(context.Background(), &gantryv1.CreateTopicRequest{Name: "t", Namespace: ns, Queues: 1}); err != nil {
			t.Fatal(err)
		}
		m := plain("t", "id", "in "+ns)
		m.Topic.ResourceNamespace = ns
		if resp, err := f.SendMessage(as("p"), &v2.SendMessageRequest{Messages: []*v2.Message{m}}); err != nil || resp.Status.Code != v2.Code_OK {
			t.Fatalf("%v, %v", resp, err)
		}
	}
	for _, ns := range []string{"ns", ""} {
		req := receiving("t", "g")
		req.MessageQueue.Topic.ResourceNamespace, req.Group.ResourceNamespace = ns, ns
		_, got := f.receive(as("c"), req)
		if len(got) != 1 || string(got[0].Body) != "in "+ns || got[0].Topic.ResourceNamespace != ns {
			t.Errorf("in %q: %v", ns, got)
		}
	}
}
