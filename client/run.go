package client

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/proto/gantryv1"
)

// RunOptions of a handler. The zero value works.
type RunOptions struct {
	// Concurrency is how many messages are handled at a time. 0 = 16.
	Concurrency int
	// Ordered handles messages of the same message group, or, without one, of the
	// same first key, one after the other, in the order in which they came.
	Ordered bool
}

// Run calls handle for each message until ctx is done or the consumer is closed,
// and returns when all calls have returned and what they settled is answered: nil,
// or the broker's refusal.
//
// A message whose handler returns nil is done with. One whose handler returns an
// error or panics is handed out again, when the group's retry policy says or as
// [RetryAfter] does; after [Discard] it is a dead letter. So is one whose body does not
// decompress, without a call.
func (co *Consumer) Run(ctx context.Context, handle func(context.Context, *Delivery) error, opts RunOptions) error {
	if opts.Concurrency <= 0 {
		opts.Concurrency = 16
	}
	lanes := make([]chan *Delivery, 1)
	if opts.Ordered {
		lanes = make([]chan *Delivery, opts.Concurrency)
	}
	for i := range lanes {
		lanes[i] = make(chan *Delivery)
	}
	var workers sync.WaitGroup
	for i := range opts.Concurrency {
		workers.Go(func() {
			for d := range lanes[i%len(lanes)] {
				co.handle(ctx, d, handle)
			}
		})
	}
	var failed error
	turn := uint32(0)
	for d, err := range co.Messages(ctx) {
		if err != nil {
			failed = err
			break
		}
		turn++
		lane := turn
		if key := d.orderKey(); opts.Ordered && len(key) > 0 {
			lane = record.Hash32(key)
		}
		lanes[lane%uint32(len(lanes))] <- d
	}
	for _, l := range lanes {
		close(l)
	}
	workers.Wait()
	if failed == nil {
		// What was handled is told even though ctx is done; Close bounds the wait.
		failed = co.settled(context.WithoutCancel(ctx))
	}
	return failed
}

func (v *view) orderKey() []byte {
	if g, ok := v.msg.Properties.Lookup(record.FieldGroup); ok {
		return g
	}
	k, _ := v.msg.Properties.Lookup(record.FieldKey)
	return k
}

func (co *Consumer) handle(ctx context.Context, d *Delivery, handle func(context.Context, *Delivery) error) {
	err := d.BodyErr()
	if err != nil {
		err = Discard(err)
	} else {
		err = call(ctx, co.c.opts.Hooks.Receive, d, handle)
	}
	s := settle{d: d, action: gantryv1.SettleAction_SETTLE_ACK, done: func(err error) {
		if err != nil && !errors.Is(err, ErrClosed) {
			co.c.log.Warn("gantry: a message was handled and not settled", "topic", d.topic, "queue", d.queue, "offset", d.offset, "error", err)
		}
	}}
	var after *retryAfter
	switch {
	case err == nil:
	case errors.Is(err, errDiscard):
		s.action = gantryv1.SettleAction_SETTLE_DEAD_LETTER
	case errors.As(err, &after):
		s.action, s.delay = gantryv1.SettleAction_SETTLE_RETRY, durationpb.New(after.delay)
	default:
		s.action = gantryv1.SettleAction_SETTLE_RETRY
	}
	if err != nil {
		co.c.log.Warn("gantry: a handler failed", "topic", d.topic, "queue", d.queue, "offset", d.offset, "message", d.ID(), "attempt", d.attempt, "error", err)
	}
	d.of.settle(s)
}

// call calls the handler between the hooks, and makes an error of a panic.
func call(ctx context.Context, hook func(context.Context, *Delivery) (context.Context, func(error)), d *Delivery, handle func(context.Context, *Delivery) error) (err error) {
	var finish func(error)
	if hook != nil {
		ctx, finish = hook(ctx, d)
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
		if finish != nil {
			finish(err)
		}
	}()
	return handle(ctx, d)
}

type retryAfter struct {
	delay time.Duration
	err   error
}

func (r *retryAfter) Error() string { return r.err.Error() }
func (r *retryAfter) Unwrap() error { return r.err }

// RetryAfter makes a handler's error say when the message is handed out again.
func RetryAfter(delay time.Duration, err error) error { return &retryAfter{max(delay, 0), err} }

var errDiscard = errors.New("discarded")

// Discard makes a handler's error say that trying again is no use: the message
// becomes a dead letter at once.
func Discard(err error) error { return fmt.Errorf("%w: %w", errDiscard, err) }
