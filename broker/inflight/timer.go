package inflight

import (
	"container/heap"
	"context"
	"math"
	"sync"
	"time"
)

const never = math.MaxInt64

// timer calls wake for each Sub whose earliest deadline has come. One goroutine
// serves all Subs; it sleeps until the earliest deadline of all.
type timer struct {
	wake func(key SubKey, now int64)

	mu    sync.Mutex
	items map[SubKey]*timerItem
	heap  timerHeap
	kick  chan struct{} // capacity 1: the earliest deadline moved forward
}

type timerItem struct {
	key SubKey
	at  int64 // Unix ms
	i   int
}

func newTimer(wake func(key SubKey, now int64)) *timer {
	return &timer{wake: wake, items: map[SubKey]*timerItem{}, kick: make(chan struct{}, 1)}
}

// set makes at the time when key is woken next; never takes it out.
func (t *timer) set(key SubKey, at int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	it := t.items[key]
	switch {
	case it == nil && at == never:
		return
	case it == nil:
		it = &timerItem{key: key, at: at}
		t.items[key] = it
		heap.Push(&t.heap, it)
	case at == never:
		heap.Remove(&t.heap, it.i)
		delete(t.items, key)
		return
	case it.at == at:
		return
	default:
		it.at = at
		heap.Fix(&t.heap, it.i)
	}
	if t.heap[0] == it {
		select {
		case t.kick <- struct{}{}:
		default:
		}
	}
}

// due takes out what is due at now and returns it with the time of the next.
func (t *timer) due(now int64) (keys []SubKey, next int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.heap) > 0 && t.heap[0].at <= now {
		it := heap.Pop(&t.heap).(*timerItem)
		delete(t.items, it.key)
		keys = append(keys, it.key)
	}
	if len(t.heap) == 0 {
		return keys, never
	}
	return keys, t.heap[0].at
}

func (t *timer) run(ctx context.Context, clock func() int64) error {
	nap := time.NewTimer(time.Hour)
	defer nap.Stop()
	for {
		now := clock()
		keys, next := t.due(now)
		for _, k := range keys {
			t.wake(k, now)
		}
		// A jump of the clock is noticed within a second.
		wait := time.Second
		if next != never {
			wait = min(wait, time.Duration(next-now)*time.Millisecond)
		}
		nap.Reset(max(wait, 0))
		select {
		case <-ctx.Done():
			return nil
		case <-nap.C:
		case <-t.kick:
		}
	}
}

type timerHeap []*timerItem

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h timerHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i]; h[i].i, h[j].i = i, j }
func (h *timerHeap) Push(x any)        { it := x.(*timerItem); it.i = len(*h); *h = append(*h, it) }
func (h *timerHeap) Pop() any {
	old := *h
	n := len(old) - 1
	it := old[n]
	old[n] = nil
	*h = old[:n]
	return it
}
