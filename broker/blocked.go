package broker

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// BlockedKey is a message group whose messages wait for one of them to be
// settled.
type BlockedKey struct {
	Topic     record.Resource
	Queue     uint32
	Offset    record.QueueOffset // of the message that they wait for
	MessageID string             // "" when retention took it
	Key       string             // the message group, "" = none
	LiteTopic string
	Attempt   int32  // deliveries it had; 0 = none yet
	Owner     string // client that has it, or had it last; "" = none
	Since     int64  // Unix ms: when its lease or the pause after it began; 0 = no delivery yet
	Until     int64  // Unix ms: when it may be handed out again; past or 0 = now
	Stored    int64  // Unix ms
	Behind    int    // messages that wait for it
	More      bool   // there may be more than Behind: not all were looked at
	// History is the message's deliveries, the oldest first, of many the newest.
	History []inflight.Attempt
}

// MaxBlocked bounds what Blocked returns.
const MaxBlocked = 1000

// Blocked lists the message groups of a group that are held up: a message was
// handed out more than once, or others wait for it. Most attempts come first.
func (b *Broker) Blocked(groupName record.Resource, limit int) ([]BlockedKey, error) {
	g, err := b.groupOf(groupName)
	if err != nil {
		return nil, err
	}
	type head struct {
		inflight.Head
		sub   *inflight.Sub
		topic topic.Topic
	}
	var heads []head
	for _, s := range b.inflight.Subs() {
		tp, ok := b.topics.ByID(s.Key().Topic)
		if s.Key().Group != g.ID || !ok {
			continue
		}
		found, err := b.headsOf(s)
		if err != nil {
			return nil, err
		}
		for _, h := range found {
			heads = append(heads, head{h, s, tp})
		}
	}
	slices.SortStableFunc(heads, func(x, y head) int {
		return cmp.Or(cmp.Compare(y.Attempt, x.Attempt), cmp.Compare(y.Behind, x.Behind))
	})
	if limit < 1 || limit > MaxBlocked {
		limit = MaxBlocked
	}
	var out []BlockedKey
	for _, h := range heads[:min(len(heads), limit)] {
		k, err := b.blockedKey(h.sub, h.topic, h.Head)
		if err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	return out, nil
}

// headsOf returns what holds a message group up, with those behind it that the
// group has not looked at counted in, as far as scanBudget goes.
func (b *Broker) headsOf(s *inflight.Sub) ([]inflight.Head, error) {
	heads := s.Heads()
	var entries [128]consumequeue.Entry
	for first := 0; first < len(heads); {
		queue, at := heads[first].Queue, heads[first].Cursor
		byHash := map[uint32]*inflight.Head{}
		for ; first < len(heads) && heads[first].Queue == queue; first++ {
			byHash[heads[first].GroupHash] = &heads[first]
		}
		key := record.Key(s.Key().Topic, queue)
		low, high, _ := b.index.Bounds(key)
		at = max(at, low)
		for end := min(high, at+scanBudget); at < end; {
			n, err := b.index.Read(key, at, entries[:min(int64(len(entries)), int64(end-at))])
			if isTrimmed(err) || err == nil && n == 0 {
				break
			}
			if err != nil {
				return nil, err
			}
			for _, e := range entries[:n] {
				if h := byHash[e.GroupHash]; h != nil && e.Flags&consumequeue.FlagDeleted == 0 {
					h.Behind++
				}
			}
			at += record.QueueOffset(n)
		}
	}
	return slices.DeleteFunc(heads, func(h inflight.Head) bool { return h.Attempt < 2 && h.Behind == 0 }), nil
}

// blockedKey describes a head by its message.
func (b *Broker) blockedKey(s *inflight.Sub, tp topic.Topic, h inflight.Head) (BlockedKey, error) {
	_, high, _ := b.index.Bounds(record.Key(tp.ID, h.Queue))
	k := BlockedKey{
		Topic: tp.Name, Queue: h.Queue, Offset: h.Offset, Attempt: h.Attempt, Owner: h.Owner,
		Since: h.Since, Until: h.Deadline, Behind: h.Behind, More: high-h.Cursor > scanBudget,
		History: b.attemptsNow(s.Attempts(h.Queue, h.Offset)),
	}
	l, err := b.load(tp, h.Queue, h.Offset)
	if isTrimmed(err) {
		return k, nil
	}
	if err != nil {
		return BlockedKey{}, err
	}
	defer l.release()
	k.Stored, k.MessageID = l.msg.StoreTime, b.messageID(&l.msg, l.pos)
	return k, l.msg.Properties.Each(func(f record.Field, _, value []byte) bool {
		switch f {
		case record.FieldGroup:
			k.Key = string(value)
		case record.FieldLiteTopic:
			k.LiteTopic = string(value)
		}
		return true
	})
}

// attemptsNow says of a delivery whose lease has run out that it is over.
func (b *Broker) attemptsNow(list []inflight.Attempt) []inflight.Attempt {
	if n := len(list); n > 0 && list[n-1].End == inflight.EndNone && list[n-1].Ended <= b.now() {
		list[n-1].End = inflight.EndExpired
	}
	return list
}

// groupOf returns a group that must exist.
func (b *Broker) groupOf(name record.Resource) (group.Group, error) {
	if err := checkGroupName(name); err != nil {
		return group.Group{}, err
	}
	g, ok := b.groups.Lookup(name)
	if !ok {
		return group.Group{}, groupNotFound(name)
	}
	return g, nil
}

// Skip moves one message of a group to its dead letters, whoever holds it: what
// waited for it is free. It must be outstanding: handed out and not
// acknowledged, or put aside behind another one. A handle of it is void then.
func (b *Broker) Skip(_ context.Context, groupName, topicName record.Resource, queue uint32, offset record.QueueOffset) error {
	tp, err := b.Route(topicName)
	if err != nil {
		return err
	}
	if queue >= tp.Queues && !b.lites.Has(record.Key(tp.ID, queue)) {
		return Errorf(BadRequest, "queue %d of topic %q: it has queues 0 to %d", queue, tp.Name, tp.Queues-1)
	}
	g, err := b.groupOf(groupName)
	if err != nil {
		return err
	}
	sub := b.inflight.Find(inflight.SubKey{Group: g.ID, Topic: tp.ID})
	err = inflight.ErrStale
	var held inflight.Held
	if sub != nil {
		held, err = sub.BeginSkip(queue, offset)
	}
	switch {
	case errors.Is(err, inflight.ErrGone):
		return Errorf(PreconditionFailed, "message %d of queue %d is settled already, nothing waits for it", offset, queue)
	case errors.Is(err, inflight.ErrStale):
		return Errorf(PreconditionFailed, "message %d of queue %d was not handed out to the group yet, nothing waits for it", offset, queue)
	case errors.Is(err, inflight.ErrBusy):
		return Errorf(PreconditionFailed, "message %d of queue %d is being handed out or moved at this moment: try again", offset, queue)
	case err != nil:
		return err
	}
	there, lost, err := b.split(tp, []inflight.Held{held})
	if err == nil && len(lost) > 0 {
		err = b.commit(record1(inflight.AppendAck(nil, sub.Key(), lost)))
	}
	if err != nil {
		sub.PutBack([]inflight.Held{held})
		return err
	}
	return b.bury(sub, tp, g, there, reasonSkipped)
}
