package broker

import (
	"context"

	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// ResetRequest says where a group goes on in a topic.
type ResetRequest struct {
	Policy OffsetPolicy
	Value  int64 // of OffsetTimestamp Unix ms, of OffsetExact an offset
	Queue  int32 // only this one; -1 = all
	DryRun bool
}

// QueueReset is what a reset does to one queue.
type QueueReset struct {
	Queue    uint32
	From     record.QueueOffset // where the group was; record.NoOffset = it had not begun
	To       record.QueueOffset // where it goes on
	Max      record.QueueOffset // one after the queue's last message
	InFlight int                // messages it held, whose handles are void
	Ready    int                // messages that waited for redelivery and are forgotten
}

// resetBatch is how many queues are moved in one append.
const resetBatch = 1024

// ResetOffset moves a group to another place in a topic: the messages from there
// on are handed out to it as if for the first time, and those before are done.
// What the group holds or has waiting for redelivery is forgotten and its handles
// are void, so consumers may stay connected. An offset outside a queue is taken
// for its nearer end.
func (b *Broker) ResetOffset(_ context.Context, groupName, topicName record.Resource, req ResetRequest) ([]QueueReset, error) {
	tp, err := b.Route(topicName)
	if err != nil {
		return nil, err
	}
	g, err := b.groupOf(groupName)
	if err != nil {
		return nil, err
	}
	queues, err := b.resetQueues(tp, req.Queue)
	if err != nil {
		return nil, err
	}
	key := inflight.SubKey{Group: g.ID, Topic: tp.ID}
	was := map[uint32]inflight.QueueStatus{}
	if s := b.inflight.Find(key); s != nil {
		status, _ := s.Status(b.now())
		for _, st := range status {
			was[st.Queue] = st
		}
	}
	out := make([]QueueReset, len(queues))
	for i, q := range queues {
		out[i] = QueueReset{Queue: q, From: record.NoOffset}
		if st, ok := was[q]; ok {
			out[i].From, out[i].InFlight, out[i].Ready = st.Cursor, st.InFlight, st.Ready
		}
		if out[i].To, out[i].Max, err = b.resetTo(tp, q, req); err != nil {
			return nil, err
		}
	}
	if req.DryRun {
		return out, nil
	}
	for rest := out; len(rest) > 0; {
		batch := &commitlog.Batch{}
		n := min(len(rest), resetBatch)
		for _, r := range rest[:n] {
			batch.Add(inflight.AppendCursor(nil, key, r.Queue, r.To), nil)
		}
		if err := b.commit(batch); err != nil {
			return nil, err
		}
		rest = rest[n:]
	}
	b.wakeSub(key) // there may be something to receive now
	return out, nil
}

// resetQueues returns the queues a reset is about, lite topics included.
func (b *Broker) resetQueues(tp topic.Topic, only int32) ([]uint32, error) {
	if only >= 0 {
		_, err := b.queueOf(tp.Name, only)
		return []uint32{uint32(only)}, err
	}
	return b.allQueues(tp), nil
}

// allQueues returns the queues of a topic that may have messages, those of its
// lite topics included.
func (b *Broker) allQueues(tp topic.Topic) (queues []uint32) {
	if tp.Type != topic.Lite {
		for q := range tp.Queues {
			queues = append(queues, q)
		}
	}
	for _, l := range b.lites.List(tp.ID) {
		queues = append(queues, l.Queue)
	}
	return queues
}

func (b *Broker) resetTo(tp topic.Topic, queue uint32, req ResetRequest) (to, high record.QueueOffset, err error) {
	key := record.Key(tp.ID, queue)
	low, high, ok := b.index.Bounds(key)
	switch {
	case req.Policy == OffsetBeginning:
		to = low
	case req.Policy == OffsetEnd:
		to = high
	case req.Policy == OffsetTimestamp && ok:
		if to, err = b.index.OffsetAt(key, req.Value); err != nil {
			return 0, 0, b.indexError(tp, queue, low, err)
		}
	case req.Policy == OffsetTimestamp:
	case req.Policy == OffsetExact && req.Value >= 0:
		to = record.QueueOffset(req.Value)
	case req.Policy == OffsetExact:
		return 0, 0, Errorf(IllegalOffset, "the offset %d is negative", req.Value)
	default:
		return 0, 0, Errorf(BadRequest, "the offset policy %d is unknown", req.Policy)
	}
	return min(max(to, low), high), high, nil
}
