package inflight

import (
	"container/heap"
	"iter"
)

// A lite topic's queue is in order by itself: while a message of it is
// outstanding, no other is handed out. There are so many of these queues that
// nobody walks over them: who receives from them is told which to look at, by
// Tracker's freed, by DueLite, and by whoever puts messages into them.

// PlanLite says from which of the lite queues in order a receive takes a message,
// n in all. It stops pulling from order when it has them.
func (s *Sub) PlanLite(order iter.Seq[uint32], bounds Bounds, n int, now int64) []Level {
	s.mu.Lock()
	defer s.mu.Unlock()
	var plan []Level
	for number := range order {
		q := s.queue(number)
		l := Level{Queue: number}
		if first := q.first(); first != nil {
			if first.reserved != free || first.deadline > now {
				continue // its end will tell
			}
			l.Again = 1
		} else {
			high, ok := s.unread(q, bounds, 1)
			if !ok || q.claimed >= high && q.skipped < pinNow {
				continue
			}
			l.Fresh = 1
		}
		if plan = append(plan, l); len(plan) == n {
			break
		}
	}
	return plan
}

// TakeLite is TakeReady for one lite queue.
func (s *Sub) TakeLite(queue uint32, maxAttempts int32, now int64) (ready, dead []Held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.queue(queue).first(); l != nil && l.reserved == free && l.deadline <= now {
		s.displace(l)
		ready, dead = l.takeAgain(nil, nil, maxAttempts)
		s.arm()
	}
	return ready, dead
}

// Fired tells the Sub that its timer has been consumed, and returns the lite queues whose
// lease has ended since the last time. What is due at now is off the timer then, so
// whoever waits is to be woken after this: a message that becomes due in between is
// found, one that does so later arms the timer anew.
func (s *Sub) Fired(now int64) (queues []uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed = never
	for len(s.liteReady) > 0 && s.liteReady[0].deadline <= now {
		queues = append(queues, heap.Pop(&s.liteReady).(*lease).q.number)
	}
	s.armAfter(now)
	return queues
}

// first returns the outstanding message that is up: the one that was handed out,
// or else, of several that were reopened, the lowest.
func (q *queue) first() (first *lease) {
	for l := range q.out.leases() {
		switch out := l.id != 0 || l.reserved != free; {
		case out:
			return l
		case first == nil || l.offset < first.offset:
			first = l
		}
	}
	return first
}
