package broker

import (
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
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
		kind := record.KindOf(head)
		if !kind.Placed() {
			if kind.IsMessage() && kind != record.KindCopy { // which is as the original was
				record.Stamp(head, record.NoOffset, now)
			}
			continue
		}
		key := record.KeyOf(head)
		off, ok := s.offsets[key]
		if !ok {
			off = s.next(key)
		}
		record.Stamp(head, off, now)
		s.offsets[key] = off + 1
	}
}

func (b *Broker) nextOffset(key record.QueueKey) record.QueueOffset {
	_, high, _ := b.index.Bounds(key)
	return high
}
