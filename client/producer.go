package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/proto/gantryv1"
)

// ProducerOptions of a producer. The zero value works.
type ProducerOptions struct {
	// Topic of messages that name none.
	Topic string

	// BatchBytes and BatchMessages end a batch. 0 = 256 KiB and 4096.
	BatchBytes    int
	BatchMessages int
	// Linger is how long a batch that is not full waits for more while others are
	// on their way; when none is, it leaves at once. So an idle producer is as quick
	// as it can be and a busy one fills its batches. 0 = 2 ms; negative: never waits.
	Linger time.Duration
	// MaxBuffered bounds the bytes of messages that are not answered. Beyond it,
	// sending waits. 0 = 8 MiB, and 64 KiB more for each batch, as there are many with many
	// topics, up to 32 MiB. No round trip carries more: over one of 50 ms that is 200 MB/s.
	MaxBuffered int
	// Timeout is how long a message is tried to be sent while the broker cannot be
	// reached. 0 = 2 minutes.
	Timeout time.Duration

	// Compression of bodies, each by itself. Zero: none. Those below CompressFrom bytes
	// (0 = 512), and those that would not become smaller, are sent as they are. Consumers of
	// gantry.v1 decompress them; for those of apache.rocketmq.v2 the broker does, which costs
	// it CPU for each delivery.
	Compression  Compression
	CompressFrom int

	// Check decides on transactions that this producer, or another of the topic
	// that is gone, has left open. Nil: the broker is not answered.
	Check func(ctx context.Context, m *Open) Decision
}

// Defaults of ProducerOptions.
const (
	defaultBatchBytes    = 256 << 10
	defaultBatchMessages = 4096
	defaultLinger        = 2 * time.Millisecond
	defaultMaxBuffered   = 32 << 20
	defaultTimeout       = 2 * time.Minute
	defaultCompressFrom  = 512
)

// Without MaxBuffered, enoughBuffered and batchBuffered for each batch may be buffered.
// What waits costs latency: with one topic p50 is a third of what it is with 32 MiB, synced
// and with three nodes, too, and messages/s and CPU differ by no more than equal runs do. Many
// topics share the room, though, and if there is no more for them their batches are smaller: to
// 10,000 queues 8 MiB alone took twice the CPU of 32.
const (
	enoughBuffered = 8 << 20
	batchBuffered  = 64 << 10
)

