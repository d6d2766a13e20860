package broker

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/scheduler"
)

// A recall handle is opaque to clients: URL-safe base64, unpadded, of
//
//	off size
//	 0   1   'D', which no other handle begins with: one is never the other
//	 1   4   topic id
//	 5   8   due time, Unix ms
//	13   8   position at which the message was first stored
//	21   4   place among those that are due in the same bucket, see scheduler
//	25  16   first half of HMAC-SHA-256 of the bytes before, under the store's key
const (
	recallTag    = 'D'
	recallFields = 25
)

// recall names a delayed message.
type recall struct {
	Topic    record.TopicID
	Due      int64
	Position record.Position
	Place    record.QueueOffset
}

func (k *handleKey) sealRecall(r recall) string {
	var b [recallFields]byte
	le := binary.LittleEndian
	b[0] = recallTag
	le.PutUint32(b[1:], uint32(r.Topic))
	le.PutUint64(b[5:], uint64(r.Due))
	le.PutUint64(b[13:], uint64(r.Position))
	le.PutUint32(b[21:], uint32(r.Place))
	return k.sealed(b[:])
}

func (k *handleKey) openRecall(s string) (recall, bool) {
	var b [recallFields]byte
	if !k.opened(b[:], recallTag, s) {
		return recall{}, false
	}
	le := binary.LittleEndian
	return recall{
		record.TopicID(le.Uint32(b[1:])), int64(le.Uint64(b[5:])), record.Position(le.Uint64(b[13:])), record.QueueOffset(le.Uint32(b[21:])),
	}, true
}

// Recall cancels a delayed message and returns its id. After nil it is certain
// that the message was pending and will never be delivered. A message that was
// delivered or cancelled before is BadRequest, and the text says which.
func (b *Broker) Recall(ctx context.Context, topicName record.Resource, handle string) (messageID string, err error) {
	t, err := b.reserveTimer(ctx, topicName, handle)
	if err != nil {
		return "", err
	}
	return b.cancelTimer(t)
}

// Reschedule makes a delayed message due at another time, and returns the
// handle that names it from now on: the old one is void. A time that is past
// makes it due at once. Failures are as of Recall, and IllegalDeliveryTime.
func (b *Broker) Reschedule(ctx context.Context, topicName record.Resource, handle string, due int64) (newHandle, messageID string, err error) {
	now := b.clock.Wall().UnixMilli()
	if due > now+b.opts.MaxDelay.Milliseconds() {
		return "", "", tooFarAhead(due, b.opts.MaxDelay)
	}
	t, err := b.reserveTimer(ctx, topicName, handle)
	if err != nil {
		return "", "", err
	}
	first, messageID, err := b.timerMessage(t)
	if err != nil {
		b.timers.Release(t)
		return "", "", err
	}
	due = max(due, now)
	batch := record1(scheduler.AppendMove(nil, &t, first, due))
	if err := b.append.Submit(batch); err != nil {
		b.timers.Release(t)
		return "", "", wrapAppend(err)
	}
	if err := b.await(batch); err != nil {
		return "", "", err
	}
	place := record.OffsetOf(batch.Head(0))
	return b.handles.Load().sealRecall(recall{t.To.Topic(), due, first, place}), messageID, nil
}

func (b *Broker) cancelTimer(t scheduler.Timer) (messageID string, err error) {
	first, messageID, err := b.timerMessage(t)
	if err != nil {
		b.timers.Release(t)
		return "", err
	}
	batch := record1(scheduler.AppendCancel(nil, &t, first))
	if err := b.append.Submit(batch); err != nil {
		b.timers.Release(t)
		return "", wrapAppend(err)
	}
	return messageID, b.await(batch)
}

// reserveTimer opens a recall handle and keeps its message from firing.
func (b *Broker) reserveTimer(ctx context.Context, topicName record.Resource, handle string) (scheduler.Timer, error) {
	if err := checkTopicName(topicName); err != nil {
		return scheduler.Timer{}, err
	}
	tp, err := b.Route(topicName)
	if err != nil {
		return scheduler.Timer{}, err
	}
	if !takesDelayed(tp) {
		return scheduler.Timer{}, Errorf(TypeConflict, "the topic %q is of type %v: it has no delayed messages", tp.Name, tp.Type)
	}
	r, ok := b.handles.Load().openRecall(handle)
	switch {
	case !ok:
		return scheduler.Timer{}, Errorf(BadRequest, "the recall handle is not one of this broker's")
	case r.Topic != tp.ID:
		return scheduler.Timer{}, Errorf(BadRequest, "the recall handle belongs to another topic")
	case r.Position >= b.wal.Committed():
		// Stored in a mode that a crash may take the newest messages from.
		return scheduler.Timer{}, Errorf(BadRequest, "the message is not known")
	}
	if err := b.dispatcher.Await(ctx, r.Position+1); err != nil {
		return scheduler.Timer{}, Errorf(Unavailable, "the broker is shutting down: %w", err)
	}
	for tries := 0; ; tries++ {
		t, err := b.timers.Reserve(r.Due, r.Place)
		if err == nil {
			var same bool
			if same, err = b.isFirst(t.Position, t.Size, t.Copied, r.Position); !same {
				b.timers.Release(t)
				err = cmp.Or(err, scheduler.ErrUnknown)
			}
		}
		if !errors.Is(err, scheduler.ErrTaken) || tries == 100 {
			return t, timerError(err, r.Due)
		}
		// Somebody else is deciding; what, the next try can tell.
		select {
		case <-ctx.Done():
			return scheduler.Timer{}, timerError(err, r.Due)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// isFirst reports whether an entry's message was first stored at a position. It
// is asked where a place is a message's name: places are given again when a bucket
// has been let go of and the broker restarted.
func (b *Broker) isFirst(pos record.Position, size uint32, copied bool, first record.Position) (bool, error) {
	if pos == first || !copied {
		return pos == first, nil
	}
	origin, _, err := b.payloadMessage(pos, size)
	if errors.Is(err, errTrimmed) {
		return false, nil
	}
	return origin == first, err
}

// timerError says to a client why a delayed message cannot be recalled.
func timerError(err error, due int64) error {
	at := func() string { return time.UnixMilli(due).UTC().Format(time.RFC3339Nano) }
	switch {
	case errors.Is(err, scheduler.ErrFired):
		return Errorf(BadRequest, "the message was delivered to its topic at %s already", at())
	case errors.Is(err, scheduler.ErrCancelled):
		return Errorf(BadRequest, "the message was recalled or rescheduled before")
	case errors.Is(err, scheduler.ErrTaken):
		return Errorf(BadRequest, "the message is being delivered or recalled at this moment")
	case errors.Is(err, scheduler.ErrUnknown):
		return Errorf(BadRequest, "the message was due at %s and is not pending any more", at())
	}
	return err
}
