package broker

import (
	"context"
	"encoding/binary"

	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// Why a message became a dead letter.
const (
	reasonAttempts  = "attempts exhausted"
	reasonForwarded = "forwarded by the consumer"
	reasonSkipped   = "skipped by an operator"
)

// deadLetter is a dead-letter record: a move of one payload, by position, into
// the group's dead-letter queue. After the move header (the dead-letter queue):
//
//	group uvarint | topic uvarint | queue uvarint | offset uvarint | lease id uvarint
//	| payload position uvarint | payload size uvarint | tag hash uvarint | group hash uvarint
//	| attempt uvarint | lease end varint (Unix ms) | owner string
//	| topic name string | message id string | reason string
//	| deliveries, as of inflight.AppendAttempts; older builds end before
type deadLetter struct {
	Group     record.GroupID
	Topic     record.TopicID // where it came from
	Queue     uint32
	Offset    record.QueueOffset
	LeaseID   uint64
	Position  record.Position // of the payload's record
	Size      uint32
	TagHash   uint32
	GroupHash uint32
	Attempt   int32
	LeaseEnd  int64  // of the last lease
	Owner     string // client that had it last, "" = none
	TopicName string
	MessageID string
	Reason    string
	Attempts  []inflight.Attempt // the newest, the oldest of them first
	StoreTime int64
}

func (dl *deadLetter) append(dst []byte, to record.QueueKey) []byte {
	return dl.appendAs(record.KindDeadLetter, dst, to)
}

func (dl *deadLetter) appendAs(kind record.Kind, dst []byte, to record.QueueKey) []byte {
	dst, start := record.BeginMove(dst, kind, to)
	for _, v := range []uint64{
		uint64(dl.Group), uint64(dl.Topic), uint64(dl.Queue), uint64(dl.Offset), dl.LeaseID,
		uint64(dl.Position), uint64(dl.Size), uint64(dl.TagHash), uint64(dl.GroupHash), uint64(uint32(dl.Attempt)),
	} {
		dst = binary.AppendUvarint(dst, v)
	}
	dst = binary.AppendVarint(dst, dl.LeaseEnd)
	for _, s := range []string{dl.Owner, dl.TopicName, dl.MessageID, dl.Reason} {
		dst = record.AppendString(dst, s)
	}
	return record.EndCommand(inflight.AppendAttempts(dst, dl.Attempts), start)
}

func parseDeadLetter(rec []byte) (deadLetter, error) {
	data, stored, err := record.Move(rec)
	if err != nil {
		return deadLetter{}, err
	}
	d := record.NewDecoder(data)
	dl := deadLetter{
		Group: record.GroupID(d.Uint32()), Topic: record.TopicID(d.Uint32()), Queue: d.Uint32(),
		Offset: record.QueueOffset(d.Uvarint()), LeaseID: d.Uvarint(),
		Position: record.Position(d.Uvarint()), Size: d.Uint32(),
		TagHash: d.Uint32(), GroupHash: d.Uint32(), Attempt: int32(d.Uint32()),
		LeaseEnd: d.Varint(), Owner: d.String(), TopicName: d.String(), MessageID: d.String(), Reason: d.String(),
		StoreTime: stored,
	}
	if d.Len() > 0 {
		dl.Attempts = inflight.ReadAttempts(d)
	}
	return dl, d.Err()
}

// dlqName is the name of a group's dead-letter topic.
func dlqName(group record.Resource) record.Resource {
	return record.Resource{Namespace: group.Namespace, Name: DLQPrefix + group.Name}
}

// dlqTopic returns the group's dead-letter topic, which comes into being with
// its first dead letter.
func (b *Broker) dlqTopic(ctx context.Context, g group.Group) (topic.Topic, error) {
	name := dlqName(g.Name)
	if tp, ok := b.topics.Lookup(name); ok {
		return tp, nil
	}
	tp := topic.Topic{Name: name, Type: topic.Normal, Queues: 1}
	err := b.changeTables(ctx, func() ([]byte, error) {
		if old, ok := b.topics.Lookup(name); ok {
			tp = old
			return nil, nil
		}
		tp.ID, tp.Created = b.topics.NextID(), b.now()
		return topic.AppendPut(nil, tp), nil
	})
	return tp, err
}

// bury moves reserved messages to the group's dead letters and waits until that
// is applied. On an error the reservations are given up.
func (b *Broker) bury(sub *inflight.Sub, tp topic.Topic, g group.Group, held []inflight.Held, reason string) error {
	if len(held) == 0 {
		return nil
	}
	began := b.tracer.begin()
	batch, err := b.buryBatch(sub, tp, g, held, reason)
	if err == nil {
		err = wrapAppend(b.append.Submit(batch))
	}
	if err != nil {
		sub.PutBack(held)
		return err
	}
	b.counters.buried(sub.Key(), len(held))
	if err := b.await(batch); err != nil {
		return err
	}
	b.tracer.settled(began, sub, held, "dead letter")
	return nil
}

func (b *Broker) buryBatch(sub *inflight.Sub, tp topic.Topic, g group.Group, held []inflight.Held, reason string) (*commitlog.Batch, error) {
	dlq, err := b.dlqTopic(context.Background(), g)
	if err != nil {
		return nil, err
	}
	batch := &commitlog.Batch{}
	now := b.now()
	for _, h := range held {
		e, payload, err := b.payloadOf(tp, h.Queue, h.Offset)
		if err != nil {
			return nil, err
		}
		dl := deadLetter{
			Group: sub.Key().Group, Topic: tp.ID, Queue: h.Queue, Offset: h.Offset, LeaseID: h.LeaseID,
			Position: payload.pos, Size: payload.size, TagHash: e.TagHash, GroupHash: e.GroupHash, Attempt: h.Attempt, LeaseEnd: h.Deadline, Owner: h.Owner,
			TopicName: tp.Name.Name, MessageID: payload.id, Reason: reason,
			Attempts: lastAttempts(sub.Attempts(h.Queue, h.Offset), reason, now),
		}
		batch.Add(dl.append(nil, record.Key(dlq.ID, 0)), nil)
	}
	return batch, nil
}

// lastAttempts returns the deliveries of a message that dies now. The last one
// has ended before, or with the message.
func lastAttempts(list []inflight.Attempt, reason string, now int64) []inflight.Attempt {
	if len(list) == 0 {
		return nil
	}
	last := &list[len(list)-1]
	switch {
	case last.Ended > now && reason != reasonSkipped:
		last.End = inflight.EndForwarded // who holds the handle did it
	case last.End != inflight.EndNone:
	case last.Ended > now:
		last.End = inflight.EndSkipped
	default:
		last.End = inflight.EndExpired
	}
	last.Ended = min(last.Ended, now)
	return list
}

// ForwardToDeadLetter moves a message that the consumer gives up. attempts is
// how often the consumer has tried, of maxAttempts: FIFO push consumers try
// again by themselves under one lease. 0 = they do not say.
func (b *Broker) ForwardToDeadLetter(_ context.Context, groupName, topicName record.Resource, receipt string, attempts, maxAttempts int32) error {
	sub, err := b.subOf(groupName, topicName)
	if err != nil {
		return err
	}
	h, err := b.openHandle(receipt, sub.Key())
	if err != nil {
		return err
	}
	held, err := sub.BeginMove(h.Queue, h.Offset, h.LeaseID, b.now())
	if err != nil {
		return handleError(err)
	}
	tp, _ := b.topics.ByID(h.Key.Topic)
	g, _ := b.groups.ByID(h.Key.Group)
	held.Attempt = max(held.Attempt, min(attempts, MaxAttemptsLimit))
	reason := reasonForwarded
	if maxAttempts > 0 && attempts >= maxAttempts {
		reason = reasonAttempts
	}
	return b.bury(sub, tp, g, []inflight.Held{held}, reason)
}
