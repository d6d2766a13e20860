package api

import (
	"cmp"
	"context"
	"errors"
	"io"
	"math"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/quota"
	"github.com/gantry-mq/gantry/broker/session"
	"github.com/gantry-mq/gantry/commitlog/record"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
	"github.com/gantry-mq/gantry/proto/stream"
)

const (
	defaultFrameBytes = 256 << 10
	maxFrameBytes     = 1 << 20

	// settlesAtOnce is how many Settles and CommitOffsets of one stream may wait to
	// be durable. More are not read meanwhile.
	settlesAtOnce = 256

	// maxSettleEntries bounds one Settle.
	maxSettleEntries = 1 << 16
)

// consumeStream is what a Consume call needs of gRPC's stream: a plainStream has it
// too.
type consumeStream interface {
	Context() context.Context
	Recv() (*gantryv1.ConsumeRequest, error)
	Send(*gantryv1.ConsumeResponse) error
	SendMsg(any) error
}

// source is what a Consume call reads from: messages under leases, or by offset.
type source interface {
	// next returns what there is now, within the credit; a *quota.Excess when that has to
	// wait.
	next(ctx context.Context, bytes, messages int) ([]*broker.Chunk, error)
	// undelivered takes back what was not sent.
	undelivered([]*broker.Chunk)
	Woken() <-chan struct{}
	Requeue()
	// pause has others told of messages while this stream cannot take any.
	pause()
	resume() error
	// touch is called from time to time.
	touch(context.Context) (*broker.Chunk, error)
	settle(context.Context, []broker.LeaseRange) (func() ([]broker.SettleFailure, error), error)
	commit([]broker.QueueOffset) (func() error, error)
	Close()
}

// consuming is one Consume call. Beside the handler and the reader it has a
// goroutine that waits until what was settled is durable.
type consuming struct {
	*streams
	stream consumeStream
	id     string
	src    source
	frame  int // bytes
	pass   *pass

	// Owned by the handler.
	bytes, messages int64 // credit
	counted         bool  // messages are
	stopped         bool
	hold            hold

	news     chan struct{} // capacity 1: something of the following has changed
	moreB    atomic.Int64  // credit that came
	moreM    atomic.Int64
	stopping atomic.Bool

	waits chan func() outcome // submitted, in order
	out   chan outcome        // durable, in order; closed when there will be no more
	ended chan error          // why reading ended; nil: the client closed its side
}

// outcome is the answer to a request, or that its stream is lost.
type outcome struct {
	told *gantryv1.ConsumeResponse
	lost error
}

// Consume sends messages and takes what becomes of them.
func (s *streams) Consume(st grpc.BidiStreamingServer[gantryv1.ConsumeRequest, gantryv1.ConsumeResponse]) error {
	return s.consume(st)
}

func (s *streams) consume(st consumeStream) error {
	first, err := st.Recv()
	if err != nil {
		return err
	}
	sub := first.GetSubscribe()
	if sub == nil {
		return status.Error(codes.InvalidArgument, "the first request is not subscribe")
	}
	if err := checkStreamClient(sub.ClientId, sub.Agent); err != nil {
		return err
	}
	pass, done, err := s.letIn(st.Context(), gantryv1.Streams_Consume_FullMethodName, sub, sub)
	if err != nil {
		return s.refuse(st, err)
	}
	defer done()
	c := &consuming{
		streams: s, stream: st, pass: pass, id: s.sessionID(sub.ClientId), frame: min(cmp.Or(int(sub.FrameBytes), defaultFrameBytes), maxFrameBytes),
		bytes: int64(min(sub.Credit.GetBytes(), math.MaxInt32)), counted: sub.Credit.GetMessages() > 0, messages: int64(sub.Credit.GetMessages()),
		news:  make(chan struct{}, 1),
		waits: make(chan func() outcome, settlesAtOnce),
		out:   make(chan outcome),
		ended: make(chan error, 1),
	}
	opened := &gantryv1.Subscribed{StoreId: s.broker.StoreID(), Shards: s.of}
	if err = c.open(sub, opened); err != nil {
		return s.refuse(st, err)
	}
	defer c.broker.Sessions().Terminate(c.id)
	defer c.src.Close()
	if err := st.Send(&gantryv1.ConsumeResponse{Content: &gantryv1.ConsumeResponse_Subscribed{Subscribed: opened}}); err != nil {
		return err
	}
	s.readers.Go(func() {
		c.ended <- c.read()
		c.stopping.Store(true)
		c.tell()
		close(c.waits)
	})
	s.readers.Go(c.await)
	if err := c.write(); !errors.Is(err, errRefused) {
		return err
	}
	return nil
}

