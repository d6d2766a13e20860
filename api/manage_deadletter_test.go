package api

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

func TestDeadLetterStatesAreAllOnTheWire(t *testing.T) {
	for s := broker.DeadOpen; s <= broker.DeadLost; s++ {
		if w := strings.ToLower(strings.TrimPrefix(deadStates[s].String(), "DEAD_LETTER_")); w != s.String() {
			t.Errorf("%v is %s on the wire", s, w)
		}
	}
	if len(gantryv1.DeadLetterState_name) != len(deadStates)+1 {
		t.Error("a state of the wire is not one of the broker")
	}
}

// die has the group g forward a message to its dead letters.
func (f *fixture) die(topic, id, body string) {
	f.t.Helper()
	f.send(topic, id, body)
	_, got := f.receive(as("undoer"), receiving(topic, "g"))
	for _, m := range got {
		resp, err := f.ForwardMessageToDeadLetterQueue(as("undoer"), &v2.ForwardMessageToDeadLetterQueueRequest{
			Group: &v2.Resource{Name: "g"}, Topic: &v2.Resource{Name: topic},
			ReceiptHandle: m.SystemProperties.GetReceiptHandle(), MessageId: id, DeliveryAttempt: 1, MaxDeliveryAttempts: 3,
		})
		if err != nil || resp.GetStatus().GetCode() != v2.Code_OK {
			f.t.Fatalf("%v, %v", resp, err)
		}
	}
}

// drain reads a stream to its end.
func drain[M any](t *testing.T, stream grpc.ServerStreamingClient[M], err error) (all []*M) {
	t.Helper()
	for err == nil {
		var m *M
		if m, err = stream.Recv(); err == nil {
			all = append(all, m)
		}
	}
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return all
}

func TestDeadLettersFromDeathToTheirEnd(t *testing.T) {
	f := start(t, Options{})
	ctx := context.Background()
	dlq := gantryv1.NewDeadLettersClient(f.dial())
	f.topic("t", topic.Normal, 1)
	for _, id := range []string{"a", "b", "c"} {
		f.die("t", id, "body of "+id)
	}
	list := func(filter *gantryv1.DeadLetterFilter) string {
		t.Helper()
		var s []string
		for from, more := int64(0), true; more; {
			resp, err := dlq.List(ctx, &gantryv1.ListDeadLettersRequest{Group: "g", Filter: filter, From: from, Limit: 2})
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range resp.DeadLetters {
				s = append(s, d.MessageId+" "+d.State.String())
			}
			from, more = resp.GetNext(), resp.Next != nil
		}
		return strings.Join(s, ", ")
	}
	if got := list(nil); got != "a DEAD_LETTER_OPEN, b DEAD_LETTER_OPEN, c DEAD_LETTER_OPEN" {
		t.Fatal(got)
	}
	if got := list(&gantryv1.DeadLetterFilter{To: timestamppb.New(time.Now().Add(-time.Hour))}); got != "" {
		t.Fatal(got)
	}
	shown, err := dlq.Show(ctx, &gantryv1.ShowDeadLetterRequest{Group: "g", Offset: 1})
	if err != nil {
		t.Fatal(err)
	}
	d := shown.DeadLetter
	if string(shown.Body) != "body of b" || d.MessageId != "b" || d.BodySize != 9 || d.Attempts != 1 || d.LastClient != "undoer" || d.Origin.GetTopic() != "t" ||
		d.Origin.Offset != 1 || d.Reason != "forwarded by the consumer" || !d.Died.IsValid() || !d.LastLeaseEnd.IsValid() || !shown.Stored.IsValid() {
		t.Fatalf("%v", shown)
	}
	stream, err := dlq.Redrive(ctx, &gantryv1.RedriveRequest{Group: "g", DryRun: true, Filter: &gantryv1.DeadLetterFilter{MessageId: "b"}})
	if all := drain(t, stream, err); len(all) != 1 || all[0].Matched != 1 || all[0].Done != 0 {
		t.Fatalf("%v", all)
	}
	stream, err = dlq.Redrive(ctx, &gantryv1.RedriveRequest{Group: "g", Rate: 1000, Filter: &gantryv1.DeadLetterFilter{MessageId: "b"}})
	if all := drain(t, stream, err); all[len(all)-1].Done != 1 {
		t.Fatalf("%v", all)
	}
	if _, got := f.receive(as("c"), receiving("t", "g")); strings.Join(bodies(got), " ") != "body of b" || got[0].SystemProperties.MessageId != "b" {
		t.Fatalf("redriven: %v", got)
	}
	discarded, err := dlq.Discard(ctx, &gantryv1.DiscardRequest{Group: "g", Filter: &gantryv1.DeadLetterFilter{Offsets: []int64{0}}})
	if all := drain(t, discarded, err); all[len(all)-1].Done != 1 {
		t.Fatalf("%v", all)
	}
	if got := list(&gantryv1.DeadLetterFilter{Settled: true}); got != "a DEAD_LETTER_DISCARDED, b DEAD_LETTER_REDRIVEN, c DEAD_LETTER_OPEN" {
		t.Fatal(got)
	}
	exported, err := dlq.Export(ctx, &gantryv1.ExportDeadLettersRequest{Group: "g"})
	if all := drain(t, exported, err); len(all) != 1 || string(all[0].Body) != "body of c" {
		t.Fatalf("%v", all)
	}
}

