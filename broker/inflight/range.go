package inflight

import (
	"slices"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// BeginAckRange is BeginAck for n messages with consecutive offsets and lease ids.
// It appends what it reserved to dst and tells the others.
func (s *Sub) BeginAckRange(dst []Held, queue uint32, offset record.QueueOffset, id uint64, n int, now int64, failed func(record.QueueOffset, error)) []Held {
	return s.beginRange(dst, acking, queue, offset, id, n, now, failed)
}

// BeginMoveRange is BeginMove in the same way.
func (s *Sub) BeginMoveRange(dst []Held, queue uint32, offset record.QueueOffset, id uint64, n int, now int64, failed func(record.QueueOffset, error)) []Held {
	return s.beginRange(dst, moving, queue, offset, id, n, now, failed)
}

func (s *Sub) beginRange(dst []Held, as reserved, queue uint32, offset record.QueueOffset, id uint64, n int, now int64, failed func(record.QueueOffset, error)) []Held {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range n {
		off := offset + record.QueueOffset(i)
		l, err := s.lookup(queue, off, id+uint64(i), now)
		if err == nil && as == moving && l.reserved == acking {
			err = ErrGone
		}
		if err != nil {
			failed(off, err)
			continue
		}
		l.reserved = as
		s.place(l)
		dst = append(dst, l.held())
	}
	s.arm()
	return dst
}

// BeginUpTo reserves for an ack, or with move for an extend or dead-letter record,
// all messages of a queue up to and with an offset that owner holds.
func (s *Sub) BeginUpTo(queue uint32, offset record.QueueOffset, owner string, move bool, now int64) []Held {
	as := acking
	if move {
		as = moving
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queues[queue]
	if q == nil {
		return nil
	}
	var out []Held
	for l := range q.out.leases() {
		if l.offset <= offset && l.owner == owner && l.reserved == free && !l.ghost && l.id != 0 && l.deadline > now {
			l.reserved = as
			s.place(l)
			out = append(out, l.held())
		}
	}
	s.arm()
	slices.SortFunc(out, func(a, b Held) int { return int(a.Offset - b.Offset) })
	return out
}