// open makes the source that the subscription asks for.
func (c *consuming) open(sub *gantryv1.Subscribe, opened *gantryv1.Subscribed) error {
	ctx := c.stream.Context()
	group, topic := streamResource(sub.Group), streamResource(sub.Topic)
	filterType, filter := broker.FilterTag, sub.GetTag()
	if _, ok := sub.Filter.(*gantryv1.Subscribe_Sql); ok {
		filterType, filter = broker.FilterSQL, sub.GetSql()
	}
	client := streamClient(ctx, c.id, sub.Agent)
	client.User = c.pass.user()
	from := broker.Caller{Client: sub.ClientId, User: client.User}
	client.Role, client.Group = session.PushConsumer, group
	client.Subscriptions = []session.Subscription{{Topic: topic, SQL: filterType == broker.FilterSQL, Filter: filter}}
	switch m := sub.Mode.(type) {
	case *gantryv1.Subscribe_Offsets:
		req := broker.ReadRequest{From: from, Topic: topic, Group: group, Start: startOf(m.Offsets.GetStart()), FilterType: filterType, Filter: filter}
		for _, q := range m.Offsets.GetQueues() {
			req.Queues = append(req.Queues, broker.QueueFrom{Queue: q.Queue, Start: startOf(q.Start)})
		}
		r, err := c.broker.Read(ctx, req)
		if err != nil {
			return err
		}
		for _, q := range r.Begins() {
			opened.Queues = append(opened.Queues, &gantryv1.QueueOffset{Queue: q.Queue, Offset: int64(q.Offset)})
		}
		client.Role = session.PullConsumer
		c.src = reading{r}
	case *gantryv1.Subscribe_Lease:
		// The client must be there before it holds anything.
		c.broker.Sessions().Register(client)
		req := broker.ReceiveRequest{
			ClientID: c.id, From: from, Group: group, Topic: topic, FilterType: filterType, Filter: filter,
			AutoRenew: m.Lease.GetInvisible() == nil, Invisible: m.Lease.GetInvisible().AsDuration(),
		}
		s, err := c.broker.Subscribe(ctx, req, m.Lease.GetLiteTopics())
		if err != nil {
			c.broker.Sessions().Terminate(c.id)
			return err
		}
		c.src = leasing{s}
		return nil
	default:
		return broker.Errorf(broker.BadRequest, "the subscription names neither leases nor offsets")
	}
	c.broker.Sessions().Register(client)
	return nil
}

func startOf(s *gantryv1.StartAt) broker.Start {
	switch at := s.GetAt().(type) {
	case *gantryv1.StartAt_Offset:
		return broker.Start{Policy: broker.StartOffset, Value: at.Offset}
	case *gantryv1.StartAt_Time:
		return broker.Start{Policy: broker.StartTime, Value: unixMilli(at.Time)}
	}
	switch s.GetPolicy() {
	case gantryv1.StartPolicy_START_COMMITTED:
		return broker.Start{Policy: broker.StartCommitted}
	case gantryv1.StartPolicy_START_EARLIEST:
		return broker.Start{Policy: broker.StartEarliest}
	case gantryv1.StartPolicy_START_LATEST:
		return broker.Start{Policy: broker.StartLatest}
	}
	return broker.Start{Policy: -1}
}

// errRefused ends a stream whose client was told why.
var errRefused = errors.New("api: subscription refused")

// refuse tells the client why its subscription cannot go on.
func (c *consuming) refuse(err error) error {
	if gone := c.stream.Context().Err(); gone != nil {
		return status.FromContextError(gone).Err()
	}
	if err := c.streams.refuse(c.stream, err); err != nil {
		return err
	}
	return errRefused
}

func (s *streams) refuse(st consumeStream, err error) error {
	if gone := s.lost(err); gone != nil {
		return gone
	}
	return st.Send(&gantryv1.ConsumeResponse{Content: &gantryv1.ConsumeResponse_Status{Status: streamStatus(s.log, err)}})
}

