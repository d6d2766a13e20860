package broker

import (
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/scheduler"
)

// sequencer gives queue offsets and store times, in log order. It belongs to
// the goroutine that orders the log.
type sequencer struct {
	offsets map[record.QueueKey]record.QueueOffset
	// next returns a queue's next offset by the index. It is asked once per
	// queue, before anything for that queue has been ordered by this process, so
	// the index knows all of the queue's entries.
	next func(record.QueueKey) record.QueueOffset
}

// stamp is the log's Sequence hook.
func (s *sequencer) stamp(now int64, batch *commitlog.Batch) {
	if s.offsets == nil {
		s.offsets = map[record.QueueKey]record.QueueOffset{}
	}
	for i := range batch.Len() {
		head := batch.Head(i)
		if batch.Pack(i) {
			s.stampPack(now, head)
			continue
		}
		kind := record.KindOf(head)
		if !kind.Placed() {
			if kind.IsMessage() && kind != record.KindCopy { // which is as the original was
				record.Stamp(head, record.NoOffset, now)
			}
			continue
		}
		key, n := indexKey(head, kind), record.QueueOffset(1)
		if kind == record.KindTimerFired {
			n = record.QueueOffset(scheduler.CountFired(head))
		}
		off := s.offset(key)
		record.Stamp(head, off, now)
		s.offsets[key] = off + n
	}
}

// stampPack stamps the messages of a pack. Nearly all go to one queue, so the map
// is asked when the queue changes.
func (s *sequencer) stampPack(now int64, pack []byte) {
	var key record.QueueKey
	var off record.QueueOffset
	open := false
	for len(pack) > 0 {
		at := record.NoOffset
		if kind := record.KindOf(pack); kind.Placed() {
			if k := indexKey(pack, kind); !open || k != key {
				if open {
					s.offsets[key] = off
				}
				key, off, open = k, s.offset(k), true
			}
			at = off
			off++
		}
		record.Stamp(pack, at, now)
		pack = pack[record.Padded(record.SizeOf(pack)):]
	}
	if open {
		s.offsets[key] = off
	}
}

// offset returns the next offset of a queue.
func (s *sequencer) offset(key record.QueueKey) record.QueueOffset {
	off, ok := s.offsets[key]
	if !ok {
		off = s.next(key)
	}
	return off
}

// indexKey returns the queue in which a placed record takes its offset.
func indexKey(head []byte, kind record.Kind) record.QueueKey {
	if kind == record.KindDelayed {
		return scheduler.KeyFor(record.DueTimeOf(head))
	}
	return record.KeyOf(head)
}

func (b *Broker) nextOffset(key record.QueueKey) record.QueueOffset {
	if key.Topic() == record.TimerTopic {
		return b.timers.Next(key)
	}
	_, high, _ := b.index.Bounds(key)
	return high
}
