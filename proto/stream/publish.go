package stream

import (
	"math"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
)

// AnyQueue as Batch.Queue leaves the choice to the broker.
const AnyQueue = -1

// PublishRequest is gantry.v1.PublishRequest.
//
// To send a batch, put its records into a Buffer, hold on to that as long as the
// batch may have to be sent again, and give the request to SendMsg: gRPC holds it
// too until it is written.
type PublishRequest struct {
	// Other is everything but a batch; nil when it is one.
	Other *gantryv1.PublishRequest
	Batch Batch
}

// Batch is gantry.v1.PublishBatch.
type Batch struct {
	Sequence    uint64
	Namespace   string // of the topic
	Topic       string // "" = that of the open request
	Queue       int64  // 0 to 2^32-1, or AnyQueue
	Compression gantryv1.Compression
	// Records alias Buffer: all of it when sent, a part when received.
	Records []byte
	Buffer  *Buffer
}

// Release gives back the records of a request that was received.
func (r *PublishRequest) Release() {
	r.Batch.Buffer.Release()
	r.Batch.Buffer, r.Batch.Records = nil, nil
}

// Numbers of fields, as in proto/gantry/v1/stream.proto.
const (
	publishBatch = 2

	batchSequence    = 1
	batchTopic       = 2
	batchQueue       = 3
	batchCompression = 4
	batchRecords     = 15

	resourceNamespace = 1
	resourceName      = 2
)

// MarshalWire writes the request for gRPC.
func (r *PublishRequest) MarshalWire() (mem.BufferSlice, error) {
	if r.Other != nil {
		return marshal(r.Other)
	}
	b := &r.Batch
	h := make([]byte, 0, 64+len(b.Namespace)+len(b.Topic))
	h = appendUint(h, batchSequence, b.Sequence)
	if b.Topic != "" || b.Namespace != "" {
		h = protowire.AppendTag(h, batchTopic, protowire.BytesType)
		h = protowire.AppendVarint(h, uint64(sizeString(resourceNamespace, b.Namespace)+sizeString(resourceName, b.Topic)))
		h = appendString(appendString(h, resourceNamespace, b.Namespace), resourceName, b.Topic)
	}
	if b.Queue != AnyQueue {
		h = protowire.AppendTag(h, batchQueue, protowire.VarintType)
		h = protowire.AppendVarint(h, uint64(b.Queue))
	}
	h = appendUint(h, batchCompression, uint64(b.Compression))
	h = protowire.AppendTag(h, batchRecords, protowire.BytesType)
	h = protowire.AppendVarint(h, uint64(len(b.Records)))
	return mem.BufferSlice{mem.SliceBuffer(envelop(h, publishBatch, len(b.Records))), b.Buffer.lent(b.Records)}, nil
}

// UnmarshalWire reads the request. Release it after use.
func (r *PublishRequest) UnmarshalWire(data mem.BufferSlice) error {
	buf := gather(data)
	if inner, ok := content(buf.B, publishBatch); ok && r.Batch.read(inner) {
		r.Other, r.Batch.Buffer = nil, buf
		return nil
	}
	// Some other content, or a batch in an unusual encoding: the library knows.
	defer buf.Release()
	m := new(gantryv1.PublishRequest)
	if err := proto.Unmarshal(buf.B, m); err != nil {
		return err
	}
	*r = PublishRequest{Other: m}
	if b := m.GetBatch(); b != nil {
		*r = PublishRequest{Batch: Batch{
			Sequence: b.Sequence, Namespace: b.Topic.GetNamespace(), Topic: b.Topic.GetName(),
			Queue: AnyQueue, Compression: b.Compression, Records: b.Records,
		}}
		if b.Queue != nil {
			r.Batch.Queue = int64(*b.Queue)
		}
	}
	return nil
}

// read reports false for what it leaves to the library: unknown fields, fields
// of another type, damage.
func (b *Batch) read(p []byte) bool {
	*b = Batch{Queue: AnyQueue}
	return fields(p, func(num protowire.Number, v uint64) bool {
		switch {
		case num == batchSequence:
			b.Sequence = v
		case num == batchQueue && v <= math.MaxUint32:
			b.Queue = int64(v)
		case num == batchCompression && v <= math.MaxInt32:
			b.Compression = gantryv1.Compression(v)
		default:
			return false
		}
		return true
	}, func(num protowire.Number, v []byte) bool {
		switch num {
		case batchTopic:
			m := new(gantryv1.StreamResource)
			if proto.Unmarshal(v, m) != nil {
				return false
			}
			b.Namespace, b.Topic = m.Namespace, m.Name
		case batchRecords:
			b.Records = v[:len(v):len(v)]
		default:
			return false
		}
		return true
	})
}
