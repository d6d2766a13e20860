package scheduler

import (
	"errors"
	"slices"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// readBatch is how many entries are read at a time: a page.
const readBatch = 128

// Why a timer cannot be reserved.
var (
	ErrFired     = errors.New("scheduler: it has fired")
	ErrCancelled = errors.New("scheduler: it was cancelled or moved to another time")
	ErrTaken     = errors.New("scheduler: it is being fired, cancelled or moved")
	ErrUnknown   = errors.New("scheduler: there is no such timer")
)

// Reserve keeps a pending timer, named by its due time and the position at which
// its message was first stored, from being fired or reserved again, until a
// record about it is applied or Release is called. origin says of a timer whose
// payload is a copy where it was first.
func (s *Scheduler) Reserve(due int64, pos record.Position, origin func(Timer) (record.Position, error)) (Timer, error) {
	minute := minuteOf(due)
	s.mu.Lock()
	b := s.buckets[minute]
	if b == nil {
		s.mu.Unlock()
		return Timer{}, ErrUnknown
	}
	mixed, copied := b.mixed, b.copied
	s.mu.Unlock()
	var e [readBatch]consumequeue.Entry
	off, found, err := s.locate(minute, b, mixed, &Timer{Due: due, Position: pos, offset: -1}, e[:])
	if err != nil {
		return Timer{}, err
	}
	if found {
		t, err := s.reserveAt(minute, b, off)
		if err == nil || !errors.Is(err, ErrCancelled) || !copied {
			return t, err
		}
	}
	if copied {
		var match *Timer
		if err2 := s.scan(minute, -1, func(t Timer) bool {
			if !t.Copied || t.Due != due {
				return true
			}
			first, err := origin(t)
			if err == nil && first == pos {
				match = &t
			}
			return match == nil
		}); err2 != nil {
			return Timer{}, err2
		}
		if match != nil {
			return s.reserveAt(minute, b, match.offset)
		}
	}
	if found {
		return Timer{}, ErrCancelled
	}
	return Timer{}, ErrUnknown
}

// reserveAt reserves what is at off of its bucket.
func (s *Scheduler) reserveAt(minute uint32, b *bucket, off record.QueueOffset) (Timer, error) {
	s.mu.Lock()
	switch {
	case b.cancelled.has(off):
		s.mu.Unlock()
		return Timer{}, ErrCancelled
	case b.settled.has(off):
		s.mu.Unlock()
		return Timer{}, ErrFired
	case s.buckets[minute] != b || !b.take(off):
		s.mu.Unlock()
		return Timer{}, ErrTaken
	}
	s.mu.Unlock()
	var e [1]consumequeue.Entry
	if _, err := s.index.Read(bucketKey(minute), off, e[:]); err != nil {
		s.giveBack(minute, off)
		return Timer{}, err
	}
	return timerOf(minute, off, &e[0]), nil
}

// ReserveAgain is Reserve for a timer that Pending or Below gave.
func (s *Scheduler) ReserveAgain(t Timer) (Timer, error) {
	minute := minuteOf(t.Due)
	s.mu.Lock()
	b := s.buckets[minute]
	s.mu.Unlock()
	if b == nil {
		return Timer{}, ErrUnknown
	}
	return s.reserveAt(minute, b, t.offset)
}

// Release ends a reservation of which nothing came.
func (s *Scheduler) Release(t Timer) { s.giveBack(minuteOf(t.Due), t.offset) }

// giveBack makes Run read the bucket again: its wheel has lost the timer.
func (s *Scheduler) giveBack(minute uint32, off record.QueueOffset) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.buckets[minute]; b != nil && b.taken.has(off) && !b.settled.has(off) {
		b.giveBack(off)
		s.unload(b)
	}
}

