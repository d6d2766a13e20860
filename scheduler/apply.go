package scheduler

import (
	"fmt"
	"slices"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// ApplyAdd takes in the delayed message whose verified record is at pos.
func (s *Scheduler) ApplyAdd(pos record.Position, rec []byte) error {
	t, err := ParseDelayed(pos, rec)
	if err != nil {
		return err
	}
	if err := s.index.Put(t.Key(), t.Place, t.Entry()); err != nil {
		return err
	}
	s.add(&t)
	return nil
}

// add makes a timer part of the state. Its entry is in the index.
func (s *Scheduler) add(t *Timer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.give(bucketOf(t.Due), t.Place)
	if t.Moved {
		b.mixed = true
		s.moves++
	}
	b.pending++
	s.pending++
	b.count(t.To.Topic(), 1)
	s.plan(bucketOf(t.Due), b, t.Due, t.Place, t.To)
}

// give gives a place, the next one of its bucket. Caller holds mu.
func (s *Scheduler) give(n uint32, at record.QueueOffset) *bucket {
	b := s.buckets[n]
	if b == nil {
		b = &bucket{begin: at, next: startOf(n), byTopic: map[record.TopicID]int64{}}
		b.settled.below(at)
		s.insert(n, b)
	}
	b.end = at + 1
	return b
}

// plan sees to it that Run fires a timer that is neither settled nor taken.
// Caller holds mu.
func (s *Scheduler) plan(n uint32, b *bucket, due int64, at record.QueueOffset, to record.QueueKey) {
	wake := b.next - lead
	if due < b.next && b.wheels > 0 {
		i := slices.IndexFunc(s.wheels, func(w *wheel) bool { return w.bucket == b && due < w.end() })
		switch w := s.wheels[max(i, 0)]; {
		case i < 0 || !w.holds(due):
			s.forget(b) // the wheel it belongs to is done with: read all again
			wake = b.next - lead
		case w.read <= at && at < w.stop:
			return // is still to be read
		default:
			w.add(due, at, to)
			wake = due
		}
	}
	if wake < s.wakeAt {
		s.wakeAt = 0
		select {
		case s.kick <- struct{}{}:
		default:
		}
	}
}

// Entries reads the entries that the messages of a timer-fired record have in
// their queue, into dst, which is long enough.
func (f *Fired) Entries(index Index, dst []consumequeue.Entry) error {
	if err := index.ReadEach(bucketKey(f.Bucket), f.Places, dst); err != nil {
		return err
	}
	for i := range f.Places {
		e := &dst[i]
		if to := toOf(e); to != f.To && e.Position != 0 { // 0: made by a rebuild, the record is gone
			return fmt.Errorf("scheduler: place %d of bucket %d is for queue %v, not %v", f.Places[i], f.Bucket, to, f.To)
		}
		e.Flags = e.Flags&consumequeue.FlagCopied | consumequeue.FlagMoved
		e.StoreTime = f.Stored
	}
	return nil
}

// ApplyFired settles timers whose messages were put into their queue. now is the
// record's time.
func (s *Scheduler) ApplyFired(f *Fired, now int64) {
	s.settle(f.Bucket, f.Places, f.To.Topic(), now, false)
}

// ApplyCancel applies a verified timer-cancel record.
func (s *Scheduler) ApplyCancel(rec []byte, now int64) error {
	c, err := ParseCancel(rec)
	if err != nil {
		return err
	}
	t, err := s.timerAt(c.Bucket, c.Place)
	s.settle(c.Bucket, []record.QueueOffset{c.Place}, t.To.Topic(), now, true)
	if err != nil || t.Position == 0 { // a rebuild did not find its record: whose it was is not known
		s.uncount(c.Bucket)
	}
	return nil
}

// ApplyMove applies a verified timer-move record.
func (s *Scheduler) ApplyMove(rec []byte, now int64) error {
	c, err := ParseMove(rec)
	if err != nil {
		return err
	}
	t, err := c.Moved(s.index)
	if err != nil {
		return err
	}
	if err := s.index.Put(t.Key(), t.Place, t.Entry()); err != nil {
		return err
	}
	// In this order: in a bucket that is past, the one that moves may be the last that
	// is pending, and without it the bucket and the entry just put would go.
	s.add(&t)
	s.settle(c.Bucket, []record.QueueOffset{c.Place}, t.To.Topic(), now, true)
	return nil
}

// Moved returns the timer that takes the place of another.
func (c *Change) Moved(index Index) (Timer, error) {
	var e [1]consumequeue.Entry
	if err := index.ReadEach(bucketKey(c.Bucket), []record.QueueOffset{c.Place}, e[:]); err != nil {
		return Timer{}, err
	}
	t := timerOf(c.Bucket, c.Place, &e[0])
	t.Due, t.Place, t.Moved = c.Due, c.NewPlace, true
	return t, nil
}

// settle makes decisions about timers of a topic part of the state. Who took a decision had reserved the
// timer, so there is one of each; a second would change nothing.
func (s *Scheduler) settle(n uint32, places []record.QueueOffset, of record.TopicID, now int64, cancelled bool) {
	s.mu.Lock()
	b := s.buckets[n]
	if b == nil {
		s.mu.Unlock()
		return
	}
	before := b.pending
	for _, at := range places {
		if b.settle(at) && cancelled {
			b.cancelled.set(at)
		}
	}
	s.pending += b.pending - before
	b.count(of, b.pending-before)
	gone := b.pending == 0 && startOf(n+1) <= now
	if gone {
		s.remove(n, b)
	}
	s.mu.Unlock()
	if gone {
		s.index.Delete(bucketKey(n))
	}
}

// Advance lets go of buckets that are past at now, the time of the record that
// is applied next, and in which nothing is pending.
func (s *Scheduler) Advance(now int64) {
	if now < s.sweepAt {
		return
	}
	s.sweepAt = startOf(bucketOf(now) + 1)
	for _, n := range s.sweep(now) {
		s.index.Delete(bucketKey(n))
	}
}

func (s *Scheduler) sweep(now int64) (gone []uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	past, _ := slices.BinarySearch(s.order, bucketOf(now))
	for _, n := range s.order[:past] {
		if s.buckets[n].pending == 0 {
			gone = append(gone, n)
		}
	}
	for _, n := range gone {
		s.remove(n, s.buckets[n])
	}
	return gone
}

// remove forgets a bucket, but for its queue in the index. Caller holds mu.
func (s *Scheduler) remove(n uint32, b *bucket) {
	s.forget(b)
	s.gone = gone{max(s.gone.newest, n), max(s.gone.end, b.end)}
	delete(s.buckets, n)
	i, _ := slices.BinarySearch(s.order, n)
	s.order = slices.Delete(s.order, i, i+1)
}
