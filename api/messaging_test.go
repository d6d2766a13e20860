package api

import (
	"context"
	"crypto/sha1"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

func (f *fixture) ack(group, topic string, handles ...string) *v2.AckMessageResponse {
	f.t.Helper()
	req := &v2.AckMessageRequest{Group: &v2.Resource{Name: group}, Topic: &v2.Resource{Name: topic}}
	for i, h := range handles {
		req.Entries = append(req.Entries, &v2.AckMessageEntry{MessageId: fmt.Sprint("m", i), ReceiptHandle: h})
	}
	resp, err := f.AckMessage(as("consumer"), req)
	if err != nil {
		f.t.Fatal(err)
	}
	if resp.Status.Code == v2.Code_OK || resp.Status.Code == v2.Code_INVALID_RECEIPT_HANDLE {
		if resp.Status.Message != resp.Status.Code.String() {
			f.t.Fatalf("the text of %v is not the name of its code", resp.Status)
		}
	}
	return resp
}

func (f *fixture) change(group, topic, handle string, d time.Duration) *v2.ChangeInvisibleDurationResponse {
	f.t.Helper()
	resp, err := f.ChangeInvisibleDuration(as("consumer"), &v2.ChangeInvisibleDurationRequest{
		Group: &v2.Resource{Name: group}, Topic: &v2.Resource{Name: topic},
		ReceiptHandle: handle, InvisibleDuration: durationpb.New(d),
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return resp
}

func TestSentMessageArrivesWholeAndIsSettledByAck(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 4)
	born := timestamppb.New(time.UnixMilli(1700000000123))
	sent := &v2.Message{
		Topic: &v2.Resource{Name: "t"}, Body: []byte("naïve 消息 🚚"), UserProperties: map[string]string{"k": "v", "名": ""},
		SystemProperties: &v2.SystemProperties{
			MessageId: "01AB", Tag: ptr("tag"), Keys: []string{"k 1", "k2"}, BornTimestamp: born, BornHost: "h",
			BodyEncoding: v2.Encoding_GZIP, TraceContext: ptr("tr"), MessageType: v2.MessageType_NORMAL, QueueId: 99,
		},
	}
	resp, err := f.SendMessage(as("p"), &v2.SendMessageRequest{Messages: []*v2.Message{sent}})
	if err != nil || resp.Status.Code != v2.Code_OK || len(resp.Entries) != 1 ||
		resp.Entries[0].Status.Code != v2.Code_OK || resp.Entries[0].MessageId != "01AB" || resp.Entries[0].Offset != 0 {
		t.Fatalf("send: %v, %v", resp, err)
	}
	status, got := f.receive(as("c"), receiving("t", "g"))
	if len(got) != 1 {
		t.Fatalf("received %d: %v", len(got), status)
	}
	p := got[0].SystemProperties
	if p.GetReceiptHandle() == "" || p.GetStoreTimestamp().AsTime().IsZero() || p.GetStoreHost() != f.addr || p.QueueId > 3 {
		t.Errorf("delivered properties: %v", p)
	}
	want := proto.CloneOf(sent)
	wp := want.SystemProperties
	wp.ReceiptHandle, wp.StoreTimestamp, wp.StoreHost, wp.QueueId = p.ReceiptHandle, p.StoreTimestamp, p.StoreHost, p.QueueId
	wp.QueueOffset, wp.DeliveryAttempt = ptr(int64(0)), ptr(int32(1))
	wp.BodyDigest = &v2.Digest{Type: v2.DigestType_SHA1, Checksum: fmt.Sprintf("%X", sha1.Sum(sent.Body))}
	if !proto.Equal(got[0], want) {
		t.Errorf("got  %v\nwant %v", got[0], want)
	}

	for range 2 { // the second changes nothing
		ack := f.ack("g", "t", p.GetReceiptHandle())
		if ack.Status.Code != v2.Code_OK || len(ack.Entries) != 1 || ack.Entries[0].ReceiptHandle != p.GetReceiptHandle() ||
			ack.Entries[0].MessageId != "m0" || ack.Entries[0].Status.Code != v2.Code_OK {
			t.Fatalf("ack: %v", ack)
		}
	}
	if resp := f.change("g", "t", p.GetReceiptHandle(), time.Minute); resp.Status.Code != v2.Code_INVALID_RECEIPT_HANDLE {
		t.Errorf("change after ack: %v", resp)
	}
}

func TestBatchComesBackInRequestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startInBubble(t)
		f.topic("t", topic.Normal, 1)
		req := &v2.SendMessageRequest{}
		for i := range 40 {
			req.Messages = append(req.Messages, plain("t", fmt.Sprint("id", i), fmt.Sprint("body", i)))
		}
		resp, err := f.SendMessage(as("p"), req)
		if err != nil || resp.Status.Code != v2.Code_OK || len(resp.Entries) != 40 {
			t.Fatalf("%v, %v", resp, err)
		}
		synctest.Wait() // indexed: a send is answered before it is
		for i, e := range resp.Entries {
			if e.MessageId != fmt.Sprint("id", i) || e.Offset != int64(i) {
				t.Fatalf("entry %d: %v", i, e)
			}
		}
		req2 := receiving("t", "g")
		req2.BatchSize = 100_000
		if _, got := f.receive(as("c"), req2); len(got) != 32 || string(got[31].Body) != "body31" {
			t.Fatalf("received %d: %v", len(got), bodies(got))
		}
		req2.BatchSize = 0 // SDKs with a full cache
		if _, got := f.receive(as("c"), req2); len(got) != 1 || string(got[0].Body) != "body32" {
			t.Fatalf("received %v", bodies(got))
		}
	})
}

