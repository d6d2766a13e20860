package broker

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/broker/transaction"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/scheduler"
)

// PurgeRequest says which messages of a topic to let go of.
type PurgeRequest struct {
	Before int64 // Unix ms: only those stored, or put into their queue, before; 0 = all
	DryRun bool  // only count
}

// Purged counts what a purge let go of.
type Purged struct {
	Messages int64         // in queues
	Delayed  int64         // cancelled
	Half     int64         // rolled back
	Queues   []QueueStatus // those that lost messages, as they are from now on
}

// PurgeTopic makes a topic's messages gone for every group: those in its queues,
// whoever holds them, its delayed messages and its undecided transactions. Offsets
// go on where they were, groups and their dead letters stay. Messages that are sent
// meanwhile may stay; after an interruption it can be asked for again.
func (b *Broker) PurgeTopic(ctx context.Context, name record.Resource, req PurgeRequest) (p Purged, err error) {
	tp, err := b.Route(name)
	if err != nil {
		return p, err
	}
	if req.Before < 0 {
		return p, Errorf(BadRequest, "the time is %d, it must be 0 or more", req.Before)
	}
	if req.Before == 0 {
		req.Before = math.MaxInt64
	}
	// What is in no queue first: it may get into one meanwhile.
	if p.Half, err = b.purgeHalves(ctx, tp, req); err != nil {
		return p, err
	}
	if p.Delayed, err = b.purgeDelayed(ctx, tp, req); err != nil {
		return p, err
	}
	if err := b.dispatcher.Await(ctx, b.wal.Committed()); err != nil {
		return p, err
	}
	t := trim{Topic: tp.ID}
	for _, q := range b.allQueues(tp) {
		key := record.Key(tp.ID, q)
		low, high, _ := b.index.Bounds(key)
		to := high
		if req.Before != math.MaxInt64 {
			if to, err = b.olderThan(key, req.Before); err != nil {
				return p, b.indexError(tp, q, low, err)
			}
		}
		if to > low {
			p.Messages += int64(to - low)
			p.Queues = append(p.Queues, QueueStatus{Queue: q, Min: to, Max: high})
			t.Queues = append(t.Queues, inflight.Beginning{Queue: q, Offset: to})
		}
	}
	if req.DryRun {
		return p, nil
	}
	return p, b.commitTrim(t)
}

// purgeHalves rolls undecided transactions back.
func (b *Broker) purgeHalves(ctx context.Context, tp topic.Topic, req PurgeRequest) (n int64, err error) {
	halves := b.transactions.List(func(h *transaction.Half) bool { return h.Key.Topic() == tp.ID && h.Stored < req.Before })
	if req.DryRun {
		return int64(len(halves)), nil
	}
	for _, h := range halves {
		err := b.decide(ctx, h.Position, "", transaction.RolledBack, transaction.FromOperator)
		switch ReasonOf(err) {
		case PreconditionFailed, InvalidTransaction: // decided meanwhile
			continue
		}
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// purgeDelayed cancels delayed messages. Those that are being fired it waits for:
// then they are in their queues.
func (b *Broker) purgeDelayed(ctx context.Context, tp topic.Topic, req PurgeRequest) (int64, error) {
	p := &timerPurge{b: b, topic: tp.ID, req: req}
	for tries := 0; ; tries++ {
		if err := p.pass(ctx); err != nil || p.taken == 0 || req.DryRun || tries == 1000 {
			return p.cancelled, err
		}
		select {
		case <-ctx.Done():
			return p.cancelled, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

type timerPurge struct {
	b         *Broker
	topic     record.TopicID
	req       PurgeRequest
	batch     commitlog.Batch
	reserved  []scheduler.Timer // of batch
	cancelled int64
	taken     int // by others, in this pass
}

// pass looks at all pending timers once.
func (p *timerPurge) pass(ctx context.Context) error {
	p.taken = 0
	var err error
	scanErr := p.b.timers.Each(0, math.MaxInt64, func(t scheduler.Timer) bool {
		if err = ctx.Err(); err == nil && t.To.Topic() == p.topic {
			err = p.cancel(t)
		}
		return err == nil
	})
	if err = errors.Join(err, scanErr); err == nil {
		err = p.flush()
	}
	for _, t := range p.reserved {
		p.b.timers.Release(t)
	}
	p.reserved = nil
	return err
}

func (p *timerPurge) cancel(t scheduler.Timer) error {
	if old, err := p.b.storedBefore(t, p.req.Before); err != nil || !old {
		return err
	}
	if p.req.DryRun {
		p.cancelled++
		return nil
	}
	t, err := p.b.timers.Reserve(t.Due, t.Place)
	switch {
	case errors.Is(err, scheduler.ErrTaken):
		p.taken++
		return nil
	case isSettled(err):
		return nil
	case err != nil:
		return err
	}
	p.reserved = append(p.reserved, t)
	first, _, err := p.b.timerMessage(t)
	if err != nil {
		return err
	}
	p.batch.Add(scheduler.AppendCancel(nil, &t, first), nil)
	if p.batch.Len() < copyBatchRecords {
		return nil
	}
	return p.flush()
}

func (p *timerPurge) flush() error {
	if p.batch.Len() == 0 {
		return nil
	}
	if err := p.b.append.Submit(&p.batch); err != nil {
		return wrapAppend(err)
	}
	p.cancelled += int64(len(p.reserved))
	p.reserved = nil // their records are in the log's order
	if err := p.b.await(&p.batch); err != nil {
		return err
	}
	p.batch.Reset()
	return nil
}

// storedBefore reports whether a delayed message was stored before a time, Unix ms.
func (b *Broker) storedBefore(t scheduler.Timer, before int64) (bool, error) {
	if before == math.MaxInt64 {
		return true, nil
	}
	v, err := b.viewRecord(t.Position, int(t.Size))
	if errors.Is(err, errTrimmed) {
		return false, nil // copied forward meanwhile: as a copy it is still to come
	}
	if err != nil {
		return false, err
	}
	defer v.Release()
	m, err := record.ParseMessage(v.Bytes())
	if err != nil {
		return false, b.damaged(t.Position, err)
	}
	return m.StoreTime < before, nil
}