func TestDeadLettersRefuseWithStatuses(t *testing.T) {
	f := start(t, Options{})
	ctx := context.Background()
	dlq := gantryv1.NewDeadLettersClient(f.dial())
	f.topic("t", topic.Normal, 1)
	f.die("t", "a", "x")
	first := func(stream grpc.ServerStreamingClient[gantryv1.DeadLetterProgress], err error) error {
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	for what, c := range map[string]struct {
		call func() error
		code codes.Code
	}{
		"list of nobody": {func() error {
			_, err := dlq.List(ctx, &gantryv1.ListDeadLettersRequest{Group: "nobody"})
			return err
		}, codes.NotFound},
		"list without group": {func() error {
			_, err := dlq.List(ctx, &gantryv1.ListDeadLettersRequest{})
			return err
		}, codes.InvalidArgument},
		"show of nothing": {func() error {
			_, err := dlq.Show(ctx, &gantryv1.ShowDeadLetterRequest{Group: "g", Offset: 7})
			return err
		}, codes.NotFound},
		"negative rate":  {func() error { return first(dlq.Redrive(ctx, &gantryv1.RedriveRequest{Group: "g", Rate: -1})) }, codes.InvalidArgument},
		"unknown target": {func() error { return first(dlq.Redrive(ctx, &gantryv1.RedriveRequest{Group: "g", TargetTopic: "no"})) }, codes.NotFound},
		"redrive of nobody": {func() error {
			return first(dlq.Redrive(ctx, &gantryv1.RedriveRequest{Group: "nobody"}))
		}, codes.NotFound},
		"discard of nobody": {func() error {
			return first(dlq.Discard(ctx, &gantryv1.DiscardRequest{Group: "nobody"}))
		}, codes.NotFound},
	} {
		if err := c.call(); status.Code(err) != c.code {
			t.Errorf("%s: %v, want %v", what, err, c.code)
		}
	}
}

func TestRedriveEndsWithItsClient(t *testing.T) {
	f := start(t, Options{})
	dlq := gantryv1.NewDeadLettersClient(f.dial())
	f.topic("t", topic.Normal, 1)
	for _, id := range []string{"a", "b", "c"} {
		f.die("t", id, id)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := dlq.Redrive(ctx, &gantryv1.RedriveRequest{Group: "g", Rate: 1}) // the third would go in two seconds
	if err != nil {
		t.Fatal(err)
	}
	if p, err := stream.Recv(); err != nil || p.Done != 1 || p.Matched != 3 {
		t.Fatalf("%v, %v", p, err)
	}
	cancel()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Fatal(err)
	}
	all := drainRedrive(t, dlq)
	if last := all[len(all)-1]; last.Matched != 2 || last.Done != 2 {
		t.Fatalf("the rest: %v", last)
	}
}

func drainRedrive(t *testing.T, dlq gantryv1.DeadLettersClient) []*gantryv1.DeadLetterProgress {
	t.Helper()
	stream, err := dlq.Redrive(context.Background(), &gantryv1.RedriveRequest{Group: "g"})
	return drain(t, stream, err)
}

func TestBlockedMessageGroupIsSeenAndFreed(t *testing.T) {
	f := start(t, Options{})
	ctx := context.Background()
	ops := gantryv1.NewGroupOpsClient(f.dial())
	f.topic("t", topic.FIFO, 1)
	f.group(group.Group{Name: record.Resource{Name: "g"}, FIFO: true})
	for _, id := range []string{"1", "2", "3"} {
		m := plain("t", id, id)
		m.SystemProperties.MessageGroup = ptr("customer 7")
		if resp, err := f.SendMessage(as("p"), &v2.SendMessageRequest{Messages: []*v2.Message{m}}); err != nil || resp.Status.Code != v2.Code_OK {
			t.Fatal(resp, err)
		}
	}
	f.receive(as("holder"), receiving("t", "g"))
	resp, err := ops.Blocked(ctx, &gantryv1.BlockedRequest{Group: "g"})
	if err != nil || len(resp.Keys) != 1 {
		t.Fatalf("%v, %v", resp, err)
	}
	k := resp.Keys[0]
	if k.Key != "customer 7" || k.Topic != "t" || k.Offset != 0 || k.MessageId != "1" || k.Attempt != 1 || k.Client != "holder" || k.Behind != 2 ||
		!k.Since.IsValid() || !k.Until.AsTime().After(k.Since.AsTime()) || !k.Stored.IsValid() {
		t.Fatalf("%v", k)
	}
	skip := &gantryv1.SkipRequest{Group: "g", Topic: k.Topic, Queue: k.Queue, Offset: k.Offset}
	if _, err := ops.Skip(ctx, skip); err != nil {
		t.Fatal(err)
	}
	if _, err := ops.Skip(ctx, skip); status.Code(err) != codes.FailedPrecondition {
		t.Fatal(err)
	}
	if _, got := f.receive(as("other"), receiving("t", "g")); strings.Join(bodies(got), " ") != "2" {
		t.Fatalf("after the skip: %v", bodies(got))
	}
	if _, err := ops.Blocked(ctx, &gantryv1.BlockedRequest{Group: "nobody"}); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
}

func TestResetOffsetMovesConnectedConsumers(t *testing.T) {
	f := start(t, Options{})
	ctx := context.Background()
	ops := gantryv1.NewGroupOpsClient(f.dial())
	f.topic("t", topic.Normal, 1)
	f.send("t", "1", "1")
	f.send("t", "2", "2")
	f.receive(as("c"), receiving("t", "g"))
	req := func(change func(*gantryv1.ResetOffsetRequest)) *gantryv1.ResetOffsetRequest {
		r := &gantryv1.ResetOffsetRequest{Group: "g", Topic: "t"}
		change(r)
		return r
	}
	earliest := func(r *gantryv1.ResetOffsetRequest) { r.To = &gantryv1.ResetOffsetRequest_Earliest{Earliest: true} }
	for what, c := range map[string]struct {
		change func(*gantryv1.ResetOffsetRequest)
		to     int64
	}{
		"earliest": {earliest, 0},
		"latest":   {func(r *gantryv1.ResetOffsetRequest) { r.To = &gantryv1.ResetOffsetRequest_Latest{Latest: true} }, 2},
		"offset":   {func(r *gantryv1.ResetOffsetRequest) { r.To = &gantryv1.ResetOffsetRequest_Offset{Offset: 1} }, 1},
		"timestamp": {func(r *gantryv1.ResetOffsetRequest) {
			r.To = &gantryv1.ResetOffsetRequest_Timestamp{Timestamp: timestamppb.New(time.Now().Add(time.Hour))}
		}, 2},
		"one queue": {func(r *gantryv1.ResetOffsetRequest) { earliest(r); r.Queue = ptr(uint32(0)) }, 0},
	} {
		resp, err := ops.ResetOffset(ctx, req(func(r *gantryv1.ResetOffsetRequest) { c.change(r); r.DryRun = true }))
		if err != nil || len(resp.Queues) != 1 || resp.Queues[0].GetFrom() != 2 || resp.Queues[0].To != c.to || resp.Queues[0].InFlight != 2 || resp.Queues[0].MaxOffset != 2 {
			t.Errorf("%s: %v, %v", what, resp, err)
		}
	}
	if _, err := ops.ResetOffset(ctx, req(earliest)); err != nil {
		t.Fatal(err)
	}
	if _, got := f.receive(as("c"), receiving("t", "g")); strings.Join(bodies(got), " ") != "1 2" {
		t.Fatalf("after the reset: %v", bodies(got))
	}
	if _, err := ops.ResetOffset(ctx, req(func(*gantryv1.ResetOffsetRequest) {})); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a reset to nowhere: %v", err)
	}
	if _, err := ops.ResetOffset(ctx, req(func(r *gantryv1.ResetOffsetRequest) { earliest(r); r.Queue = ptr(uint32(1<<32 - 1)) })); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a queue that is not there: %v", err)
	}
}
