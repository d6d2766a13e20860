package api

import (
	"sync"

	"google.golang.org/grpc/mem"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/proto/wire"
)

// ackRequest is an AckMessageRequest, read where gRPC put it, like sendRequest.
type ackRequest struct {
	group, topic record.Resource
	entries      []broker.AckEntry

	held mem.Buffer
}

var ackRequests = sync.Pool{New: func() any { return new(ackRequest) }}

func newAckRequest() *ackRequest { return ackRequests.Get().(*ackRequest) }

func (r *ackRequest) UnmarshalWire(data mem.BufferSlice) error {
	r.held = data.MaterializeToBuffer(wire.Buffers)
	return r.read(r.held.ReadOnlyData())
}

func (r *ackRequest) read(b []byte) error {
	f := wire.NewReader(b)
	for f.Next() {
		switch f.Field() {
		case 1:
			if v, ok := f.Bytes(); ok {
				f.Fail(readResource(&r.group, v))
			}
		case 2:
			if v, ok := f.Bytes(); ok {
				f.Fail(readResource(&r.topic, v))
			}
		case 3:
			if v, ok := f.Bytes(); ok {
				f.Fail(r.readEntry(v))
			}
		default:
			f.Skip()
		}
	}
	return f.Err()
}

func (r *ackRequest) readEntry(b []byte) error {
	var e broker.AckEntry
	f := wire.NewReader(b)
	for f.Next() {
		switch f.Field() {
		case 1:
			if s, ok := f.String(); ok {
				e.MessageID = s
			}
		case 2:
			if s, ok := f.String(); ok {
				e.Handle = s
			}
		case 3: // lite_topic: the handle says it all
			f.String()
		default:
			f.Skip()
		}
	}
	r.entries = append(r.entries, e)
	return f.Err()
}

func (r *ackRequest) free() {
	if r.held != nil {
		r.held.Free()
	}
	clear(r.entries)
	*r = ackRequest{entries: r.entries[:0]}
	if cap(r.entries) <= broker.MaxSendBatch {
		ackRequests.Put(r)
	}
}
