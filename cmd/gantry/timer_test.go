package main

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// sendDelayed stores a delayed message and returns its recall handle.
func (s *serving) sendDelayed(t *testing.T, topic, id, key string, due time.Time) string {
	t.Helper()
	c, err := (&clientFlags{server: s.server}).connect()
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-mq-client-id", "producer")
	r, err := rocketmqv2.NewMessagingServiceClient(c.conn).SendMessage(ctx, &rocketmqv2.SendMessageRequest{Messages: []*rocketmqv2.Message{{
		Topic: &rocketmqv2.Resource{Name: topic}, Body: []byte("body of " + id),
		SystemProperties: &rocketmqv2.SystemProperties{MessageId: id, Keys: []string{key}, MessageType: rocketmqv2.MessageType_DELAY, DeliveryTimestamp: timestamppb.New(due)},
	}}})
	if err != nil || r.GetStatus().GetCode() != rocketmqv2.Code_OK {
		t.Fatal(r, err)
	}
	return r.GetEntries()[0].GetRecallHandle()
}

func TestDelayedMessagesAreListedCancelledAndRescheduled(t *testing.T) {
	s := serve(t, t.TempDir())
	gantry := func(args ...string) string { return ok(t, append(args, "--server", s.server)...) }
	gantry("topic", "create", "payments", "--type", "delay")
	due := time.Now().Add(time.Hour)
	handle := s.sendDelayed(t, "payments", "m-1", "order-1", due)
	s.sendDelayed(t, "payments", "m-2", "order-2", due.Add(time.Minute))
	s.sendDelayed(t, "payments", "m-3", "order-2", due.Add(2*time.Minute))

	if list := gantry("timer", "list", "payments"); !strings.Contains(list, "m-1") || !strings.Contains(list, "order-2") ||
		strings.Index(list, "m-1") > strings.Index(list, "m-2") {
		t.Errorf("list:\n%s", list)
	}
	if list := gantry("timer", "list", "payments", "--key", "order-2", "--limit", "1"); strings.Contains(list, "m-1") || strings.Contains(list, "m-3") || !strings.Contains(list, "m-2") {
		t.Errorf("by key:\n%s", list)
	}
	if list := gantry("timer", "list", "payments", "--to", due.Add(time.Second).UTC().Format(time.RFC3339), "--json"); !strings.Contains(list, handle) || strings.Contains(list, "m-2") {
		t.Errorf("by time:\n%s", list)
	}
	if said := gantry("timer", "cancel", "payments", handle, "--handle"); !strings.Contains(said, "m-1 cancelled") {
		t.Error(said)
	}
	if code, _, errOut := cli(t, "timer", "cancel", "payments", handle, "--handle", "--server", s.server); code != exitFailed || errOut != "gantry: the message was recalled or rescheduled before\n" {
		t.Errorf("a second time: exit %d: %s", code, errOut)
	}
	if _, _, more := cli(t, "timer", "list", "payments", "--limit", "1", "--server", s.server); !strings.Contains(more, "--from "+due.Add(time.Minute).UTC().Format("2006-01-02T15:04:05.000Z")) {
		t.Errorf("nothing says that there is more: %q", more)
	}
	gantry("timer", "cancel", "payments", "m-2")
	if said := gantry("timer", "reschedule", "payments", "m-3", "--at", "0s"); !strings.Contains(said, "m-3 is due at") {
		t.Error(said)
	}
	if got := gantry("receive", "payments", "--group", "G", "--count", "1", "--wait", "10s"); !strings.Contains(got, "body of m-3") {
		t.Errorf("received:\n%s", got)
	}
	if list := gantry("timer", "list", "payments", "--json"); strings.TrimSpace(list) != "[]" {
		t.Errorf("left:\n%s", list)
	}
}
