package client

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gantry-mq/gantry/proto/gantryv1"
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
	// has not settled, in equal shares of each shard, one message at least. 0 = 1024 and
	// 16 MiB.
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
	c     *Client
	opts  ConsumerOptions
	inbox *inbox[Delivery]
	feeds feeds

	mu   sync.Mutex
	subs []*subscription // one with each shard
}

// Delivery is one received message. Exactly one of Ack, Retry and DeadLetter
// settles it; what its methods return aliases its memory, which is kept as long as
// they are in use.
type Delivery struct {
	view
	of    *subscription
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
	co := &Consumer{c: c, opts: opts, inbox: newInbox[Delivery]()}
	if err := c.adopt(co); err != nil {
		return nil, err
	}
	return co, nil
}

func (co *Consumer) extend(shards []*shard) {
	co.feeds.extend(shards, func(at *shard, _ bool) *feed {
		s := &subscription{opts: co.opts, inbox: co.inbox, changed: make(chan struct{})}
		s.opts.Prefetch = max(co.opts.Prefetch/len(shards), 1)
		s.opts.PrefetchBytes = max(co.opts.PrefetchBytes/len(shards), 1)
		s.feed = feed{
			c: co.c, at: at, name: "consumer " + co.opts.Group,
			subscribe: s.subscribe, subscribed: func(opened *gantryv1.Subscribed) { s.store = opened.StoreId },
			frame: s.frame, answer: s.answer, next: s.next, broken: s.broken, ended: s.ended,
		}
		co.mu.Lock()
		defer co.mu.Unlock()
		co.subs = append(co.subs, s)
		return &s.feed
	})
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

func setFilter(s *gantryv1.Subscribe, tag, sql string) {
	switch {
	case sql != "":
		s.Filter = &gantryv1.Subscribe_Sql{Sql: sql}
	case tag != "":
		s.Filter = &gantryv1.Subscribe_Tag{Tag: tag}
	}
}

// Close stops receiving, gives back what nobody has taken, waits for the answers
// to what was settled, and ends the consumer. Messages that were taken and are
// not settled go to other consumers.
func (co *Consumer) Close(ctx context.Context) error {
	co.feeds.close()
	subs := co.list()
	for _, s := range subs {
		s.stopReceiving()
	}
	co.inbox.end(ErrClosed)
	co.giveBack()
	err := co.settled(ctx)
	co.giveBack() // what was on its way meanwhile
	err = cmp.Or(err, co.settled(ctx))
	co.feeds.stop()
	co.c.disown(co)
	return err
}

func (co *Consumer) list() []*subscription {
	co.mu.Lock()
	defer co.mu.Unlock()
	return co.subs
}

// giveBack returns what nobody has taken; it does not count as an attempt.
func (co *Consumer) giveBack() {
	for _, slab := range co.inbox.drop(func(*Delivery) bool { return true }) {
		for i := range slab {
			slab[i].of.settle(settle{d: &slab[i], action: gantryv1.SettleAction_SETTLE_RETRY, delay: durationpb.New(0), suspend: true})
		}
	}
}

// settled waits until everything that was settled is answered.
func (co *Consumer) settled(ctx context.Context) (err error) {
	for _, s := range co.list() {
		err = cmp.Or(err, s.settled(ctx))
	}
	return err
}
