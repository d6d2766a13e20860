// Package admission bounds what sends hold while they wait for the log. More than
// the bound would be memory without end when more is sent than can be stored, and
// answers that come after their senders have given up.
package admission

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Door is where a send came in. Neither may take all there is: a flood through one
// leaves the other a quarter.
type Door int

const (
	Unary  Door = iota // refused at once when there is no room
	Stream             // waits for room, for its client is held back by that
	doors
)

// CallBytes is what a send costs beside its bytes: a goroutine's stack, the stream's
// state, buffers.
const CallBytes = 16 << 10

// Slow is how long sends may take before fewer are let in, a third of what clients wait
// for: while the log keeps up, a call costs less when it waits than when it is refused
// and made again; when it does not, all that is let in would be answered too late.
const Slow = time.Second

// Gate is passed by each send with its weight, and left when its outcome is known.
// Its methods may be called by any goroutine.
type Gate struct {
	limit  int64 // bytes
	calls  int64
	enough int64 // single sends: Hold

	mu    sync.Mutex
	held  [doors]int64    // bytes, guarded by mu
	under [doors]int64    // sends, guarded by mu
	room  chan struct{}   // closed when something leaves, nil while nobody waits; guarded by mu
	line  []chan struct{} // those who wait in Hold, guarded by mu
	left  time.Time       // when a send left last, guarded by mu

	took     atomic.Int64 // nanoseconds from Enter to Leave, lately
	heldBack atomic.Int64 // nanoseconds
}

// New returns a gate that lets sends of so many bytes, and so many of them, be under
// way: a quarter of the number while they take longer than Slow. Hold waits while there
// are enough.
func New(bytes int64, calls, enough int) *Gate {
	return &Gate{limit: bytes, calls: int64(calls), enough: int64(enough)}
}

// Pass is what a send that was let in gives back.
type Pass struct {
	door  Door
	bytes int64
	begun time.Time
}

// TryEnter lets a send of n bytes in, if there is room. One is always let in through
// a door with nothing under way, however large.
func (g *Gate) TryEnter(door Door, n int) (Pass, bool) {
	p := Pass{door: door, bytes: int64(n) + CallBytes, begun: time.Now()}
	g.mu.Lock()
	defer g.mu.Unlock()
	return p, g.enter(p)
}

// enter is called with mu held.
func (g *Gate) enter(p Pass) bool {
	if g.under[p.door] > 0 {
		bytes, calls := g.held[Unary]+g.held[Stream]+p.bytes, g.under[Unary]+g.under[Stream]+1
		own, ownCalls := g.held[p.door]+p.bytes, g.under[p.door]+1
		most := g.Calls()
		if bytes > g.limit || calls > most || own > g.limit-g.limit/4 || ownCalls > most-most/4 {
			return false
		}
	}
	g.held[p.door] += p.bytes
	g.under[p.door]++
	return true
}

// Enter waits for room until ctx is done or patience is over: false.
func (g *Gate) Enter(ctx context.Context, door Door, n int, patience time.Duration) (Pass, bool) {
	p, ok := g.TryEnter(door, n)
	if ok {
		return p, true
	}
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		g.mu.Lock()
		if ok = g.enter(p); ok {
			g.mu.Unlock()
			return p, true
		}
		if g.room == nil {
			g.room = make(chan struct{})
		}
		room := g.room
		g.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return Pass{}, false
		case <-timeout.C:
			return Pass{}, false
		}
	}
}

// Shrink makes p, which was let in with more, one of n bytes.
func (g *Gate) Shrink(p Pass, n int) Pass {
	to := p
	to.bytes = min(int64(n)+CallBytes, p.bytes)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held[p.door] -= p.bytes - to.bytes
	g.wake()
	return to
}

// Leave gives back what p was let in with. The zero Pass gives back nothing.
func (g *Gate) Leave(p Pass) {
	if p.bytes == 0 {
		return
	}
	took, now := g.took.Load(), time.Now()
	g.took.Store(took + (int64(now.Sub(p.begun))-took)/8) // a lost update does not matter
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held[p.door] -= p.bytes
	g.under[p.door]--
	g.left = now
	g.next()
	g.wake()
}

// wake has everybody look who waits for room. Called with mu held.
func (g *Gate) wake() {
	if g.room != nil {
		close(g.room)
		g.room = nil
	}
}

// Took is how long sends have been under way, lately: after that time, what is in now
// will have left.
func (g *Gate) Took() time.Duration { return time.Duration(g.took.Load()) }

// Held returns what is under way: bytes, with CallBytes for each send, and sends.
func (g *Gate) Held() (bytes, sends int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.held[Unary] + g.held[Stream], g.under[Unary] + g.under[Stream]
}

// Limit returns the bound of Held's bytes.
func (g *Gate) Limit() int64 { return g.limit }

// Calls returns the bound of Held's sends, as it is now.
func (g *Gate) Calls() int64 {
	if g.Took() > Slow {
		return g.calls / 4
	}
	return g.calls
}
