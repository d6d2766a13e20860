package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gantry-mq/gantry/proto/gantryv1"
	"github.com/gantry-mq/gantry/proto/stream"
)

// ConsumerOptions of a consumer. Group and Topic must be given.
type ConsumerOptions struct {
	Group string
	Topic string

	// Tag ("a || b") or SQL (SQL92 over the properties) chooses messages; at most one
	// of them. All consumers of a group use the same for a topic.
	Tag string
	SQL string

	// LiteTopics of a parent topic.
	LiteTopics []string

	// Invisible is how long a message is the consumer's before it is handed out
	// again, 10 s to 12 h. 0: for as long as the consumer is connected, at most 3 h.
	Invisible time.Duration

	// Prefetch and PrefetchBytes bound the messages that the consumer holds and
	// has not settled. 0 = 1024 and 16 MiB.
	Prefetch      int
	PrefetchBytes int
}

const (
	defaultPrefetch      = 1024
	defaultPrefetchBytes = 16 << 20
)

// Consumer receives the messages of a topic for a group: each goes to one consumer
// of the group, and again to one when it was not settled.
type Consumer struct {
	opts  ConsumerOptions
	feed  feed
	inbox *inbox[Delivery]
	store uint64 // of the stream that is open

	mu sync.Mutex
	// held is what was received and is not settled; owed of it is what the broker
	// has no credit for yet.
	held, heldBytes int
	owed, owedBytes int
	stopping        bool // wants no more messages
	stopped         bool // and has told the broker
	err             error
	settles         []settle   // to be sent
	sent            []settling // not answered, in order
	settleID        uint64
	changed         chan struct{} // closed and made anew when sent or settles shrink
}

// Delivery is one received message. Exactly one of Ack, Retry and DeadLetter
// settles it; what its methods return aliases its memory, which is kept as long as
// they are in use.
type Delivery struct {
	view
	c     *Consumer
	lease uint64
	bytes int
	end   int64 // Unix ms
}

// Attempt is how often the message was handed out, this time included.
func (d *Delivery) Attempt() int { return int(d.attempt) }

// LeaseEnd is when the message goes to another, unless it is settled or extended.
func (d *Delivery) LeaseEnd() time.Time { return time.UnixMilli(d.end) }

// NewConsumer subscribes. It connects in the background; what is wrong with the
// subscription is told by the first receive.
func (c *Client) NewConsumer(opts ConsumerOptions) (*Consumer, error) {
	opts.Prefetch = cmp.Or(opts.Prefetch, defaultPrefetch)
	opts.PrefetchBytes = cmp.Or(opts.PrefetchBytes, defaultPrefetchBytes)
	switch {
	case opts.Group == "" || opts.Topic == "":
		return nil, errors.New("gantry: a consumer needs a group and a topic")
	case opts.Tag != "" && opts.SQL != "":
		return nil, errors.New("gantry: a consumer filters by tag or by SQL, not by both")
	case opts.Prefetch < 0 || opts.PrefetchBytes < 0:
		return nil, errors.New("gantry: consumer options: a bound is negative")
	}
	co := &Consumer{opts: opts, inbox: newInbox[Delivery](), changed: make(chan struct{})}
	co.feed = feed{
		c: c, name: "consumer " + opts.Group,
		subscribe: co.subscribe, subscribed: func(s *gantryv1.Subscribed) { co.store = s.StoreId },
		frame: co.frame, answer: co.answer, next: co.next, broken: co.broken, ended: co.ended,
	}
	if err := c.adopt(co); err != nil {
		return nil, err
	}
	co.feed.start()
	return co, nil
}

// Receive returns the next message, when there is one. ctx's error when it is done
// first; [ErrClosed] after Close; the broker's refusal.
func (co *Consumer) Receive(ctx context.Context) (*Delivery, error) { return co.inbox.take(ctx) }

// Messages ranges over the messages until ctx is done or the consumer is closed,
// which ends the loop; any other error is its last value.
func (co *Consumer) Messages(ctx context.Context) iter.Seq2[*Delivery, error] {
	return messages(ctx, co.Receive)
}

func messages[T any](ctx context.Context, receive func(context.Context) (T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for {
			m, err := receive(ctx)
			if errors.Is(err, ErrClosed) || ctx.Err() != nil && err != nil {
				return
			}
			if !yield(m, err) || err != nil {
				return
			}
		}
	}
}

