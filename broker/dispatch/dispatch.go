// Package dispatch follows the log: one goroutine reads committed frames in
// order, verifies each record and hands it to the sinks. State changes nowhere
// else.
//
// # Concurrency
//
// CatchUp and then Run are called by one goroutine. Await and Applied may be
// called by any.
package dispatch

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// Sinks is what a dispatcher feeds. All functions are called by its goroutine.
type Sinks struct {
	// Apply takes one verified record. rec is valid during the call. time is the
	// frame's, Unix ms. An error ends the dispatcher.
	Apply func(pos record.Position, rec []byte, kind record.Kind, time int64) error
	// ApplyPack takes a pack of records whose first is at pos by the note that came
	// with it, instead of Apply for each. nil: notes are not looked at.
	ApplyPack func(pos record.Position, note any, time int64) error
	// Wake is called after each frame, when all its records are applied and
	// waiters of Await have been told: index first, wake last.
	Wake func()
	// Checkpoint is called between frames, every so many bytes of log.
	Checkpoint func(at record.Position)
}

// Dispatcher applies the log.
type Dispatcher struct {
	reader *commitlog.Reader
	sinks  Sinks
	every  int64 // bytes between checkpoints
	last   record.Position

	applied atomic.Uint64

	mu      sync.Mutex
	waiters waiterHeap
	failed  error
}

// New returns a dispatcher that reads from reader, which begins at from, and
// asks for a checkpoint every so many bytes.
func New(reader *commitlog.Reader, from record.Position, every int64, sinks Sinks) *Dispatcher {
	d := &Dispatcher{reader: reader, sinks: sinks, every: every, last: from}
	d.applied.Store(uint64(from))
	return d
}

// Applied returns the position up to which everything is applied.
func (d *Dispatcher) Applied() record.Position { return record.Position(d.applied.Load()) }

// CatchUp applies everything below to.
func (d *Dispatcher) CatchUp(ctx context.Context, to record.Position) error {
	for d.Applied() < to {
		if err := d.step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Run applies frames as they are committed, until ctx is done or a record
// cannot be applied. Then every Await fails.
func (d *Dispatcher) Run(ctx context.Context) error {
	for {
		if err := d.step(ctx); err != nil {
			d.fail(err)
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

func (d *Dispatcher) step(ctx context.Context) error {
	f, err := d.reader.Next(ctx)
	if err != nil {
		return err
	}
	err = d.apply(&f)
	end := f.End
	f.Release()
	if err != nil {
		return fmt.Errorf("dispatch: %w", err)
	}
	d.advance(end)
	d.sinks.Wake()
	if int64(end-d.last) >= d.every {
		d.last = end
		d.sinks.Checkpoint(end)
	}
	return nil
}

// apply hands a frame to the sinks, record by record or pack by pack.
func (d *Dispatcher) apply(f *commitlog.Frame) error {
	notes := f.Notes
	if d.sinks.ApplyPack == nil {
		notes = nil
	}
	for off := 0; off < len(f.Payload); {
		pos := f.Base() + record.Position(off)
		if len(notes) > 0 && notes[0].Off == off {
			if err := d.sinks.ApplyPack(pos, notes[0].Value, f.Time); err != nil {
				return fmt.Errorf("apply a pack at %d: %w", pos, err)
			}
			off += notes[0].Len
			notes = notes[1:]
			continue
		}
		size, kind, err := record.Size(f.Payload[off:])
		if err != nil {
			return fmt.Errorf("at %d: %w", pos, err)
		}
		rec := f.Payload[off : off+size]
		if err := record.Verify(rec); err != nil {
			return fmt.Errorf("%v at %d: %w", kind, pos, err)
		}
		if err := d.sinks.Apply(pos, rec, kind, f.Time); err != nil {
			return fmt.Errorf("apply %v at %d: %w", kind, pos, err)
		}
		off += record.Padded(size)
	}
	return nil
}

func (d *Dispatcher) advance(end record.Position) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.applied.Store(uint64(end))
	for len(d.waiters) > 0 && d.waiters[0].at <= end {
		close(d.waiters.pop().done)
	}
}

func (d *Dispatcher) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failed = err
	for len(d.waiters) > 0 {
		close(d.waiters.pop().done)
	}
}

// Await returns when everything below at is applied, or with the error that
// ended the dispatcher.
func (d *Dispatcher) Await(ctx context.Context, at record.Position) error {
	if d.Applied() >= at {
		return nil
	}
	d.mu.Lock()
	if d.Applied() >= at {
		d.mu.Unlock()
		return nil
	}
	if d.failed != nil {
		defer d.mu.Unlock()
		return d.failed
	}
	w := waiter{at: at, done: make(chan struct{})}
	d.waiters.push(w)
	d.mu.Unlock()
	select {
	case <-w.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if d.Applied() >= at {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed
}

type waiter struct {
	at   record.Position
	done chan struct{}
}

// waiterHeap is a binary heap by position; container/heap would box each waiter.
type waiterHeap []waiter

func (h *waiterHeap) push(w waiter) {
	*h = append(*h, w)
	s := *h
	for i := len(s) - 1; i > 0; {
		up := (i - 1) / 2
		if s[up].at <= s[i].at {
			return
		}
		s[up], s[i] = s[i], s[up]
		i = up
	}
}

func (h *waiterHeap) pop() waiter {
	s := *h
	top := s[0]
	n := len(s) - 1
	s[0] = s[n]
	s[n] = waiter{}
	s = s[:n]
	for i := 0; ; {
		down := 2*i + 1
		if down >= n {
			break
		}
		if down+1 < n && s[down+1].at < s[down].at {
			down++
		}
		if s[i].at <= s[down].at {
			break
		}
		s[i], s[down] = s[down], s[i]
		i = down
	}
	*h = s
	return top
}