// Producer sends messages. Messages to one topic are stored in the order in which
// they were given, as far as they go to one queue: by their group, or together
// in a batch.
type Producer struct {
	c      *Client
	opts   ProducerOptions
	enough int    // what may be buffered, however few batches
	id     uint64 // the broker knows batches by it and their sequence
	done   chan struct{}
	stop   context.CancelFunc

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

// NewProducer makes a producer. It connects in the background: messages may be
// sent at once.
func (c *Client) NewProducer(opts ProducerOptions) (*Producer, error) {
	opts.BatchBytes = cmp.Or(opts.BatchBytes, defaultBatchBytes)
	opts.BatchMessages = cmp.Or(opts.BatchMessages, defaultBatchMessages)
	opts.Linger = cmp.Or(opts.Linger, defaultLinger)
	enough := cmp.Or(opts.MaxBuffered, enoughBuffered)
	opts.MaxBuffered = cmp.Or(opts.MaxBuffered, defaultMaxBuffered)
	opts.Timeout = cmp.Or(opts.Timeout, defaultTimeout)
	opts.CompressFrom = cmp.Or(opts.CompressFrom, defaultCompressFrom)
	if opts.Compression < 0 || opts.Compression >= compressions {
		return nil, fmt.Errorf("gantry: producer options: there is no compression %d", opts.Compression)
	}
	if opts.BatchBytes < 0 || opts.BatchMessages < 0 || opts.MaxBuffered < 0 || opts.CompressFrom < 0 || opts.Timeout < 0 {
		return nil, errors.New("gantry: producer options: a size or the timeout is negative")
	}
	p := &Producer{
		c: c, opts: opts, enough: enough, id: randomID(), done: make(chan struct{}),
		changed: make(chan struct{}), kick: make(chan struct{}, 1), open: newOpenBatches(),
	}
	if err := c.adopt(p); err != nil {
		return nil, err
	}
	var ctx context.Context
	ctx, p.stop = context.WithCancel(c.ctx)
	go func() {
		defer close(p.done)
		p.run(ctx)
	}()
	return p, nil
}

// Send sends a message and waits until it is stored as durably as the broker's
// mode says. When ctx is done first, the error wraps [ErrUnknown] and ctx's own.
func (p *Producer) Send(ctx context.Context, m *Message) (Result, error) {
	return p.await(ctx, m, record.KindMessage, 0)
}

func (p *Producer) await(ctx context.Context, m *Message, kind record.Kind, recover time.Duration) (Result, error) {
	f := newFuture()
	if err := p.publish(ctx, m, kind, recover, f.finish); err != nil {
		return Result{}, err
	}
	return f.Wait(ctx)
}

// SendAsync sends a message and returns at once, or when there is room for it.
func (p *Producer) SendAsync(ctx context.Context, m *Message) *Future {
	f := newFuture()
	if err := p.publish(ctx, m, record.KindMessage, 0, f.finish); err != nil {
		f.finish(Result{}, err)
	}
	return f
}

// Publish sends a message; done, if not nil, is called when it was answered. m is
// not used after Publish returns. An error is one of this call, and done is not called
// then; it waits for room until ctx is done. What is refused later and has no
// done is told by the next [Producer.Flush].
func (p *Producer) Publish(ctx context.Context, m *Message, done func(Result, error)) error {
	return p.publish(ctx, m, record.KindMessage, 0, done)
}

func (p *Producer) publish(ctx context.Context, m *Message, kind record.Kind, recover time.Duration, done func(Result, error)) error {
	if p.c.opts.Hooks.Send != nil {
		return p.hooked(ctx, *m, kind, recover, done)
	}
	return p.add(ctx, m, kind, recover, done)
}

// hooked is publish with a hook, which may change its copy of the message. It is apart
// so that a message without one need not be on the heap.
func (p *Producer) hooked(ctx context.Context, m Message, kind record.Kind, recover time.Duration, done func(Result, error)) error {
	m.Topic = cmp.Or(m.Topic, p.opts.Topic) // for the hook to see
	if finish := p.c.opts.Hooks.Send(ctx, &m); finish != nil {
		next := done
		done = func(r Result, err error) {
			finish(r, err)
			if next != nil {
				next(r, err)
			}
		}
	}
	return p.add(ctx, &m, kind, recover, done)
}

// add puts the message into the open batch of its topic.
func (p *Producer) add(ctx context.Context, m *Message, kind record.Kind, recover time.Duration, done func(Result, error)) error {
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

func (p *Producer) wake() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// room waits, with the lock held before and after, until size more bytes may be
// buffered.
func (p *Producer) room(ctx context.Context, size int) error {
	for {
		switch {
		case p.fatal != nil:
			return p.fatal
		case p.closed:
			return ErrClosed
		case p.buffered == 0 || p.buffered+size <= p.maxBuffered():
			return nil
		}
		changed := p.changed
		p.mu.Unlock()
		p.wake()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		p.mu.Lock()
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("gantry: no room for the message: %w", err)
		}
	}
}

// maxBuffered is what may be buffered now. The lock is held.
func (p *Producer) maxBuffered() int {
	return min(p.enough+(len(p.queue)+p.open.all.Len())*batchBuffered, p.opts.MaxBuffered)
}

// notify wakes everybody who waits for changed. The lock is held.
func (p *Producer) notify() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// maxMessages and maxBytes are the smaller of what was asked for and what the
// broker takes.
func (p *Producer) maxMessages() int {
	if p.limits != nil && p.limits.MaxBatchRecords > 0 {
		return min(p.opts.BatchMessages, int(p.limits.MaxBatchRecords))
	}
	return p.opts.BatchMessages
}

func (p *Producer) maxBytes() int {
	if p.limits != nil && p.limits.MaxBatchBytes > 0 {
		return min(p.opts.BatchBytes, int(p.limits.MaxBatchBytes))
	}
	return p.opts.BatchBytes
}

// openBatch returns the batch that a message of about size bytes goes into.
func (p *Producer) openBatch(topic string, size int) *batch {
	if b := p.open.of(topic); b != nil {
		if b.size()+size <= p.maxBytes() {
			return b
		}
		p.seal(b)
	}
	// One of many that share MaxBuffered will not be filled: memory that is not used
	// would still have to be fetched, page by page, into the processor's caches.
	share := p.opts.MaxBuffered / (1 + len(p.queue) + p.open.all.Len())
	b := newBatch(topic, max(min(p.opts.BatchBytes, share), size))
	p.open.add(b)
	return b
}

// seal gives an open batch its place among those that are sent.
func (p *Producer) seal(b *batch) {
	p.open.remove(b)
	p.sequence++
	b.sequence, b.since = p.sequence, time.Now()
	p.queue = append(p.queue, b)
}

// sealAll seals what is open, in the order in which it was opened.
func (p *Producer) sealAll() {
	for b := p.open.oldest(); b != nil; b = p.open.oldest() {
		p.seal(b)
	}
}

// Flush sends what is buffered without waiting for more and returns when all of
// it, and what was given before the call, is answered. It returns the first
// refusal since the last Flush of a message that had no callback.
func (p *Producer) Flush(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sealAll()
	upTo := p.sequence
	p.flushing++
	defer func() { p.flushing-- }()
	for len(p.queue) > 0 && p.queue[0].sequence <= upTo {
		changed := p.changed
		p.mu.Unlock()
		p.wake()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		p.mu.Lock()
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%w: %w", ErrUnknown, err)
		}
	}
	err := p.untold
	p.untold = nil
	return err
}

// Close sends what is buffered, waits for the answers, and ends the producer.
// When ctx is done first, what is not answered fails with [ErrUnknown].
func (p *Producer) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.notify()
	p.mu.Unlock()
	err := p.Flush(ctx)
	p.stop()
	<-p.done
	p.c.disown(p)
	return err
}

// Future is the outcome of a message that is on its way.
type Future struct {
	done   chan struct{}
	result Result
	err    error
}

func newFuture() *Future { return &Future{done: make(chan struct{})} }

func (f *Future) finish(r Result, err error) {
	f.result, f.err = r, err
	close(f.done)
}

// Done is closed when the outcome is known.
func (f *Future) Done() <-chan struct{} { return f.done }

// Wait returns the outcome. When ctx is done first, the error wraps [ErrUnknown]
// and ctx's own; the message may still be stored.
func (f *Future) Wait(ctx context.Context) (Result, error) {
	select {
	case <-f.done:
		return f.result, f.err
	default:
	}
	select {
	case <-f.done:
		return f.result, f.err
	case <-ctx.Done():
		return Result{}, fmt.Errorf("%w: %w", ErrUnknown, ctx.Err())
	}
}

// seconds writes d in whole seconds, at least one.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64(max(d.Round(time.Second), time.Second)/time.Second), 10)
}