func TestLargestMessageFits(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	m := plain("t", "id", strings.Repeat("b", 4<<20))
	m.UserProperties = map[string]string{"k": strings.Repeat("v", 16<<10-1)}
	resp, err := f.SendMessage(as("p"), &v2.SendMessageRequest{Messages: []*v2.Message{m}})
	if err != nil || resp.Status.Code != v2.Code_OK {
		t.Fatalf("%v, %v", resp.GetStatus(), err)
	}
	stream, err := f.ReceiveMessage(as("c"), receiving("t", "g"))
	if err != nil {
		t.Fatal(err)
	}
	stream.Recv()
	if _, err := stream.Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a client with gRPC's default limit got %v", err) // as documented: 4 MiB and some
	}
}

func TestFailedSendFailsOnBothLevels(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	resp, err := f.SendMessage(as("p"), &v2.SendMessageRequest{Messages: []*v2.Message{plain("t", "a", "ok"), plain("t", "b", "")}})
	if err != nil {
		t.Fatal(err)
	}
	if resp.Status.Code != v2.Code_MESSAGE_BODY_EMPTY || len(resp.Entries) != 2 ||
		resp.Entries[0].Status.Code != v2.Code_MESSAGE_BODY_EMPTY || resp.Entries[1].Status.Code != v2.Code_MESSAGE_BODY_EMPTY {
		t.Errorf("%v", resp)
	}
}

func TestEmptyPollLastsAsLongAsAsked(t *testing.T) {
	for _, c := range []struct {
		name        string
		asked       *durationpb.Duration
		call, lasts time.Duration
	}{
		{"Java, 10 s", durationpb.New(10 * time.Second), 13 * time.Second, 10 * time.Second},
		{"Go, 10 s", nil, 13 * time.Second, 11500 * time.Millisecond},
		{"no time to spare", durationpb.New(15 * time.Second), 15 * time.Second, 14900 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := startInBubble(t)
				f.topic("t", topic.Normal, 4)
				req := receiving("t", "g")
				req.LongPollingTimeout = c.asked
				began := time.Now()
				status, _ := f.receive(within(as("c"), t, c.call), req)
				took := time.Since(began)
				if status.Code != v2.Code_MESSAGE_NOT_FOUND || took < c.lasts-time.Millisecond || took > c.lasts+time.Millisecond {
					t.Errorf("%v after %v, want MESSAGE_NOT_FOUND after %v", status, took, c.lasts)
				}
			})
		})
	}
}

func TestPollEndsWithTheFirstMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startInBubble(t)
		f.topic("t", topic.Normal, 4)
		var sending sync.WaitGroup
		defer sending.Wait() // the message may be received before its sender has its answer
		sending.Go(func() {
			time.Sleep(3 * time.Second)
			f.send("t", "id", "late")
		})
		began := time.Now()
		_, got := f.receive(as("c"), receiving("t", "g"))
		if took := time.Since(began); len(got) != 1 || took < 3*time.Second || took > 3*time.Second+100*time.Millisecond {
			t.Errorf("%v after %v", bodies(got), took)
		}
	})
}

func TestUnackedMessageComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startInBubble(t)
		f.topic("t", topic.Normal, 1)
		f.send("t", "id", "x")
		req := receiving("t", "g")
		req.InvisibleDuration = durationpb.New(10 * time.Second)
		req.LongPollingTimeout = durationpb.New(20 * time.Second)
		var before string
		for attempt := int32(1); attempt <= 3; attempt++ {
			began := time.Now()
			_, got := f.receive(as("c"), req)
			took := time.Since(began)
			if len(got) != 1 || got[0].SystemProperties.GetDeliveryAttempt() != attempt {
				t.Fatalf("attempt %d: %v", attempt, got)
			}
			if attempt > 1 {
				if took < 9*time.Second || took > 11*time.Second {
					t.Errorf("attempt %d came after %v, want 10 s", attempt, took)
				}
				if ack := f.ack("g", "t", before); ack.Status.Code != v2.Code_INVALID_RECEIPT_HANDLE {
					t.Errorf("ack with the handle of attempt %d: %v", attempt-1, ack)
				}
			}
			before = got[0].SystemProperties.GetReceiptHandle()
		}
		if ack := f.ack("g", "t", before, "no handle"); ack.Status.Code != v2.Code_MULTIPLE_RESULTS ||
			ack.Entries[0].Status.Code != v2.Code_OK || ack.Entries[1].Status.Code != v2.Code_INVALID_RECEIPT_HANDLE {
			t.Errorf("one good handle and one bad: %v", ack)
		}
		if status, _ := f.receive(as("c"), req); status.Code != v2.Code_MESSAGE_NOT_FOUND {
			t.Errorf("after the ack: %v", status)
		}
	})
}

func TestChangedInvisibilityCountsFromNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startInBubble(t)
		f.topic("t", topic.Normal, 1)
		f.send("t", "id", "x")
		req := receiving("t", "g")
		req.LongPollingTimeout = durationpb.New(20 * time.Second)
		_, got := f.receive(as("c"), req)
		first := got[0].SystemProperties.GetReceiptHandle()
		changed := f.change("g", "t", first, 2*time.Second)
		if changed.Status.Code != v2.Code_OK || changed.ReceiptHandle == "" || changed.ReceiptHandle == first {
			t.Fatalf("change: %v", changed)
		}
		if stale := f.change("g", "t", first, time.Second); stale.Status.Code != v2.Code_INVALID_RECEIPT_HANDLE || stale.ReceiptHandle != first {
			t.Errorf("a failure must echo the handle it was given: %v", stale)
		}
		began := time.Now()
		_, got = f.receive(as("c"), req)
		if took := time.Since(began); len(got) != 1 || took < time.Second || took > 3*time.Second {
			t.Fatalf("%v after %v, want it after 2 s", bodies(got), took)
		}
		if now := f.change("g", "t", got[0].SystemProperties.GetReceiptHandle(), 0); now.Status.Code != v2.Code_OK {
			t.Errorf("0 gives it back: %v", now)
		}
		if _, got = f.receive(as("c"), req); len(got) != 1 {
			t.Error("what was given back did not come again")
		}
	})
}