// now is always ready.
var now = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// write sends what there is to send until the stream ends.
func (c *consuming) write() error {
	touch := time.NewTicker(streamTouch)
	defer touch.Stop()
	look := true // there may be messages
	for {
		var ready, woken <-chan struct{}
		if c.mayDeliver() {
			if err := c.src.resume(); err != nil {
				return c.refuse(err)
			}
			if woken = c.src.Woken(); look {
				ready = now
			}
		} else {
			c.src.pause()
			look = true
		}
		var err error
		select {
		case <-ready:
			look, err = c.deliver()
		case <-woken:
			c.src.Requeue()
			look = true
		case <-c.hold.timer:
			c.hold = hold{}
		case <-c.hold.freed:
			c.hold = hold{}
		case <-c.hold.changed:
			c.hold = hold{}
		case <-c.news:
			c.bytes += c.moreB.Swap(0)
			c.messages += c.moreM.Swap(0)
			c.stopped = c.stopping.Load()
		case r, ok := <-c.out:
			if !ok {
				return <-c.ended
			}
			if err = r.lost; err == nil {
				err = c.stream.Send(r.told)
			}
		case <-touch.C:
			err = c.touch()
		case <-c.pass.revoked():
			err = c.refuse(c.pass.refusal())
		case <-c.draining.Done():
			return errDraining
		}
		if err != nil {
			return err
		}
	}
}

func (c *consuming) mayDeliver() bool {
	return !c.stopped && c.bytes > 0 && (!c.counted || c.messages > 0) && c.hold.timer == nil
}

// hold is until when quotas hold a consumer back: the first of three ends it. Zero while
// they do not.
type hold struct {
	timer          <-chan time.Time
	freed, changed <-chan struct{}
}

// deliver sends what there is now and reports whether there may be more.
func (c *consuming) deliver() (more bool, err error) {
	messages := math.MaxInt32
	if c.counted {
		messages = int(min(c.messages, math.MaxInt32))
	}
	chunks, err := c.src.next(c.stream.Context(), int(min(int64(c.frame), c.bytes)), messages)
	if short, held := err.(*quota.Excess); held {
		c.hold = hold{timer: time.After(short.Retry), freed: short.Freed, changed: short.Changed}
		return false, nil
	}
	if err != nil {
		return false, c.refuse(err)
	}
	for i, chunk := range chunks {
		if err := c.send(chunk); err != nil {
			c.src.undelivered(chunks[i:])
			for _, unsent := range chunks[i+1:] {
				unsent.Release()
			}
			return false, err
		}
	}
	return len(chunks) > 0, nil
}

// send sends a chunk, which is gRPC's then.
func (c *consuming) send(chunk *broker.Chunk) error {
	c.bytes -= int64(chunk.Bytes)
	c.messages -= int64(chunk.Messages)
	f := stream.Frame{
		Queue: chunk.Queue, NextOffset: int64(chunk.Next), EndOffset: int64(chunk.End), LeaseEnd: chunk.LeaseEnd,
		Runs: make([]stream.Run, len(chunk.Runs)), Pieces: stream.NewPieces(chunk.Release),
	}
	defer f.Pieces.Release()
	for i := range chunk.Runs {
		r := &chunk.Runs[i]
		f.Runs[i] = stream.Run{Offset: int64(r.Offset), Count: uint32(r.Count), Position: uint64(r.Position), Attempt: uint32(r.Attempt), LeaseID: r.LeaseID}
		if r.Origin != nil {
			f.Runs[i].Origin = &gantryv1.StreamOrigin{Topic: r.Origin.Topic, MessageId: r.Origin.MessageID}
		}
		f.Pieces.Add(r.Records)
	}
	return c.stream.SendMsg(&stream.ConsumeResponse{Frame: f})
}

func (c *consuming) touch() error {
	c.broker.Sessions().Touch(c.id)
	chunk, err := c.src.touch(c.stream.Context())
	if err != nil {
		return c.refuse(err)
	}
	if chunk == nil {
		return nil
	}
	return c.send(chunk)
}

// tell says that there is news for the handler.
func (c *consuming) tell() {
	select {
	case c.news <- struct{}{}:
	default:
	}
}

// read takes requests until the client closes its side: nil.
func (c *consuming) read() error {
	for {
		req, err := c.stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch r := req.Content.(type) {
		case *gantryv1.ConsumeRequest_Credit:
			c.moreB.Add(int64(min(r.Credit.GetBytes(), math.MaxInt32)))
			c.moreM.Add(int64(r.Credit.GetMessages()))
			c.tell()
		case *gantryv1.ConsumeRequest_Settle:
			c.waits <- c.settle(r.Settle)
		case *gantryv1.ConsumeRequest_Commit:
			c.waits <- c.commit(r.Commit)
		case *gantryv1.ConsumeRequest_Stop:
			c.stopping.Store(true)
			c.tell()
		default:
			return status.Error(codes.InvalidArgument, "a request without content, or a second subscribe")
		}
	}
}

// await waits until things are durable, in order, and has the handler say so.
func (c *consuming) await() {
	defer close(c.out)
	for wait := range c.waits {
		select {
		case c.out <- wait():
		case <-c.stream.Context().Done():
		}
	}
}