func (co *Consumer) subscribe() *gantryv1.Subscribe {
	co.mu.Lock()
	defer co.mu.Unlock()
	lease := &gantryv1.LeaseMode{LiteTopics: co.opts.LiteTopics}
	if co.opts.Invisible > 0 {
		lease.Invisible = durationpb.New(co.opts.Invisible)
	}
	s := &gantryv1.Subscribe{
		Agent:    agent(),
		ClientId: co.feed.c.opts.ID, Group: co.feed.c.resource(co.opts.Group), Topic: co.feed.c.resource(co.opts.Topic),
		Mode: &gantryv1.Subscribe_Lease{Lease: lease},
		Credit: &gantryv1.ConsumeCredit{
			Bytes: uint64(max(co.opts.PrefetchBytes-co.heldBytes, 1)), Messages: uint32(max(co.opts.Prefetch-co.held, 1)),
		},
	}
	setFilter(s, co.opts.Tag, co.opts.SQL)
	co.owed, co.owedBytes = 0, 0
	co.stopped = false
	// What was not answered is asked again.
	var again []settle
	for _, st := range co.sent {
		for _, e := range st.entries {
			e.again = true
			again = append(again, e)
		}
	}
	co.settles, co.sent = append(again, co.settles...), nil
	return s
}

func setFilter(s *gantryv1.Subscribe, tag, sql string) {
	switch {
	case sql != "":
		s.Filter = &gantryv1.Subscribe_Sql{Sql: sql}
	case tag != "":
		s.Filter = &gantryv1.Subscribe_Tag{Tag: tag}
	}
}

// frame takes a frame apart into one slab of deliveries, which alias its records.
func (co *Consumer) frame(f *stream.Frame) error {
	n := 0
	for _, r := range f.Runs {
		n += int(r.Count)
	}
	slab := make([]Delivery, 0, n+1)
	size := 0
	w := walk{frame: f}
	for slab = append(slab, Delivery{}); w.next(&slab[len(slab)-1].view); slab = append(slab, Delivery{}) {
		d := &slab[len(slab)-1]
		d.store, d.topic, d.queue = co.store, co.opts.Topic, f.Queue
		d.c, d.lease, d.bytes, d.end = co, w.lease(), w.padded, f.LeaseEnd
		size += d.bytes
	}
	slab = slab[:len(slab)-1]
	if w.err != nil {
		return w.err
	}
	co.mu.Lock()
	co.held += len(slab)
	co.heldBytes += size
	co.mu.Unlock()
	co.inbox.put(slab)
	return nil
}

// broken forgets what nobody has taken and the broker will hand out again.
func (co *Consumer) broken() {
	if co.opts.Invisible > 0 {
		return // it is held until then whoever is connected
	}
	for _, slab := range co.inbox.drop() {
		co.mu.Lock()
		for i := range slab {
			co.held--
			co.heldBytes -= slab[i].bytes
		}
		co.mu.Unlock()
	}
}

func (co *Consumer) ended(err error) {
	if err == nil {
		err = ErrClosed
	}
	co.inbox.end(err)
	co.mu.Lock()
	defer co.mu.Unlock()
	co.err = err
	for _, st := range co.sent {
		failSettles(st.entries, fmt.Errorf("%w: %w", ErrUnknown, err))
	}
	failSettles(co.settles, err)
	co.settles, co.sent = nil, nil
	co.notify()
}

func (co *Consumer) notify() {
	close(co.changed)
	co.changed = make(chan struct{})
}

// Close stops receiving, gives back what nobody has taken, waits for the answers
// to what was settled, and ends the consumer. Messages that were taken and are
// not settled go to other consumers.
func (co *Consumer) Close(ctx context.Context) error {
	co.mu.Lock()
	co.stopping = true
	co.mu.Unlock()
	co.inbox.end(ErrClosed)
	co.giveBack()
	err := co.settled(ctx)
	co.giveBack() // what was on its way meanwhile
	err = cmp.Or(err, co.settled(ctx))
	co.feed.stop()
	<-co.feed.done
	co.feed.c.disown(co)
	return err
}

// giveBack returns what nobody has taken; it does not count as an attempt.
func (co *Consumer) giveBack() {
	for _, slab := range co.inbox.drop() {
		for i := range slab {
			co.settle(settle{d: &slab[i], action: gantryv1.SettleAction_SETTLE_RETRY, delay: durationpb.New(0), suspend: true})
		}
	}
}

// settled waits until everything that was settled is answered.
func (co *Consumer) settled(ctx context.Context) error {
	co.mu.Lock()
	defer co.mu.Unlock()
	for co.err == nil && len(co.settles)+len(co.sent) > 0 {
		changed := co.changed
		co.mu.Unlock()
		co.feed.wake()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		co.mu.Lock()
		if ctx.Err() != nil {
			return fmt.Errorf("gantry: not everything was settled: %w", ctx.Err())
		}
	}
	return nil
}
