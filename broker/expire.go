package broker

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// expireMessages lets go of what topics with a retention of their own keep no
// longer.
func (b *Broker) expireMessages(now time.Time) {
	for _, tp := range b.topics.List() {
		if !tp.OwnRetention() {
			continue
		}
		t, err := b.expired(tp, now)
		if err == nil {
			err = b.commitTrim(t)
		}
		if err != nil && b.ctx.Err() == nil {
			b.log.Warn("the retention of a topic waits", "topic", tp.Name, "error", err)
		}
	}
	for id := range b.sizes {
		if tp, ok := b.topics.ByID(id); !ok || tp.RetainSize == 0 {
			delete(b.sizes, id)
		}
	}
}

// expired says where the queues of a topic begin by its retention.
func (b *Broker) expired(tp topic.Topic, now time.Time) (trim, error) {
	begins := map[uint32]record.QueueOffset{}
	queues := b.allQueues(tp)
	if tp.RetainAge > 0 {
		before := now.Add(-tp.RetainAge).UnixMilli()
		for _, q := range queues {
			off, err := b.olderThan(record.Key(tp.ID, q), before)
			if err != nil {
				return trim{}, b.indexError(tp, q, off, err)
			}
			begins[q] = off
		}
	}
	if tp.RetainSize > 0 {
		s := b.sizes.of(tp.ID)
		if err := s.look(b, tp, queues); err != nil {
			return trim{}, err
		}
		s.drop(tp.RetainSize, begins)
	}
	t := trim{Topic: tp.ID}
	for _, q := range queues {
		if low, _, _ := b.index.Bounds(record.Key(tp.ID, q)); begins[q] > low {
			t.Queues = append(t.Queues, inflight.Beginning{Queue: q, Offset: begins[q]})
		}
	}
	return t, nil
}

// olderThan returns the first offset of a queue that is not older than before,
// Unix ms. It is quick where the first one is.
func (b *Broker) olderThan(key record.QueueKey, before int64) (record.QueueOffset, error) {
	low, _, _ := b.index.Bounds(key)
	e, ok, err := b.entryAt(key, low)
	if err != nil || !ok || e.StoreTime >= before {
		return low, err
	}
	return b.index.OffsetAt(key, before)
}

// topicSize is how many bytes a topic has, by stretches of messages: what is needed
// to say where it has to begin to have so many less. It is made by reading the
// topic's index entries once in the life of the process, and from then on those
// that are new; only topics with a bound by size have one. It belongs to the
// housekeeping goroutine.
type topicSize struct {
	stretches []*stretch // in order of age
	bytes     int64
	next      map[uint32]record.QueueOffset // by queue: looked at below
	newest    map[uint32]*stretch           // by queue: the one that may grow
}

type topicSizes map[record.TopicID]*topicSize

func (m *topicSizes) of(id record.TopicID) *topicSize {
	if *m == nil {
		*m = topicSizes{}
	}
	s := (*m)[id]
	if s == nil {
		s = &topicSize{next: map[uint32]record.QueueOffset{}, newest: map[uint32]*stretch{}}
		(*m)[id] = s
	}
	return s
}

// stretch is messages of one queue that follow each other.
type stretch struct {
	queue     uint32
	from, end record.QueueOffset
	bytes     int64
	last      consumequeue.Entry // its newest
}

// compare orders stretches by the age of their newest message.
func (x *stretch) compare(other *stretch) int {
	return cmp.Or(cmp.Compare(x.last.StoreTime, other.last.StoreTime), cmp.Compare(x.last.Position, other.last.Position))
}

// A topic's size is kept as exactly as that: in stretches of so many messages, or
// of such a part of the bound, whichever is less.
const (
	stretchMessages = 256
	stretchPart     = 64
)

// look takes in what is new, and lets go of what is gone.
func (s *topicSize) look(b *Broker, tp topic.Topic, queues []uint32) error {
	for _, q := range queues {
		if err := s.lookAt(b, record.Key(tp.ID, q), tp.RetainSize/stretchPart); err != nil {
			return fmt.Errorf("queue %d: %w", q, err)
		}
	}
	slices.SortFunc(s.stretches, (*stretch).compare)
	s.stretches = slices.DeleteFunc(s.stretches, func(x *stretch) bool {
		low, _, _ := b.index.Bounds(record.Key(tp.ID, x.queue))
		gone := x.end <= low
		if gone {
			s.bytes -= x.bytes
			if s.newest[x.queue] == x {
				delete(s.newest, x.queue)
			}
		}
		return gone
	})
	return nil
}

func (s *topicSize) lookAt(b *Broker, key record.QueueKey, large int64) error {
	var e [128]consumequeue.Entry
	q := key.Queue()
	for b.ctx.Err() == nil {
		low, high, _ := b.index.Bounds(key)
		at := max(s.next[q], low)
		if at >= high {
			s.next[q] = at
			return nil
		}
		n, err := b.index.Read(key, at, e[:])
		if errors.Is(err, consumequeue.ErrOutOfRange) {
			continue // trimmed or deleted meanwhile
		}
		if err != nil {
			return err
		}
		for i := range n {
			x := s.newest[q]
			if x == nil || x.bytes >= large || x.end-x.from >= stretchMessages {
				x = &stretch{queue: q, from: at}
				s.newest[q] = x
				s.stretches = append(s.stretches, x)
			}
			at++
			x.end, x.last = at, e[i]
			x.bytes += int64(e[i].Size)
			s.bytes += int64(e[i].Size)
		}
		s.next[q] = at
	}
	return nil
}

// drop raises the beginnings of queues, the oldest messages first, until there
// are no more than keep bytes.
func (s *topicSize) drop(keep int64, begins map[uint32]record.QueueOffset) {
	bytes := s.bytes
	for _, x := range s.stretches {
		if bytes <= keep && x.end > begins[x.queue] { // else its age takes it anyway
			return
		}
		bytes -= x.bytes
		begins[x.queue] = max(begins[x.queue], x.end)
	}
}
