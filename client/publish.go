package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gantry-mq/gantry/proto/gantryv1"
	"github.com/gantry-mq/gantry/proto/stream"
)

// run keeps a stream open until ctx is done, then tells those who still wait.
func (p *lane) run(ctx context.Context) {
	err := p.c.keep(ctx, "producer", p.serve, func(error) bool { return false }, p.expire)
	if err == nil {
		err = fmt.Errorf("%w: the producer was closed", ErrUnknown)
	}
	p.giveUp(err)
}

// serve opens one stream and uses it until it ends. opened says whether it got as
// far as that.
func (p *lane) serve(ctx context.Context) (opened bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := p.c.publish(ctx, p.at)
	if err != nil {
		return false, err
	}
	open := &gantryv1.PublishRequest{Content: &gantryv1.PublishRequest_Open{Open: &gantryv1.PublishOpen{
		Agent:      agent(),
		ProducerId: p.id, ClientId: p.c.opts.ID,
	}}}
	p.c.sign(&open.GetOpen().Authorization, &open.GetOpen().DateTime)
	if p.opts.Topic != "" {
		open.GetOpen().Topic = p.c.resource(p.opts.Topic)
	}
	if err := s.SendMsg(&stream.PublishRequest{Other: open}); err != nil {
		return false, streamError(s, err)
	}
	var first gantryv1.PublishResponse
	if err := s.RecvMsg(&first); err != nil {
		return false, err
	}
	limits := first.GetOpened()
	if limits == nil {
		return false, errors.New("gantry: the broker did not open the stream")
	}
	p.mu.Lock()
	p.limits, p.window = limits, limits.Window
	p.sent, p.inFlight, p.ctlSent = 0, 0, 0
	p.mu.Unlock()
	if err := p.c.grow(limits.Shards); err != nil {
		return true, err
	}
	p.isOpen.Store(true)
	defer p.isOpen.Store(false)

	answers := make(chan error, 1)
	go func() {
		answers <- p.read(ctx, s)
		cancel()
	}()
	err = p.write(ctx, s)
	cancel()
	if answered := <-answers; errors.Is(err, context.Canceled) {
		err = answered
	}
	p.checks.Wait()
	return true, err
}

// streamError returns what ended a stream on which sending failed: gRPC tells it
// to the receiver.
func streamError(s duplex, err error) error {
	var m gantryv1.PublishResponse
	if recv := s.RecvMsg(&m); recv != nil {
		return recv
	}
	return err
}

