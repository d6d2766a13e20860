package scheduler

import "github.com/gantry-mq/gantry/commitlog/record"

// wheel holds the timers of one minute by the millisecond they are due in: a
// list for each, linked by offset, so that adding and taking out cost the same
// whatever the number. Offsets count from base and are stored plus one: 0 is no
// offset. Scheduler.mu guards it.
type wheel struct {
	minute uint32
	bucket *bucket
	base   record.QueueOffset
	next   []uint32 // of the timer at base+i, the one after it in its list
	slots  [minuteMs]slot
	first  int // no slot before it has a timer
	count  int
}

type slot struct{ head, tail uint32 }

// reset makes a used wheel an empty one. Its links are kept for their memory.
func (w *wheel) reset(minute uint32, b *bucket, base record.QueueOffset) {
	clear(w.slots[:])
	w.minute, w.bucket, w.base, w.next, w.first, w.count = minute, b, base, w.next[:0], minuteMs, 0
	if cap(w.next) > 1<<20 {
		w.next = nil
	}
}

// add takes in the timer at off, which it must not have.
func (w *wheel) add(ms int, off record.QueueOffset) {
	i := uint32(off - w.base)
	for uint32(len(w.next)) <= i {
		w.next = append(w.next, 0)
	}
	w.next[i] = 0
	if s := &w.slots[ms]; s.head == 0 {
		s.head, s.tail = i+1, i+1
	} else {
		w.next[s.tail-1] = i + 1
		s.tail = i + 1
	}
	w.first = min(w.first, ms)
	w.count++
}

// due returns when its first timer is due.
func (w *wheel) due() (unixMs int64, ok bool) {
	if w.count == 0 {
		return 0, false
	}
	for w.slots[w.first].head == 0 {
		w.first++
	}
	return w.start() + int64(w.first), true
}

// pop takes out a timer of the first slot, which due has found.
func (w *wheel) pop() record.QueueOffset {
	s := &w.slots[w.first]
	i := s.head - 1
	s.head = w.next[i]
	w.count--
	return w.base + record.QueueOffset(i)
}

func (w *wheel) start() int64 { return int64(w.minute) * minuteMs }
func (w *wheel) end() int64   { return w.start() + minuteMs }
