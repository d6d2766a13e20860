package scheduler

import (
	"math/bits"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// bucket is what is known of the timers of 17 minutes besides their entries.
// Scheduler.mu guards it.
type bucket struct {
	// The state.
	begin     record.QueueOffset // its first place: not 0 when it was let go of before, and made anew
	end       record.QueueOffset // the places [begin, end) have been given
	mixed     bool               // some entries have older positions than those before them
	settled   settled            // fired, cancelled or moved; and what is before begin
	cancelled bitset             // the part of settled that did not fire
	pending   int64              // entries that are not settled

	// The leader's memory.
	taken bitset // reserved, by Run or by Reserve
	busy  int64  // taken and not settled yet
	// What is due before next, Unix ms, is in a wheel, or taken. With no wheel it is
	// the bucket's beginning.
	next   int64
	wheels int

	// pending by topic; nil when that is not known, and ByTopic reads the entries.
	byTopic map[record.TopicID]int64
}

// count notes that timers of a topic came, or were settled.
func (b *bucket) count(id record.TopicID, n int64) {
	if b.byTopic == nil || n == 0 {
		return
	}
	if b.byTopic[id] += n; b.byTopic[id] == 0 {
		delete(b.byTopic, id)
	}
}

// idle reports whether nobody would miss the bucket's timers: all are settled or
// about to be.
func (b *bucket) idle() bool { return b.pending == b.busy }

// take reserves an entry.
func (b *bucket) take(at record.QueueOffset) bool {
	if at >= b.end || b.settled.has(at) || b.taken.has(at) {
		return false
	}
	b.taken.set(at)
	b.busy++
	return true
}

// giveBack ends a reservation without a decision. It reports false for one that
// is not there any more.
func (b *bucket) giveBack(at record.QueueOffset) bool {
	if !b.taken.has(at) || b.settled.has(at) {
		return false
	}
	b.taken.unset(at)
	b.busy--
	return true
}

// settle makes a decision part of the state. It reports false for a second one.
func (b *bucket) settle(at record.QueueOffset) bool {
	if at >= b.end || b.settled.has(at) {
		return false
	}
	b.settled.set(at)
	b.pending--
	if b.taken.has(at) {
		b.busy--
	}
	return true
}

// settled is a set of places that fills up from below, mostly. Equal sets are
// equal values.
type settled struct {
	base record.QueueOffset // all places before are in it; a multiple of 64
	rest bitset             // from base on
}

func (s *settled) has(at record.QueueOffset) bool { return at < s.base || s.rest.has(at-s.base) }

func (s *settled) set(at record.QueueOffset) {
	s.rest.set(at - s.base)
	for len(s.rest) > 0 && s.rest[0] == 1<<64-1 {
		s.base, s.rest = s.base+64, s.rest[1:]
	}
}

// below makes an empty set that of all places before at.
func (s *settled) below(at record.QueueOffset) {
	s.base = at &^ 63
	if at > s.base {
		s.rest = bitset{1<<(at-s.base) - 1}
	}
}

func (s *settled) count() int64 { return int64(s.base) + s.rest.count() }

// nextClear returns the first place from at on that is not in s.
func (s *settled) nextClear(at record.QueueOffset) record.QueueOffset {
	return s.base + s.rest.nextClear(max(at-s.base, 0))
}

// bitset holds a bit for each place. It is as long as its highest bit needs, so
// that equal sets are equal slices.
type bitset []uint64

func (b bitset) has(at record.QueueOffset) bool {
	w := int(at >> 6)
	return w < len(b) && b[w]&(1<<(at&63)) != 0
}

func (b *bitset) set(at record.QueueOffset) {
	w := int(at >> 6)
	if w >= len(*b) {
		*b = append(*b, make(bitset, w+1-len(*b))...)
	}
	(*b)[w] |= 1 << (at & 63)
}

func (b bitset) unset(at record.QueueOffset) { b[at>>6] &^= 1 << (at & 63) }

func (b bitset) count() (n int64) {
	for _, w := range b {
		n += int64(bits.OnesCount64(w))
	}
	return n
}

// nextClear returns the first place from at on that is not in b.
func (b bitset) nextClear(at record.QueueOffset) record.QueueOffset {
	for w := int(at >> 6); w < len(b); w++ {
		if free := ^b[w] >> (at & 63); free != 0 {
			return at + record.QueueOffset(bits.TrailingZeros64(free))
		}
		at = record.QueueOffset(w+1) << 6
	}
	return at
}
