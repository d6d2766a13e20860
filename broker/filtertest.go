package broker

import (
	"context"

	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
	"github.com/gantry-mq/gantry/filter/sql92"
)

const (
	// MaxFilterTest bounds the messages that a filter is tried on.
	MaxFilterTest = 100_000
	// MaxFilterExamples bounds the examples of matching messages.
	MaxFilterExamples = 100
)

// FilterTest says what a filter would let through.
type FilterTest struct {
	Looked  int // messages it was tried on
	Matched int
	Unknown int // of the others, those that lack what the expression needs
	Failed  int // and those with a value that it cannot compare
	// Examples are the newest that match.
	Examples []FilterExample
}

// FilterExample is a message that matches.
type FilterExample struct {
	ID     string
	Tag    string
	Keys   []string
	Queue  uint32
	Offset record.QueueOffset
	Stored int64 // Unix ms: when it entered its queue
	User   []Property
}

// TestFilter tries a filter on the newest messages of a topic, at most last, by
// when they entered their queue; of lite topics, on those made last. IllegalFilter
// when it does not compile.
func (b *Broker) TestFilter(ctx context.Context, topicName record.Resource, t FilterType, expr string, last, examples int) (FilterTest, error) {
	tp, err := b.Route(topicName)
	if err != nil {
		return FilterTest{}, err
	}
	f, err := compileFilter(t, expr)
	if err != nil {
		return FilterTest{}, err
	}
	switch {
	case last < 1 || last > MaxFilterTest:
		return FilterTest{}, Errorf(BadRequest, "a filter is tried on 1 to %d messages, not %d", MaxFilterTest, last)
	case examples < 0 || examples > MaxFilterExamples:
		return FilterTest{}, Errorf(BadRequest, "there can be 0 to %d examples, not %d", MaxFilterExamples, examples)
	}
	var out FilterTest
	err = b.newest(ctx, tp, func(queue uint32, offset record.QueueOffset, e consumequeue.Entry) (more bool, err error) {
		l, err := b.loadEntry(e, queue, offset)
		if isTrimmed(err) {
			return true, nil
		}
		if err != nil {
			return false, b.indexError(tp, queue, offset, err)
		}
		defer l.release()
		out.Looked++
		if out.count(f, &l.msg) && len(out.Examples) < examples {
			out.Examples = append(out.Examples, exampleOf(&l.msg, queue, offset, e.StoreTime))
		}
		return out.Looked < last, nil
	})
	return out, err
}

func (t *FilterTest) count(f matcher, m *record.Message) bool {
	if f.Match(m) {
		t.Matched++
		return true
	}
	if sql, ok := f.(sqlMatcher); ok {
		switch sql.Outcome(m) {
		case sql92.Unknown:
			t.Unknown++
		case sql92.Failed:
			t.Failed++
		}
	}
	return false
}

func exampleOf(m *record.Message, queue uint32, offset record.QueueOffset, stored int64) FilterExample {
	x := FilterExample{Queue: queue, Offset: offset, Stored: stored}
	m.Properties.Each(func(f record.Field, key, value []byte) bool {
		switch f {
		case record.FieldMessageID:
			x.ID = string(value)
		case record.FieldTag:
			x.Tag = string(value)
		case record.FieldKey:
			x.Keys = append(x.Keys, string(value))
		case record.FieldUser:
			x.User = append(x.User, Property{string(key), string(value)})
		}
		return true
	})
	return x
}

// newest calls f with the entries of a topic, the newest first, until it returns
// false. Lite topics come one after the other, the youngest first.
func (b *Broker) newest(ctx context.Context, tp topic.Topic, f func(uint32, record.QueueOffset, consumequeue.Entry) (bool, error)) error {
	if tp.Type != topic.Lite {
		queues := make([]backward, tp.Queues)
		for q := range queues {
			queues[q] = b.backward(tp, uint32(q))
		}
		_, err := mergeBackward(ctx, queues, f)
		return err
	}
	for q := b.lites.Next(tp.ID); q > record.FirstLiteQueue; q-- {
		if more, err := mergeBackward(ctx, []backward{b.backward(tp, q-1)}, f); err != nil || !more {
			return err
		}
	}
	return nil
}

func mergeBackward(ctx context.Context, queues []backward, f func(uint32, record.QueueOffset, consumequeue.Entry) (bool, error)) (more bool, err error) {
	for i := range queues {
		if err := queues[i].load(); err != nil {
			return false, err
		}
	}
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		var best *backward
		for i := range queues {
			if q := &queues[i]; q.n > 0 && (best == nil || q.entries[q.n-1].StoreTime > best.entries[best.n-1].StoreTime) {
				best = q
			}
		}
		if best == nil {
			return true, nil
		}
		best.n--
		if more, err := f(best.queue, best.from+record.QueueOffset(best.n), best.entries[best.n]); err != nil || !more {
			return false, err
		}
		if best.n == 0 {
			if err := best.load(); err != nil {
				return false, err
			}
		}
	}
}

// backward reads a queue from its end.
type backward struct {
	b       *Broker
	topic   topic.Topic
	queue   uint32
	from    record.QueueOffset // of entries[0]
	n       int                // entries that are left
	entries [128]consumequeue.Entry
}

func (b *Broker) backward(tp topic.Topic, queue uint32) backward {
	_, high, _ := b.index.Bounds(record.Key(tp.ID, queue))
	return backward{b: b, topic: tp, queue: queue, from: high}
}

// load reads the entries before from.
func (q *backward) load() error {
	key := record.Key(q.topic.ID, q.queue)
	low, _, _ := q.b.index.Bounds(key)
	n := min(int64(len(q.entries)), int64(q.from-low))
	if n <= 0 {
		return nil
	}
	q.from -= record.QueueOffset(n)
	got, err := q.b.index.Read(key, q.from, q.entries[:n])
	if isTrimmed(err) { // retention passed by
		q.from = low
		return nil
	}
	q.n = got
	return err
}
