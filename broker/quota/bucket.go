package quota

import (
	"math"
	"sync"
	"time"
)

// bucket holds up to one second's worth of a rate: it is the time at which it is full
// again, in the table's nanoseconds. One that is idle does not change.
type bucket int64

const second = int64(time.Second)

// cost is the time in which a bucket is given n.
func cost(n int, rate uint64) int64 { return int64(float64(n) * float64(second) / float64(rate)) }

// lack is how long it takes until n may be taken, or as much as the bucket holds.
func (b bucket) lack(now int64, n int, rate uint64) int64 {
	return max(0, int64(b)-now+min(cost(n, rate), second)-second)
}

// holds is how much is in it.
func (b bucket) holds(now int64, rate uint64) int {
	left := second - max(0, int64(b)-now)
	return int(float64(max(0, left)) * float64(rate) / float64(second))
}

func (b *bucket) take(now int64, n int, rate uint64) {
	*b = bucket(max(int64(*b), now) + cost(n, rate))
}

// limiter is how much of a quota one subject has used up.
type limiter struct {
	subject Subject
	of      Subject // whose quota it is: the subject's, or that of each
	limits  Limits
	buckets [rates]bucket // guarded by Table.mu

	// What receives under way may lease. Held while the group's leases are counted, so
	// that those of a receive that ends meanwhile are counted once.
	flight   sync.Mutex
	reserved int
	freed    chan struct{} // capacity 1: there may be room
}

// take takes n of a rate. It is called with Table.mu held.
func (l *limiter) take(i Limit, n int, now int64) {
	if rate := l.limits[i]; rate > 0 {
		l.buckets[i].take(now, n, rate)
	}
}

// holds is how much a receive may take of a rate. It is called with Table.mu held.
func (l *limiter) holds(i Limit, now int64) int {
	if rate := l.limits[i]; rate > 0 {
		return max(1, l.buckets[i].holds(now, rate))
	}
	return math.MaxInt
}

// idle reports whether a new limiter would be the same.
func (l *limiter) idle(now int64) bool {
	for _, b := range l.buckets {
		if int64(b) > now {
			return false
		}
	}
	return l.limits[InFlight] == 0
}

// enter reserves up to n messages in flight beside those that are leased, 0 when there
// is no room.
func (l *limiter) enter(n int, leased func(limit int) int) int {
	most := int(l.limits[InFlight])
	l.flight.Lock()
	defer l.flight.Unlock()
	room := most - l.reserved - leased(most)
	n = max(0, min(n, room))
	l.reserved += n
	if n < room {
		l.free() // the next one may come too
	}
	return n
}

func (l *limiter) leave(n int) {
	l.flight.Lock()
	l.reserved -= n
	l.flight.Unlock()
	l.free()
}

// free tells one of those that wait for room.
func (l *limiter) free() {
	select {
	case l.freed <- struct{}{}:
	default:
	}
}
