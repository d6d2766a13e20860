package broker

import (
	"context"
	"sync"

	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/scheduler"
)

// applyTimer applies what a record does to the timers. Both the dispatcher and a
// rebuild of the index use it.
func (b *Broker) applyTimer(pos record.Position, rec []byte, kind record.Kind, time int64) error {
	switch kind {
	case record.KindDelayed:
		return b.timers.ApplyAdd(pos, rec)
	case record.KindTimerFired:
		t, _, err := scheduler.ParseFired(rec)
		if err != nil {
			return err
		}
		return b.timers.ApplyFired(&t, time)
	case record.KindTimerCancel:
		return b.timers.ApplyCancel(record.Command(rec), time)
	case record.KindTimerMove:
		return b.timers.ApplyMove(record.Command(rec), time)
	}
	return nil
}

// fireTimers puts delayed messages into their queues when they are due.
func (b *Broker) fireTimers() {
	if err := b.timers.Run(b.ctx, b.submitMoves); err != nil {
		b.fatal(err)
	}
}

var moveBatches = sync.Pool{New: func() any { return new(commitlog.Batch) }}

// submitMoves appends timer-fired records.
func (b *Broker) submitMoves(moves []byte) (wait func() error, err error) {
	batch := moveBatches.Get().(*commitlog.Batch)
	for len(moves) > 0 {
		batch.Add(moves[:scheduler.FiredLen:scheduler.FiredLen], nil)
		moves = moves[scheduler.FiredLen:]
	}
	if err := b.append.Submit(batch); err != nil {
		return nil, err
	}
	return func() error {
		err := batch.Wait(context.Background())
		if err == nil {
			batch.Reset()
			moveBatches.Put(batch)
		}
		return err
	}, nil
}
