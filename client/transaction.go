package client

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/proto/gantryv1"
)

// Transaction is a message that is stored and not visible until it is committed.
type Transaction struct {
	lane   *lane // of its shard
	topic  string
	result Result
}

// Begin stores a message that nobody sees yet. After checkAfter (0: the broker's
// own setting; whole seconds) without a decision, the broker asks a producer of
// the topic, see [ProducerOptions].Check.
func (p *Producer) Begin(ctx context.Context, m *Message, checkAfter time.Duration) (*Transaction, error) {
	r, err := p.await(ctx, m, record.KindHalf, checkAfter)
	if err != nil {
		return nil, err
	}
	at, _ := ShardOf(r.Queue)
	return &Transaction{lane: (*p.lanes.Load())[at], topic: cmp.Or(m.Topic, p.opts.Topic), result: r}, nil
}

// MessageID is the id of the message.
func (t *Transaction) MessageID() string { return t.result.MessageID() }

// Commit makes the message visible. The first decision wins: [ErrDecided] when it
// was the other one.
func (t *Transaction) Commit(ctx context.Context) error { return t.end(ctx, true) }

// Rollback takes the message back. The first decision wins: [ErrDecided] when it
// was the other one.
func (t *Transaction) Rollback(ctx context.Context) error { return t.end(ctx, false) }

func (t *Transaction) end(ctx context.Context, commit bool) error {
	return t.lane.control(ctx, endRequest(t.lane.c.resource(t.topic), t.result.transactionID, commit))
}

func endRequest(topic *gantryv1.StreamResource, id string, commit bool) *gantryv1.PublishRequest {
	return &gantryv1.PublishRequest{Content: &gantryv1.PublishRequest_End{End: &gantryv1.EndTransaction{
		Topic: topic, TransactionId: id, Commit: commit,
	}}}
}

// Recall takes back a message whose delivery time has not come, by the handle in
// its [Result]. An error says that it was delivered, or taken back, before.
func (p *Producer) Recall(ctx context.Context, topic, handle string) error {
	return (*p.lanes.Load())[0].control(ctx, &gantryv1.PublishRequest{Content: &gantryv1.PublishRequest_Recall{Recall: &gantryv1.RecallMessage{
		Topic: p.c.resource(topic), RecallHandle: handle,
	}}})
}

// control is a request that is answered by its id. Sent again after a broken
// connection it does no harm.
type control struct {
	id      uint64
	request *gantryv1.PublishRequest
	done    chan error // capacity 1
}

func (p *lane) control(ctx context.Context, r *gantryv1.PublishRequest) error {
	c, err := p.enqueue(r)
	if err != nil {
		return err
	}
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnknown, ctx.Err())
	}
}

func (p *lane) enqueue(r *gantryv1.PublishRequest) (*control, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fatal != nil {
		return nil, p.fatal
	}
	if p.closed {
		return nil, ErrClosed
	}
	p.ctlID++
	c := &control{id: p.ctlID, request: r, done: make(chan error, 1)}
	switch content := r.Content.(type) {
	case *gantryv1.PublishRequest_End:
		content.End.Id = c.id
	case *gantryv1.PublishRequest_Recall:
		content.Recall.Id = c.id
	}
	p.controls = append(p.controls, c)
	p.wake()
	return c, nil
}

func (p *lane) controlDone(d *gantryv1.PublishDone) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, c := range p.controls[:p.ctlSent] {
		if c.id == d.Id {
			p.controls = append(p.controls[:i], p.controls[i+1:]...)
			p.ctlSent--
			c.done <- statusError(d.Status)
			return
		}
	}
}

// Decision is what a producer knows of a transaction.
type Decision int

const (
	// Undecided: the broker asks again later.
	Undecided Decision = iota
	Commit
	Rollback
)

// Open is a transaction without a decision, as the broker asks for it.
type Open struct {
	view
	id string
}

// ID is the message's id.
func (o *Open) ID() string { return o.id }

// check asks the application, on a goroutine that run waits for, and answers.
func (p *lane) check(ctx context.Context, c *gantryv1.CheckTransaction) {
	if p.opts.Check == nil {
		return
	}
	rec, _, err := record.CutMessage(c.Record)
	if err != nil {
		p.c.log.Error("gantry: a transaction to be checked cannot be read", "error", err)
		return
	}
	msg, err := record.ParseMessage(rec)
	if err != nil {
		p.c.log.Error("gantry: a transaction to be checked cannot be read", "error", err)
		return
	}
	open := &Open{view: view{msg: msg, packed: packedBodyOf(&msg), topic: c.Topic.GetName(), offset: -1}, id: c.MessageId}
	p.checks.Go(func() {
		if d := p.opts.Check(ctx, open); d != Undecided {
			p.enqueue(endRequest(c.Topic, c.TransactionId, d == Commit)) // an error: the producer ends
		}
	})
}
