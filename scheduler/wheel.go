package scheduler

import "github.com/gantry-mq/gantry/commitlog/record"

// wheel holds those timers of a bucket that are due in one window, by the
// millisecond, and what was due before and was missed, by the second. Adding and
// taking out cost the same whatever the number. Scheduler.mu guards it.
type wheel struct {
	number uint32 // of the bucket
	bucket *bucket
	start  int64 // Unix ms: the window is [start, start+windowMs)
	missed bool  // start was past when the wheel was made: seconds before it are too

	// While the bucket is read, places in [read, stop) are still to come.
	read, stop record.QueueOffset

	slots  [bucketSeconds + windowMs]slot
	chunks []chunk
	free   uint32 // list of chunks, by number + 1
	first  int    // no slot before it has a timer
	count  int
}

const bucketSeconds = 1 << (bucketBits - secondBits)

// slot is a list of chunks, by number + 1.
type slot struct{ head, tail uint32 }

// chunk is 128 bytes: a long list is read at memory's speed, not its latency.
type chunk struct {
	next  uint32
	n     uint16 // timers that were put in
	out   uint16 // of these, taken out again
	items [10]dueTimer
}

type dueTimer struct {
	at    uint32 // place in the bucket
	topic record.TopicID
	queue uint32
}

// reset makes a used wheel an empty one.
func (w *wheel) reset(number uint32, b *bucket, start int64, missed bool) {
	clear(w.slots[:])
	w.number, w.bucket, w.start, w.missed = number, b, start, missed
	w.read, w.stop = b.settled.nextClear(0), b.end
	w.free, w.first, w.count = 0, len(w.slots), 0
	if w.chunks = w.chunks[:0]; cap(w.chunks) > 1<<16 {
		w.chunks = nil
	}
}

func (w *wheel) end() int64 { return w.start + windowMs }

// holds reports whether the wheel is where a timer belongs that is due before end.
func (w *wheel) holds(due int64) bool { return due >= w.start || w.missed }

func (w *wheel) slotOf(due int64) int {
	if due >= w.start {
		return bucketSeconds + int(due-w.start)
	}
	return int((due - startOf(w.number)) >> secondBits)
}

// timeOf returns when a slot is due.
func (w *wheel) timeOf(slot int) int64 {
	if slot >= bucketSeconds {
		return w.start + int64(slot-bucketSeconds)
	}
	return startOf(w.number) + int64(slot)<<secondBits
}

// add takes in a timer that it holds and does not have.
func (w *wheel) add(due int64, at record.QueueOffset, to record.QueueKey) {
	i := w.slotOf(due)
	s := &w.slots[i]
	if s.tail == 0 || int(w.chunks[s.tail-1].n) == len(w.chunks[0].items) {
		c := w.chunk()
		if s.tail == 0 {
			s.head = c
		} else {
			w.chunks[s.tail-1].next = c
		}
		s.tail = c
	}
	c := &w.chunks[s.tail-1]
	c.items[c.n] = dueTimer{uint32(at), to.Topic(), to.Queue()}
	c.n++
	w.first = min(w.first, i)
	w.count++
}

// chunk returns an empty one.
func (w *wheel) chunk() uint32 {
	if i := w.free; i != 0 {
		c := &w.chunks[i-1]
		w.free = c.next
		c.next, c.n, c.out = 0, 0, 0
		return i
	}
	w.chunks = append(w.chunks, chunk{})
	return uint32(len(w.chunks))
}

// due returns when its first timer is due.
func (w *wheel) due() (unixMs int64, ok bool) {
	if w.count == 0 {
		return 0, false
	}
	for w.slots[w.first].head == 0 {
		w.first++
	}
	return w.timeOf(w.first), true
}

// pop takes out a timer of the first slot, which due has found.
func (w *wheel) pop() dueTimer {
	s := &w.slots[w.first]
	i := s.head
	c := &w.chunks[i-1]
	t := c.items[c.out]
	c.out++
	if c.out == c.n {
		if s.head = c.next; s.head == 0 {
			s.tail = 0
		}
		c.next, w.free = w.free, i
	}
	w.count--
	return t
}

// second returns the second of the bucket that the timers of the first slot are
// due in.
func (w *wheel) second() uint16 {
	return uint16((w.timeOf(w.first) - startOf(w.number)) >> secondBits)
}
