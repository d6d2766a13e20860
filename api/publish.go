package api

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/session"
	"github.com/gantry-mq/gantry/broker/transaction"
	"github.com/gantry-mq/gantry/commitlog/record"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
	"github.com/gantry-mq/gantry/proto/stream"
)

// What publishers may have in flight. Each has its window to itself, and together
// they take no more than publishMemory as long as that leaves each the least. The most
// is for producers far away: those near by are as quick with a quarter of it, and
// package client's do not use it all unless asked to.
const (
	publishMemory    = 256 << 20
	publishWindowMax = 16 << 20
	publishWindowMin = 1 << 20
	publishBatches   = 32

	// commandsAtOnce bounds the EndTransaction and RecallMessage of one stream that
	// are carried out at the same time.
	commandsAtOnce = 64

	// maxPublishTopics bounds the topics of one stream of whose transactions its
	// client is asked.
	maxPublishTopics = 1024
)

// publishStream is what a Publish call needs of gRPC's stream: a plainStream has it
// too.
type publishStream interface {
	Context() context.Context
	Recv() (*gantryv1.PublishRequest, error)
	RecvMsg(any) error
	Send(*gantryv1.PublishResponse) error
	SendLater(any) error // Send, which may wait for Flush
	Flush() error
}

// publishOverHTTP2 is gRPC's stream, which gathers small messages itself.
type publishOverHTTP2 struct {
	grpc.BidiStreamingServer[gantryv1.PublishRequest, gantryv1.PublishResponse]
}

func (s publishOverHTTP2) SendLater(m any) error { return s.SendMsg(m) }
func (publishOverHTTP2) Flush() error            { return nil }

// publishing is one Publish call.
type publishing struct {
	*streams
	stream publishStream
	pass   *pass
	open   *gantryv1.PublishOpen
	client session.Client
	topics map[record.Resource]struct{} // client.Publishing, to look a topic up
	window *gantryv1.PublishWindow

	flying  atomic.Int64         // bytes of batches that are not answered
	batches atomic.Int64         // and how many
	answers chan answer          // in the order of the batches; never full
	done    chan func() error    // tells what became of a command
	checks  chan session.Command // to be asked
	doing   chan struct{}        // a slot for each command that is carried out
	ended   chan error           // why reading ended
}

// answer is a batch that was read: what to wait for, or why it was refused.
type answer struct {
	sequence uint64
	bytes    int64
	held     *stream.Held
	batch    *broker.Publishing
	err      error
}

// Publish takes batches, in order, and answers them, in order.
func (s *streams) Publish(st grpc.BidiStreamingServer[gantryv1.PublishRequest, gantryv1.PublishResponse]) error {
	return s.publish(publishOverHTTP2{st})
}

func (s *streams) publish(st publishStream) error {
	first, err := st.Recv()
	if err != nil {
		return err
	}
	p := &publishing{
		streams: s, stream: st, open: first.GetOpen(),
		answers: make(chan answer, publishBatches+1),
		done:    make(chan func() error),
		checks:  make(chan session.Command, commandBacklog),
		doing:   make(chan struct{}, commandsAtOnce),
		ended:   make(chan error, 1),
		topics:  map[record.Resource]struct{}{},
	}
	switch {
	case p.open == nil:
		return status.Error(codes.InvalidArgument, "the first request is not open")
	case p.open.ProducerId == 0:
		return status.Error(codes.InvalidArgument, "producer_id is 0")
	}
	if err := checkStreamClient(p.open.ClientId, p.open.Agent); err != nil {
		return err
	}
	pass, done, err := s.letIn(st.Context(), gantryv1.Streams_Publish_FullMethodName, p.open, p.open.Topic)
	if err != nil {
		return rpcError(s.log, err)
	}
	defer done()
	p.pass = pass
	n := s.publishers.Add(1)
	defer s.publishers.Add(-1)
	p.window = &gantryv1.PublishWindow{Bytes: uint64(min(max(publishMemory/n, publishWindowMin), publishWindowMax)), Batches: publishBatches}
	p.client = streamClient(st.Context(), s.sessionID(p.open.ClientId), p.open.Agent)
	p.client.Role, p.client.User = session.Producer, pass.user()
	if p.open.Topic != nil {
		t := streamResource(p.open.Topic)
		p.topics[t], p.client.Publishing = struct{}{}, []record.Resource{t}
	}
	sessions, id := s.broker.Sessions(), p.client.ID
	sessions.Register(p.client)
	defer sessions.Terminate(id)
	defer sessions.Attach(id, p.command)()
	opened := &gantryv1.PublishOpened{
		StoreId: s.broker.StoreID(), Window: p.window, MaxBatchBytes: broker.MaxPackBytes, MaxBatchRecords: broker.MaxPackRecords, Shards: s.of,
	}
	if err := st.Send(&gantryv1.PublishResponse{Content: &gantryv1.PublishResponse_Opened{Opened: opened}}); err != nil {
		return err
	}
	s.readers.Go(func() {
		p.ended <- p.read()
		close(p.answers)
	})
	if err := p.write(id); err != nil {
		s.readers.Go(p.abandon)
		return err
	}
	return nil
}

