//go:build !race

// The race detector has pools forget at random.

package api

import (
	"bytes"
	"testing"

	"google.golang.org/grpc/mem"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/commitlog/record"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
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
