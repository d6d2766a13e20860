package inflight

import (
	"cmp"
	"errors"
	"slices"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// ErrBusy: a record that is on its way already changes the message.
var ErrBusy = errors.New("inflight: the message is being handed out or moved at this moment")

// BeginSkip reserves an outstanding message for a dead-letter record, whoever
// holds it and however long. ErrGone when it is settled or about to be, ErrStale
// when it was never handed out or put aside.
func (s *Sub) BeginSkip(queue uint32, offset record.QueueOffset) (Held, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queues[queue]
	if q == nil {
		return Held{}, ErrStale
	}
	l := q.out.get(offset)
	switch {
	case l == nil && offset < q.cursor:
		return Held{}, ErrGone
	case l == nil:
		return Held{}, ErrStale
	case l.reserved == acking:
		return Held{}, ErrGone
	case l.reserved != free:
		return Held{}, ErrBusy
	}
	s.reserve(l, moving)
	return l.held(), nil
}

// Head is the first outstanding message of a message group: the others wait for
// it.
type Head struct {
	Held
	Since  int64              // Unix ms: when its lease, or the pause after it, began; 0 = never handed out
	Behind int                // put aside until it is settled
	Cursor record.QueueOffset // of its queue: what follows has not been looked at
}

// Heads returns the first outstanding message of each message group and lite
// topic, by queue and offset.
func (s *Sub) Heads() []Head {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Head
	for _, q := range s.queues {
		if q.lite {
			if l := q.first(); l != nil && !l.ghost {
				out = append(out, Head{Held: l.held(), Since: l.delivery().Leased, Cursor: q.cursor})
			}
		}
		for _, waiting := range q.groups {
			if l := waiting[0]; !l.ghost {
				out = append(out, Head{Held: l.held(), Since: leasedAt(l.id), Behind: len(waiting) - 1, Cursor: q.cursor})
			}
		}
	}
	slices.SortFunc(out, func(a, b Head) int {
		return cmp.Or(cmp.Compare(a.Queue, b.Queue), cmp.Compare(a.Offset, b.Offset))
	})
	return out
}
