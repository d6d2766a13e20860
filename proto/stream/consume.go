package stream

import (
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
)

// ConsumeResponse is gantry.v1.ConsumeResponse.
type ConsumeResponse struct {
	// Other is everything but a frame; nil when it is one.
	Other *gantryv1.ConsumeResponse
	Frame Frame
}

// Frame is gantry.v1.ConsumeFrame. A received one has Records, which alias
// Buffer; one that is sent has Pieces.
type Frame struct {
	Queue      uint32
	NextOffset int64
	EndOffset  int64
	LeaseEnd   int64 // Unix ms
	Runs       []Run
	Records    []byte
	Buffer     *Buffer
	Pieces     *Pieces
}

// Run is gantry.v1.ConsumeRun.
type Run struct {
	Offset   int64
	Count    uint32
	Position uint64
	Attempt  uint32
	LeaseID  uint64
	Origin   *gantryv1.StreamOrigin
}

// Release gives back the records of a response that was received. The slice of
// runs is kept for the next.
func (r *ConsumeResponse) Release() {
	r.Frame.Buffer.Release()
	r.Frame.Buffer, r.Frame.Records = nil, nil
}

const (
	responseFrame = 2

	frameQueue      = 1
	frameRuns       = 2
	frameNextOffset = 3
	frameEndOffset  = 4
	frameLeaseEnd   = 5
	frameRecords    = 15

	runOffset   = 1
	runCount    = 2
	runPosition = 3
	runAttempt  = 4
	runLeaseID  = 5
	runOrigin   = 6
)

// MarshalWire writes the response for gRPC.
func (r *ConsumeResponse) MarshalWire() (mem.BufferSlice, error) {
	if r.Other != nil {
		return marshal(r.Other)
	}
	f := &r.Frame
	h := make([]byte, 0, 64+40*len(f.Runs))
	h = appendUint(h, frameQueue, uint64(f.Queue))
	for i := range f.Runs {
		h = f.Runs[i].append(h)
	}
	h = appendUint(h, frameNextOffset, uint64(f.NextOffset))
	h = appendUint(h, frameEndOffset, uint64(f.EndOffset))
	h = appendUint(h, frameLeaseEnd, uint64(f.LeaseEnd))
	if f.Pieces == nil {
		return mem.BufferSlice{mem.SliceBuffer(envelop(h, responseFrame, 0))}, nil
	}
	h = protowire.AppendTag(h, frameRecords, protowire.BytesType)
	h = protowire.AppendVarint(h, uint64(f.Pieces.size))
	return f.Pieces.lend(envelop(h, responseFrame, f.Pieces.size)), nil
}

func (r *Run) append(b []byte) []byte {
	size := sizeUint(runOffset, uint64(r.Offset)) + sizeUint(runCount, uint64(r.Count)) +
		sizeUint(runPosition, r.Position) + sizeUint(runAttempt, uint64(r.Attempt)) + sizeUint(runLeaseID, r.LeaseID)
	var origin []byte
	if r.Origin != nil {
		origin, _ = proto.Marshal(r.Origin) // two strings: cannot fail but for bytes that are no text
		size += protowire.SizeTag(runOrigin) + protowire.SizeBytes(len(origin))
	}
	b = protowire.AppendVarint(protowire.AppendTag(b, frameRuns, protowire.BytesType), uint64(size))
	b = appendUint(b, runOffset, uint64(r.Offset))
	b = appendUint(b, runCount, uint64(r.Count))
	b = appendUint(b, runPosition, r.Position)
	b = appendUint(b, runAttempt, uint64(r.Attempt))
	b = appendUint(b, runLeaseID, r.LeaseID)
	if r.Origin != nil {
		b = protowire.AppendBytes(protowire.AppendTag(b, runOrigin, protowire.BytesType), origin)
	}
	return b
}

// UnmarshalWire reads the response. Release it after use.
func (r *ConsumeResponse) UnmarshalWire(data mem.BufferSlice) error { return r.read(gather(data)) }

// read reads the response that buf holds, which is r's from then on.
func (r *ConsumeResponse) read(buf *Buffer) error {
	if inner, ok := content(buf.B, responseFrame); ok && r.Frame.read(inner) {
		r.Other, r.Frame.Buffer = nil, buf
		return nil
	}
	defer buf.Release()
	m := new(gantryv1.ConsumeResponse)
	if err := proto.Unmarshal(buf.B, m); err != nil {
		return err
	}
	*r = ConsumeResponse{Other: m}
	if f := m.GetFrame(); f != nil {
		*r = ConsumeResponse{Frame: Frame{Queue: f.Queue, NextOffset: f.NextOffset, EndOffset: f.EndOffset, LeaseEnd: f.LeaseEnd, Records: f.Records}}
		for _, o := range f.Runs {
			r.Frame.Runs = append(r.Frame.Runs, Run{Offset: o.Offset, Count: o.Count, Position: o.Position, Attempt: o.Attempt, LeaseID: o.LeaseId, Origin: o.Origin})
		}
	}
	return nil
}

// read reports false for what it leaves to the library.
func (f *Frame) read(p []byte) bool {
	*f = Frame{Runs: f.Runs[:0]}
	return fields(p, func(num protowire.Number, v uint64) bool {
		switch num {
		case frameQueue:
			f.Queue = uint32(v)
		case frameNextOffset:
			f.NextOffset = int64(v)
		case frameEndOffset:
			f.EndOffset = int64(v)
		case frameLeaseEnd:
			f.LeaseEnd = int64(v)
		default:
			return false
		}
		return true
	}, func(num protowire.Number, v []byte) bool {
		switch num {
		case frameRuns:
			f.Runs = append(f.Runs, Run{})
			return f.Runs[len(f.Runs)-1].read(v)
		case frameRecords:
			f.Records = v[:len(v):len(v)]
			return true
		}
		return false
	})
}

func (r *Run) read(p []byte) bool {
	return fields(p, func(num protowire.Number, v uint64) bool {
		switch num {
		case runOffset:
			r.Offset = int64(v)
		case runCount:
			r.Count = uint32(v)
		case runPosition:
			r.Position = v
		case runAttempt:
			r.Attempt = uint32(v)
		case runLeaseID:
			r.LeaseID = v
		default:
			return false
		}
		return true
	}, func(num protowire.Number, v []byte) bool {
		r.Origin = new(gantryv1.StreamOrigin)
		return num == runOrigin && proto.Unmarshal(v, r.Origin) == nil
	})
}
