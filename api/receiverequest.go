package api

import (
	"google.golang.org/grpc/mem"

	"github.com/gantry-mq/gantry/commitlog/record"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
	"github.com/gantry-mq/gantry/proto/wire"
)

// receiveRequest is a ReceiveMessageRequest. A receive may wait long after
// gRPC's buffer has gone, so this one is a copy.
type receiveRequest struct {
	group, topic       record.Resource
	queue              int32
	filterType         v2.FilterType
	filter             string
	batch              int32
	invisible, polling timespan
	autoRenew          bool
	attempt            string
}

func (r *receiveRequest) UnmarshalWire(data mem.BufferSlice) error {
	return r.read(data.Materialize())
}

func (r *receiveRequest) read(b []byte) error {
	f := wire.NewReader(b)
	for f.Next() {
		switch f.Field() {
		case 1:
			if v, ok := f.Bytes(); ok {
				f.Fail(readResource(&r.group, v))
			}
		case 2:
			if v, ok := f.Bytes(); ok {
				f.Fail(r.readQueue(v))
			}
		case 3:
			if v, ok := f.Bytes(); ok {
				f.Fail(r.readFilter(v))
			}
		case 4:
			if v, ok := f.Varint(); ok {
				r.batch = int32(v)
			}
		case 5:
			if v, ok := f.Bytes(); ok {
				f.Fail(r.invisible.read(v))
			}
		case 6:
			if v, ok := f.Varint(); ok {
				r.autoRenew = v != 0
			}
		case 7:
			if v, ok := f.Bytes(); ok {
				f.Fail(r.polling.read(v))
			}
		case 8:
			if s, ok := f.String(); ok {
				r.attempt = s
			}
		default:
			f.Skip()
		}
	}
	return f.Err()
}

// readQueue reads a MessageQueue. Clients send back the whole of what an
// assignment said; only the topic and the number count.
func (r *receiveRequest) readQueue(b []byte) error {
	f := wire.NewReader(b)
	for f.Next() {
		switch f.Field() {
		case 1:
			if v, ok := f.Bytes(); ok {
				f.Fail(readResource(&r.topic, v))
			}
		case 2:
			if v, ok := f.Varint(); ok {
				r.queue = int32(v)
			}
		case 4:
			f.Check(new(v2.Broker))
		case 5:
			f.Varints()
		default:
			f.Skip()
		}
	}
	return f.Err()
}

func (r *receiveRequest) readFilter(b []byte) error {
	f := wire.NewReader(b)
	for f.Next() {
		switch f.Field() {
		case 1:
			if v, ok := f.Varint(); ok {
				r.filterType = v2.FilterType(int32(v))
			}
		case 2:
			if s, ok := f.String(); ok {
				r.filter = s
			}
		default:
			f.Skip()
		}
	}
	return f.Err()
}
