package client

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/proto/gantryv1"
)

// lane is what a producer has to one shard: batches and the stream that they leave by.
type lane struct {
	c      *Client
	at     *shard
	opts   ProducerOptions // the producer's
	turn   *turn           // the producer's
	enough int             // what may be buffered, however few batches, in all lanes
	id     uint64          // the broker knows batches by it and their sequence
	done   chan struct{}
	stop   context.CancelFunc
	isOpen atomic.Bool // a stream is

	mu       sync.Mutex
	open     openBatches
	queue    []*batch // sealed, in order of sequence
	sent     int      // queue[:sent] is on the stream, not answered
	inFlight int      // bytes of queue[:sent]
	buffered int      // bytes of open and queue
	sequence uint64
	window   *gantryv1.PublishWindow
	limits   *gantryv1.PublishOpened
	controls []*control // not answered, in order
	ctlSent  int        // controls[:ctlSent] is on the stream
	ctlID    uint64
	flushing int  // Flush calls that wait
	closed   bool // no more messages
	fatal    error
	untold   error         // first refusal that nobody was told of
	changed  chan struct{} // closed and made anew when something that is waited for happens

	kick   chan struct{}  // capacity 1: there is something to send
	checks sync.WaitGroup // calls of Check; ended with the stream
}

func startLane(c *Client, at *shard, opts ProducerOptions, t *turn) *lane {
	p := &lane{
		c: c, at: at, opts: opts, turn: t, enough: cmp.Or(opts.MaxBuffered, enoughBuffered), id: randomID(), done: make(chan struct{}),
		changed: make(chan struct{}), kick: make(chan struct{}, 1), open: newOpenBatches(),
	}
	p.opts.MaxBuffered = cmp.Or(opts.MaxBuffered, defaultMaxBuffered)
	var ctx context.Context
	ctx, p.stop = context.WithCancel(c.ctx)
	go func() {
		defer close(p.done)
		p.run(ctx)
	}()
	return p
}

// add puts the message into the open batch of its topic.
func (p *lane) add(ctx context.Context, m *Message, kind record.Kind, recover time.Duration, done func(Result, error)) error {
	body, flags := m.Body, record.Flags(0)
	if p.opts.Compression != 0 {
		s := spaces.Get().(*space)
		defer spaces.Put(s)
		body, flags = s.compress(p.opts.Compression, p.opts.CompressFrom, m.Body)
	}
	size := m.size() - len(m.Body) + len(body)
	topic := cmp.Or(m.Topic, p.opts.Topic)
	if topic == "" {
		return &Error{CodeIllegalTopic, "neither the message nor the producer names a topic"}
	}
	p.mu.Lock()
	if err := p.room(ctx, size); err != nil {
		p.mu.Unlock()
		return err
	}
	b := p.openBatch(topic, size)
	before := b.size()
	b.starts = append(b.starts, uint32(before))
	// To read the clock costs a tenth of what a small message does. A batch is open for
	// as long as Linger, unless the broker is away or takes nothing.
	if len(b.starts)%16 == 1 || p.inFlight == 0 {
		b.now = time.Now().UnixMilli()
	}
	b.buf.B = m.pack(b.buf.B, kind, b.now, recover, body, flags)
	p.buffered += b.size() - before
	if done != nil {
		b.waiting = append(b.waiting, waiting{entry: uint32(len(b.starts) - 1), id: m.ID, done: done})
	}
	// The first message of a batch starts its linger; a full one is due.
	wake := len(b.starts) == 1
	if b.size() >= p.opts.BatchBytes || len(b.starts) >= p.maxMessages() {
		p.seal(b)
		wake = true
	}
	p.mu.Unlock()
	if wake {
		p.wake()
	}
	return nil
}

func (p *lane) wake() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// room waits, with the lock held before and after, until size more bytes may be
// buffered.
func (p *lane) room(ctx context.Context, size int) error {
	for {
		switch {
		case p.fatal != nil:
			return p.fatal
		case p.closed:
			return ErrClosed
		case p.buffered == 0 || p.buffered+size <= p.maxBuffered():
			return nil
		}
		if err := p.awaitChange(ctx); err != nil {
			return fmt.Errorf("gantry: no room for the message: %w", err)
		}
	}
}

// awaitChange waits for notify, with the lock held before and after. An error is ctx's.
func (p *lane) awaitChange(ctx context.Context) error {
	changed := p.changed
	p.mu.Unlock()
	p.wake()
	select {
	case <-changed:
	case <-ctx.Done():
	}
	p.mu.Lock()
	return ctx.Err()
}

// maxBuffered is what may be buffered now. The lock is held.
func (p *lane) maxBuffered() int {
	n := int(p.turn.lanes.Load())
	return min(p.enough/n+(len(p.queue)+p.open.all.Len())*batchBuffered, p.opts.MaxBuffered/n)
}

// notify wakes everybody who waits for changed. The lock is held.
func (p *lane) notify() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// maxMessages and maxBytes are the smaller of what was asked for and what the
// broker takes.
func (p *lane) maxMessages() int {
	if p.limits != nil && p.limits.MaxBatchRecords > 0 {
		return min(p.opts.BatchMessages, int(p.limits.MaxBatchRecords))
	}
	return p.opts.BatchMessages
}

func (p *lane) maxBytes() int {
	if p.limits != nil && p.limits.MaxBatchBytes > 0 {
		return min(p.opts.BatchBytes, int(p.limits.MaxBatchBytes))
	}
	return p.opts.BatchBytes
}

// openBatch returns the batch that a message of about size bytes goes into.
func (p *lane) openBatch(topic string, size int) *batch {
	if b := p.open.of(topic); b != nil {
		if b.size()+size <= p.maxBytes() {
			return b
		}
		p.seal(b)
	}
	// One of many that share MaxBuffered will not be filled: memory that is not used
	// would still have to be fetched, page by page, into the processor's caches.
	share := p.opts.MaxBuffered / int(p.turn.lanes.Load()) / (1 + len(p.queue) + p.open.all.Len())
	b := newBatch(topic, max(min(p.opts.BatchBytes, share), size))
	p.open.add(b)
	return b
}

// seal gives an open batch its place among those that are sent, and the turn to the next
// lane.
func (p *lane) seal(b *batch) {
	p.open.remove(b)
	p.sequence++
	b.sequence, b.since = p.sequence, time.Now()
	p.queue = append(p.queue, b)
	p.turn.at.Add(1)
}

// sealAll seals what is open, in the order in which it was opened.
func (p *lane) sealAll() {
	for b := p.open.oldest(); b != nil; b = p.open.oldest() {
		p.seal(b)
	}
}

// flush is Producer.Flush.
func (p *lane) flush(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sealAll()
	upTo := p.sequence
	p.flushing++
	defer func() { p.flushing-- }()
	for len(p.queue) > 0 && p.queue[0].sequence <= upTo {
		if err := p.awaitChange(ctx); err != nil {
			return fmt.Errorf("%w: %w", ErrUnknown, err)
		}
	}
	err := p.untold
	p.untold = nil
	return err
}

// close has it take no more messages.
func (p *lane) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.notify()
}

// seconds writes d in whole seconds, at least one.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64(max(d.Round(time.Second), time.Second)/time.Second), 10)
}
