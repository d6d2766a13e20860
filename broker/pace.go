package broker

import (
	"context"
	"time"
)

// pacer holds work that an operator asked for to a rate.
type pacer struct {
	b    *Broker
	rate int       // messages a second, 0 = as fast as it goes
	next time.Time // when the next batch may begin
}

// batch returns how many messages to do at a time, at most limit: ten batches a
// second look even to a consumer.
func (p *pacer) batch(limit int) int {
	if p.rate == 0 {
		return limit
	}
	return min(max(p.rate/10, 1), limit)
}

// wait returns when n messages may be done.
func (p *pacer) wait(ctx context.Context, n int) error {
	if p.rate == 0 || n == 0 {
		return nil
	}
	if now := time.Now(); p.next.Before(now) {
		p.next = now
	}
	at := p.next
	p.next = p.next.Add(time.Duration(n) * time.Second / time.Duration(p.rate))
	return p.b.sleepFor(ctx, time.Until(at))
}

// sleepFor waits, unless ctx or the broker ends before.
func (b *Broker) sleepFor(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-b.ctx.Done():
		return Errorf(Unavailable, "the broker is shutting down")
	}
}
