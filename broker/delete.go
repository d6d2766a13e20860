package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/broker/transaction"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// A delete record names the entries of a message that an operator deleted: the one
// in its queue, those among dead letters, those that a redrive made. They stay,
// since offsets go on, but are flagged, and every reader passes over them. A
// message that is in no queue yet needs no such record: its timer is cancelled, or
// its transaction rolled back.
//
//	count, each  topic uvarint | queue uvarint | offset uvarint
type entryRef struct {
	Key    record.QueueKey
	Offset record.QueueOffset
}

func appendDelete(dst []byte, refs []entryRef) []byte {
	dst, start := record.BeginCommand(dst, record.KindDelete)
	dst = binary.AppendUvarint(dst, uint64(len(refs)))
	for _, r := range refs {
		for _, v := range []uint64{uint64(r.Key.Topic()), uint64(r.Key.Queue()), uint64(r.Offset)} {
			dst = binary.AppendUvarint(dst, v)
		}
	}
	return record.EndCommand(dst, start)
}

func parseDelete(data []byte) ([]entryRef, error) {
	d := record.NewDecoder(data)
	refs := make([]entryRef, d.Count(3))
	for i := range refs {
		refs[i] = entryRef{record.Key(record.TopicID(d.Uint32()), d.Uint32()), record.QueueOffset(d.Uvarint())}
	}
	return refs, d.Err()
}

// applyDelete flags the entries and takes them from whoever holds them.
func (b *Broker) applyDelete(data []byte) error {
	refs, err := parseDelete(data)
	if err != nil {
		return err
	}
	if err := b.indexDelete(refs); err != nil {
		return err
	}
	for _, r := range refs {
		b.inflight.Settle(r.Key, r.Offset)
		b.wakePlaced(r.Key) // what waited for it may go on
	}
	b.deletions.Add(1)
	return nil
}

// indexDelete is the part of a delete record that a rebuild of the index repeats.
func (b *Broker) indexDelete(refs []entryRef) error {
	for _, r := range refs {
		if err := b.markEntry(r.Key, r.Offset, consumequeue.FlagDeleted); err != nil {
			return err
		}
	}
	return nil
}

// delete is indexDelete for entries that a rebuild of the index knows from
// relocate records only so far.
func (m relocations) delete(data []byte) error {
	refs, err := parseDelete(data)
	for _, r := range refs {
		m.mark(r.Key, r.Offset, consumequeue.FlagDeleted)
	}
	return err
}

// isDeleted reports whether an entry is there and flagged.
func (b *Broker) isDeleted(r entryRef) (bool, error) {
	e, ok, err := b.entryAt(r.Key, r.Offset)
	return ok && e.Flags&consumequeue.FlagDeleted != 0, err
}

// DeletedMessage says what a deletion found.
type DeletedMessage struct {
	Entries int // in queues, among dead letters and redriven ones included
	Delayed int // recalled
	Half    int // rolled back
}

// DeleteMessage makes a message, all that have the id, one that is never delivered
// again, whatever its state: waiting in its queue, handed out, delayed, undecided,
// dead. Its bytes stay in the log until their segment goes. MessageNotFound when
// the log has none; one that was deleted before is no error.
func (b *Broker) DeleteMessage(ctx context.Context, topicName record.Resource, id string) (d DeletedMessage, err error) {
	if id == "" {
		return d, Errorf(BadRequest, "the message id is empty")
	}
	tp, err := b.Route(topicName)
	if err != nil {
		return d, err
	}
	// Redrives and retention name payloads by what they saw a moment ago.
	select {
	case b.deadOp <- struct{}{}:
		defer func() { <-b.deadOp }()
	case <-ctx.Done():
		return d, ctx.Err()
	}
	// Between the look and the record a delayed message may come due, or a
	// transaction be decided: then it is somewhere else now.
	for tries := 0; ; tries++ {
		moved, err := b.deleteFound(ctx, tp, id, &d)
		if err != nil || !moved {
			return d, err
		}
		if tries == 100 {
			return d, Errorf(PreconditionFailed, "the message %q is being delivered or decided about at this moment: try again", clip(id))
		}
		select {
		case <-ctx.Done():
			return d, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// deleteFound deletes what it finds. moved says that some of it was somewhere else
// by then.
func (b *Broker) deleteFound(ctx context.Context, tp topic.Topic, id string, d *DeletedMessage) (moved bool, err error) {
	var refs []entryRef
	found := false
	q := MessageQuery{Topic: tp.Name, ID: id, Limit: MaxMessagePage}
	for more := true; more; more = q.Page != "" {
		var page []FoundMessage
		if page, q.Page, err = b.FindMessages(ctx, q); err != nil {
			return false, err
		}
		for i := range page {
			found = true
			switch f := &page[i]; f.State {
			case MessageDelayed:
				err = b.deleteDelayed(ctx, tp, f, d)
			case MessageHalf, MessageParked:
				err = b.deleteHalf(ctx, f, d)
			default:
				refs, err = b.appendPlaces(refs, tp, f)
			}
			if errors.Is(err, errMoved) {
				moved, err = true, nil
			}
			if err != nil {
				return false, err
			}
		}
	}
	if !found {
		return false, Errorf(MessageNotFound, "the topic %q has no message with the id %q", clip(tp.Name.String()), clip(id))
	}
	if len(refs) == 0 {
		return moved, nil
	}
	d.Entries += len(refs)
	return moved, b.commit(record1(appendDelete(nil, refs)))
}

// errMoved reports a message that is not where it was a moment ago.
var errMoved = errors.New("broker: the message has moved on")

func (b *Broker) deleteDelayed(ctx context.Context, tp topic.Topic, f *FoundMessage, d *DeletedMessage) error {
	_, err := b.Recall(ctx, tp.Name, b.handles.Load().sealRecall(recall{tp.ID, f.Due, f.origin, f.timer}))
	if ReasonOf(err) == BadRequest && err != nil { // fired, or recalled by somebody else
		return errMoved
	}
	if err == nil {
		d.Delayed++
	}
	return err
}

func (b *Broker) deleteHalf(ctx context.Context, f *FoundMessage, d *DeletedMessage) error {
	err := b.decide(ctx, f.origin, "", transaction.RolledBack, transaction.FromOperator)
	switch {
	case err == nil:
		d.Half++
	case ReasonOf(err) == PreconditionFailed: // committed meanwhile
		return errMoved
	}
	return err
}

// appendPlaces appends the entries of a message that are not deleted yet.
func (b *Broker) appendPlaces(refs []entryRef, tp topic.Topic, f *FoundMessage) ([]entryRef, error) {
	var all []entryRef
	if f.Offset != record.NoOffset {
		all = append(all, entryRef{record.Key(tp.ID, f.Queue), f.Offset})
	}
	for _, p := range f.Places {
		if in, ok := b.topics.Lookup(p.Topic); ok {
			all = append(all, entryRef{record.Key(in.ID, p.Queue), p.Offset})
		}
	}
	for _, r := range all {
		e, ok, err := b.entryAt(r.Key, r.Offset)
		if err != nil {
			return refs, err
		}
		if ok && e.Flags&consumequeue.FlagDeleted == 0 {
			refs = append(refs, r)
		}
	}
	return refs, nil
}
