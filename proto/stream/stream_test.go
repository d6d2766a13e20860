package stream

import (
	"bytes"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
)

func TestABatchIsWhatProtobufSaysItIs(t *testing.T) {
	large := bytes.Repeat([]byte("12345678"), 5000)
	for name, b := range map[string]Batch{
		"all fields": {Sequence: 1 << 40, Namespace: "ns", Topic: "orders", Queue: 1023, Records: large},
		"queue 0":    {Sequence: 1, Topic: "orders", Records: large[:8]},
		"no topic":   {Sequence: 1, Queue: AnyQueue, Records: large[:2000]},
		"empty":      {Queue: AnyQueue},
	} {
		t.Run(name, func(t *testing.T) {
			buf := GetBuffer(len(b.Records))
			buf.B = append(buf.B, b.Records...)
			b.Buffer, b.Records = buf, buf.B
			raw := wireBytes(t, &PublishRequest{Batch: b})
			want := &gantryv1.PublishBatch{Sequence: b.Sequence, Records: b.Records}
			if b.Topic != "" {
				want.Topic = &gantryv1.StreamResource{Namespace: b.Namespace, Name: b.Topic}
			}
			if b.Queue != AnyQueue {
				want.Queue = proto.Uint32(uint32(b.Queue))
			}
			var got gantryv1.PublishRequest
			if err := proto.Unmarshal(raw, &got); err != nil || !proto.Equal(got.GetBatch(), want) {
				t.Fatalf("protobuf reads %v, %v", got.GetBatch().GetSequence(), err)
			}
			for _, pieces := range []int{1, 3, len(raw)} {
				var data mem.BufferSlice
				for rest, i := raw, pieces; i > 0; i-- {
					n := len(rest) / i
					data = append(data, mem.SliceBuffer(rest[:n:n]))
					rest = rest[n:]
				}
				var back PublishRequest
				if err := back.UnmarshalWire(data); err != nil {
					t.Fatal(err)
				}
				if large := pieces <= 1+len(raw)/minPiece; (back.Batch.Held != nil) != large {
					t.Errorf("%d pieces, read in place: %v", pieces, !large)
				}
				sameBatch(t, &back.Batch, &b)
				back.Release()
			}
			buf.Release()
		})
	}
}

func sameBatch(t *testing.T, got, want *Batch) {
	t.Helper()
	if got.Sequence != want.Sequence || got.Namespace != want.Namespace || got.Topic != want.Topic || got.Queue != want.Queue ||
		!bytes.Equal(bytes.Join(got.Pieces, nil), want.Records) {
		t.Errorf("got %d %q %q %d and %d bytes", got.Sequence, got.Namespace, got.Topic, got.Queue, len(bytes.Join(got.Pieces, nil)))
	}
}

func TestOtherContentsAreTheGeneratedMessages(t *testing.T) {
	open := &gantryv1.PublishRequest{Content: &gantryv1.PublishRequest_Open{Open: &gantryv1.PublishOpen{ProducerId: 5, ClientId: "me"}}}
	var r PublishRequest
	if err := r.UnmarshalWire(mem.BufferSlice{mem.SliceBuffer(wireBytes(t, &PublishRequest{Other: open}))}); err != nil || !proto.Equal(r.Other, open) {
		t.Fatal(r.Other, err)
	}
	done := &gantryv1.ConsumeResponse{Content: &gantryv1.ConsumeResponse_Settled{Settled: &gantryv1.SettleResult{Id: 9}}}
	var c ConsumeResponse
	if err := c.UnmarshalWire(mem.BufferSlice{mem.SliceBuffer(wireBytes(t, &ConsumeResponse{Other: done}))}); err != nil || !proto.Equal(c.Other, done) {
		t.Fatal(c.Other, err)
	}
}

func TestAFrameIsWhatProtobufSaysItIs(t *testing.T) {
	body := bytes.Repeat([]byte("abcdefgh"), 1000)
	freed := 0
	p := NewPieces(func() { freed++ })
	for _, n := range []int{8, 2000, 3000, 16, 8, 1024, 1032} { // below and above what gRPC counts
		p.Add(body[:n:n])
	}
	f := Frame{Queue: 3, NextOffset: 1 << 33, EndOffset: 1<<33 + 5, LeaseEnd: 1_700_000_000_000, Pieces: p, Runs: []Run{
		{Offset: 1 << 32, Count: 300, Position: 1 << 50, Attempt: 2, LeaseID: 1 << 60},
		{Count: 1, Origin: &gantryv1.StreamOrigin{Topic: "orders", MessageId: "01AB"}},
	}}
	data, err := (&ConsumeResponse{Frame: f}).MarshalWire()
	if err != nil {
		t.Fatal(err)
	}
	p.Release()
	if freed != 0 {
		t.Fatal("freed before it was written")
	}
	raw := data.Materialize()
	data.Free()
	if freed != 1 {
		t.Fatalf("freed %d times", freed)
	}
	want := &gantryv1.ConsumeFrame{Queue: 3, NextOffset: f.NextOffset, EndOffset: f.EndOffset, LeaseEnd: f.LeaseEnd, Runs: []*gantryv1.ConsumeRun{
		{Offset: 1 << 32, Count: 300, Position: 1 << 50, Attempt: 2, LeaseId: 1 << 60},
		{Count: 1, Origin: f.Runs[1].Origin},
	}}
	for _, s := range p.slices {
		want.Records = append(want.Records, s...)
	}
	var got gantryv1.ConsumeResponse
	if err := proto.Unmarshal(raw, &got); err != nil || !proto.Equal(got.GetFrame(), want) {
		t.Fatalf("protobuf reads %v, %v", &got, err)
	}
	var back ConsumeResponse
	if err := back.UnmarshalWire(mem.BufferSlice{mem.SliceBuffer(raw)}); err != nil {
		t.Fatal(err)
	}
	defer back.Release()
	b := &back.Frame
	if b.Buffer == nil || b.Queue != 3 || b.NextOffset != f.NextOffset || b.EndOffset != f.EndOffset || b.LeaseEnd != f.LeaseEnd ||
		len(b.Runs) != 2 || b.Runs[0] != f.Runs[0] || !proto.Equal(b.Runs[1].Origin, f.Runs[1].Origin) || !bytes.Equal(b.Records, want.Records) {
		t.Fatalf("%+v", b)
	}
}

