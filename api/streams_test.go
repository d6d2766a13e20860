package api

import (
	"context"
	"errors"
	"io"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/gantry-mq/gantry/commitlog/record"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
	"github.com/gantry-mq/gantry/proto/stream"
	"github.com/gantry-mq/gantry/proto/wire"
)

// streamsClient speaks to gantry.v1.Streams over a connection of its own.
func (f *fixture) streamsClient() gantryv1.StreamsClient {
	return gantryv1.NewStreamsClient(f.dial(grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(wire.Codec{}), grpc.MaxCallRecvMsgSize(16<<20))))
}

// publisher is one Publish stream.
type publisher struct {
	t      testing.TB
	stream grpc.BidiStreamingClient[gantryv1.PublishRequest, gantryv1.PublishResponse]
	opened *gantryv1.PublishOpened
	topic  string
	last   uint64 // sequence
}

func (f *fixture) publisher(ctx context.Context, producer uint64, topic string) *publisher {
	f.t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	f.t.Cleanup(cancel)
	st, err := f.streamsClient().Publish(ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	p := &publisher{t: f.t, stream: st, topic: topic}
	p.send(&stream.PublishRequest{Other: &gantryv1.PublishRequest{Content: &gantryv1.PublishRequest_Open{Open: &gantryv1.PublishOpen{
		ProducerId: producer, ClientId: "publisher", Topic: &gantryv1.StreamResource{Name: topic},
	}}}})
	if p.opened = p.receive().GetOpened(); p.opened.GetStoreId() == 0 || p.opened.GetWindow().GetBytes() == 0 {
		f.t.Fatalf("opened %v", p.opened)
	}
	return p
}

func (p *publisher) send(r *stream.PublishRequest) {
	p.t.Helper()
	if err := p.stream.SendMsg(r); err != nil {
		p.t.Fatal(err)
	}
}

func (p *publisher) receive() *gantryv1.PublishResponse {
	p.t.Helper()
	r, err := p.stream.Recv()
	if err != nil {
		p.t.Fatal(err)
	}
	return r
}

// batch sends records with the next sequence and does not wait.
func (p *publisher) batch(records []byte) {
	p.t.Helper()
	p.last++
	p.again(p.last, records)
}

func (p *publisher) again(sequence uint64, records []byte) {
	p.t.Helper()
	b := stream.GetBuffer(len(records))
	b.B = append(b.B, records...)
	p.send(&stream.PublishRequest{Batch: stream.Batch{Sequence: sequence, Queue: stream.AnyQueue, Records: b.B, Buffer: b}})
	b.Release()
}

// publish sends records and returns the result.
func (p *publisher) publish(records []byte) *gantryv1.PublishResult {
	p.t.Helper()
	p.batch(records)
	r := p.receive().GetResult()
	if r.GetSequence() != p.last {
		p.t.Fatalf("an answer to %d, want %d", r.GetSequence(), p.last)
	}
	return r
}

// good publishes records that must all be accepted.
func (p *publisher) good(records []byte) *gantryv1.PublishResult {
	p.t.Helper()
	r := p.publish(records)
	if r.Status != nil || len(r.Refused) > 0 {
		p.t.Fatalf("refused: %v", r)
	}
	return r
}

// close ends the stream in good order and returns what is still answered.
func (p *publisher) close() (rest []*gantryv1.PublishResponse) {
	p.t.Helper()
	if err := p.stream.CloseSend(); err != nil {
		p.t.Fatal(err)
	}
	for {
		r, err := p.stream.Recv()
		if errors.Is(err, io.EOF) {
			return rest
		}
		if err != nil {
			p.t.Fatal(err)
		}
		rest = append(rest, r)
	}
}

// packed appends a record; fields come from change.
func packed(pack []byte, body string, change ...func(*record.Message)) []byte {
	m := record.Message{Kind: record.KindMessage, BornTime: 1_700_000_000_123, Body: []byte(body)}
	for _, f := range change {
		f(&m)
	}
	pack, start := record.BeginMessage(pack)
	return record.EndMessage(append(pack, m.Properties...), start, &m)
}

func field(f record.Field, value string) func(*record.Message) {
	return func(m *record.Message) { m.Properties = record.AppendField(m.Properties, f, value) }
}

func property(key, value string) func(*record.Message) {
	return func(m *record.Message) { m.Properties = record.AppendUser(m.Properties, key, value) }
}

func packOf(bodies ...string) (pack []byte) {
	for _, b := range bodies {
		pack = packed(pack, b)
	}
	return pack
}

// sameMessages holds messages against what is wanted, but for what every delivery
// has anew.
func sameMessages(t *testing.T, got []*v2.Message, want ...*v2.Message) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d messages, want %d", len(got), len(want))
	}
	for i, m := range got {
		if p := m.SystemProperties; p.GetStoreTimestamp() == nil || p.GetReceiptHandle() == "" || p.GetStoreHost() == "" || len(p.GetBodyDigest().GetChecksum()) != 40 {
			t.Errorf("message %d: %v", i, p)
		}
		m = proto.Clone(m).(*v2.Message)
		m.SystemProperties.StoreTimestamp, m.SystemProperties.ReceiptHandle, m.SystemProperties.StoreHost, m.SystemProperties.BodyDigest = nil, nil, "", nil
		if !proto.Equal(m, want[i]) {
			t.Errorf("message %d:\ngot  %v\nwant %v", i, m, want[i])
		}
	}
}
