package broker

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// subOf finds a group's consumption of a topic, for requests that carry handles.
func (b *Broker) subOf(groupName, topicName record.Resource) (*inflight.Sub, error) {
	tp, err := b.Route(topicName)
	if err != nil {
		return nil, err
	}
	if err := checkGroupName(groupName); err != nil {
		return nil, err
	}
	g, ok := b.groups.Lookup(groupName)
	if !ok {
		return nil, Errorf(InvalidHandle, "the consumer group %q holds no messages", clip(groupName.String()))
	}
	return b.inflight.Sub(inflight.SubKey{Group: g.ID, Topic: tp.ID}, ordered(g, tp)), nil
}

// handleError says to a client why a handle does not hold its message.
func handleError(err error) error {
	switch {
	case errors.Is(err, inflight.ErrExpired):
		return Errorf(InvalidHandle, "the receipt handle is expired: %w", err)
	case errors.Is(err, inflight.ErrGone), errors.Is(err, inflight.ErrStale):
		return Errorf(InvalidHandle, "the receipt handle does not hold its message any more: %w", err)
	}
	return err
}

// acking is the memory of one Ack.
type acking struct {
	command command
	held    []inflight.Held
}

var ackings = sync.Pool{New: func() any { return new(acking) }}

func (a *acking) free() {
	if !a.command.lost {
		clear(a.held)
		a.held = a.held[:0]
		ackings.Put(a)
	}
}

// Ack settles messages. It answers when that is durable. Acking twice while the
// handle lasts is fine. There is one error for each entry, or none at all when
// all went well.
func (b *Broker) Ack(_ context.Context, groupName, topicName record.Resource, entries []AckEntry) ([]error, error) {
	if len(entries) == 0 {
		return nil, Errorf(BadRequest, "no message is named")
	}
	sub, err := b.subOf(groupName, topicName)
	if err != nil {
		return nil, err
	}
	began := b.tracer.begin()
	now := b.now()
	a := ackings.Get().(*acking)
	defer a.free()
	var errs []error
	for i, e := range entries {
		if err := a.begin(b, sub, e, now); err != nil {
			if errs == nil {
				errs = make([]error, len(entries))
			}
			errs[i] = err
		}
	}
	if len(a.held) == 0 {
		return errs, nil
	}
	a.command.set(inflight.AppendAck(a.command.room(), sub.Key(), a.held))
	if err := b.append.Submit(&a.command.batch); err != nil {
		sub.PutBack(a.held)
		return nil, wrapAppend(err)
	}
	// Not the client's context: the command's memory is used again.
	if err := a.command.durable(); err != nil {
		return nil, err
	}
	b.counters.acks.Add(uint64(len(a.held)))
	b.tracer.settled(began, sub, a.held, "acknowledged")
	return errs, nil
}

// begin reserves the message of one entry for its ack.
func (a *acking) begin(b *Broker, sub *inflight.Sub, e AckEntry, now int64) error {
	h, err := b.openHandle(e.Handle, sub.Key())
	if err != nil {
		return err
	}
	switch held, err := sub.BeginAck(h.Queue, h.Offset, h.LeaseID, now); {
	case err == nil:
		a.held = append(a.held, held)
	case errors.Is(err, inflight.ErrGone) && now < h.Deadline: // acked before
	default:
		return handleError(err)
	}
	return nil
}

// ChangeInvisible makes a message visible again d from now, and returns the
// handle that holds it until then; the old one is void.
// With suspend the delivery does not count as an attempt.
func (b *Broker) ChangeInvisible(_ context.Context, groupName, topicName record.Resource, receipt string, d time.Duration, suspend bool) (string, error) {
	if err := checkInvisible(d, 0); err != nil {
		return "", err
	}
	sub, err := b.subOf(groupName, topicName)
	if err != nil {
		return "", err
	}
	h, err := b.openHandle(receipt, sub.Key())
	if err != nil {
		return "", err
	}
	began := b.tracer.begin()
	now := b.now()
	held, err := sub.BeginMove(h.Queue, h.Offset, h.LeaseID, now)
	if err != nil {
		return "", handleError(err)
	}
	h.LeaseID = b.inflight.LeaseIDs(1, now)
	h.Deadline = now + d.Milliseconds()
	batch := record1(inflight.AppendExtend(nil, sub.Key(), h.Deadline, h.LeaseID, suspend, []inflight.Held{held}))
	if err := b.append.Submit(batch); err != nil {
		sub.PutBack([]inflight.Held{held})
		return "", wrapAppend(err)
	}
	if err := b.await(batch); err != nil {
		return "", err
	}
	b.tracer.settled(began, sub, []inflight.Held{held}, "changed")
	return b.handles.Load().seal(h), nil
}