// Pending calls f for the timers due in [from, to), Unix ms, by minute, until f
// returns false. Within a minute they come in the order they were made.
func (s *Scheduler) Pending(from, to int64, f func(Timer) bool) error {
	more := true
	for _, minute := range s.list() {
		if int64(minute+1)*minuteMs <= from {
			continue
		}
		if !more || int64(minute)*minuteMs >= to {
			break
		}
		err := s.scan(minute, -1, func(t Timer) bool {
			if t.Due >= from && t.Due < to {
				more = f(t)
			}
			return more
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Below calls f for the pending timers whose payload is below pos, until f
// returns false.
func (s *Scheduler) Below(pos record.Position, f func(Timer) bool) error {
	more := true
	for _, minute := range s.list() {
		if !more {
			break
		}
		err := s.scan(minute, int64(pos), func(t Timer) bool {
			if t.Position < pos {
				more = f(t)
			}
			return more
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// list returns the minutes in which something is pending.
func (s *Scheduler) list() []uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.minutes), func(m uint32) bool { return s.buckets[m].pending == 0 })
}

// scan calls f for the pending timers of a minute, until f returns false or,
// where positions ascend, one is at until or beyond; -1 is no end.
func (s *Scheduler) scan(minute uint32, until int64, f func(Timer) bool) error {
	var e [readBatch]consumequeue.Entry
	at := record.QueueOffset(0)
	for {
		s.mu.Lock()
		b := s.buckets[minute]
		if b == nil {
			s.mu.Unlock()
			return nil
		}
		at = b.settled.nextClear(at)
		end, mixed := b.end, b.mixed
		var live [readBatch]bool
		for i := range live {
			live[i] = !b.settled.has(at + record.QueueOffset(i))
		}
		s.mu.Unlock()
		if at >= end {
			return nil
		}
		n, err := s.read(minute, &at, e[:])
		if err != nil {
			return err
		}
		for i := range n {
			if !live[i] {
				continue
			}
			if until >= 0 && !mixed && e[i].Position >= record.Position(until) {
				return nil
			}
			if !f(timerOf(minute, at+record.QueueOffset(i), &e[i])) {
				return nil
			}
		}
		if n == 0 {
			return nil
		}
		at += record.QueueOffset(n)
	}
}

// read reads entries of a minute from at on, or from the first there is if
// retention has dropped that one; then nothing, and at is where to go on.
func (s *Scheduler) read(minute uint32, at *record.QueueOffset, dst []consumequeue.Entry) (int, error) {
	n, err := s.index.Read(bucketKey(minute), *at, dst)
	var gone *consumequeue.RangeError
	if errors.As(err, &gone) && *at < gone.Min {
		*at = gone.Min
		return s.index.Read(bucketKey(minute), *at, dst)
	}
	return n, err
}

// is reports whether an entry of its bucket is the timer's.
func (t *Timer) is(e *consumequeue.Entry) bool {
	return e.Position == t.Position && msOf(e) == int(t.Due%minuteMs)
}

// locate finds a timer in its bucket by position: at once with a good hint,
// else by halving, or where positions do not ascend by looking at all. Of
// several that were moved to and fro it finds the one that is not settled.
func (s *Scheduler) locate(minute uint32, b *bucket, mixed bool, t *Timer, e []consumequeue.Entry) (off record.QueueOffset, found bool, err error) {
	for {
		off, found, err = s.search(minute, b, mixed, t, e)
		if !errors.Is(err, consumequeue.ErrOutOfRange) { // else retention moved its beginning meanwhile
			return off, found, err
		}
	}
}

func (s *Scheduler) search(minute uint32, b *bucket, mixed bool, t *Timer, e []consumequeue.Entry) (off record.QueueOffset, found bool, err error) {
	key := bucketKey(minute)
	begin, end, _ := s.index.Bounds(key)
	if off = t.offset; begin <= off && off < end {
		if _, err := s.index.ReadHot(key, off, e[:1]); err != nil {
			return 0, false, err
		}
		if t.is(&e[0]) && (!mixed || !s.isSettled(b, off)) {
			return off, true, nil
		}
	}
	if !mixed {
		for lo, hi := begin, end; lo < hi; {
			mid := lo + (hi-lo)/2
			if _, err := s.index.Read(key, mid, e[:1]); err != nil {
				return 0, false, err
			}
			switch {
			case e[0].Position == t.Position:
				return mid, t.is(&e[0]), nil
			case e[0].Position < t.Position:
				lo = mid + 1
			default:
				hi = mid
			}
		}
		return 0, false, nil
	}
	for at := begin; at < end; {
		n, err := s.index.Read(key, at, e)
		if err != nil {
			return 0, false, err
		}
		for i := range e[:n] {
			if t.is(&e[i]) {
				off, found = at+record.QueueOffset(i), true
				if !s.isSettled(b, off) {
					return off, true, nil
				}
			}
		}
		at += record.QueueOffset(n)
	}
	return off, found, nil
}

func (s *Scheduler) isSettled(b *bucket, off record.QueueOffset) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return b.settled.has(off)
}
