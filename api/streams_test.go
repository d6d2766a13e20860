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
	stream publishClient
	opened *gantryv1.PublishOpened
	topic  string
	last   uint64 // sequence
}

func (f *fixture) publisher(ctx context.Context, producer uint64, topic string, change ...func(*gantryv1.PublishOpen)) *publisher {
	f.t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	f.t.Cleanup(cancel)
	st, err := f.dialPublish(ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	p := &publisher{t: f.t, stream: st, topic: topic}
	open := &gantryv1.PublishOpen{ProducerId: producer, ClientId: "publisher", Topic: &gantryv1.StreamResource{Name: topic}}
	for _, set := range change {
		set(open)
	}
	p.send(&stream.PublishRequest{Other: &gantryv1.PublishRequest{Content: &gantryv1.PublishRequest_Open{Open: open}}})
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

// consumer is one Consume stream.
type consumer struct {
	t      testing.TB
	stream consumeClient
	opened *gantryv1.Subscribed
	early  []*stream.ConsumeResponse // frames that came while an answer was awaited
}

// message is a message as a consumer has it.
type message struct {
	record.Message
	queue   uint32
	offset  int64
	attempt uint32
	lease   uint64
	id      string
	origin  *gantryv1.StreamOrigin
}

func leases(lease *gantryv1.LeaseMode) func(*gantryv1.Subscribe) {
	return func(s *gantryv1.Subscribe) { s.Mode = &gantryv1.Subscribe_Lease{Lease: lease} }
}

func offsets(m *gantryv1.OffsetMode) func(*gantryv1.Subscribe) {
	return func(s *gantryv1.Subscribe) { s.Mode = &gantryv1.Subscribe_Offsets{Offsets: m} }
}

func earliest() func(*gantryv1.Subscribe) {
	return offsets(&gantryv1.OffsetMode{Start: &gantryv1.StartAt{At: &gantryv1.StartAt_Policy{Policy: gantryv1.StartPolicy_START_EARLIEST}}})
}

func tagged(expr string) func(*gantryv1.Subscribe) {
	return func(s *gantryv1.Subscribe) { s.Filter = &gantryv1.Subscribe_Tag{Tag: expr} }
}

func credit(bytes uint64, messages uint32) func(*gantryv1.Subscribe) {
	return func(s *gantryv1.Subscribe) { s.Credit = &gantryv1.ConsumeCredit{Bytes: bytes, Messages: messages} }
}

// subscribe opens a stream and returns its first response.
func (f *fixture) subscribe(ctx context.Context, topic, group string, change ...func(*gantryv1.Subscribe)) (*consumer, *gantryv1.ConsumeResponse) {
	f.t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	f.t.Cleanup(cancel)
	st, err := f.dialConsume(ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	s := &gantryv1.Subscribe{ClientId: "consumer", Topic: &gantryv1.StreamResource{Name: topic}, Credit: &gantryv1.ConsumeCredit{Bytes: 64 << 20}}
	if group != "" {
		s.Group = &gantryv1.StreamResource{Name: group}
	}
	for _, set := range change {
		set(s)
	}
	c := &consumer{t: f.t, stream: st}
	c.send(&gantryv1.ConsumeRequest{Content: &gantryv1.ConsumeRequest_Subscribe{Subscribe: s}})
	first := c.receive()
	if first.Other == nil {
		f.t.Fatal("a frame came first")
	}
	c.opened = first.Other.GetSubscribed()
	return c, first.Other
}

// consumer opens a stream that must be accepted.
func (f *fixture) consumer(ctx context.Context, topic, group string, change ...func(*gantryv1.Subscribe)) *consumer {
	f.t.Helper()
	c, first := f.subscribe(ctx, topic, group, change...)
	if c.opened.GetStoreId() == 0 {
		f.t.Fatalf("not subscribed: %v", first)
	}
	return c
}

func (c *consumer) send(r *gantryv1.ConsumeRequest) {
	c.t.Helper()
	if err := c.stream.Send(r); err != nil {
		c.t.Fatal(err)
	}
}

// receive returns the next response, in the order they came but for what settle had to let pass.
func (c *consumer) receive() *stream.ConsumeResponse {
	c.t.Helper()
	if len(c.early) > 0 {
		r := c.early[0]
		c.early = c.early[1:]
		return r
	}
	return c.read()
}

func (c *consumer) read() *stream.ConsumeResponse {
	c.t.Helper()
	r := new(stream.ConsumeResponse)
	if err := c.stream.RecvMsg(r); err != nil {
		c.t.Fatal(err)
	}
	return r
}

// frame returns the next response, which must be a frame, and its messages.
func (c *consumer) frame() (*stream.Frame, []message) {
	c.t.Helper()
	r := c.receive()
	if r.Other != nil {
		c.t.Fatalf("not a frame: %v", r.Other)
	}
	return &r.Frame, c.messages(&r.Frame)
}

// messages takes a frame apart and checks all that a client should.
func (c *consumer) messages(f *stream.Frame) (out []message) {
	c.t.Helper()
	rest := f.Records
	for _, run := range f.Runs {
		pos := record.Position(run.Position)
		for i := range run.Count {
			rec, after, err := record.CutMessage(rest)
			if err != nil {
				c.t.Fatal(err)
			}
			m, err := record.ParseMessage(rec)
			if err := errors.Join(err, record.Verify(rec), m.VerifyBody()); err != nil {
				c.t.Fatal(err)
			}
			rest = after
			g := message{Message: m, queue: f.Queue, offset: run.Offset + int64(i), attempt: run.Attempt, id: m.ID(c.opened.StoreId, pos), origin: run.Origin}
			if run.Attempt > 0 {
				g.lease = run.LeaseID + uint64(i)
			}
			out = append(out, g)
			pos += record.Position(record.Padded(len(rec)))
		}
	}
	if len(rest) != 0 {
		c.t.Fatalf("%d bytes belong to no run", len(rest))
	}
	return out
}

// take returns the next n messages, of as many frames as they come in.
func (c *consumer) take(n int) (out []message) {
	c.t.Helper()
	for len(out) < n {
		_, ms := c.frame()
		out = append(out, ms...)
	}
	if len(out) > n {
		c.t.Fatalf("%d messages, want %d", len(out), n)
	}
	return out
}

// settle decides about messages and returns the failures. Frames that come before its answer stay for receive.
func (c *consumer) settle(entries ...*gantryv1.SettleEntry) []*gantryv1.SettleFailure {
	c.t.Helper()
	c.send(&gantryv1.ConsumeRequest{Content: &gantryv1.ConsumeRequest_Settle{Settle: &gantryv1.Settle{Id: 7, Entries: entries}}})
	r := c.read()
	for ; r.Other == nil; r = c.read() {
		c.early = append(c.early, r)
	}
	if r.Other.GetSettled().GetId() != 7 || r.Other.GetSettled().Status != nil {
		c.t.Fatalf("not settled: %v", r)
	}
	return r.Other.GetSettled().Failures
}

// done settles messages that must be held.
func (c *consumer) done(action gantryv1.SettleAction, ms ...message) {
	c.t.Helper()
	var entries []*gantryv1.SettleEntry
	for _, m := range ms {
		entries = append(entries, &gantryv1.SettleEntry{Action: action, Queue: m.queue, Offset: m.offset, LeaseId: m.lease})
	}
	if failures := c.settle(entries...); len(failures) > 0 {
		c.t.Fatalf("not settled: %v", failures)
	}
}

func (c *consumer) close() {
	c.t.Helper()
	if err := c.stream.CloseSend(); err != nil {
		c.t.Fatal(err)
	}
	for {
		r := new(stream.ConsumeResponse)
		if err := c.stream.RecvMsg(r); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			c.t.Fatal(err)
		}
		r.Release()
	}
}

func texts(ms []message) (out []string) {
	for _, m := range ms {
		out = append(out, string(m.Body))
	}
	return out
}