func TestAFrameMayCarryNoRecords(t *testing.T) {
	raw := wireBytes(t, &ConsumeResponse{Frame: Frame{Queue: 1, NextOffset: 10, EndOffset: 10}})
	var back ConsumeResponse
	if err := back.UnmarshalWire(mem.BufferSlice{mem.SliceBuffer(raw)}); err != nil || back.Frame.NextOffset != 10 || len(back.Frame.Records) != 0 {
		t.Fatalf("%+v, %v", back.Frame, err)
	}
	back.Release()
}

// A large batch costs a constant number of small allocations on either side,
// whatever it holds.
func TestBatchesAreReadAndWrittenInPooledMemory(t *testing.T) {
	buf := GetBuffer(256 << 10)
	buf.B = buf.B[:256<<10]
	r := &PublishRequest{Batch: Batch{Sequence: 1, Queue: AnyQueue, Records: buf.B, Buffer: buf}}
	var back PublishRequest
	perBatch := testing.AllocsPerRun(100, func() {
		data, _ := r.MarshalWire()
		back.UnmarshalWire(data)
		data.Free()
		back.Release()
	})
	if perBatch > 8 {
		t.Errorf("%v allocations for a batch", perBatch)
	}
}

func TestAReleasedBufferIsTakenAgainAndNeverTwice(t *testing.T) {
	b := GetBuffer(5000)
	if cap(b.B) != 8192 || len(b.B) != 0 {
		t.Fatal(len(b.B), cap(b.B))
	}
	b.Retain()
	b.Release()
	b.Release()
	defer func() {
		if recover() == nil {
			t.Error("a second release of the last hold went unnoticed")
		}
	}()
	b.Release()
}

func FuzzPublishRequest(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte{0x12, 0x02, 0x08, 0x07})
	f.Add([]byte{0x12, 0x02, 0x08, 0x07, 0x0a, 0x00})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var r PublishRequest
		err := r.UnmarshalWire(mem.BufferSlice{mem.SliceBuffer(raw)})
		var m gantryv1.PublishRequest
		want := proto.Unmarshal(raw, &m)
		if (err == nil) != (want == nil) {
			t.Fatalf("%v, protobuf says %v", err, want)
		}
		if err != nil {
			return
		}
		defer r.Release()
		b := m.GetBatch()
		if (b == nil) != (r.Other != nil) {
			t.Fatal("another content than protobuf reads")
		}
		if b == nil {
			return
		}
		q := int64(AnyQueue)
		if b.Queue != nil {
			q = int64(*b.Queue)
		}
		sameBatch(t, &r.Batch, &Batch{Sequence: b.Sequence, Namespace: b.Topic.GetNamespace(), Topic: b.Topic.GetName(), Queue: q, Records: b.Records})
	})
}

func FuzzConsumeResponse(f *testing.F) {
	f.Add([]byte{0x12, 0x04, 0x12, 0x02, 0x08, 0x07})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var r ConsumeResponse
		err := r.UnmarshalWire(mem.BufferSlice{mem.SliceBuffer(raw)})
		var m gantryv1.ConsumeResponse
		want := proto.Unmarshal(raw, &m)
		if (err == nil) != (want == nil) {
			t.Fatalf("%v, protobuf says %v", err, want)
		}
		if err != nil {
			return
		}
		defer r.Release()
		w := m.GetFrame()
		if (w == nil) != (r.Other != nil) {
			t.Fatal("another content than protobuf reads")
		}
		if w != nil && (w.Queue != r.Frame.Queue || w.NextOffset != r.Frame.NextOffset || len(w.Runs) != len(r.Frame.Runs) || !bytes.Equal(w.Records, r.Frame.Records)) {
			t.Fatalf("%+v, protobuf reads %v", r.Frame, w)
		}
	})
}
