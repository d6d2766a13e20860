package broker

import (
	"fmt"

	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/broker/lite"
	"github.com/gantry-mq/gantry/broker/longpoll"
	"github.com/gantry-mq/gantry/broker/replay"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/broker/transaction"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// apply is the state machine: one verified record in, state changed. It uses
// the record and its time only, never the clock, so that every replica that
// applied the same log holds the same state.
func (b *Broker) apply(pos record.Position, rec []byte, kind record.Kind, time int64) error {
	b.timers.Advance(time)
	b.dedup.Advance(time)
	if err := b.indexKeys(pos, rec, kind); err != nil {
		return err
	}
	if err := b.applyKind(pos, rec, kind, time); err != nil {
		return err
	}
	if kind.IsMessage() && kind != record.KindCopy && record.FlagsOf(rec)&record.FlagDedup != 0 {
		return b.remember(pos, rec) // last: who waits for it is told that it is applied
	}
	return nil
}

func (b *Broker) applyKind(pos record.Position, rec []byte, kind record.Kind, time int64) error {
	switch kind {
	case record.KindMessage, record.KindDeadLetter, record.KindRedrive, record.KindTransactionEnd:
		if err := b.applyPlaced(pos, rec, kind); err != nil {
			return err
		}
		b.arrived(record.KeyOf(rec), 1, record.BodyLen(rec), time)
		return nil
	case record.KindDelayed:
		if b.live.Load() {
			b.counters.stored(record.KeyOf(rec).Topic(), 1, record.BodyLen(rec))
			b.counters.delayed(record.KeyOf(rec).Topic(), 1, 0)
		}
		return b.timers.ApplyAdd(pos, rec)
	case record.KindTimerFired: // counted when it was sent
		return b.applyFired(rec, time)
	case record.KindDiscard:
		return b.indexDiscard(record.Command(rec))
	case record.KindTimerCancel:
		return b.timers.ApplyCancel(rec, time)
	case record.KindTimerMove:
		return b.timers.ApplyMove(rec, time)
	case record.KindCopy, record.KindDeadLetterCopy:
		return nil // until a record names it
	case record.KindRelocate:
		return b.indexRelocate(record.Command(rec))
	case record.KindLogBegin:
		return b.applyLogBegin(record.Command(rec))
	case record.KindTrim:
		return b.applyTrim(record.Command(rec))
	case record.KindDelete:
		return b.applyDelete(record.Command(rec))
	case record.KindTopicPut:
		tp, err := b.topics.ApplyPut(record.Command(rec))
		b.dedup.Configure(tp.ID, tp.DedupWindow, tp.DedupMax, string(tp.DedupKey))
		b.changes.tell()
		return err
	case record.KindTopicDelete:
		id, err := b.topics.ApplyDelete(record.Command(rec))
		if err != nil {
			return err
		}
		b.index.DeleteTopic(id)
		b.inflight.DropTopic(id)
		b.replays.Drop(func(k replay.Key) bool { return k.Topic == id })
		b.lites.DropParent(id)
		b.transactions.DropTopic(id)
		b.dedup.Drop(id)
		b.filters.drop(func(k inflight.SubKey) bool { return k.Topic == id })
		b.counters.dropTopic(id)
		b.wakes.topic(id)
		b.changes.tell()
		return nil
	case record.KindGroupPut:
		resumed, err := b.groups.ApplyPut(record.Command(rec))
		if resumed != 0 {
			b.wakes.groups = append(b.wakes.groups, resumed)
		}
		b.changes.tell()
		return err
	case record.KindGroupDelete:
		id, err := b.groups.ApplyDelete(record.Command(rec))
		if err != nil {
			return err
		}
		b.inflight.DropGroup(id)
		b.replays.Drop(func(k replay.Key) bool { return k.Group == id })
		b.filters.drop(func(k inflight.SubKey) bool { return k.Group == id })
		b.counters.dropGroup(id)
		b.changes.tell()
		return nil
	case record.KindLitePut:
		return b.lites.ApplyPut(record.Command(rec), b.topicExists)
	case record.KindLiteDelete:
		key, gone, err := b.lites.ApplyDelete(record.Command(rec), b.nextOffset)
		if err != nil || !gone {
			return err
		}
		b.index.Delete(key)
		b.inflight.DropQueue(key)
		return nil
	case record.KindLease, record.KindAck, record.KindExtend, record.KindOffsetCommit, record.KindCursor, record.KindReopen:
		err := b.inflight.Apply(kind, record.Command(rec), b.subExists)
		b.appliedLease(record.Command(rec))
		return err
	case record.KindHalf:
		if _, ok := b.topics.ByID(record.KeyOf(rec).Topic()); !ok {
			return nil // sent while the topic was being deleted
		}
		return b.transactions.ApplyHalf(pos, rec)
	case record.KindTransactionRollback:
		return b.transactions.ApplyRollback(record.Command(rec), time)
	case record.KindTransactionCheck:
		return b.transactions.ApplyCheck(record.Command(rec))
	case record.KindTransactionMove:
		return b.transactions.ApplyMove(record.Command(rec))
	case record.KindReplayBegin, record.KindReplayStep, record.KindReplayEnd:
		return b.replays.Apply(kind, record.Command(rec), func(k replay.Key) bool {
			ok, _ := b.subExists(inflight.SubKey{Group: k.Group, Topic: k.Topic})
			return ok
		})
	case record.KindProducerMark:
		return b.producers.Apply(pos, record.Command(rec), time)
	case record.KindUserPut, record.KindUserDelete, record.KindPolicyPut, record.KindPolicyDelete:
		defer b.changes.tell()
		return b.access.Apply(kind, record.Command(rec))
	case record.KindQuotaPut, record.KindQuotaDelete:
		defer b.changes.tell()
		return b.quotas.Apply(kind, record.Command(rec))
	case record.KindDigest:
		b.takeDigest(pos)
		return nil
	case record.KindIdentity:
		return b.applyIdentity(record.Command(rec))
	}
	return fmt.Errorf("this build does not know %v records", kind)
}

// subExists says whether a group and topic are still there.
func (b *Broker) subExists(key inflight.SubKey) (ok, fifo bool) {
	g, ok := b.groups.ByID(key.Group)
	if !ok {
		return false, false
	}
	tp, ok := b.topics.ByID(key.Topic)
	return ok, ordered(g, tp)
}

func (b *Broker) topicExists(id record.TopicID) bool {
	_, ok := b.topics.ByID(id)
	return ok
}

// ordered reports whether a group takes a topic's messages in order. Each lite
// topic is in order by itself.
func ordered(g group.Group, tp topic.Topic) bool { return g.FIFO || tp.Type == topic.Lite }

// applyPlaced applies a record that puts an entry into a queue.
func (b *Broker) applyPlaced(pos record.Position, rec []byte, kind record.Kind) error {
	switch kind {
	case record.KindTransactionEnd:
		c, err := transaction.ParseCommit(rec)
		if err != nil {
			return err
		}
		if err := b.indexPlaced(pos, rec, kind); err != nil {
			return err
		}
		b.transactions.ApplyCommit(c)
		return nil
	case record.KindDeadLetter:
		dl, err := parseDeadLetter(rec)
		if err != nil {
			return err
		}
		b.inflight.ApplyDeadLetter(inflight.SubKey{Group: dl.Group, Topic: dl.Topic}, dl.Queue, dl.Offset, dl.LeaseID)
		b.freed(dl.Group)
	}
	return b.indexPlaced(pos, rec, kind)
}

// indexPlaced puts the entry of a placed record into the index. Both the
// dispatcher and a rebuild of the index use it.
func (b *Broker) indexPlaced(pos record.Position, rec []byte, kind record.Kind) error {
	if kind == record.KindRedrive {
		return b.indexRedrive(rec)
	}
	key := record.KeyOf(rec)
	if !b.topicExists(key.Topic()) || !b.queueExists(key) {
		return nil // sent while the topic was being deleted
	}
	entry := consumequeue.Entry{Position: pos, Size: uint32(len(rec))}
	switch kind {
	case record.KindMessage:
		m, err := record.ParseMessage(rec)
		if err != nil {
			return err
		}
		entry.StoreTime = m.StoreTime
		err = m.Properties.Each(func(f record.Field, _, value []byte) bool {
			switch f {
			case record.FieldTag:
				entry.TagHash = record.Hash32(value)
			case record.FieldGroup:
				entry.GroupHash = record.Hash32(value)
			}
			return true
		})
		if err != nil {
			return err
		}
	case record.KindDeadLetter:
		dl, err := parseDeadLetter(rec)
		if err != nil {
			return err
		}
		entry.Flags = consumequeue.FlagIndirect
		// It may have been deleted when this was decided already, and not applied.
		deleted, err := b.isDeleted(entryRef{record.Key(dl.Topic, dl.Queue), dl.Offset})
		if err != nil {
			return err
		}
		if deleted {
			entry.Flags |= consumequeue.FlagDeleted
		}
		entry.StoreTime = dl.StoreTime
		entry.TagHash = dl.TagHash
		entry.GroupHash = dl.GroupHash
	case record.KindTransactionEnd:
		c, err := transaction.ParseCommit(rec)
		if err != nil {
			return err
		}
		entry = consumequeue.Entry{
			Position: c.Payload, Size: c.Size, Flags: consumequeue.FlagMoved,
			TagHash: c.TagHash, GroupHash: c.GroupHash, StoreTime: c.StoreTime,
		}
	}
	return b.index.Put(key, record.OffsetOf(rec), entry)
}

// wakes collects what the records of one frame made available. It belongs to
// the dispatcher.
type wakes struct {
	topics []record.TopicID
	lites  []lite.Bind      // have been hinted at already
	groups []record.GroupID // were paused
}

// arrived tells of messages that were put into a queue by records of their own.
func (b *Broker) arrived(key record.QueueKey, messages, bodies int, time int64) {
	if key.Lite() {
		b.lites.Wrote(key, time)
	}
	b.wakePlaced(key)
	if b.live.Load() {
		b.counters.stored(key.Topic(), messages, bodies)
	}
}

// wakePlaced tells that there is something in a queue. Who receives from lite
// topics looks only where it was hinted at, so the hint is there before the sender
// is answered.
func (b *Broker) wakePlaced(key record.QueueKey) {
	if key.Lite() {
		b.wakes.lites = b.hintLite(b.wakes.lites, key, 0)
		return
	}
	b.wakes.topic(key.Topic())
}

func (w *wakes) topic(id record.TopicID) {
	for _, seen := range w.topics {
		if seen == id {
			return
		}
	}
	w.topics = append(w.topics, id)
}

// wakeWaiters tells parked receives, after all of a frame is applied.
func (b *Broker) wakeWaiters() {
	for _, id := range b.wakes.topics {
		b.hub.WakeTopic(id)
	}
	b.wakes.topics = b.wakes.topics[:0]
	for _, id := range b.wakes.groups {
		b.hub.WakeGroup(id)
	}
	b.wakes.groups = b.wakes.groups[:0]
	b.wakeLite(b.wakes.lites)
	b.wakes.lites = b.wakes.lites[:0]
}

// wakeSub tells that there may be something for a group.
func (b *Broker) wakeSub(k inflight.SubKey) {
	b.hub.Wake(longpoll.Key{Topic: k.Topic, Group: k.Group})
	b.freed(k.Group)
}

// leasesEnded is told by the timer of leases, with the lite queues among theirs.
func (b *Broker) leasesEnded(k inflight.SubKey, lites []uint32) {
	b.wakeSub(k)
	for _, queue := range lites {
		b.wakeLite(b.hintLite(nil, record.Key(k.Topic, queue), k.Group))
	}
}
