package transaction

import (
	"math"
	"slices"
)

// Changed delivers when something may have become due earlier than Due said.
func (t *Table) Changed() <-chan struct{} { return t.changed }

// Due returns up to limit half messages whose check is due at now (Unix ms), by
// position, without those whose decision is under way; and when to ask again at
// the latest: math.MaxInt64 when there is nothing to wait for.
func (t *Table) Due(now int64, limit int) (due []Half, next int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next = math.MaxInt64
	// A heap's rows below one that is not due are not due either.
	for look := []int{0}; len(look) > 0 && len(due) < limit; {
		i := look[len(look)-1]
		look = look[:len(look)-1]
		if i >= len(t.due) {
			continue
		}
		if r := t.due[i]; r.Next > now {
			next = min(next, r.Next)
		} else {
			look = append(look, 2*i+1, 2*i+2)
			if r.busy == nil {
				due = append(due, r.Half)
			}
		}
	}
	if len(due) == limit {
		next = now
	}
	slices.SortFunc(due, func(a, b Half) int {
		if a.Position < b.Position {
			return -1
		}
		return 1
	})
	return due, next
}

type dueHeap []*row

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].Next < h[j].Next }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i]; h[i].i, h[j].i = i, j }
func (h *dueHeap) Push(x any)        { r := x.(*row); r.i = len(*h); *h = append(*h, r) }
func (h *dueHeap) Pop() any {
	old := *h
	n := len(old) - 1
	r := old[n]
	old[n] = nil
	*h = old[:n]
	r.i = -1
	return r
}
