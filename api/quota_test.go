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

	"github.com/gantry-mq/gantry/broker/access"
	"github.com/gantry-mq/gantry/broker/topic"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// quota sets limits as an operator does.
func (f *fixture) quota(ctx context.Context, kind gantryv1.QuotaKind, name string, l *gantryv1.QuotaLimits) {
	f.t.Helper()
	_, err := gantryv1.NewQuotasClient(f.dial()).Set(ctx, &gantryv1.SetQuotaRequest{Subject: &gantryv1.QuotaSubject{Kind: kind, Name: name}, Limits: l})
	if err != nil {
		f.t.Fatal(err)
	}
}

// refusedBy sends a batch and returns why it was refused, "" if it was not.
func (f *fixture) refusedBy(ctx context.Context, messages ...*v2.Message) string {
	f.t.Helper()
	r, err := f.SendMessage(ctx, &v2.SendMessageRequest{Messages: messages})
	if err != nil {
		f.t.Fatal(err)
	}
	if r.GetStatus().GetCode() == v2.Code_OK {
		return ""
	}
	for _, e := range append(r.GetEntries(), &v2.SendResultEntry{Status: r.GetStatus()}) {
		if e.GetStatus().GetCode() != v2.Code_TOO_MANY_REQUESTS {
			f.t.Errorf("%v, want TOO_MANY_REQUESTS", e)
		}
	}
	if len(r.GetEntries()) != len(messages) {
		f.t.Errorf("%d entries for %d messages", len(r.GetEntries()), len(messages))
	}
	return r.GetStatus().GetMessage()
}

func TestAQuotaCountsForBothDoorsTogether(t *testing.T) {
	f := startWithUsers(t, Options{})
	admin := signed("admin")
	f.topic("orders", topic.Normal, 1)
	f.topic("pay", topic.Normal, 1)
	f.grant("shop", access.Topic, "orders", access.Pub|access.Sub)
	f.grant("shop", access.Topic, "pay", access.Pub)
	f.grant("shop", access.Group, "G", access.Sub)
	f.grant("idle", access.Topic, "orders", access.Pub)
	sign := func(o *gantryv1.PublishOpen) {
		o.ClientId = "shop"
		o.Authorization, o.DateTime = access.Sign("shop", testSecret, time.Now())
	}
	p := f.publisher(signed("shop"), 1, "orders", sign) // open before there is a quota
	p.good(packOf("0"))

	// With one byte a second, a full bucket takes one batch, and it takes minutes to be
	// full again.
	little := &gantryv1.QuotaLimits{SendBytes: proto.Uint64(1)}
	more := &gantryv1.QuotaLimits{SendBytes: proto.Uint64(1_000_000)}
	const why = `the quota of user "shop" is 1 bytes/s sent; try again in `
	two := []*v2.Message{plain("orders", "1", "1"), plain("orders", "2", "2")}
	f.quota(admin, gantryv1.QuotaKind_QUOTA_USER, "shop", little)
	if why := f.refusedBy(signed("shop"), two...); why != "" {
		t.Fatal(why)
	}
	if r := p.publish(packOf("3")); v2.Code(r.GetStatus().GetCode()) != v2.Code_TOO_MANY_REQUESTS || !strings.Contains(r.GetStatus().GetMessage(), why) {
		t.Errorf("a stream that was open before: %v", r)
	}
	f.quota(admin, gantryv1.QuotaKind_QUOTA_USER, "shop", more)
	p.good(packOf("4"))
	f.quota(admin, gantryv1.QuotaKind_QUOTA_USER, "shop", little)
	p.good(packOf("5"))
	if got := f.refusedBy(signed("shop"), plain("pay", "1", "1")); !strings.Contains(got, why) {
		t.Errorf("the user's other topic: %q", got)
	}
	if why := f.refusedBy(signed("idle"), plain("orders", "6", "6")); why != "" {
		t.Error("another user:", why)
	}
	f.quota(admin, gantryv1.QuotaKind_QUOTA_USER, "shop", more)

	// What a stream's batch has to wait for shortly, it waits for.
	f.quota(admin, gantryv1.QuotaKind_QUOTA_TOPIC, "orders", &gantryv1.QuotaLimits{SendMessages: proto.Uint64(10)})
	for range 12 {
		p.good(packOf("7"))
	}

	quotas := gantryv1.NewQuotasClient(f.dial())
	list, err := quotas.List(admin, &gantryv1.ListQuotasRequest{})
	if err != nil || len(list.GetQuotas()) != 2 || list.Quotas[0].Limits.SendBytes != nil || list.Quotas[0].Limits.GetSendMessages() != 10 {
		t.Errorf("%v, %v", list, err)
	}
	if _, err := quotas.Set(signed("shop"), &gantryv1.SetQuotaRequest{Subject: list.Quotas[1].Subject, Limits: &gantryv1.QuotaLimits{SendMessages: proto.Uint64(9)}}); status.Code(err) != codes.PermissionDenied {
		t.Error("a user sets its own quota:", err)
	}
	for _, q := range list.Quotas {
		if _, err := quotas.Unset(admin, &gantryv1.UnsetQuotaRequest{Subject: q.Subject}); err != nil {
			t.Error(err)
		}
	}
	if _, err := quotas.Unset(admin, &gantryv1.UnsetQuotaRequest{Subject: list.Quotas[0].Subject}); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
	if why := f.refusedBy(signed("shop"), two...); why != "" {
		t.Error(why)
	}
}

