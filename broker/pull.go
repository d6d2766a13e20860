package broker

import (
	"context"
	"math"

	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/broker/longpoll"
	"github.com/gantry-mq/gantry/broker/quota"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// queueOf resolves one concrete queue.
func (b *Broker) queueOf(name record.Resource, queue int32) (topic.Topic, error) {
	tp, err := b.Route(name)
	if err != nil {
		return topic.Topic{}, err
	}
	if queue < 0 || uint32(queue) >= tp.Queues {
		return topic.Topic{}, Errorf(BadRequest, "queue %d of topic %q: it has queues 0 to %d", queue, tp.Name, tp.Queues-1)
	}
	return tp, nil
}

// Pull reads one queue from an offset on, without leases. Nothing matching is
// MessageNotFound, an offset outside the queue IllegalOffset; both come with a
// Delivery that says where to go on.
func (b *Broker) Pull(ctx context.Context, req PullRequest) (*Delivery, error) {
	tp, err := b.queueOf(req.Topic, req.Queue)
	if err != nil {
		return nil, err
	}
	if err := checkGroupName(req.Group); err != nil {
		return nil, err
	}
	f, err := b.compiled.get(req.FilterType, req.Filter)
	if err != nil {
		return nil, err
	}
	if _, err := b.EnsureGroup(ctx, req.Group); err != nil {
		return nil, err
	}
	req.Batch = min(max(req.Batch, 1), MaxReceiveBatch)
	w, err := b.hub.Register(longpoll.Key{Topic: tp.ID})
	if err != nil {
		return nil, Errorf(TooManyRequests, "too many pulls wait for topic %q: %w", tp.Name, err)
	}
	defer w.Leave()
	wait := b.waitFor(ctx, req.Wait, req.Stop)
	defer wait.end()
	d := &Delivery{NextOffset: req.Offset}
	ask := quota.Ask{Topic: req.Topic, Group: req.Group, Client: req.From.Client, User: req.From.User}
	batch := req.Batch
	for {
		low, high, _ := b.index.Bounds(record.Key(tp.ID, uint32(req.Queue)))
		if at := d.NextOffset; at < low || at > high {
			d.NextOffset = min(max(at, low), high)
			return d, Errorf(IllegalOffset, "offset %d is outside the queue, which has %d to %d", at, low, high)
		}
		var grant quota.Grant
		if req.Batch = batch; b.quotas.Active() {
			var short *quota.Excess
			if grant, short = b.quotas.Receive(&ask, batch, math.MaxInt, nil); short != nil {
				if err := wait.hold(short); err != nil {
					return d, err
				}
				continue
			}
			req.Batch = grant.Messages
		}
		bytes, err := b.pullNow(d, tp, &req, f, high, grant.Bytes)
		grant.Done(len(d.Messages), bytes)
		if err != nil {
			d.Release()
			return nil, err
		}
		if len(d.Messages) > 0 {
			return d, nil
		}
		if err := wait.sleep(w); err != nil {
			return d, err
		}
	}
}

// pullNow adds what there is now to d, up to about room bytes, 0 = no bound, and returns
// how many bytes that is.
func (b *Broker) pullNow(d *Delivery, tp topic.Topic, req *PullRequest, f matcher, high record.QueueOffset, room int) (bytes int, err error) {
	var entries [MaxReceiveBatch]consumequeue.Entry
	queue := uint32(req.Queue)
	for d.NextOffset < high && len(d.Messages) < req.Batch {
		n, err := b.index.Read(record.Key(tp.ID, queue), d.NextOffset, entries[:min(int64(len(entries)), int64(high-d.NextOffset))])
		if err != nil {
			return bytes, b.indexError(tp, queue, d.NextOffset, err)
		}
		for _, e := range entries[:n] {
			if len(d.Messages) == req.Batch || room > 0 && bytes >= room {
				return bytes, nil
			}
			at := d.NextOffset
			d.NextOffset++
			if !f.MatchHash(e.TagHash) {
				continue
			}
			l, err := b.loadEntry(e, queue, at)
			if isTrimmed(err) {
				continue
			}
			if err != nil {
				return bytes, err
			}
			if !f.Match(&l.msg) {
				l.release()
				continue
			}
			bytes += int(e.Size)
			d.Messages = append(d.Messages, l.delivered(tp.Name, queue, at))
		}
		if n == 0 {
			return bytes, nil
		}
	}
	return bytes, nil
}

// UpdateOffset stores a group's offset in a queue, for consumers that pull.
func (b *Broker) UpdateOffset(ctx context.Context, groupName, topicName record.Resource, queue int32, off record.QueueOffset) error {
	tp, err := b.queueOf(topicName, queue)
	if err != nil {
		return err
	}
	if off < 0 || off == math.MaxInt64 {
		return Errorf(IllegalOffset, "the offset %d is negative or too large", off)
	}
	g, err := b.EnsureGroup(ctx, groupName)
	if err != nil {
		return err
	}
	key := inflight.SubKey{Group: g.ID, Topic: tp.ID}
	return b.commit(record1(inflight.AppendOffset(nil, key, uint32(queue), off)))
}

// GetOffset returns a group's offset in a queue: what UpdateOffset stored, or
// for consumers that receive, the lowest offset not settled. OffsetNotFound
// when there is neither.
func (b *Broker) GetOffset(groupName, topicName record.Resource, queue int32) (record.QueueOffset, error) {
	tp, err := b.queueOf(topicName, queue)
	if err != nil {
		return 0, err
	}
	if err := checkGroupName(groupName); err != nil {
		return 0, err
	}
	g, ok := b.groups.Lookup(groupName)
	if !ok {
		return 0, groupNotFound(groupName)
	}
	if s := b.inflight.Find(inflight.SubKey{Group: g.ID, Topic: tp.ID}); s != nil {
		if off, ok := s.Committed(uint32(queue)); ok {
			return off, nil
		}
	}
	return 0, Errorf(OffsetNotFound, "the group %q has no offset in queue %d of topic %q", g.Name, queue, tp.Name)
}

// QueryOffset returns an offset of a queue: the first, the next to be written,
// or the first stored at or after unixMs.
func (b *Broker) QueryOffset(topicName record.Resource, queue int32, policy OffsetPolicy, unixMs int64) (record.QueueOffset, error) {
	tp, err := b.queueOf(topicName, queue)
	if err != nil {
		return 0, err
	}
	key := record.Key(tp.ID, uint32(queue))
	low, high, ok := b.index.Bounds(key)
	switch {
	case policy == OffsetBeginning:
		return low, nil
	case policy == OffsetEnd:
		return high, nil
	case policy != OffsetTimestamp:
		return 0, Errorf(BadRequest, "the offset policy %d is unknown", policy)
	case !ok:
		return 0, nil
	}
	return b.index.OffsetAt(key, unixMs)
}
