package inflight

import (
	"encoding/binary"
	"slices"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// BeginReopen claims a queue as BeginScan does, so that messages which the group
// has done with can be put back among those to be handed out: offsets below
// sc.To. The caller puts them into sc.Held, ascending, and ends with EndReopen.
// ok is false while limit messages are outstanding, or a scan has the queue.
func (s *Sub) BeginReopen(number uint32, bounds Bounds, limit int) (sc Scanned, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queue(number)
	if q.scanning || q.out.len() >= limit {
		return Scanned{}, false
	}
	low, high := bounds(number)
	s.start(q, low, high)
	q.claimed = max(q.claimed, low)
	q.scanning = true
	return Scanned{Queue: number, Epoch: q.epoch, From: q.claimed, To: q.claimed}, true
}

// EndReopen drops what is outstanding from sc.Held, and what the group has not
// come to, and ends the claim as EndScan does: submit gives the reopen record of
// what is left its place in the log. Nothing else can reach these messages until
// that is applied.
func (s *Sub) EndReopen(sc *Scanned, submit func() error) error {
	s.mu.Lock()
	q := s.queue(sc.Queue)
	sc.Held = slices.DeleteFunc(sc.Held, func(h Held) bool { return h.Offset >= sc.To || q.out.get(h.Offset) != nil })
	s.mu.Unlock()
	scans := []Scanned{*sc}
	return s.EndScan(scans, submit)
}

// Outstanding reports whether a message is handed out, or waits to be; or was not
// come to yet by a group that has come anywhere in the queue, or will begin at
// begin. s may be nil: the group has never looked at the topic.
func (s *Sub) Outstanding(number uint32, offset, begin record.QueueOffset) bool {
	if s == nil {
		return offset >= begin
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queues[number]
	if q == nil || !q.started && !q.known {
		return offset >= begin
	}
	return offset >= max(q.claimed, q.cursor) || q.out.get(offset) != nil
}

// Reopen: settled messages that are to be handed out again, as if for the first
// time. They may be from ready on, and queue behind what is ready since before.
//
//	queue uvarint | epoch uvarint | cursor uvarint | ready varint (Unix ms)
//	| messages: count, each  offset varint (difference) | group hash uvarint

// AppendReopen encodes a reopen record.
func AppendReopen(dst []byte, key SubKey, sc *Scanned, ready int64) []byte {
	dst, start := begin(dst, record.KindReopen, key)
	dst = binary.AppendUvarint(dst, uint64(sc.Queue))
	dst = binary.AppendUvarint(dst, uint64(sc.Epoch))
	dst = binary.AppendUvarint(dst, uint64(sc.To))
	dst = binary.AppendVarint(dst, ready)
	dst = binary.AppendUvarint(dst, uint64(len(sc.Held)))
	last := record.QueueOffset(0)
	for _, h := range sc.Held {
		dst = binary.AppendVarint(dst, int64(h.Offset-last))
		dst = binary.AppendUvarint(dst, uint64(h.GroupHash))
		last = h.Offset
	}
	return record.EndCommand(dst, start)
}

func (s *Sub) applyReopen(d *record.Decoder) {
	number, epoch, to := d.Uint32(), d.Uint32(), record.QueueOffset(d.Uvarint())
	ready := d.Varint()
	var q *queue
	if s.t.exists(record.Key(s.key.Topic, number)) {
		if q = s.touch(number); epoch != q.epoch {
			q = nil // a reset came first
		}
	}
	if q != nil {
		q.reach(to)
	}
	offset := record.QueueOffset(0)
	for n := d.Count(2); n > 0 && !d.Failed(); n-- {
		offset += record.QueueOffset(d.Varint())
		hash := d.Uint32()
		if q == nil {
			continue
		}
		l := q.out.get(offset)
		if l == nil {
			l = s.newLease(offset, hash)
			s.track(q, l)
		} else if !l.ghost {
			continue
		}
		l.ghost, l.reserved, l.deadline = false, free, ready
		s.place(l)
	}
	if q != nil && q.lite {
		s.freed = append(s.freed, number)
	}
}
