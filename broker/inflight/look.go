package inflight

import "github.com/gantry-mq/gantry/commitlog/record"

// IsAside reports whether a message is outstanding and was not handed out yet:
// it waits behind another of its message group, or was reopened.
func (s *Sub) IsAside(queue uint32, offset record.QueueOffset) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queues[queue]
	if q == nil {
		return false
	}
	l := q.out.get(offset)
	return l != nil && !l.ghost && l.id == 0
}

// HandedOut returns up to n messages that were handed out and are not settled,
// from an offset of a queue on, by queue and offset.
func (s *Sub) HandedOut(queue uint32, offset record.QueueOffset, n int) (out []Held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, number := range s.numbers() {
		if number < queue {
			continue
		}
		q := s.queues[number]
		for _, off := range q.offsets(func(l *lease) bool { return l.id != 0 && (number > queue || l.offset >= offset) }) {
			if len(out) == n {
				return out
			}
			out = append(out, q.out.get(off).held())
		}
	}
	return out
}

// HeldBy counts the leases of each client at a time, in Unix ms.
func (s *Sub) HeldBy(now int64) map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := map[string]int{}
	for _, q := range s.queues {
		for l := range q.out.leases() {
			if l.id != 0 && !l.ghost && l.deadline > now {
				held[l.owner]++
			}
		}
	}
	return held
}