// abandon waits for batches whose answers nobody takes any more: until then they
// count as under way, and their memory is the log's.
func (p *publishing) abandon() {
	for a := range p.answers {
		p.outcome(&a)
	}
}

// command takes what the broker wants of the client.
func (p *publishing) command(c session.Command) error {
	select {
	case p.checks <- c:
		return nil
	default:
		return errSlowClient
	}
}

// write sends what there is to say until the stream ends.
func (p *publishing) write(id string) error {
	touch := time.NewTicker(streamTouch)
	defer touch.Stop()
	for {
		var err error
		select {
		case a, ok := <-p.answers:
			if !ok {
				return p.finish()
			}
			if err = p.answer(a); err == nil && len(p.answers) == 0 {
				err = p.stream.Flush()
			}
		case tell := <-p.done:
			err = tell()
		case c := <-p.checks:
			err = p.ask(c)
		case <-touch.C:
			p.broker.Sessions().Touch(id)
		case <-p.pass.revoked():
			return rpcError(p.log, p.pass.refusal())
		case <-p.draining.Done():
			return p.drain()
		}
		if err != nil {
			return err
		}
	}
}

// finish waits for the commands that are under way and ends the stream as the
// reader did.
func (p *publishing) finish() error {
	for idle := 0; idle < cap(p.doing); {
		select {
		case p.doing <- struct{}{}:
			idle++
		case tell := <-p.done:
			if err := tell(); err != nil {
				return err
			}
		}
	}
	return <-p.ended
}

// drain answers what is stored already. A batch that is being read at this moment
// goes unanswered: its client sends it again.
func (p *publishing) drain() error {
	for {
		select {
		case a, ok := <-p.answers:
			if !ok {
				return errDraining
			}
			if err := p.answer(a); err != nil {
				return err
			}
		default:
			return errDraining
		}
	}
}

// answer waits for the outcome of a batch and tells it, together with those of others
// whose outcomes are there.
func (p *publishing) answer(a answer) error {
	r := &gantryv1.PublishResult{Sequence: a.sequence}
	if a.batch != nil && !a.batch.Stored() {
		if err := p.stream.Flush(); err != nil {
			p.outcome(&a)
			return err
		}
	}
	done := p.outcome(&a)
	if gone := p.lost(a.err); gone != nil {
		return gone
	}
	p.fill(r, &done)
	r.Status = p.told(p.client.ID, "Publish", a.err)
	p.flying.Add(-a.bytes)
	p.batches.Add(-1)
	return p.stream.SendLater(&gantryv1.PublishResponse{Content: &gantryv1.PublishResponse_Result{Result: r}})
}

// outcome waits for what became of a batch, and gives its memory back.
func (p *publishing) outcome(a *answer) (done broker.Published) {
	free := true
	if a.batch != nil {
		done, a.err = a.batch.Wait()
		free = a.err == nil // or the log may still hold the records
	}
	if free {
		a.held.Release()
	}
	return done
}

func (p *publishing) fill(r *gantryv1.PublishResult, done *broker.Published) {
	r.Duplicate = done.Duplicate
	for _, run := range done.Runs {
		r.Runs = append(r.Runs, &gantryv1.PublishRun{
			Entry: uint32(run.Entry), Count: uint32(run.Count), Queue: run.Queue, Offset: int64(run.Offset), Position: uint64(run.Position),
		})
	}
	for _, e := range done.Pending {
		r.Pending = append(r.Pending, &gantryv1.PendingEntry{
			Entry: uint32(e.Entry), Position: uint64(e.Position), TransactionId: e.TransactionID, RecallHandle: e.RecallHandle,
		})
	}
	for _, e := range done.Repeated {
		r.RepeatedEntries = append(r.RepeatedEntries, &gantryv1.RepeatedEntry{Entry: uint32(e.Entry), MessageId: e.MessageID})
	}
	for _, e := range done.Refused {
		r.Refused = append(r.Refused, &gantryv1.RefusedEntry{Entry: uint32(e.Entry), Status: p.told(p.client.ID, "Publish", e.Err)})
	}
}

// ask sends a check of a half message, unless that was decided meanwhile.
func (p *publishing) ask(c session.Command) error {
	recover, ok := c.(session.RecoverTransaction)
	if !ok {
		return nil // for clients of the other door
	}
	d, err := p.broker.HalfMessage(p.stream.Context(), recover.ID)
	if err != nil {
		return nil
	}
	defer d.Release()
	m := &d.Messages[0]
	id, _ := m.Message.Properties.Lookup(record.FieldMessageID)
	check := &gantryv1.CheckTransaction{
		Topic: wireStreamResource(m.Topic), TransactionId: recover.ID, MessageId: m.ID, Record: record.AppendMessage(nil, &m.Message),
	}
	if m.ID == "" {
		check.MessageId = string(id)
	}
	return p.stream.Send(&gantryv1.PublishResponse{Content: &gantryv1.PublishResponse_Check{Check: check}})
}

