package broker

import (
	"time"

	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/broker/session"
	"github.com/gantry-mq/gantry/commitlog/record"
)

const (
	// clientGrace is how long clients have after a start of the broker to come
	// back before the leases they hold are released (wire-contract 2.6.4).
	clientGrace    = 60 * time.Second
	housekeepEvery = 10 * time.Second
	liteScanEvery  = 2 * time.Minute // wire-contract 4.8
	// copyPause follows a retention that copied more than it freed.
	copyPause = 10 * time.Minute
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
			if now.Sub(b.led) > clientGrace {
				b.releaseDead()
			}
			at := time.UnixMilli(b.now())
			b.expireMessages(at)
			if at.After(b.retainAfter) {
				b.retain(at)
			}
			b.liteSubs.Expire(now)
			if now.Sub(b.liteScanned) >= liteScanEvery {
				b.liteScanned = now
				b.expireLite(at)
			}
		}
	}
}

// releaseDead frees the auto-renewed leases of clients that are not there, and
// those from before the broker's start: the answer that handed one out may have
// been lost with the process, and then its client, alive as it is, will never
// settle it. A client that did get the message has had the grace to finish.
func (b *Broker) releaseDead() {
	live := map[string]bool{}
	gone := func(owner string, h inflight.Held) bool {
		if h.LeaseID < b.firstLease {
			return true
		}
		alive, known := live[owner]
		if !known {
			alive = b.sessions.Live(owner)
			live[owner] = alive
		}
		return !alive
	}
	for _, s := range b.inflight.Subs() {
		b.releaseHeld(s, s.BeginRelease(gone), ReleaseDelay)
	}
}

// Disconnected is told when the command stream of a client breaks: see LostConnection.
func (b *Broker) Disconnected(clientID string) {
	if c, ok := b.sessions.Get(clientID); ok {
		b.LostConnection(clientID, c.Group, 0)
	}
}

// LostConnection is told when a connection ends by which a client received for its group,
// and for how long nothing had come from it. What was handed out since, and just before,
// may not have arrived: unless it is settled within the time of an ordinary lease, it
// comes again. What the client has had for longer it holds as before.
func (b *Broker) LostConnection(clientID string, group record.Resource, silent time.Duration) {
	if b.ending() {
		return // what was handed out in this term ends soon after it
	}
	recent := b.now() + (MaxHold - recentLease - silent).Milliseconds()
	b.releaseOf(clientID, group, defaultInvisible, func(h inflight.Held) bool { return h.Deadline > recent })
}

// recentLease is how old a lease may be whose answer may still be under way.
const recentLease = 15 * time.Second

// clientGone frees what a client held that has said goodbye or gone silent.
func (b *Broker) clientGone(c session.Client) {
	b.liteSubs.Drop(c.ID)
	b.releaseOf(c.ID, c.Group, ReleaseDelay, func(inflight.Held) bool { return true })
}

// releaseOf ends, after delay, those auto-renewed leases of a client that
// satisfy which.
func (b *Broker) releaseOf(clientID string, group record.Resource, delay time.Duration, which func(inflight.Held) bool) {
	g, ok := b.groups.Lookup(group)
	if !ok {
		return
	}
	for _, s := range b.inflight.Subs() {
		if s.Key().Group == g.ID {
			b.releaseHeld(s, s.BeginRelease(func(owner string, h inflight.Held) bool { return owner == clientID && which(h) }), delay)
		}
	}
}

// retain drops what the log's retention no longer keeps, but nothing that a
// restart would replay.
func (b *Broker) retain(now time.Time) {
	floor := record.Position(b.checkpt.replayFrom.Load())
	limit, last, ok := b.wal.Expired(now, floor)
	if !ok || limit <= record.Position(b.logBegins.Load()) {
		return
	}
	select {
	case b.deadOp <- struct{}{}: // or a payload could go while a redrive names it
		defer func() { <-b.deadOp }()
	case <-b.ctx.Done():
		return
	}
	copied, err := b.copyForward(limit, last)
	if err != nil && b.ending() {
		return
	}
	if err != nil {
		b.log.Error("retention waits: what is still referred to was not copied forward", "error", err)
		return
	}
	if copied > int64(limit-b.wal.First())/2 {
		// Most of what would go is still needed: going on at once would only turn
		// the disk over.
		b.retainAfter = now.Add(copyPause)
	}
	if copied > 0 {
		b.log.Info("retention copied forward what is still referred to", "bytes", copied, "below", limit)
	}
	if b.opts.Log != nil {
		if err := b.commit(record1(appendLogBegin(nil, limit))); err != nil {
			b.log.Warn("retention waits", "error", err)
			return
		}
		b.dropAgreed()
		return
	}
	n, err := b.wal.Retain(now, limit)
	b.dropped(n, err)
}
