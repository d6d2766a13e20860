package broker

import (
	"cmp"
	"context"
	"encoding/binary"
	"math"
	"slices"

	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/scheduler"
)

// PendingTimer is a delayed message that is not due yet.
type PendingTimer struct {
	MessageID string
	Keys      []string
	Tag       string
	Handle    string // for Recall and Reschedule
	Due       int64  // Unix ms
	Born      int64  // Unix ms
	Stored    int64  // Unix ms
	Queue     uint32 // where it will go
	Bytes     int    // of the body
}

// TimerQuery selects pending delayed messages of a topic.
type TimerQuery struct {
	Topic     record.Resource
	Key       string // a message key; "" = any
	MessageID string // "" = any
	From, To  int64  // Unix ms, due in [From, To); To 0 = no end
	Limit     int    // 1 to MaxTimerList
}

func takesDelayed(tp topic.Topic) bool { return tp.Type == topic.Delay || tp.Type == topic.Mixed }

// Timers lists pending delayed messages of a topic in order of due time, the
// soonest Limit of them. It reads the index entries of all that are pending in
// the time range, and the records of the topic's.
func (b *Broker) Timers(ctx context.Context, q TimerQuery) ([]PendingTimer, error) {
	tp, err := b.Route(q.Topic)
	if err != nil {
		return nil, err
	}
	if q.Limit < 1 || q.Limit > MaxTimerList {
		return nil, Errorf(BadRequest, "the limit is %d, it must be 1 to %d", q.Limit, MaxTimerList)
	}
	if q.To == 0 {
		q.To = math.MaxInt64
	}
	var out []PendingTimer
	bucket := record.QueueKey(0)
	trim := func() { // of what was found in a bucket, which is in no order
		slices.SortStableFunc(out, func(a, b PendingTimer) int { return cmp.Compare(a.Due, b.Due) })
		out = out[:min(len(out), q.Limit)]
	}
	err2 := b.timers.Each(q.From, q.To, func(t scheduler.Timer) bool {
		if err = ctx.Err(); err != nil {
			return false
		}
		if key := t.Key(); key != bucket {
			if len(out) >= q.Limit {
				return false
			}
			bucket = key
		}
		if t.To.Topic() != tp.ID {
			return true
		}
		var p PendingTimer
		var match bool
		if p, match, err = b.pendingTimer(t, &q); err != nil {
			return false
		}
		if match {
			out = append(out, p)
		}
		if len(out) >= 2*MaxTimerList {
			trim()
		}
		return true
	})
	if err = cmp.Or(err, err2); err != nil {
		return nil, err
	}
	trim()
	return out, nil
}

// pendingTimer reads the message of a timer and matches it.
func (b *Broker) pendingTimer(t scheduler.Timer, q *TimerQuery) (p PendingTimer, match bool, err error) {
	v, err := b.viewRecord(t.Position, int(t.Size))
	if err != nil {
		return p, false, err
	}
	defer v.Release()
	m, err := record.ParseMessage(v.Bytes())
	if err != nil {
		return p, false, b.damaged(t.Position, err)
	}
	p = PendingTimer{Due: t.Due, Born: m.BornTime, Stored: m.StoreTime, Queue: t.To.Queue(), Bytes: len(m.Body)}
	match = q.Key == ""
	first := t.Position
	err = m.Properties.Each(func(f record.Field, _, value []byte) bool {
		switch f {
		case record.FieldMessageID:
			p.MessageID = string(value)
		case record.FieldTag:
			p.Tag = string(value)
		case record.FieldKey:
			p.Keys = append(p.Keys, string(value))
			match = match || string(value) == q.Key
		case record.FieldOrigin:
			first = originOf(value)
		}
		return true
	})
	if err != nil {
		return p, false, b.damaged(t.Position, err)
	}
	if p.MessageID == "" {
		p.MessageID = record.PositionID(b.StoreID(), first)
	}
	match = match && (q.MessageID == "" || p.MessageID == q.MessageID)
	p.Handle = b.handles.Load().sealRecall(recall{t.To.Topic(), t.Due, first, t.Place})
	return p, match, nil
}

// timerMessage returns where a timer's message was first stored, and its id.
func (b *Broker) timerMessage(t scheduler.Timer) (first record.Position, id string, err error) {
	return b.payloadMessage(t.Position, t.Size)
}

func (b *Broker) payloadMessage(pos record.Position, size uint32) (first record.Position, id string, err error) {
	v, err := b.viewRecord(pos, int(size))
	if err != nil {
		return 0, "", err
	}
	defer v.Release()
	m, err := record.ParseMessage(v.Bytes())
	if err != nil {
		return 0, "", b.damaged(pos, err)
	}
	first = pos
	if o, ok := m.Properties.Lookup(record.FieldOrigin); ok {
		first = originOf(o)
	}
	return first, b.messageID(&m, pos), nil
}

// originOf reads a copy's FieldOrigin.
func originOf(value []byte) record.Position {
	if len(value) != 8 {
		return 0
	}
	return record.Position(binary.LittleEndian.Uint64(value))
}

// FindTimer returns the recall handle of a pending message, by its id. It looks
// through all pending messages of the topic. MessageNotFound when there is none.
func (b *Broker) FindTimer(ctx context.Context, topicName record.Resource, messageID string) (handle string, err error) {
	found, err := b.Timers(ctx, TimerQuery{Topic: topicName, MessageID: messageID, Limit: 1})
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return "", Errorf(MessageNotFound, "no pending message of topic %q has the id %q", clip(topicName.String()), clip(messageID))
	}
	return found[0].Handle, nil
}
