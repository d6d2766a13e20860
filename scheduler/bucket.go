package scheduler

import (
	"math/bits"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// bucket is what is known of the timers of one minute besides their entries.
// Scheduler.mu guards it.
type bucket struct {
	// The state.
	end       record.QueueOffset // its queue has had the entries [0, end)
	last      record.Position    // in the newest entry
	mixed     bool               // positions in its entries do not ascend
	copied    bool               // some entry names a copy
	settled   bitset             // fired, cancelled or moved
	cancelled bitset             // the part of settled that did not fire
	pending   int64              // entries that are not settled

	// The leader's memory.
	taken bitset // reserved, by Run or by Reserve
	busy  int64  // taken and not settled yet
	wheel *wheel // its timers in order of time, once Run has read them
}

// idle reports whether nobody would miss the bucket's timers: all are settled or
// about to be.
func (b *bucket) idle() bool { return b.pending == b.busy }

// take reserves an entry.
func (b *bucket) take(off record.QueueOffset) bool {
	if off >= b.end || b.settled.has(off) || b.taken.has(off) {
		return false
	}
	b.taken.set(off)
	b.busy++
	return true
}

// giveBack ends a reservation without a decision.
func (b *bucket) giveBack(off record.QueueOffset) {
	b.taken.unset(off)
	b.busy--
}

// settle makes a decision part of the state. It reports false for a second one.
func (b *bucket) settle(off record.QueueOffset) bool {
	if b.settled.has(off) {
		return false
	}
	b.settled.set(off)
	b.pending--
	if b.taken.has(off) {
		b.busy--
	}
	return true
}

// bitset holds a bit for each entry of a bucket. It is as long as its highest
// bit needs, so that equal sets are equal slices.
type bitset []uint64

func (b bitset) has(off record.QueueOffset) bool {
	w := int(off >> 6)
	return w < len(b) && b[w]&(1<<(off&63)) != 0
}

func (b *bitset) set(off record.QueueOffset) {
	w := int(off >> 6)
	if w >= len(*b) {
		*b = append(*b, make(bitset, w+1-len(*b))...)
	}
	(*b)[w] |= 1 << (off & 63)
}

func (b bitset) unset(off record.QueueOffset) { b[off>>6] &^= 1 << (off & 63) }

func (b bitset) count() (n int64) {
	for _, w := range b {
		n += int64(bits.OnesCount64(w))
	}
	return n
}

// nextClear returns the first offset from off on that is not in b.
func (b bitset) nextClear(off record.QueueOffset) record.QueueOffset {
	for w := int(off >> 6); w < len(b); w++ {
		if free := ^b[w] >> (off & 63); free != 0 {
			return off + record.QueueOffset(bits.TrailingZeros64(free))
		}
		off = record.QueueOffset(w+1) << 6
	}
	return off
}
