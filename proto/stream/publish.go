package stream

import (
	"math"
	"slices"

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
	Sequence  uint64
	Namespace string // of the topic
	Topic     string // "" = that of the open request
	Queue     int64  // 0 to 2^32-1, or AnyQueue
	// Records are what is sent: all of Buffer.
	Records []byte
	Buffer  *Buffer
	// Pieces are the records that were received, where they came to lie: they are cut
	// anywhere, and 4 KiB or more on average. They are the receiver's, to change too,
	// until Held is released.
	Pieces [][]byte
	Held   *Held
}

// Release gives back the records of a request that was received.
func (r *PublishRequest) Release() {
	r.Batch.Held.Release()
	r.Batch.Held, r.Batch.Pieces = nil, nil
}

// Numbers of fields, as in proto/gantry/v1/stream.proto.
const (
	publishBatch = 2

	batchSequence = 1
	batchTopic    = 2
	batchQueue    = 3
	batchRecords  = 15

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
	h = protowire.AppendTag(h, batchRecords, protowire.BytesType)
	h = protowire.AppendVarint(h, uint64(len(b.Records)))
	return mem.BufferSlice{mem.SliceBuffer(envelop(h, publishBatch, len(b.Records))), b.Buffer.lent(b.Records)}, nil
}

// UnmarshalWire reads the request. Release it after use.
func (r *PublishRequest) UnmarshalWire(data mem.BufferSlice) error {
	if r.Batch.cut(data) {
		r.Other = nil
		data.Ref()
		r.Batch.Held = &Held{data: slices.Clone(data)}
		return nil
	}
	buf := gather(data)
	defer buf.Release()
	return r.unusual(buf.B)
}

// read reads the request that is all of b, which it holds until it is released.
func (r *PublishRequest) read(b *Buffer) error {
	if r.Batch.cut(mem.BufferSlice{mem.SliceBuffer(b.B)}) {
		r.Other = nil
		r.Batch.Held = &Held{copied: b}
		return nil
	}
	defer b.Release()
	return r.unusual(b.B)
}

// unusual reads some other content, or a batch in an unusual encoding: the library
// knows.
func (r *PublishRequest) unusual(b []byte) error {
	m := new(gantryv1.PublishRequest)
	if err := proto.Unmarshal(b, m); err != nil {
		return err
	}
	*r = PublishRequest{Other: m}
	if b := m.GetBatch(); b != nil {
		*r = PublishRequest{Batch: Batch{
			Sequence: b.Sequence, Namespace: b.Topic.GetNamespace(), Topic: b.Topic.GetName(),
			Queue: AnyQueue, Pieces: [][]byte{b.Records},
		}}
		if b.Queue != nil {
			r.Batch.Queue = int64(*b.Queue)
		}
	}
	return nil
}

// minPiece is how large pieces are on average that stay where they are: gRPC sends
// 16 KiB in one. Those of who sends a byte at a time would hold far more memory
// than they have bytes.
const minPiece = 4 << 10

// cut reads a request that is a batch with its records at the end, and leaves
// those where they are.
func (b *Batch) cut(data mem.BufferSlice) bool {
	size := data.Len()
	if len(data) == 0 || len(data)-1 > size/minPiece {
		return false
	}
	first := data[0].ReadOnlyData()
	p, ok := message(first, publishBatch, size)
	if !ok {
		return false
	}
	head := p
	for {
		num, typ, n := protowire.ConsumeTag(p)
		if n < 0 {
			return false
		}
		if num == batchRecords {
			break
		}
		skip := protowire.ConsumeFieldValue(num, typ, p[n:])
		if skip < 0 {
			return false
		}
		p = p[n+skip:]
	}
	head = head[:len(head)-len(p)]
	records, ok := message(p, batchRecords, size-(len(first)-len(p)))
	if !ok || !b.read(head) {
		return false
	}
	b.Pieces = make([][]byte, 1, len(data))
	b.Pieces[0] = records
	for _, d := range data[1:] {
		b.Pieces = append(b.Pieces, d.ReadOnlyData())
	}
	return true
}

// read reads what precedes the records. It reports false for what it leaves to
// the library: unknown fields, fields of another type, damage.
func (b *Batch) read(p []byte) bool {
	*b = Batch{Queue: AnyQueue}
	return fields(p, func(num protowire.Number, v uint64) bool {
		switch {
		case num == batchSequence:
			b.Sequence = v
		case num == batchQueue && v <= math.MaxUint32:
			b.Queue = int64(v)
		default:
			return false
		}
		return true
	}, func(num protowire.Number, v []byte) bool {
		m := new(gantryv1.StreamResource)
		if num != batchTopic || proto.Unmarshal(v, m) != nil {
			return false
		}
		b.Namespace, b.Topic = m.Namespace, m.Name
		return true
	})
}
