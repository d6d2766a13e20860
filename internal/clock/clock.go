// Package clock tells the broker's two times.
//
// The wall's is what the operating system says. It may jump either way: a step by
// NTP, an administrator, a virtual machine that was suspended. Delivery times are
// calendar times, given by other machines' clocks, so they are held against the
// wall.
//
// The record's time is what is written into the log and what leases, retries and
// checks are measured by. It never goes back and is never behind the wall. When
// the wall jumps forward it goes along at once; when the wall jumps back it goes
// on, a quarter slower, until the wall has caught up, so that a lease of 30 s
// lasts 40 s at most and not an hour, and times in the log become true again. So
// what waits for the wall is never recorded as early.
package clock

import (
	"sync"
	"time"
)

// system is the wall's time. The tests build servers in which it may be wrong
// (test/history/testdata/jump.go).
var system = time.Now

// Clock tells both times. All methods may be called by any goroutine.
type Clock struct {
	wall func() time.Time

	mu   sync.Mutex
	mono time.Time // monotonic time of the last reading
	now  int64     // record's time then, Unix ns
}

// New returns a clock over wall, of whose times the monotonic part is not used;
// nil means the system's.
func New(wall func() time.Time) *Clock {
	if wall == nil {
		wall = system
	}
	return &Clock{wall: wall, mono: time.Now(), now: wall().UnixNano()}
}

// Wall returns the wall's time.
func (c *Clock) Wall() time.Time { return c.wall() }

// Now returns the record's time in Unix nanoseconds.
func (c *Clock) Now() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	mono := time.Now()
	passed := mono.Sub(c.mono).Nanoseconds()
	c.mono = mono
	c.now = max(c.wall().UnixNano(), c.now+passed-passed/4)
	return c.now
}

// Reach makes the record's time at least unixNano: what a log that was written
// before says.
func (c *Clock) Reach(unixNano int64) {
	c.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = max(c.now, unixNano)
}
