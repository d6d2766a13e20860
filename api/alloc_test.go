//go:build !race

// The race detector has pools forget at random.

package api

import (
	"bytes"
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/access"
	"github.com/gantry-mq/gantry/commitlog/record"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
	"github.com/gantry-mq/gantry/proto/stream"
)

// The codec adds nothing to gRPC's own allocations.
func TestCodecDoesNotAllocate(t *testing.T) {
	send := &v2.SendMessageRequest{}
	ack := &v2.AckMessageRequest{Group: &v2.Resource{Name: "g"}, Topic: &v2.Resource{Name: "t"}}
	for range broker.MaxReceiveBatch {
		m := fullMessage()
		m.Body = bytes.Repeat([]byte("x"), 1024)
		send.Messages = append(send.Messages, m)
		ack.Entries = append(ack.Entries, &v2.AckMessageEntry{MessageId: "id", ReceiptHandle: "handle"})
	}
	sendData, ackData := mem.BufferSlice{mem.SliceBuffer(marshal(t, send))}, mem.BufferSlice{mem.SliceBuffer(marshal(t, ack))}
	small := encode(t, broker.Outgoing{Topic: record.Resource{Name: "t"}, ID: "id", Body: bytes.Repeat([]byte("x"), 1024)}, true)
	large := encode(t, broker.Outgoing{Topic: record.Resource{Name: "t"}, ID: "id", Body: bytes.Repeat([]byte("x"), 64<<10)}, true)
	out := func(d *broker.Delivered) func() error {
		return func() error {
			r, err := deliver(d, "127.0.0.1:8081")
			if err != nil {
				return err
			}
			parts, err := r.MarshalWire()
			parts.Free()
			return err
		}
	}
	for _, c := range []struct {
		name string
		do   func() error
	}{
		{"a send of 32", func() error {
			r := newSendRequest()
			defer r.free()
			return r.UnmarshalWire(sendData)
		}},
		{"an ack of 32", func() error {
			r := newAckRequest()
			defer r.free()
			return r.UnmarshalWire(ackData)
		}},
		{"a delivery", out(&small)},
		{"a delivery from the mapping", out(&large)},
	} {
		var err error
		n := testing.AllocsPerRun(200, func() { err = c.do() })
		if err != nil {
			t.Fatal(c.name, err)
		}
		if n > 0 {
			t.Errorf("%s allocates %v times", c.name, n)
		}
	}
}

// guarded is a gate before a broker of a user that may send to t, and a call of it.
func guarded(tb testing.TB) (*gate, context.Context) {
	tb.Helper()
	key := testMasterKey(tb)
	b, err := broker.Open(context.Background(), broker.Options{Dir: tb.TempDir(), SegmentSize: 1 << 20, MasterKey: key})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { b.Close() })
	if _, err := b.CreateUser(context.Background(), access.User{Name: "shop", Enabled: true}, testSecret); err != nil {
		tb.Fatal(err)
	}
	_, err = b.Grant(context.Background(), access.Policy{User: "shop", Actions: access.Pub, Resource: access.Pattern{Type: access.Topic, Match: access.Literal, Name: "t"}})
	if err != nil {
		tb.Fatal(err)
	}
	authorization, date := access.Sign("shop", testSecret, time.Now())
	return newGate(b, &Auth{Clock: access.Clock{Skew: 5 * time.Minute}}, discard), metadata.NewIncomingContext(context.Background(),
		metadata.Pairs(headerClientID, "c", headerAuthorization, authorization, headerDateTime, date))
}

func sendOf(n int) *sendRequest {
	r := &sendRequest{}
	for range n {
		r.messages = append(r.messages, broker.Outgoing{Topic: record.Resource{Name: "t"}})
	}
	return r
}

// To ask who calls costs a call the two slices in which gRPC hands out headers, and a
// message nothing.
func TestAuthDoesNotAllocateForMessages(t *testing.T) {
	g, ctx := guarded(t)
	for _, n := range []int{1, 32} {
		req := sendOf(n)
		allocs := testing.AllocsPerRun(200, func() {
			if _, err := g.unary(ctx, v2.MessagingService_SendMessage_FullMethodName, req); err != nil {
				t.Fatal(err)
			}
		})
		if allocs > 2 {
			t.Errorf("a send of %d allocates %v times", n, allocs)
		}
	}
	p, err := g.stream(ctx, gantryv1.Streams_Publish_FullMethodName, presentedBy(ctx))
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	batch := &stream.Batch{Topic: "t"}
	if n := testing.AllocsPerRun(200, func() { err = p.once(batch) }); n > 0 || err != nil {
		t.Errorf("a batch of a stream allocates %v times, %v", n, err)
	}
}

func BenchmarkAuth(b *testing.B) {
	g, ctx := guarded(b)
	req := sendOf(1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := g.unary(ctx, v2.MessagingService_SendMessage_FullMethodName, req); err != nil {
			b.Fatal(err)
		}
	}
}