// settle submits what is to become of messages.
func (c *consuming) settle(s *gantryv1.Settle) func() outcome {
	ranges := make([]broker.LeaseRange, 0, min(len(s.Entries), maxSettleEntries))
	var wait func() ([]broker.SettleFailure, error)
	err := error(nil)
	if len(s.Entries) > maxSettleEntries {
		err = broker.Errorf(broker.BadRequest, "%d entries to settle at once, the limit is %d", len(s.Entries), maxSettleEntries)
	} else {
		for _, e := range s.Entries {
			ranges = append(ranges, leaseRange(e))
		}
		wait, err = c.src.settle(c.stream.Context(), ranges)
	}
	return func() outcome {
		r := &gantryv1.SettleResult{Id: s.Id}
		if err == nil {
			var failures []broker.SettleFailure
			failures, err = wait()
			for _, f := range failures {
				r.Failures = append(r.Failures, &gantryv1.SettleFailure{Queue: f.Queue, Offset: int64(f.Offset), Count: uint32(f.Count), Status: c.told(c.id, "Consume", f.Err)})
			}
		}
		if gone := c.lost(err); gone != nil {
			return outcome{lost: gone}
		}
		r.Status = c.told(c.id, "Consume", err)
		return outcome{told: &gantryv1.ConsumeResponse{Content: &gantryv1.ConsumeResponse_Settled{Settled: r}}}
	}
}

func leaseRange(e *gantryv1.SettleEntry) broker.LeaseRange {
	r := broker.LeaseRange{
		Action: broker.SettleAction(e.Action), Queue: e.Queue, Offset: record.QueueOffset(e.Offset), LeaseID: e.LeaseId,
		Count: int(max(e.Count, 1)), UpTo: e.UpTo, Delay: broker.NoDelay, Suspend: e.Suspend,
	}
	if e.Delay != nil {
		r.Delay = max(e.Delay.AsDuration(), 0)
	}
	return r
}

func (c *consuming) commit(o *gantryv1.CommitOffset) func() outcome {
	offsets := make([]broker.QueueOffset, len(o.Queues))
	for i, q := range o.Queues {
		offsets[i] = broker.QueueOffset{Queue: q.Queue, Offset: record.QueueOffset(q.Offset)}
	}
	wait, err := c.src.commit(offsets)
	return func() outcome {
		if err == nil {
			err = wait()
		}
		if gone := c.lost(err); gone != nil {
			return outcome{lost: gone}
		}
		return outcome{told: &gantryv1.ConsumeResponse{Content: &gantryv1.ConsumeResponse_Committed{Committed: &gantryv1.CommitResult{Id: o.Id, Status: c.told(c.id, "Consume", err)}}}}
	}
}

// leasing is a source of messages under leases.
type leasing struct{ *broker.Subscription }

func (l leasing) next(ctx context.Context, bytes, messages int) ([]*broker.Chunk, error) {
	return l.Next(ctx, bytes, messages)
}
func (l leasing) undelivered(chunks []*broker.Chunk)               { l.GiveBack(chunks) }
func (l leasing) pause()                                           { l.Pause() }
func (l leasing) resume() error                                    { return l.Resume() }
func (l leasing) touch(ctx context.Context) (*broker.Chunk, error) { return nil, l.Touch(ctx) }
func (l leasing) settle(ctx context.Context, ranges []broker.LeaseRange) (func() ([]broker.SettleFailure, error), error) {
	return l.Settle(ctx, ranges)
}
func (l leasing) commit([]broker.QueueOffset) (func() error, error) {
	return nil, broker.Errorf(broker.BadRequest, "offsets are committed by consumers without leases")
}

// reading is a source of messages by offset.
type reading struct{ *broker.Reader }

func (r reading) next(_ context.Context, bytes, messages int) ([]*broker.Chunk, error) {
	c, err := r.Next(bytes, messages)
	if c == nil || err != nil {
		return nil, err
	}
	return []*broker.Chunk{c}, nil
}
func (r reading) undelivered([]*broker.Chunk)                  {}
func (r reading) pause()                                       {}
func (r reading) resume() error                                { return nil }
func (r reading) touch(context.Context) (*broker.Chunk, error) { return r.Untold(), nil }
func (r reading) settle(context.Context, []broker.LeaseRange) (func() ([]broker.SettleFailure, error), error) {
	return nil, broker.Errorf(broker.BadRequest, "this consumer has no leases to settle")
}
func (r reading) commit(offsets []broker.QueueOffset) (func() error, error) {
	return r.Commit(offsets)
}
