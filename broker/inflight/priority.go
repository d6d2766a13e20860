package inflight

import (
	"context"
	"slices"
)

// A topic's queues may be levels of priority, the higher number the more urgent.
// A receive then takes from the highest level that has something, and within a
// level what comes again before what is new.
//
// Strict order alone would let a flood of urgent messages hold back the others
// for ever. So of every so many messages handed out past levels that wait, one
// is from below: from the level that has gone without for longest. This counts
// messages and not time, so that the urgent ones lose a known share whatever the
// load, and a level waits for a known number of messages.

// Level is what a receive takes from one queue of a topic with priorities.
type Level struct {
	Queue uint32
	Again int // messages whose lease has ended
	Fresh int // messages never handed out; fewer when a filter passes over some
}

// levels is what a Sub remembers of its turns. It is this node's own.
type levels struct {
	passed int      // messages handed out past a level that waited, since one from below was
	served []uint64 // by queue: the turn it had last, 0 = none
	turn   uint64
}

// Alone lets one receive at a time look for messages, where order counts among
// queues: what one is looking at, others would pass over. Call leave when what
// was found has its place in the log.
func (s *Sub) Alone(ctx context.Context) (leave func(), err error) {
	select {
	case s.alone <- struct{}{}:
		return func() { <-s.alone }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// PlanLevels says from which of the first queues queues a receive takes up to n
// messages, the most urgent first. One of every share messages is from below
// while something waits there. limit bounds what may be outstanding in a queue.
// The caller is Alone.
func (s *Sub) PlanLevels(queues uint32, bounds Bounds, limit, n, share int, now int64) []Level {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sift(now)
	var waiting []Level
	for number := queues; number > 0; number-- {
		q := s.queue(number - 1)
		l := Level{Queue: q.number, Again: len(q.due)}
		if high, ok := s.unread(q, bounds, limit); ok {
			l.Fresh = int(high - q.claimed)
		}
		if l.Again+l.Fresh > 0 {
			waiting = append(waiting, l)
		}
	}
	for len(s.levels.served) < int(queues) {
		s.levels.served = append(s.levels.served, 0)
	}
	reached := take(waiting, n)
	below := waiting[len(reached):]
	if len(below) == 0 {
		s.levels.passed = 0
		s.levels.mark(reached...)
		return reached
	}
	s.levels.passed += n
	lent, turns := s.levels.lend(below, s.levels.passed/share)
	s.levels.passed %= share
	reached = take(waiting, n-turns)
	s.levels.mark(reached...)
	return append(reached, lent...)
}

// Due reports whether a lease has ended whose message nobody has taken since.
func (s *Sub) Due(now int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sift(now)
	for _, q := range s.queues {
		if len(q.due) > 0 {
			return true
		}
	}
	return false
}

// take returns the first n messages of levels.
func take(levels []Level, n int) (taken []Level) {
	for _, l := range levels {
		if n == 0 {
			break
		}
		l.Again = min(l.Again, n)
		l.Fresh = min(l.Fresh, n-l.Again)
		n -= l.Again + l.Fresh
		taken = append(taken, l)
	}
	return taken
}

// lend gives up to turns turns, of one message each, to the levels that went
// without for longest, and returns what they have and how many turns that is.
func (v *levels) lend(below []Level, turns int) (lent []Level, given int) {
	lent = make([]Level, len(below))
	for ; given < turns; given++ {
		next := -1
		for i, l := range below {
			more := l.Again+l.Fresh > lent[i].Again+lent[i].Fresh
			if more && (next < 0 || v.served[l.Queue] <= v.served[below[next].Queue]) {
				next = i
			}
		}
		if next < 0 {
			break
		}
		if lent[next].Again < below[next].Again {
			lent[next].Again++
		} else {
			lent[next].Fresh++
		}
		lent[next].Queue = below[next].Queue
		v.mark(below[next])
	}
	return slices.DeleteFunc(lent, func(l Level) bool { return l.Again+l.Fresh == 0 }), given
}

func (v *levels) mark(ls ...Level) {
	for _, l := range ls {
		v.turn++
		v.served[l.Queue] = v.turn
	}
}

// sift moves leases that have ended into the lists of their queues.
func (s *Sub) sift(now int64) {
	for len(s.ready) > 0 && s.ready[0].deadline <= now {
		l := s.popReady()
		l.due = true
		l.q.due = append(l.q.due, l)
	}
	s.arm()
}
