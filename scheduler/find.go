package scheduler

import (
	"cmp"
	"errors"
	"slices"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// readBatch is how many entries are read at a time.
const readBatch = 1024

// Why a timer cannot be reserved.
var (
	ErrFired     = errors.New("scheduler: it has fired")
	ErrCancelled = errors.New("scheduler: it was cancelled or moved to another time")
	ErrTaken     = errors.New("scheduler: it is being fired, cancelled or moved")
	ErrUnknown   = errors.New("scheduler: there is no such timer")
)

// Reserve keeps a pending timer, named by its due time and its place, from being
// fired or reserved again, until a record about it is applied or Release is
// called.
func (s *Scheduler) Reserve(due int64, at record.QueueOffset) (Timer, error) {
	n := bucketOf(due)
	if err := s.take(n, at); err != nil {
		return Timer{}, err
	}
	t, err := s.timerAt(n, at)
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if b := s.buckets[n]; b != nil && b.giveBack(at) {
			s.forget(b) // Run finds it again, and the same error
		}
		return Timer{}, err
	}
	if t.Due != due {
		s.Release(t)
		return Timer{}, ErrUnknown
	}
	return t, nil
}

// Lookup is Reserve without keeping the timer from anything.
func (s *Scheduler) Lookup(due int64, at record.QueueOffset) (Timer, error) {
	n := bucketOf(due)
	s.mu.Lock()
	err := s.status(n, at)
	s.mu.Unlock()
	if err != nil {
		return Timer{}, err
	}
	t, err := s.timerAt(n, at)
	if err != nil { // unless it was settled meanwhile
		s.mu.Lock()
		defer s.mu.Unlock()
		return Timer{}, cmp.Or(s.status(n, at), err)
	}
	if t.Due != due {
		return Timer{}, ErrUnknown
	}
	return t, nil
}

func (s *Scheduler) timerAt(n uint32, at record.QueueOffset) (Timer, error) {
	var e [1]consumequeue.Entry
	if err := s.index.ReadEach(bucketKey(n), []record.QueueOffset{at}, e[:]); err != nil {
		return Timer{}, err
	}
	return timerOf(n, at, &e[0]), nil
}

func (s *Scheduler) take(n uint32, at record.QueueOffset) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.status(n, at)
	if err == nil && !s.buckets[n].take(at) {
		return ErrTaken
	}
	return err
}

// status tells what was decided about a timer, nil while it is pending. Caller
// holds mu.
func (s *Scheduler) status(n uint32, at record.QueueOffset) error {
	b := s.buckets[n]
	switch {
	case b == nil || at < b.begin || at >= b.end:
		return ErrUnknown
	case b.cancelled.has(at):
		return ErrCancelled
	case b.settled.has(at):
		return ErrFired
	}
	return nil
}

// Release ends a reservation of which nothing came.
func (s *Scheduler) Release(t Timer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := bucketOf(t.Due)
	if b := s.buckets[n]; b != nil && b.giveBack(t.Place) {
		s.plan(n, b, t.Due, t.Place, t.To)
	}
}

// Each calls f for the pending timers due in [from, to), Unix ms, by bucket, until
// f returns false. Within a bucket they come in the order they were made.
func (s *Scheduler) Each(from, to int64, f func(Timer) bool) error {
	more := true
	var mem scanMemory
	for _, n := range s.list() {
		if startOf(n+1) <= from {
			continue
		}
		if !more || startOf(n) >= to {
			break
		}
		err := s.scan(n, &mem, func(t Timer) bool {
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
// returns false. None is passed over, though it be moved meanwhile from a bucket
// that is still to be looked at into one that was: then f may be called for some
// again.
func (s *Scheduler) Below(pos record.Position, f func(Timer) bool) error {
	more := true
	var mem scanMemory
	for moves := -1; more && moves != s.countMoves(); {
		moves = s.countMoves()
		for _, n := range s.list() {
			if !more {
				break
			}
			err := s.scan(n, &mem, func(t Timer) bool {
				if t.Position < pos {
					more = f(t)
					return more
				}
				// Positions ascend, but for those that were copied forward and, in a mixed
				// bucket, those that were moved.
				return t.Copied || s.isMixed(n)
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Scheduler) countMoves() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.moves
}

func (s *Scheduler) isMixed(n uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.buckets[n]
	return b != nil && b.mixed
}

// list returns the buckets in which something is pending.
func (s *Scheduler) list() []uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.order), func(n uint32) bool { return s.buckets[n].pending == 0 })
}

type scanMemory struct {
	entries [readBatch]consumequeue.Entry
	live    [readBatch]bool
}

// scan calls f for the pending timers of a bucket until f returns false.
func (s *Scheduler) scan(n uint32, mem *scanMemory, f func(Timer) bool) error {
	e, live := mem.entries[:], mem.live[:]
	for at := record.QueueOffset(0); ; {
		s.mu.Lock()
		b := s.buckets[n]
		if b == nil {
			s.mu.Unlock()
			return nil
		}
		at = b.settled.nextClear(at)
		end := b.end
		for i := range live {
			live[i] = !b.settled.has(at + record.QueueOffset(i))
		}
		s.mu.Unlock()
		if at >= end {
			return nil
		}
		got, err := s.read(n, b, at, e[:min(readBatch, int64(end-at))])
		if err != nil {
			return err
		}
		for i := range got {
			if live[i] && !f(timerOf(n, at+record.QueueOffset(i), &e[i])) {
				return nil
			}
		}
		at += record.QueueOffset(got)
	}
}

// read reads entries of a bucket from at on, where one is pending. What is
// pending is never dropped; if it has been settled meanwhile and is gone, as the
// bucket may be too, there is nothing, and the caller looks again.
func (s *Scheduler) read(n uint32, b *bucket, at record.QueueOffset, dst []consumequeue.Entry) (int, error) {
	got, err := s.index.Read(bucketKey(n), at, dst)
	if err == nil && got > 0 {
		return got, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.buckets[n] != b || b.settled.has(at) {
		return 0, nil
	}
	if err == nil {
		err = &consumequeue.RangeError{Key: bucketKey(n), Offset: at}
	}
	return 0, err
}