// read takes requests until the client closes its side: nil.
func (p *publishing) read() error {
	req := new(stream.PublishRequest)
	for {
		if err := p.stream.RecvMsg(req); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if p.draining.Err() != nil {
			req.Release()
			return errDraining
		}
		var err error
		switch {
		case req.Other == nil:
			err = p.batch(&req.Batch)
		case req.Other.GetEnd() != nil:
			err = p.end(req.Other.GetEnd())
		case req.Other.GetRecall() != nil:
			err = p.recall(req.Other.GetRecall())
		default:
			err = status.Error(codes.InvalidArgument, "a request without content, or a second open")
		}
		if err != nil {
			return err
		}
	}
}

// batch gives a batch its place in the log.
func (p *publishing) batch(b *stream.Batch) error {
	a := answer{sequence: b.Sequence, held: b.Held}
	for _, p := range b.Pieces {
		a.bytes += int64(len(p))
	}
	n, flying := p.batches.Add(1), p.flying.Add(a.bytes)
	if n > publishBatches || n > 1 && flying > int64(p.window.Bytes) {
		return status.Errorf(codes.ResourceExhausted, "%d batches with %d bytes are in flight, the window is %d with %d", n, flying, p.window.Batches, p.window.Bytes)
	}
	pack := broker.Pack{
		From: broker.Caller{Client: p.open.ClientId, User: p.client.User}, Producer: p.open.ProducerId, Sequence: b.Sequence,
		Queue: b.Queue, Records: wholeRecords(b.Pieces, b.Held),
	}
	if a.err = p.mayPublish(b); a.err == nil {
		pack.Topic = p.topic(&gantryv1.StreamResource{Namespace: b.Namespace, Name: b.Topic})
		a.batch, a.err = p.broker.Publish(p.stream.Context(), &pack)
	}
	p.answers <- a
	return nil
}

// mayPublish checks a batch of a topic that open did not name: that is looked at
// whenever something changes.
func (p *publishing) mayPublish(b *stream.Batch) error {
	if b.Topic == "" && b.Namespace == "" {
		return nil
	}
	return p.pass.once(b)
}

// may checks a command on a topic, likewise.
func (p *publishing) may(r *gantryv1.StreamResource) error {
	if r.GetName() == "" && r.GetNamespace() == "" {
		return nil
	}
	return p.pass.once(r)
}

// topic is the one that a request names, or that of open. The client is one to
// ask about transactions of its topics.
func (p *publishing) topic(r *gantryv1.StreamResource) record.Resource {
	if r.GetName() == "" && r.GetNamespace() == "" {
		return streamResource(p.open.Topic)
	}
	t := streamResource(r)
	if _, known := p.topics[t]; !known && len(p.topics) < maxPublishTopics {
		p.topics[t] = struct{}{}
		p.client.Publishing = append(p.client.Publishing, t)
		p.broker.Sessions().Register(p.client)
	}
	return t
}

func (p *publishing) end(e *gantryv1.EndTransaction) error {
	if err := p.may(e.Topic); err != nil {
		return p.do(e.Id, func(context.Context) error { return err })
	}
	topic, outcome := p.topic(e.Topic), transaction.RolledBack
	if e.Commit {
		outcome = transaction.Committed
	}
	return p.do(e.Id, func(ctx context.Context) error {
		return p.broker.EndTransaction(ctx, topic, "", e.TransactionId, outcome, false)
	})
}

func (p *publishing) recall(r *gantryv1.RecallMessage) error {
	if err := p.may(r.Topic); err != nil {
		return p.do(r.Id, func(context.Context) error { return err })
	}
	topic := p.topic(r.Topic)
	return p.do(r.Id, func(ctx context.Context) error {
		_, err := p.cancel(ctx, topic, r.RecallHandle)
		return err
	})
}

// do carries out a command beside the batches, which do not wait for it.
func (p *publishing) do(id uint64, f func(context.Context) error) error {
	ctx := p.stream.Context()
	select {
	case p.doing <- struct{}{}:
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
	p.readers.Go(func() {
		err := f(ctx)
		tell := func() error {
			if gone := p.lost(err); gone != nil {
				return gone
			}
			d := &gantryv1.PublishDone{Id: id, Status: p.told(p.client.ID, "Publish", err)}
			return p.stream.Send(&gantryv1.PublishResponse{Content: &gantryv1.PublishResponse_Done{Done: d}})
		}
		select {
		case p.done <- tell:
		case <-ctx.Done():
		}
		<-p.doing
	})
	return nil
}