// A stream that waits for a quota goes on when that is raised, however long it would have
// had to wait.
func TestAQuotaThatIsRaisedLetsWaitersGoAtOnce(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	f.topic("u", topic.Normal, 1)
	ctx := context.Background()
	f.quota(ctx, gantryv1.QuotaKind_QUOTA_TOPIC, "t", &gantryv1.QuotaLimits{ReceiveMessages: proto.Uint64(1)})
	f.publisher(ctx, 1, "t").good(packOf("a", "b", "c", "d", "e", "f"))
	byOffset, leased := f.consumer(ctx, "t", "", earliest()), f.consumer(ctx, "t", "g", leases(&gantryv1.LeaseMode{}))
	f.quota(ctx, gantryv1.QuotaKind_QUOTA_TOPIC, "t", &gantryv1.QuotaLimits{ReceiveMessages: proto.Uint64(1_000_000)})
	byOffset.take(6)
	leased.take(6)

	f.quota(ctx, gantryv1.QuotaKind_QUOTA_GROUP, "h", &gantryv1.QuotaLimits{InFlight: proto.Uint64(2)})
	h := f.consumer(ctx, "t", "h", leases(&gantryv1.LeaseMode{}))
	first := h.take(2)
	if n := f.inFlight("h"); n != 2 {
		t.Errorf("%d in flight", n)
	}
	h.settle(&gantryv1.SettleEntry{Action: gantryv1.SettleAction_SETTLE_ACK, Queue: first[0].queue, Offset: first[0].offset, LeaseId: first[0].lease})
	next := h.take(1) // what is acknowledged makes room
	f.quota(ctx, gantryv1.QuotaKind_QUOTA_GROUP, "h", &gantryv1.QuotaLimits{InFlight: proto.Uint64(100)})
	if rest := h.take(3); string(next[0].Body) != "c" || string(rest[2].Body) != "f" {
		t.Errorf("%s, then %s", next[0].Body, rest[2].Body)
	}

	// The other door: a poll that is held back, and one that ends like any other.
	f.quota(ctx, gantryv1.QuotaKind_QUOTA_GROUP, "i", &gantryv1.QuotaLimits{InFlight: proto.Uint64(4)})
	if _, ms := f.receive(as("c"), receiving("t", "i")); len(ms) != 4 {
		t.Fatalf("%d messages", len(ms))
	}
	waits := make(chan int)
	go func() {
		_, ms := f.receive(as("c"), receiving("t", "i"))
		waits <- len(ms)
	}()
	for f.broker.Stats().Throttled == nil {
		time.Sleep(time.Millisecond)
	}
	f.quota(ctx, gantryv1.QuotaKind_QUOTA_GROUP, "i", &gantryv1.QuotaLimits{InFlight: proto.Uint64(5)})
	if n := <-waits; n != 1 {
		t.Errorf("%d messages for a quota that was raised by one", n)
	}
	req := receiving("t", "i")
	req.LongPollingTimeout = durationpb.New(time.Millisecond) // which is 5 s
	if st, _ := f.receive(as("c"), req); st.GetCode() != v2.Code_MESSAGE_NOT_FOUND || !strings.Contains(st.GetMessage(), `group "i" is 5 messages in flight`) {
		t.Errorf("%v", st)
	}
}