func TestForwardedMessageIsADeadLetter(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	f.send("t", "id", "x")
	_, got := f.receive(as("c"), receiving("t", "g"))
	resp, err := f.ForwardMessageToDeadLetterQueue(as("c"), &v2.ForwardMessageToDeadLetterQueueRequest{
		Group: &v2.Resource{Name: "g"}, Topic: &v2.Resource{Name: "t"},
		ReceiptHandle: got[0].SystemProperties.GetReceiptHandle(), MessageId: "id",
	})
	if err != nil || resp.Status.Code != v2.Code_OK {
		t.Fatalf("%v, %v", resp, err)
	}
	_, got = f.receive(as("c"), receiving("%DLQ%g", "undertaker"))
	if len(got) != 1 || string(got[0].Body) != "x" || got[0].Topic.Name != "%DLQ%g" {
		t.Fatalf("dead letters: %v", got)
	}
	if o := got[0].SystemProperties.GetDeadLetterQueue(); o.GetTopic() != "t" || o.GetMessageId() != "id" {
		t.Errorf("origin %v", o)
	}
}

func TestVanishedClientLosesItsPlaceNotAMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startInBubble(t)
		f.topic("t", topic.Normal, 1)
		ctx, leave := context.WithCancel(as("gone"))
		stream, err := f.ReceiveMessage(ctx, receiving("t", "g"))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // parked
		leave()
		if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
			t.Fatalf("%v", err)
		}
		synctest.Wait()
		f.send("t", "id", "x")
		began := time.Now()
		_, got := f.receive(as("c"), receiving("t", "g"))
		if took := time.Since(began); len(got) != 1 || took > 100*time.Millisecond {
			t.Errorf("%v after %v, want it at once", bodies(got), took)
		}
	})
}

func TestBrokenStreamGivesAllItsMessagesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startInBubble(t)
		f.topic("t", topic.Normal, 1)
		for i := range 3 {
			f.send("t", fmt.Sprint("id", i), strings.Repeat("x", 1<<20))
		}
		ctx, leave := context.WithCancel(as("slow"))
		stream, err := f.ReceiveMessage(ctx, receiving("t", "g"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil { // the status; the bodies exceed the window
			t.Fatal(err)
		}
		synctest.Wait()
		leave()
		synctest.Wait()
		began := time.Now()
		var got []*v2.Message
		for len(got) < 3 {
			status, more := f.receive(as("c"), receiving("t", "g"))
			if status.Code != v2.Code_OK {
				t.Fatalf("%d of 3, then %v", len(got), status)
			}
			got = append(got, more...)
		}
		if took := time.Since(began); took < 500*time.Millisecond || took > 3*time.Second {
			t.Errorf("came back after %v, want 1 s", took)
		}
	})
}

func TestShutdownEndsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startInBubble(t)
		f.topic("t", topic.Normal, 1)
		poll, err := f.ReceiveMessage(as("c"), receiving("t", "g"))
		if err != nil {
			t.Fatal(err)
		}
		commands := f.telemetry(as("c"))
		settle(t, commands, producerSettings("t"))
		watch, err := healthpb.NewHealthClient(f.dial()).Watch(context.Background(), &healthpb.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if first, err := watch.Recv(); err != nil || first.Status != healthpb.HealthCheckResponse_SERVING {
			t.Fatalf("%v, %v", first, err)
		}
		synctest.Wait() // all of them parked
		began := time.Now()
		if err := f.server.Shutdown(context.Background()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("took %v", took)
		}
		if resp, err := poll.Recv(); err != nil || resp.GetStatus().GetCode() != v2.Code_MESSAGE_NOT_FOUND {
			t.Errorf("the poll got %v, %v", resp, err)
		}
		if _, err := commands.Recv(); status.Code(err) != codes.Unavailable {
			t.Errorf("the command stream got %v", err)
		}
	})
}

