package client

import (
	"context"
	"sync"
)

// inbox holds what has arrived and was not taken yet, in slabs of one frame each.
type inbox[T any] struct {
	mu      sync.Mutex
	slabs   [][]T // none is empty
	err     error // after the last
	arrived chan struct{}
}

func newInbox[T any]() *inbox[T] { return &inbox[T]{arrived: make(chan struct{})} }

// put adds a slab, which nobody else uses any more.
func (b *inbox[T]) put(slab []T) {
	if len(slab) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.slabs = append(b.slabs, slab)
	b.signal()
}

// end makes take return err when everything was taken.
func (b *inbox[T]) end(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
		b.signal()
	}
}

func (b *inbox[T]) signal() {
	close(b.arrived)
	b.arrived = make(chan struct{})
}

// drop takes out the slabs whose first is of those, and returns them.
func (b *inbox[T]) drop(of func(first *T) bool) (out [][]T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var stay [][]T
	for _, s := range b.slabs {
		if of(&s[0]) {
			out = append(out, s)
		} else {
			stay = append(stay, s)
		}
	}
	b.slabs = stay
	return out
}

// take returns the oldest that arrived, when there is one.
func (b *inbox[T]) take(ctx context.Context) (*T, error) {
	for {
		b.mu.Lock()
		if len(b.slabs) > 0 {
			first := &b.slabs[0][0]
			if b.slabs[0] = b.slabs[0][1:]; len(b.slabs[0]) == 0 {
				b.slabs[0] = nil
				b.slabs = b.slabs[1:]
			}
			b.mu.Unlock()
			return first, nil
		}
		err, arrived := b.err, b.arrived
		b.mu.Unlock()
		if err != nil {
			return nil, err
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
