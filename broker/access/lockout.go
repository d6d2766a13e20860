package access

import (
	"hash/maphash"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// A source that fails too often is not listened to for a while. It is counted by
// source and the user that is claimed, so that a client with a wrong secret does not
// lock its neighbours out, and, with a higher limit, by source alone, so that trying
// one user after the other is no way around it.
const (
	lockAfter      = 10 // failures within lockWithin
	lockAllAfter   = 100
	lockWithin     = time.Minute
	lockFor        = 30 * time.Second
	maxLockEntries = 8192
)

// Lockout counts failures. The zero value is ready.
type Lockout struct {
	any atomic.Bool // there are entries

	mu      sync.Mutex
	entries map[lockKey]*failures
	seed    maphash.Seed
}

type lockKey struct {
	source netip.Addr
	user   uint64 // hash; 0 = all
}

type failures struct {
	began time.Time
	count int
	until time.Time // locked
}

// Locked reports whether the source is not listened to.
func (l *Lockout) Locked(source netip.Addr, user string, now time.Time) bool {
	if !l.any.Load() {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range l.keys(source, user) {
		if f := l.entries[k]; f != nil && now.Before(f.until) {
			return true
		}
	}
	return false
}

// Failed counts a failure, and reports whether it is the one that locks.
func (l *Lockout) Failed(source netip.Addr, user string, now time.Time) (locks bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.entries == nil {
		l.entries, l.seed = map[lockKey]*failures{}, maphash.MakeSeed()
	}
	for i, k := range l.keys(source, user) {
		f := l.entries[k]
		if f == nil || now.Sub(f.began) > lockWithin {
			if f == nil && len(l.entries) >= maxLockEntries {
				l.forget(now)
			}
			f = &failures{began: now}
			l.entries[k] = f
		}
		limit := lockAfter
		if i == 1 {
			limit = lockAllAfter
		}
		if f.count++; f.count >= limit {
			f.until, f.began, f.count = now.Add(lockFor), now, 0
			locks = true
		}
	}
	l.any.Store(true)
	return locks
}

func (l *Lockout) keys(source netip.Addr, user string) [2]lockKey {
	if source.Is6() { // who has one address has 2^64
		if p, err := source.Prefix(64); err == nil {
			source = p.Addr()
		}
	}
	return [2]lockKey{{source, maphash.String(l.seed, user) | 1}, {source, 0}}
}

// forget makes room: who is not locked out begins anew; all do when that is not enough.
func (l *Lockout) forget(now time.Time) {
	maps.DeleteFunc(l.entries, func(_ lockKey, f *failures) bool { return !now.Before(f.until) })
	if len(l.entries) >= maxLockEntries {
		clear(l.entries)
	}
}
