package stream

import (
	"bytes"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/gantry-mq/gantry/commitlog/record"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
)

// documented returns the bytes of the example in docs/stream.md.
func documented(t *testing.T) []byte {
	t.Helper()
	doc, err := os.ReadFile("../../docs/stream.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(doc), "```hex\n")
	block, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		t.Fatal("docs/stream.md has no hex block")
	}
	var out []byte
	for line := range strings.Lines(block) {
		digits, _, _ := strings.Cut(line, "   ")
		b, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(digits), " ", ""))
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		out = append(out, b...)
	}
	return out
}

func exampleRequest() *PublishRequest {
	const born = 1_700_000_000_000
	buf := GetBuffer(256)
	b, start := record.BeginMessage(buf.B)
	b = record.AppendField(b, record.FieldTag, "paid")
	b = record.EndMessage(b, start, &record.Message{Kind: record.KindMessage, BornTime: born, Body: []byte("hello")})
	b, start = record.BeginMessage(b)
	b = record.AppendField(b, record.FieldKey, "a1")
	b = record.AppendField(b, record.FieldGroup, "42")
	b = record.EndMessage(b, start, &record.Message{Kind: record.KindMessage, BornTime: born, Body: []byte("bye")})
	buf.B = b
	return &PublishRequest{Batch: Batch{Sequence: 7, Topic: "orders", Queue: AnyQueue, Records: buf.B, Buffer: buf}}
}

func wireBytes(t *testing.T, m interface {
	MarshalWire() (mem.BufferSlice, error)
}) []byte {
	t.Helper()
	data, err := m.MarshalWire()
	if err != nil {
		t.Fatal(err)
	}
	defer data.Free()
	return data.Materialize()
}

func TestTheDocumentedBatchIsWhatIsWritten(t *testing.T) {
	want := documented(t)
	if got := wireBytes(t, exampleRequest()); !bytes.Equal(got, want) {
		t.Fatalf("written:\n% x\ndocumented:\n% x", got, want)
	}
}

func TestTheDocumentedBatchIsRead(t *testing.T) {
	raw := documented(t)
	var r PublishRequest
	if err := r.UnmarshalWire(mem.BufferSlice{mem.SliceBuffer(raw)}); err != nil {
		t.Fatal(err)
	}
	defer r.Release()
	want := exampleRequest()
	if r.Batch.Sequence != 7 || r.Batch.Topic != "orders" || r.Batch.Queue != AnyQueue || !bytes.Equal(bytes.Join(r.Batch.Pieces, nil), want.Batch.Records) {
		t.Fatalf("%+v", r.Batch)
	}
	var m gantryv1.PublishRequest
	if err := proto.Unmarshal(raw, &m); err != nil || !bytes.Equal(m.GetBatch().GetRecords(), want.Batch.Records) {
		t.Fatalf("protobuf reads something else: %v, %v", &m, err)
	}
}
