package client

import (
	"cmp"
	"container/list"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/proto/gantryv1"
	"github.com/gantry-mq/gantry/proto/stream"
)

// batch is messages of one topic on their way. It is open while messages are
// added, then sealed: it has its sequence and its bytes do not change any more,
// however often it is sent.
type batch struct {
	topic    string
	buf      *stream.Buffer
	starts   []uint32 // of each record in buf
	waiting  []waiting
	sequence uint64
	since    time.Time     // when it was opened; from seal on, when it was sealed
	now      int64         // when one of its last 16 messages was given, Unix ms
	tried    bool          // has been given to a stream: its outcome may be unknown
	open     *list.Element // in openBatches.all
}

// openBatches are those that take messages, one for each topic in use.
type openBatches struct {
	last    *batch // that was looked up, or nil
	byTopic map[string]*batch
	all     *list.List // of *batch, in the order in which they were opened
}

func newOpenBatches() openBatches { return openBatches{byTopic: map[string]*batch{}, all: list.New()} }

// of returns that of a topic, or nil.
func (o *openBatches) of(topic string) *batch {
	if o.last == nil || o.last.topic != topic {
		o.last = o.byTopic[topic]
	}
	return o.last
}

func (o *openBatches) oldest() *batch {
	if e := o.all.Front(); e != nil {
		return e.Value.(*batch)
	}
	return nil
}

func (o *openBatches) add(b *batch) {
	o.byTopic[b.topic] = b
	b.open = o.all.PushBack(b)
}

func (o *openBatches) remove(b *batch) {
	delete(o.byTopic, b.topic)
	o.last = nil
	o.all.Remove(b.open)
	b.open = nil
}

// waiting is who is told of one entry of a batch.
type waiting struct {
	entry uint32
	id    string
	done  func(Result, error)
}

var batches = sync.Pool{New: func() any { return new(batch) }}

func newBatch(topic string, room int) *batch {
	b := batches.Get().(*batch)
	b.topic, b.buf, b.since = topic, stream.GetBuffer(room), time.Now()
	return b
}

func (b *batch) free() {
	b.buf.Release()
	clear(b.waiting)
	*b = batch{starts: b.starts[:0], waiting: b.waiting[:0]}
	batches.Put(b)
}

func (b *batch) size() int { return len(b.buf.B) }

// fail tells everybody that none was stored, as far as is known, and how many
// nobody waits for.
func (b *batch) fail(err error) (untold int) {
	for _, w := range b.waiting {
		w.done(Result{}, err)
	}
	return len(b.starts) - len(b.waiting)
}

// settle tells everybody what the broker answered. It returns the first error of
// an entry that nobody waits for.
func (b *batch) settle(r *gantryv1.PublishResult, store uint64, at *shard) error {
	if err := statusError(r.Status); err != nil {
		if b.fail(err) > 0 {
			return err
		}
		return nil
	}
	for _, w := range b.waiting {
		res, err := b.outcome(r, w.entry)
		res.id, res.store, res.Queue = w.id, store, at.queue(res.Queue)
		if i, ok := slices.BinarySearchFunc(r.RepeatedEntries, w.entry, compareEntry); ok {
			res.Duplicate = true
			res.id = cmp.Or(r.RepeatedEntries[i].MessageId, w.id)
		}
		w.done(res, err)
	}
	for _, refused := range r.Refused {
		if !b.awaited(refused.Entry) {
			return statusError(refused.Status)
		}
	}
	return nil
}

func compareEntry(e *gantryv1.RepeatedEntry, entry uint32) int { return cmp.Compare(e.Entry, entry) }

// outcome finds entry in the answer. Answers are short: nearly always one run.
func (b *batch) outcome(r *gantryv1.PublishResult, entry uint32) (Result, error) {
	for _, run := range r.Runs {
		if n := entry - run.Entry; entry >= run.Entry && n < run.Count && int(run.Entry) < len(b.starts) {
			return Result{
				Queue: run.Queue, Offset: run.Offset + int64(n),
				pos: record.Position(run.Position + uint64(b.starts[entry]-b.starts[run.Entry])),
			}, nil
		}
	}
	for _, p := range r.Pending {
		if p.Entry == entry {
			return Result{Offset: -1, RecallHandle: p.RecallHandle, pos: record.Position(p.Position), transactionID: p.TransactionId}, nil
		}
	}
	for _, refused := range r.Refused {
		if refused.Entry == entry {
			return Result{}, statusError(refused.Status)
		}
	}
	if r.Duplicate { // stored by an earlier send, and gone since
		return Result{Offset: -1}, nil
	}
	return Result{}, fmt.Errorf("gantry: the broker's answer to batch %d does not mention message %d: %w", b.sequence, entry, ErrUnknown)
}

func (b *batch) awaited(entry uint32) bool {
	for _, w := range b.waiting {
		if w.entry == entry {
			return true
		}
	}
	return false
}
