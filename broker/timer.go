package broker

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
	"github.com/gantry-mq/gantry/scheduler"
)

// firing is the dispatcher's memory for timer-fired records.
type firing struct {
	fired   scheduler.Fired
	entries []consumequeue.Entry
}

// applyFired puts delayed messages into their queue and settles their timers.
func (b *Broker) applyFired(rec []byte, time int64) error {
	f := &b.firing.fired
	if err := f.Parse(rec); err != nil {
		return err
	}
	if b.topicExists(f.To.Topic()) {
		b.firing.entries = slices.Grow(b.firing.entries[:0], len(f.Places))[:len(f.Places)]
		if err := f.Entries(b.index, b.firing.entries); err != nil {
			return err
		}
		if err := b.index.PutRun(f.To, f.First, b.firing.entries); err != nil {
			return err
		}
		if b.live.Load() {
			b.counters.delayed(f.To.Topic(), 0, len(f.Places))
		}
		b.wakePlaced(f.To)
	}
	b.timers.ApplyFired(f, time)
	return nil
}

// indexTimer is what a rebuild of the index does with a record about a timer. The
// state of the timers is the checkpoint's, so entries are all it makes, of timers
// that are settled too: later records refer to them.
func (b *Broker) indexTimer(pos record.Position, rec []byte, kind record.Kind) error {
	var t scheduler.Timer
	var err error
	switch kind {
	case record.KindDelayed:
		t, err = scheduler.ParseDelayed(pos, rec)
	case record.KindTimerMove:
		var c scheduler.Change
		if c, err = scheduler.ParseMove(rec); err != nil {
			return err
		}
		if t, err = c.Moved(b.index); errors.Is(err, consumequeue.ErrOutOfRange) {
			// Its record is gone: settled by now, or a relocate record says where it is.
			t, err = scheduler.Timer{Due: c.Due, Place: c.NewPlace, Size: 1}, nil
		}
	case record.KindTimerFired:
		return b.indexFired(rec)
	default:
		return nil
	}
	if err != nil {
		return err
	}
	if _, end, ok := b.index.Bounds(t.Key()); ok && t.Place > end {
		b.index.Delete(t.Key()) // the bucket had been let go of, and was made anew
	}
	return b.index.Put(t.Key(), t.Place, t.Entry())
}

// indexFired is applyFired for a rebuild: of messages whose record is not in the
// log any more there may be no entry in the bucket.
func (b *Broker) indexFired(rec []byte) error {
	var f scheduler.Fired
	if err := f.Parse(rec); err != nil {
		return err
	}
	if !b.topicExists(f.To.Topic()) {
		return nil
	}
	all := f.Places
	entries := make([]consumequeue.Entry, len(all))
	for i := range all {
		f.Places = all[i : i+1]
		err := f.Entries(b.index, entries[i:i+1])
		if errors.Is(err, consumequeue.ErrOutOfRange) {
			entries[i] = consumequeue.Entry{Size: 1, StoreTime: f.Stored} // as of relocations
		} else if err != nil {
			return err
		}
	}
	return b.index.PutRun(f.To, f.First, entries)
}

// fireTimers puts delayed messages into their queues when they are due.
func (b *Broker) fireTimers() {
	if err := b.timers.Run(b.ctx, b.submitFired); err != nil && !b.over() {
		b.fatal(err)
	}
}

var firedBatches = sync.Pool{New: func() any { return new(commitlog.Batch) }}

// submitFired appends timer-fired records.
func (b *Broker) submitFired(recs [][]byte) (wait func() error, err error) {
	batch := firedBatches.Get().(*commitlog.Batch)
	for _, rec := range recs {
		batch.Add(rec, nil)
	}
	if err := b.append.Submit(batch); err != nil {
		return nil, err
	}
	return func() error {
		err := batch.Wait(context.Background())
		if err == nil {
			batch.Reset()
			firedBatches.Put(batch)
		}
		return err
	}, nil
}