func TestRouteAndAssignment(t *testing.T) {
	f := start(t, Options{})
	f.topic("plain", topic.Normal, 3)
	f.topic("mixed", topic.Mixed, 1)
	f.group(group.Group{Name: record.Resource{Name: "ordered"}, FIFO: true})
	mine := endpoint(v2.AddressScheme_DOMAIN_NAME, "mq.example")

	route, err := f.QueryRoute(as("c"), &v2.QueryRouteRequest{Topic: &v2.Resource{Name: "plain"}, Endpoints: mine})
	if err != nil || route.Status.Code != v2.Code_OK || len(route.MessageQueues) != 3 {
		t.Fatalf("%v, %v", route, err)
	}
	for i, q := range route.MessageQueues {
		if q.Id != int32(i) || q.Topic.Name != "plain" || q.Permission != v2.Permission_READ_WRITE || q.Broker.Id != 0 ||
			q.Broker.Name != f.broker.Name() || !proto.Equal(q.Broker.Endpoints, mine) ||
			!slices.Equal(q.AcceptMessageTypes, []v2.MessageType{v2.MessageType_NORMAL}) {
			t.Errorf("queue %d: %v", i, q)
		}
	}
	again, _ := f.QueryRoute(as("c"), &v2.QueryRouteRequest{Topic: &v2.Resource{Name: "plain"}, Endpoints: mine})
	if !proto.Equal(route, again) {
		t.Error("the route changed by itself")
	}
	mixed, _ := f.QueryRoute(as("c"), &v2.QueryRouteRequest{Topic: &v2.Resource{Name: "mixed"}})
	if q := mixed.MessageQueues[0]; len(q.AcceptMessageTypes) != 4 || q.Broker.Endpoints.Addresses[0].Host != "127.0.0.1" ||
		fmt.Sprint("127.0.0.1:", q.Broker.Endpoints.Addresses[0].Port) != f.addr {
		t.Errorf("%v, served at %s", q, f.addr)
	}
	for g, want := range map[string][]int32{"ordered": {0, 1, 2}, "any": {-1}} {
		resp, err := f.QueryAssignment(as("c"), &v2.QueryAssignmentRequest{
			Topic: &v2.Resource{Name: "plain"}, Group: &v2.Resource{Name: g}, Endpoints: mine,
		})
		if err != nil || resp.Status.Code != v2.Code_OK {
			t.Fatalf("%v, %v", resp, err)
		}
		var ids []int32
		for _, a := range resp.Assignments {
			ids = append(ids, a.MessageQueue.Id)
			if a.MessageQueue.Permission != v2.Permission_READ_WRITE || !proto.Equal(a.MessageQueue.Broker.Endpoints, mine) || len(a.MessageQueue.AcceptMessageTypes) != 0 {
				t.Errorf("%v", a)
			}
		}
		if !slices.Equal(ids, want) {
			t.Errorf("%s is assigned %v, want %v", g, ids, want)
		}
	}
}

func TestAdvertisedAddressOverridesTheClients(t *testing.T) {
	f := start(t, Options{Advertise: "mq.example:9000"})
	f.topic("t", topic.Normal, 1)
	route, err := f.QueryRoute(as("c"), &v2.QueryRouteRequest{Topic: &v2.Resource{Name: "t"}, Endpoints: endpoint(v2.AddressScheme_IPv4, "10.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	want := &v2.Endpoints{Scheme: v2.AddressScheme_DOMAIN_NAME, Addresses: []*v2.Address{{Host: "mq.example", Port: 9000}}}
	if got := route.MessageQueues[0].Broker.Endpoints; !proto.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestMessagesOfOneGroupComeInOrder(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.FIFO, 4)
	f.group(group.Group{Name: record.Resource{Name: "g"}, FIFO: true})
	for i := range 6 {
		m := plain("t", fmt.Sprint("id", i), fmt.Sprint(i))
		m.SystemProperties.MessageGroup = ptr("order-1")
		if resp, err := f.SendMessage(as("p"), &v2.SendMessageRequest{Messages: []*v2.Message{m}}); err != nil || resp.Status.Code != v2.Code_OK {
			t.Fatalf("%v, %v", resp, err)
		}
	}
	var seen []string
	for len(seen) < 6 {
		status, got := f.receive(as("c"), receiving("t", "g"))
		if status.Code != v2.Code_OK {
			t.Fatalf("%v, then %v", seen, status)
		}
		for _, m := range got {
			seen = append(seen, string(m.Body))
			if m.SystemProperties.MessageType != v2.MessageType_FIFO || m.SystemProperties.GetMessageGroup() != "order-1" {
				t.Errorf("%v", m.SystemProperties)
			}
			f.ack("g", "t", m.SystemProperties.GetReceiptHandle())
		}
	}
	if !slices.Equal(seen, []string{"0", "1", "2", "3", "4", "5"}) {
		t.Errorf("order %v", seen)
	}
}
