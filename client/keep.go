package client

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/gantry-mq/gantry/proto/gantryv1"
	"github.com/gantry-mq/gantry/proto/stream"
)

// keep calls serve, which opens a stream and uses it until it ends, again and
// again until ctx is done (nil) or trying again would end the same way, as far as not
// excused. between is called while there is no stream.
func (c *Client) keep(ctx context.Context, what string, serve func(context.Context) (opened bool, err error), excused func(error) bool, between func(error)) error {
	for n := 0; ; n++ {
		opened, err := serve(ctx)
		if opened {
			n = 0
		}
		if ctx.Err() != nil {
			return nil
		}
		if final := refused(err); final != nil {
			if !excused(final) {
				return final
			}
		} else if n == 0 {
			c.log.Warn("gantry: a connection broke and is made again", "of", what, "error", err)
		}
		between(err)
		if !pause(ctx, n) {
			return nil
		}
	}
}

// feed is one subscription: a stream of frames, with requests the other way.
type feed struct {
	c      *Client
	at     *shard
	of     *feeds
	name   string
	absent atomic.Bool // the shard has no such topic, or group

	kick chan struct{} // capacity 1: next may have something
	done chan struct{} // the feed has ended
	stop context.CancelFunc

	// What whoever owns the feed does. One stream at a time calls them: subscribe
	// first, then next on one goroutine and the other two on another.
	subscribe  func() *gantryv1.Subscribe
	subscribed func(*gantryv1.Subscribed)
	frame      func(*stream.Frame) error // Records are the callee's from then on
	answer     func(*gantryv1.ConsumeResponse)
	next       func() *gantryv1.ConsumeRequest // nil: nothing now
	broken     func()                          // no stream is open
	ended      func(error)                     // the last call; nil after stop
}

func (f *feed) start() {
	f.kick, f.done = make(chan struct{}, 1), make(chan struct{})
	var ctx context.Context
	ctx, f.stop = context.WithCancel(f.c.ctx)
	go func() {
		defer close(f.done)
		f.ended(f.c.keep(ctx, f.name, f.serve, f.elsewhere, func(error) { f.broken() }))
	}()
}

func (f *feed) wake() {
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

func (f *feed) serve(ctx context.Context) (opened bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := f.c.consume(ctx, f.at)
	if err != nil {
		return false, err
	}
	asked := f.subscribe()
	f.c.sign(&asked.Authorization, &asked.DateTime)
	if err := s.SendMsg(&gantryv1.ConsumeRequest{Content: &gantryv1.ConsumeRequest_Subscribe{Subscribe: asked}}); err != nil {
		return false, streamError(s, err)
	}
	var first stream.ConsumeResponse
	if err := s.RecvMsg(&first); err != nil {
		return false, err
	}
	if err := statusOf(&first); err != nil {
		return false, err
	}
	sub := first.Other.GetSubscribed()
	if sub == nil {
		return false, errors.New("gantry: the broker did not open the stream")
	}
	f.absent.Store(false)
	f.subscribed(sub)
	if err := f.c.grow(sub.Shards); err != nil {
		return true, err
	}
	received := make(chan error, 1)
	go func() {
		received <- f.read(s)
		cancel()
	}()
	err = f.write(ctx, s)
	cancel()
	if r := <-received; errors.Is(err, context.Canceled) || err == nil {
		err = r
	}
	return true, err
}

func (f *feed) read(s duplex) error {
	for {
		var m stream.ConsumeResponse
		if err := s.RecvMsg(&m); err != nil {
			return err
		}
		if err := statusOf(&m); err != nil {
			return err
		}
		if m.Other != nil {
			f.answer(m.Other)
			continue
		}
		if err := f.frame(&m.Frame); err != nil {
			return err
		}
	}
}

func (f *feed) write(ctx context.Context, s duplex) error {
	for {
		if r := f.next(); r != nil {
			if err := s.SendMsg(r); err != nil {
				return err
			}
			continue
		}
		select {
		case <-f.kick:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// statusOf returns the status that ends a stream.
func statusOf(m *stream.ConsumeResponse) error {
	return statusError(m.Other.GetStatus())
}
