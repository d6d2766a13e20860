package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
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
	c     *Client
	opts  ProducerOptions
	lanes atomic.Pointer[[]*lane] // one to each shard
	turn  *turn

	mu     sync.Mutex // held to change lanes
	closed bool
}

// NewProducer makes a producer. It connects in the background: messages may be
// sent at once.
func (c *Client) NewProducer(opts ProducerOptions) (*Producer, error) {
	opts.BatchBytes = cmp.Or(opts.BatchBytes, defaultBatchBytes)
	opts.BatchMessages = cmp.Or(opts.BatchMessages, defaultBatchMessages)
	opts.Linger = cmp.Or(opts.Linger, defaultLinger)
	opts.Timeout = cmp.Or(opts.Timeout, defaultTimeout)
	opts.CompressFrom = cmp.Or(opts.CompressFrom, defaultCompressFrom)
	if opts.Compression < 0 || opts.Compression >= compressions {
		return nil, fmt.Errorf("gantry: producer options: there is no compression %d", opts.Compression)
	}
	if opts.BatchBytes < 0 || opts.BatchMessages < 0 || opts.MaxBuffered < 0 || opts.CompressFrom < 0 || opts.Timeout < 0 {
		return nil, errors.New("gantry: producer options: a size or the timeout is negative")
	}
	p := &Producer{c: c, opts: opts, turn: new(turn)}
	p.turn.at.Store(mathrand.Int32())
	p.lanes.Store(new([]*lane))
	if err := c.adopt(p); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Producer) extend(shards []*shard) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := *p.lanes.Load()
	if p.closed || len(all) >= len(shards) {
		return
	}
	all = slices.Clone(all)
	p.turn.lanes.Store(int32(len(shards)))
	for _, at := range shards[len(all):] {
		all = append(all, startLane(p.c, at, p.opts, p.turn))
	}
	p.lanes.Store(&all)
}

// turn is what the lanes of a producer share: which is filled, and how many there are.
type turn struct{ at, lanes atomic.Int32 }

// lane is where a message goes: with its group, or with what it is deduplicated by, always
// to the same shard; any other is put to those before, until their batch is full or gone.
// Lite topics are in shard 0.
func (p *Producer) lane(m *Message) *lane {
	all := *p.lanes.Load()
	key := cmp.Or(m.Group, m.ID)
	switch {
	case len(all) == 1 || m.LiteTopic != "":
		return all[0]
	case key != "":
		// The broker chooses the queue by the same hash.
		return all[record.Hash32(key)*0x9E3779B1>>16%uint32(len(all))]
	}
	at := int(uint32(p.turn.at.Load()) % uint32(len(all)))
	for range all {
		if all[at].isOpen.Load() {
			break
		}
		at = (at + 1) % len(all) // its shard has no leader at the moment, as far as is known
	}
	return all[at]
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
	return p.lane(m).add(ctx, m, kind, recover, done)
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
	return p.lane(&m).add(ctx, &m, kind, recover, done)
}

// Flush sends what is buffered without waiting for more and returns when all of
// it, and what was given before the call, is answered. It returns the first
// refusal since the last Flush of a message that had no callback.
func (p *Producer) Flush(ctx context.Context) error {
	all := *p.lanes.Load()
	errs := make([]error, len(all))
	var flush sync.WaitGroup
	for i, l := range all[1:] {
		flush.Go(func() { errs[i+1] = l.flush(ctx) })
	}
	errs[0] = all[0].flush(ctx)
	flush.Wait()
	return cmp.Or(errs...)
}

// Close sends what is buffered, waits for the answers, and ends the producer.
// When ctx is done first, what is not answered fails with [ErrUnknown].
func (p *Producer) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	all := *p.lanes.Load()
	for _, l := range all {
		l.close()
	}
	err := p.Flush(ctx)
	for _, l := range all {
		l.stop()
	}
	for _, l := range all {
		<-l.done
	}
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
