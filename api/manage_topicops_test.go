package api

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/broker/topic"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

func TestTopicSettingsFromCreationToChange(t *testing.T) {
	f := start(t, Options{})
	ops, ctx := gantryv1.NewTopicOpsClient(f.dial()), context.Background()
	created, err := f.admin.CreateTopic(ctx, &gantryv1.CreateTopicRequest{
		Name: "orders", Queues: 4, RetentionAge: durationpb.New(time.Hour), RetentionSize: 5 << 30,
		DedupWindow: durationpb.New(10 * time.Minute), DedupKey: "property:order",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &gantryv1.Topic{
		Name: "orders", Type: gantryv1.TopicType_NORMAL, Queues: 4, Created: created.Topic.Created,
		RetentionAge: durationpb.New(time.Hour), RetentionSize: 5 << 30,
		DedupWindow: durationpb.New(10 * time.Minute), DedupKey: "property:order", DedupMax: 1 << 18,
	}
	check := func(got *gantryv1.Topic, err error) {
		t.Helper()
		if err != nil || !proto.Equal(got, want) {
			t.Fatalf("%v, %v, want %v", got, err, want)
		}
		if d, err := f.admin.DescribeTopic(ctx, &gantryv1.DescribeTopicRequest{Name: "orders"}); err != nil || !proto.Equal(d.Topic, want) {
			t.Fatalf("described as %v, %v, want %v", d, err, want)
		}
	}
	check(created.Topic, nil)
	update := func(req *gantryv1.UpdateTopicRequest) {
		t.Helper()
		req.Name = "orders"
		u, err := ops.Update(ctx, req)
		check(u.GetTopic(), err)
	}
	update(&gantryv1.UpdateTopicRequest{}) // nothing is changed
	want.Queues, want.RetentionSize = 6, 0
	update(&gantryv1.UpdateTopicRequest{Queues: ptr(uint32(6)), RetentionSize: ptr(int64(0))})
	want.RetentionAge, want.DedupMax, want.LiteTtl = nil, 1000, durationpb.New(time.Hour)
	update(&gantryv1.UpdateTopicRequest{RetentionAge: durationpb.New(0), DedupMax: ptr(uint32(1000)), LiteTtl: durationpb.New(time.Hour)})
	want.DedupWindow, want.DedupKey, want.DedupMax = nil, "", 0
	update(&gantryv1.UpdateTopicRequest{DedupWindow: durationpb.New(0)})

	for name, req := range map[string]*gantryv1.UpdateTopicRequest{
		"fewer queues":         {Queues: ptr(uint32(5))},
		"too many queues":      {Queues: ptr(uint32(2000))},
		"key without a window": {DedupKey: ptr("id")},
		"unknown key":          {DedupWindow: durationpb.New(time.Minute), DedupKey: ptr("order")},
		"property without one": {DedupWindow: durationpb.New(time.Minute), DedupKey: ptr("property:")},
		"window too short":     {DedupWindow: durationpb.New(time.Millisecond)},
		"window too long":      {DedupWindow: durationpb.New(1000 * time.Hour)},
		"too many to remember": {DedupWindow: durationpb.New(time.Hour), DedupMax: ptr(uint32(1 << 30))},
		"negative age":         {RetentionAge: durationpb.New(-time.Hour)},
		"negative size":        {RetentionSize: ptr(int64(-1))},
	} {
		req.Name = "orders"
		if _, err := ops.Update(ctx, req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ops.Update(ctx, &gantryv1.UpdateTopicRequest{Name: "none"}); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
	check(want, nil)
}

// The retry of a client whose answer was lost is told the first result, and
// nobody receives the message twice.
func TestRetryOfASendIsToldTheFirstResult(t *testing.T) {
	f := start(t, Options{})
	ctx := context.Background()
	if _, err := f.admin.CreateTopic(ctx, &gantryv1.CreateTopicRequest{
		Name: "t", Type: gantryv1.TopicType_MIXED, Queues: 1, DedupWindow: durationpb.New(10 * time.Minute),
	}); err != nil {
		t.Fatal(err)
	}
	req := &v2.SendMessageRequest{Messages: []*v2.Message{
		plain("t", "a", "x"), plain("t", "b", "y"),
	}}
	first, err := f.SendMessage(as("producer"), req)
	if err != nil || first.Status.Code != v2.Code_OK || first.Entries[1].Offset != 1 {
		t.Fatalf("%v, %v", first, err)
	}
	for range 3 {
		if again, err := f.SendMessage(as("another"), req); err != nil || !proto.Equal(again, first) {
			t.Fatalf("%v, %v, want %v", again, err, first)
		}
	}
	d, err := f.admin.DescribeTopic(ctx, &gantryv1.DescribeTopicRequest{Name: "t"})
	if err != nil || d.Messages != 2 || d.DedupRemembered != 2 || d.DedupSince.AsTime().IsZero() || d.Bytes < 200 || d.Bytes > 500 || d.BytesEstimated {
		t.Errorf("%v, %v", d, err)
	}
}

func TestPurgeAndDeletion(t *testing.T) {
	f := start(t, Options{})
	ops, ctx := gantryv1.NewTopicOpsClient(f.dial()), context.Background()
	f.topic("t", topic.Mixed, 1)
	for _, id := range []string{"a", "b", "c"} {
		f.send("t", id, id)
	}
	late := plain("t", "late", "late")
	late.SystemProperties.DeliveryTimestamp = timestamppb.New(time.Now().Add(time.Hour))
	if r, err := f.SendMessage(as("p"), &v2.SendMessageRequest{Messages: []*v2.Message{late}}); err != nil || r.Status.Code != v2.Code_OK {
		t.Fatalf("%v, %v", r, err)
	}
	for id, want := range map[string]*gantryv1.DeleteMessageResponse{"b": {Entries: 1}, "late": {Delayed: 1}} {
		if d, err := ops.DeleteMessage(ctx, &gantryv1.DeleteMessageRequest{Topic: "t", MessageId: id}); err != nil || !proto.Equal(d, want) {
			t.Errorf("%s: %v, %v", id, d, err)
		}
	}
	got, err := gantryv1.NewMessagesClient(f.dial()).Query(ctx, &gantryv1.QueryMessagesRequest{Topic: "t", MessageId: "b"})
	if err != nil || len(got.Messages) != 1 || got.Messages[0].State != gantryv1.MessageState_MESSAGE_DELETED {
		t.Errorf("%v, %v", got, err)
	}
	counts := &gantryv1.PurgeTopicResponse{Messages: 3, Queues: []*gantryv1.TopicQueue{{MinOffset: 3, MaxOffset: 3}}}
	for _, c := range []struct {
		req  *gantryv1.PurgeTopicRequest
		want *gantryv1.PurgeTopicResponse
	}{
		{&gantryv1.PurgeTopicRequest{Before: timestamppb.New(time.Now().Add(-time.Hour))}, &gantryv1.PurgeTopicResponse{}},
		{&gantryv1.PurgeTopicRequest{DryRun: true}, counts},
		{&gantryv1.PurgeTopicRequest{}, counts},
		{&gantryv1.PurgeTopicRequest{}, &gantryv1.PurgeTopicResponse{}},
	} {
		c.req.Name = "t"
		if p, err := ops.Purge(ctx, c.req); err != nil || !proto.Equal(p, c.want) {
			t.Errorf("%v: %v, %v, want %v", c.req, p, err, c.want)
		}
	}
	if _, err := ops.Purge(ctx, &gantryv1.PurgeTopicRequest{Name: "none"}); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
	if _, err := ops.DeleteMessage(ctx, &gantryv1.DeleteMessageRequest{Topic: "t", MessageId: "none"}); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
}
