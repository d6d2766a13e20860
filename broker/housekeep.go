package broker

import (
	"time"

	"github.com/gantry-mq/gantry/broker/session"
	"github.com/gantry-mq/gantry/commitlog/record"
)

const (
	// clientGrace is how long clients have after a start of the broker to come
	// back before the leases they hold are released (wire-contract 2.6.4).
	clientGrace    = 60 * time.Second
	housekeepEvery = 10 * time.Second
)

// housekeep does what has no event of its own, until the broker closes.
func (b *Broker) housekeep() {
	tick := time.NewTicker(housekeepEvery)
	defer tick.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case now := <-tick.C:
			if now.Sub(b.opened) > clientGrace {
				b.releaseDead()
			}
			b.retain(now)
		}
	}
}

// releaseDead frees the auto-renewed leases of clients that are not there: the
// broker was restarted and they did not come back.
func (b *Broker) releaseDead() {
	gone := func(owner string) bool { return !b.sessions.Live(owner) }
	for _, s := range b.inflight.Subs() {
		b.releaseHeld(s, s.BeginRelease(gone))
	}
}

// clientGone frees what a client held that has said goodbye or gone silent.
func (b *Broker) clientGone(c session.Client) {
	g, ok := b.groups.Lookup(c.Group)
	if !ok {
		return
	}
	for _, s := range b.inflight.Subs() {
		if s.Key().Group == g.ID {
			b.releaseHeld(s, s.BeginRelease(func(owner string) bool { return owner == c.ID }))
		}
	}
}

// retain drops what the log's retention no longer keeps, but nothing that a
// restart would replay.
func (b *Broker) retain(now time.Time) {
	dropped, err := b.wal.Retain(now, record.Position(b.checkpt.replayFrom.Load()))
	if err != nil {
		b.log.Error("retention failed", "error", err)
	}
	if dropped > 0 {
		first := b.wal.First()
		if err := b.index.DropBefore(first); err != nil {
			b.log.Error("the consume queues did not drop what retention took", "error", err)
		}
		b.log.Info("retention dropped segments", "segments", dropped, "log_begins", first)
	}
}
