package broker

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/broker/longpoll"
	"github.com/gantry-mq/gantry/broker/quota"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// Caller is whose quotas count beside the topic's, the group's and the namespace's.
// What is empty is not known.
type Caller struct {
	Client string // its id
	User   string
}

// sinceStart returns a clock that only grows, in nanoseconds.
func sinceStart() func() int64 {
	start := time.Now()
	return func() int64 { return int64(time.Since(start)) }
}

// throttleSend takes what a send needs of quotas: TooManyRequests.
func (b *Broker) throttleSend(tp *topic.Topic, from Caller, messages, bytes int) error {
	if !b.quotas.Active() {
		return nil
	}
	ask := quota.Ask{Topic: tp.Name, Client: from.Client, User: from.User}
	if short := b.quotas.Send(&ask, messages, bytes); short != nil {
		return b.exceeded(short)
	}
	return nil
}

func (b *Broker) exceeded(short *quota.Excess) error {
	b.quotas.Throttle(short)
	return Errorf(TooManyRequests, "%w", short)
}

// throttlePack does the same for a batch of a stream, which waits for a while: its
// client is held back by that. It is asked before the batch passes the gate, or those
// that wait would keep others out.
func (b *Broker) throttlePack(ctx context.Context, pack *Pack) error {
	if !b.quotas.Active() {
		return nil
	}
	ask := quota.Ask{Topic: pack.Topic, Client: pack.From.Client, User: pack.From.User}
	messages, bytes := pack.count(), pack.size()
	wait := b.waitFor(ctx, streamPatience, nil)
	defer wait.end()
	for {
		short := b.quotas.Send(&ask, messages, bytes)
		if short == nil {
			return nil
		}
		if short.Retry >= streamPatience {
			return b.exceeded(short)
		}
		switch err := wait.again(short); {
		case errors.Is(err, longpoll.ErrOver):
			return b.exceeded(short)
		case errors.Is(err, errClosing):
			return Errorf(Unavailable, "the broker is shutting down")
		case err != nil:
			return err
		}
	}
}

// count returns how many records there are, up to the first that is none: who reads them
// will say so.
func (p *Pack) count() (n int) {
	for _, rest := range p.Records {
		for len(rest) > 0 {
			size, _, err := record.Size(rest)
			if err != nil {
				break
			}
			n++
			rest = rest[min(record.Padded(size), len(rest)):]
		}
	}
	return max(n, 1)
}

// grant bounds what is looked for: so many messages, and bytes, 0 = no bound, or less.
func (r *receiving) grant(batch, room int) (g quota.Grant, short *quota.Excess) {
	r.req.Batch, r.room = batch, room
	if !r.b.quotas.Active() {
		return g, nil
	}
	if room == 0 {
		room = math.MaxInt
	}
	ask := quota.Ask{Topic: r.topic.Name, Group: r.group.Name, Client: r.req.From.Client, User: r.req.From.User}
	g, short = r.b.quotas.Receive(&ask, batch, room, func(limit int) int {
		return r.b.inflight.Leased(r.group.ID, r.b.now(), limit)
	})
	if short == nil {
		r.req.Batch, r.room = g.Messages, g.Bytes
	}
	return g, short
}

// freed tells receives that are held back that a group may have less in flight.
func (b *Broker) freed(id record.GroupID) {
	if !b.quotas.Active() {
		return
	}
	if g, ok := b.groups.ByID(id); ok {
		b.quotas.Freed(g.Name)
	}
}

// hold waits until a receive that quotas hold back may look again: nil. What else it
// returns is as of sleep.
func (w *patience) hold(short *quota.Excess) error {
	w.b.quotas.Throttle(short)
	err := w.again(short)
	switch {
	case errors.Is(err, longpoll.ErrOver), errors.Is(err, context.DeadlineExceeded):
		return Errorf(MessageNotFound, "no message: %w", short)
	case errors.Is(err, errClosing):
		return Errorf(MessageNotFound, "no message: the broker is shutting down")
	}
	return err
}

var errClosing = errors.New("the broker is shutting down")

// again waits until there may be enough of what was short: nil. It is ErrOver when the
// time to wait is over, errClosing, or the context's error.
func (w *patience) again(short *quota.Excess) error {
	again := time.NewTimer(short.Retry)
	defer again.Stop()
	select {
	case <-again.C:
		return nil
	case <-short.Freed:
		return nil
	case <-short.Changed:
		return nil
	case <-w.ended():
		return longpoll.ErrOver
	case <-w.stop:
		return longpoll.ErrOver
	case <-w.ctx.Done():
		return w.ctx.Err()
	case <-w.b.ctx.Done():
		return errClosing
	}
}

// appliedLease is called after a record of consumption was applied.
func (b *Broker) appliedLease(data []byte) {
	if b.quotas.Active() {
		b.freed(inflight.KeyOf(data).Group)
	}
}
