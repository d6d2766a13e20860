package broker

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// SettleAction says what is to become of leased messages.
type SettleAction int

const (
	SettleAck        SettleAction = iota // done with
	SettleRetry                          // again, after a while
	SettleExtend                         // to be held for longer
	SettleDeadLetter                     // to the group's dead letters, at once
)

// LeaseRange names leased messages: Count of them with consecutive offsets and
// lease ids; or, with UpTo, all that the consumer holds of the queue up to and
// with Offset.
type LeaseRange struct {
	Action  SettleAction
	Queue   uint32
	Offset  record.QueueOffset
	LeaseID uint64
	Count   int
	UpTo    bool
	// Delay until a retry, or the end of an extended lease. NoDelay has a retry wait
	// as the group's policy says.
	Delay   time.Duration
	Suspend bool // of a retry: the delivery does not count as an attempt
}

// NoDelay is a Delay that is not given.
const NoDelay time.Duration = -1

// SettleFailure is messages that did not become what they should.
type SettleFailure struct {
	Queue  uint32
	Offset record.QueueOffset
	Count  int
	Err    error
}

// settleRun is one Settle under way.
type settleRun struct {
	s        *Subscription
	now      int64
	acks     []inflight.Held
	moves    []move
	dead     []inflight.Held
	failures []SettleFailure
}

type move struct {
	held     inflight.Held
	deadline int64
	suspend  bool
}

// Settle decides about leased messages and returns how to wait until that is
// durable, and what failed. Settles are carried out in their order.
func (s *Subscription) Settle(_ context.Context, ranges []LeaseRange) (wait func() ([]SettleFailure, error), err error) {
	began := s.b.tracer.begin()
	t := &settleRun{s: s, now: s.b.now()}
	for i := range ranges {
		if err := t.reserve(&ranges[i]); err != nil {
			t.putBack()
			return nil, err
		}
	}
	batch := &commitlog.Batch{}
	if len(t.acks) > 0 {
		batch.Add(inflight.AppendAck(nil, s.sub.Key(), t.acks), nil)
	}
	t.addMoves(batch)
	if batch.Len() > 0 {
		if err := s.b.append.Submit(batch); err != nil {
			t.putBack()
			return nil, wrapAppend(err)
		}
	}
	if err := t.bury(); err != nil {
		return nil, err
	}
	return func() ([]SettleFailure, error) {
		switch {
		case batch.Len() == 0:
		case len(t.moves) > 0:
			err = s.b.await(batch)
		default:
			err = wrapAppend(batch.Wait(context.Background()))
		}
		s.b.counters.acks.Add(uint64(len(t.acks)))
		if err == nil && s.b.tracer != nil {
			s.b.tracer.settled(began, s.sub, t.acks, "acknowledged")
			for _, m := range t.moves {
				s.b.tracer.settled(began, s.sub, []inflight.Held{m.held}, "changed")
			}
		}
		return t.failures, err
	}, nil
}

// reserve takes what a range names into the hands of this Settle.
func (t *settleRun) reserve(r *LeaseRange) error {
	sub := t.s.sub
	switch {
	case r.Action < SettleAck || r.Action > SettleDeadLetter:
		return Errorf(BadRequest, "the action %d is unknown", r.Action)
	case !r.UpTo && (r.Count < 1 || r.Count > MaxInFlight):
		return Errorf(BadRequest, "a range of %d messages, it must be 1 to %d", r.Count, MaxInFlight)
	case r.Action == SettleExtend || r.Action == SettleRetry && r.Delay != NoDelay:
		if err := checkInvisible(r.Delay, 0); err != nil { // which is no matter of the others
			t.failures = append(t.failures, SettleFailure{Queue: r.Queue, Offset: r.Offset, Count: max(r.Count, 1), Err: err})
			return nil
		}
	}
	var held []inflight.Held
	switch ack := r.Action == SettleAck; {
	case r.UpTo:
		held = sub.BeginUpTo(r.Queue, r.Offset, t.s.req.ClientID, !ack, t.now)
	case ack:
		t.acks = sub.BeginAckRange(t.acks, r.Queue, r.Offset, r.LeaseID, r.Count, t.now, func(off record.QueueOffset, err error) {
			if !errors.Is(err, inflight.ErrGone) { // acknowledging twice is fine
				t.fail(r.Queue, off, err)
			}
		})
		return nil
	default:
		held = sub.BeginMoveRange(nil, r.Queue, r.Offset, r.LeaseID, r.Count, t.now, func(off record.QueueOffset, err error) { t.fail(r.Queue, off, err) })
	}
	switch r.Action {
	case SettleAck:
		t.acks = append(t.acks, held...)
	case SettleDeadLetter:
		t.dead = append(t.dead, held...)
	default:
		g, _ := t.s.b.groups.ByID(t.s.group)
		for _, h := range held {
			d := r.Delay
			if d == NoDelay {
				d = g.Retry.Delay(h.Attempt)
			}
			t.moves = append(t.moves, move{held: h, deadline: t.now + d.Milliseconds(), suspend: r.Suspend && r.Action == SettleRetry})
		}
	}
	return nil
}

// fail notes a failure, with the one before if it is the same.
func (t *settleRun) fail(queue uint32, off record.QueueOffset, cause error) {
	err := handleError(cause)
	if n := len(t.failures); n > 0 {
		last := &t.failures[n-1]
		if last.Queue == queue && last.Offset+record.QueueOffset(last.Count) == off && last.Err.Error() == err.Error() {
			last.Count++
			return
		}
	}
	t.failures = append(t.failures, SettleFailure{Queue: queue, Offset: off, Count: 1, Err: err})
}

// addMoves adds a record for each deadline that moves have in common.
func (t *settleRun) addMoves(batch *commitlog.Batch) {
	slices.SortStableFunc(t.moves, func(a, b move) int {
		if a.suspend != b.suspend {
			if a.suspend {
				return 1
			}
			return -1
		}
		return cmp.Compare(a.deadline, b.deadline)
	})
	for at := 0; at < len(t.moves); {
		first := t.moves[at]
		var held []inflight.Held
		for ; at < len(t.moves) && t.moves[at].deadline == first.deadline && t.moves[at].suspend == first.suspend; at++ {
			held = append(held, t.moves[at].held)
		}
		batch.Add(inflight.AppendExtend(nil, t.s.sub.Key(), first.deadline, 0, first.suspend, held), nil)
	}
}

// bury moves messages to the dead letters and waits for it: that is rare.
func (t *settleRun) bury() error {
	if len(t.dead) == 0 {
		return nil
	}
	b := t.s.b
	tp, ok := b.topics.ByID(t.s.topic)
	g, known := b.groups.ByID(t.s.group)
	if !ok || !known {
		t.s.sub.PutBack(t.dead)
		return topicNotFound(t.s.req.Topic)
	}
	there, lost, err := b.split(tp, t.dead)
	if err != nil {
		t.s.sub.PutBack(t.dead)
		return err
	}
	t.s.sub.PutBack(lost) // they will be found to be gone when they come again
	return b.bury(t.s.sub, tp, g, there, reasonForwarded)
}

func (t *settleRun) putBack() {
	t.s.sub.PutBack(t.acks)
	for _, m := range t.moves {
		t.s.sub.PutBack([]inflight.Held{m.held})
	}
	t.s.sub.PutBack(t.dead)
}