// write sends what there is to send, in order, until ctx is done.
func (p *lane) write(ctx context.Context, s duplex) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var req stream.PublishRequest
	for {
		wait, ok := p.next(&req)
		if ok {
			if err := s.SendLater(&req); err != nil {
				return err
			}
			continue
		}
		if err := s.Flush(); err != nil {
			return err
		}
		if wait > 0 {
			timer.Reset(wait)
		}
		select {
		case <-p.kick:
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// next fills in req with what is to be sent now. Otherwise it says after which
// time to look again; 0: when kicked.
func (p *lane) next(req *stream.PublishRequest) (wait time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctlSent < len(p.controls) {
		*req = stream.PublishRequest{Other: p.controls[p.ctlSent].request}
		p.ctlSent++
		return 0, true
	}
	if p.sent == len(p.queue) {
		if wait = p.sealDue(); p.sent == len(p.queue) {
			return wait, false
		}
	}
	b := p.queue[p.sent]
	if p.sent > 0 && (uint64(p.inFlight+b.size()) > p.window.GetBytes() || p.sent >= int(p.window.GetBatches())) {
		return 0, false // an answer kicks
	}
	p.sent++
	p.inFlight += b.size()
	b.tried = true
	*req = stream.PublishRequest{Batch: stream.Batch{
		Sequence: b.sequence, Namespace: p.c.opts.Namespace, Topic: b.topic, Queue: stream.AnyQueue,
		Records: b.buf.B, Buffer: b.buf,
	}}
	return 0, true
}

// sealDue seals the open batches that need not wait any more, as far as the window has
// room for them: those of many topics go on filling until it is their turn. It returns
// when the first of the others will be due.
func (p *lane) sealDue() (wait time.Duration) {
	room := int(p.window.GetBatches()) - p.sent
	if p.sent == 0 {
		room = max(room, 1)
	}
	atOnce := p.sent == 0 || p.flushing > 0 || p.closed
	now := time.Now()
	for ; room > 0; room-- {
		b := p.open.oldest()
		if b == nil {
			break
		}
		if left := p.opts.Linger - now.Sub(b.since); left > 0 && !atOnce {
			return left
		}
		p.seal(b)
	}
	return 0 // an answer kicks
}

// read handles the broker's answers until the stream ends.
func (p *lane) read(ctx context.Context, s duplex) error {
	for {
		var m gantryv1.PublishResponse
		if err := s.RecvMsg(&m); err != nil {
			return err
		}
		switch c := m.Content.(type) {
		case *gantryv1.PublishResponse_Result:
			if err := p.answered(c.Result); err != nil {
				return err
			}
		case *gantryv1.PublishResponse_Window:
			p.mu.Lock()
			p.window = c.Window
			p.mu.Unlock()
		case *gantryv1.PublishResponse_Done:
			p.controlDone(c.Done)
		case *gantryv1.PublishResponse_Check:
			p.check(ctx, c.Check)
		}
		p.wake()
	}
}

// answered takes the first batch off the queue and tells who waits for it.
func (p *lane) answered(r *gantryv1.PublishResult) error {
	p.mu.Lock()
	if p.sent == 0 || p.queue[0].sequence != r.Sequence {
		p.mu.Unlock()
		return fmt.Errorf("gantry: the broker answered batch %d out of turn", r.Sequence)
	}
	b := p.queue[0]
	p.mu.Unlock()
	// Before it leaves the queue: Flush returns after the callbacks.
	err := b.settle(r, p.limits.StoreId, p.at)
	p.mu.Lock()
	p.sent--
	p.inFlight -= b.size()
	p.remove(1)
	if p.untold == nil {
		p.untold = err
	}
	p.mu.Unlock()
	return nil
}

// remove takes the first n batches off the queue. The lock is held.
func (p *lane) remove(n int) {
	for _, b := range p.queue[:n] {
		p.buffered -= b.size()
		b.free()
	}
	left := copy(p.queue, p.queue[n:])
	clear(p.queue[left:])
	p.queue = p.queue[:left]
	// Who waits for room is woken when there is a quarter of it, not by each batch.
	if p.flushing > 0 || p.buffered <= p.maxBuffered()/4*3 {
		p.notify()
	}
}

// expire fails the messages that have been tried for too long. No stream is open.
func (p *lane) expire(cause error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for b := p.open.oldest(); b != nil && now.Sub(b.since) > p.opts.Timeout; b = p.open.oldest() {
		p.seal(b)
	}
	n := 0
	for n < len(p.queue) && now.Sub(p.queue[n].since) > p.opts.Timeout {
		n++
	}
	p.failFirst(n, fmt.Errorf("gantry: not sent within %v: %w", p.opts.Timeout, cause))
}

// failFirst fails the first n batches; what may have arrived with ErrUnknown. The
// lock is held, and given up while callbacks run.
func (p *lane) failFirst(n int, err error) {
	for ; n > 0; n-- {
		b, told := p.queue[0], err
		if b.tried && !errors.Is(err, ErrUnknown) {
			told = fmt.Errorf("%w: %w", ErrUnknown, err)
		}
		p.mu.Unlock()
		untold := b.fail(told)
		p.mu.Lock()
		if untold > 0 && p.untold == nil {
			p.untold = told
		}
		p.remove(1)
	}
}

// giveUp ends the producer: nothing is sent any more.
func (p *lane) giveUp(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if !errors.Is(err, ErrUnknown) {
		p.fatal = err
	}
	p.sealAll()
	p.failFirst(len(p.queue), err)
	controls := p.controls
	p.controls, p.ctlSent = nil, 0
	for _, c := range controls {
		c.done <- err
	}
	p.notify()
}
