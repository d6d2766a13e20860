package inflight

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// SubKey names one group's consumption of one topic.
type SubKey struct {
	Group record.GroupID
	Topic record.TopicID
}

func compareKeys(a, b SubKey) int {
	return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Topic, b.Topic))
}

// Tracker holds all Subs.
type Tracker struct {
	mu    sync.RWMutex
	subs  map[SubKey]*Sub
	timer *timer
	// exists says whether a queue is still there: a lease record that was under
	// way when its queue was dropped changes nothing.
	exists func(record.QueueKey) bool
	freed  func(key SubKey, liteQueue uint32)

	nextLease atomic.Uint64
}

// New returns an empty tracker. wake is called, without any lock of the
// tracker held, when a message of the Sub may have become ready to be handed
// out again, with the lite queues of which that is so; it must not block. exists says whether a queue of an existing topic
// is there; it is asked by Apply. freed is called by the apply functions, without
// a lock, when the next message of a lite queue is up.
func New(wake func(key SubKey, lites []uint32), exists func(record.QueueKey) bool, freed func(key SubKey, liteQueue uint32)) *Tracker {
	t := &Tracker{subs: map[SubKey]*Sub{}, exists: exists, freed: freed}
	t.timer = newTimer(func(key SubKey, now int64) {
		if s := t.Find(key); s != nil {
			wake(key, s.Fired(now))
		}
	})
	return t
}

// Run wakes Subs when leases end by the clock now, in Unix ms, until ctx is done.
func (t *Tracker) Run(ctx context.Context, now func() int64) error { return t.timer.run(ctx, now) }

// Sub returns the group's consumption of the topic, making an empty one if
// there is none. fifo is fixed at its making.
func (t *Tracker) Sub(key SubKey, fifo bool) *Sub {
	if s := t.Find(key); s != nil {
		return s
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.subs[key]
	if s == nil {
		s = newSub(t, key, fifo)
		t.subs[key] = s
	}
	return s
}

// Find returns the group's consumption of the topic, or nil.
func (t *Tracker) Find(key SubKey) *Sub {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.subs[key]
}

// Subs returns all Subs, ordered by group and topic.
func (t *Tracker) Subs() []*Sub {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make([]*Sub, 0, len(t.subs))
	for _, s := range t.subs {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b *Sub) int { return compareKeys(a.key, b.key) })
	return out
}

// Leased counts the messages that a group holds by leases in the state, of all topics,
// until there are limit.
func (t *Tracker) Leased(group record.GroupID, now int64, limit int) (n int) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for k, s := range t.subs {
		if k.Group == group && n < limit {
			n += s.leased(now, limit-n)
		}
	}
	return n
}

func (s *Sub) leased(now int64, limit int) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range s.queues {
		for l := range q.out.leases() {
			if l.deadline > now && !l.ghost {
				if n++; n == limit {
					return n
				}
			}
		}
	}
	return n
}

// DropTopic forgets all consumption of a deleted topic.
func (t *Tracker) DropTopic(id record.TopicID) {
	t.dropIf(func(k SubKey) bool { return k.Topic == id })
}

// DropGroup forgets all consumption by a deleted group.
func (t *Tracker) DropGroup(id record.GroupID) {
	t.dropIf(func(k SubKey) bool { return k.Group == id })
}

func (t *Tracker) dropIf(gone func(SubKey) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range t.subs {
		if gone(k) {
			delete(t.subs, k)
			t.timer.set(k, never)
		}
	}
}

// LeaseIDs reserves n consecutive lease ids and returns the first. now (Unix
// ms) seeds them, so that ids grow over restarts even when no lease survived.
func (t *Tracker) LeaseIDs(n int, now int64) uint64 {
	seed := uint64(now) << 20
	for {
		cur := t.nextLease.Load()
		first := max(cur, seed)
		if t.nextLease.CompareAndSwap(cur, first+uint64(n)) {
			return first
		}
	}
}

// leasedAt is when a lease got its id, Unix ms: the time is in the id, and right
// unless ids were given out faster than a million a millisecond.
func leasedAt(id uint64) int64 { return int64(id >> 20) }

// sawLease keeps future ids above one that is in the state.
func (t *Tracker) sawLease(id uint64) {
	for {
		cur := t.nextLease.Load()
		if id < cur || t.nextLease.CompareAndSwap(cur, id+1) {
			return
		}
	}
}
