package admission

import (
	"runtime"
	"slices"
	"time"
)

const (
	// holdAtMost bounds one wait of Hold: what else is on its connection waits as well.
	holdAtMost = 500 * time.Millisecond

	// stalled is how long nothing may have left before holding back is given up: it
	// would only have senders wait for a log that does not move.
	stalled = 200 * time.Millisecond
)

// Hold is called by who brings single sends in, before more is read of its connection. It
// waits while enough are under way: what is not read costs next to nothing, and senders
// are held back by their connections' windows, where a refusal costs most of a send and
// is made again. Those who wait go in turn. It reports whether it is crowded: then little
// is to be read at a time.
//
// Where waiting does not help, because sends take longer than Slow or none has left for a
// while, it does not wait: TryEnter refuses what is too much then, and its senders know.
func (g *Gate) Hold() (crowded bool) {
	g.mu.Lock()
	if !g.full(2) {
		g.mu.Unlock()
		return false
	}
	if !g.full(1) && len(g.line) == 0 {
		g.mu.Unlock()
		runtime.Gosched() // to those who were read and have not come as far as the gate
		return true
	}
	if g.Took() > Slow || time.Since(g.left) > stalled {
		g.mu.Unlock()
		return false
	}
	turn := make(chan struct{})
	g.line = append(g.line, turn)
	g.mu.Unlock()
	begun, timeout := time.Now(), time.NewTimer(holdAtMost)
	defer func() {
		timeout.Stop()
		g.heldBack.Add(int64(time.Since(begun)))
	}()
	select {
	case <-turn:
	case <-timeout.C:
		g.mu.Lock()
		defer g.mu.Unlock()
		if i := slices.Index(g.line, turn); i >= 0 {
			g.line = slices.Delete(g.line, i, i+1)
		}
	}
	return true
}

// HeldBack is how long Hold has waited, all who called it together.
func (g *Gate) HeldBack() time.Duration { return time.Duration(g.heldBack.Load()) }

// full reports whether a part of what is enough is under way by single sends: of their
// number, or of half the bytes. Called with mu held.
func (g *Gate) full(part int64) bool {
	return g.under[Unary] >= g.enough/part || g.held[Unary] >= g.limit/2/part
}

// next ends the wait of one in Hold if there is room, and of all if there is plenty: what
// leaves may be few large messages of which those in line bring small parts. Called with
// mu held.
func (g *Gate) next() {
	for len(g.line) > 0 && !g.full(1) {
		close(g.line[0])
		g.line = g.line[1:]
		if g.full(2) {
			return
		}
	}
}
