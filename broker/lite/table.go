// Package lite is the table of lite topics: names below a parent topic, each an
// ordered queue of its own, made by its first message. [Table] is a pure state
// machine over records; [Subscriptions] is what connected clients have asked
// for, in memory only: they say it again every 30 s.
//
// # Concurrency
//
// Apply functions are called by the dispatcher only; everything else may be
// called concurrently with it.
package lite

import (
	"cmp"
	"encoding/binary"
	"iter"
	"slices"
	"sync"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// Table holds the lite topics of all parents. Use NewTable.
type Table struct {
	mu      sync.RWMutex
	parents map[record.TopicID]*parent
	count   int
}

type parent struct {
	next   uint32 // queue number of the next lite topic; never reused
	byName map[string]uint32
	topics map[uint32]entry
}

type entry struct {
	name string
	// written is when its last message was stored, Unix ms; 0 = before the start of
	// this process. It is this node's own: the messages say it.
	written int64
}

func NewTable() *Table { return &Table{parents: map[record.TopicID]*parent{}} }

func (t *Table) parent(id record.TopicID) *parent {
	p := t.parents[id]
	if p == nil {
		p = &parent{next: record.FirstLiteQueue, byName: map[string]uint32{}, topics: map[uint32]entry{}}
		t.parents[id] = p
	}
	return p
}

// Lookup returns the queue of a lite topic.
func (t *Table) Lookup(id record.TopicID, name string) (queue uint32, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if p := t.parents[id]; p != nil {
		queue, ok = p.byName[name]
	}
	return queue, ok
}

// Has reports whether the lite topic with the queue is there.
func (t *Table) Has(key record.QueueKey) bool { return t.Name(key) != "" }

// Name returns the name of the lite topic with the queue, "" when it is gone.
func (t *Table) Name(key record.QueueKey) string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if p := t.parents[key.Topic()]; p != nil {
		return p.topics[key.Queue()].name
	}
	return ""
}

// Next returns the queue number that the parent's next lite topic gets.
func (t *Table) Next(id record.TopicID) uint32 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if p := t.parents[id]; p != nil {
		return p.next
	}
	return record.FirstLiteQueue
}

// Count returns the number of lite topics of all parents.
func (t *Table) Count() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.count
}

// Topic is one lite topic.
type Topic struct {
	Name  string
	Queue uint32
}

// List returns the lite topics of a parent, by queue number.
func (t *Table) List(id record.TopicID) []Topic {
	t.mu.RLock()
	defer t.mu.RUnlock()
	p := t.parents[id]
	if p == nil {
		return nil
	}
	out := make([]Topic, 0, len(p.topics))
	for q, e := range p.topics {
		out = append(out, Topic{e.name, q})
	}
	slices.SortFunc(out, func(a, b Topic) int { return cmp.Compare(a.Queue, b.Queue) })
	return out
}

// Wrote notes when a message was put into a lite topic.
func (t *Table) Wrote(key record.QueueKey, at int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.parents[key.Topic()]; p != nil {
		if e, ok := p.topics[key.Queue()]; ok {
			e.written = at
			p.topics[key.Queue()] = e
		}
	}
}

// Idle returns the lite topics of a parent that were not written to since
// before, and those of which that is not known.
func (t *Table) Idle(id record.TopicID, before int64) (idle, unknown []Topic) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if p := t.parents[id]; p != nil {
		for q, e := range p.topics {
			switch {
			case e.written == 0:
				unknown = append(unknown, Topic{e.name, q})
			case e.written < before:
				idle = append(idle, Topic{e.name, q})
			}
		}
	}
	return idle, unknown
}

// Names returns the names of a parent's lite topics, in no order. The table must
// not be asked for anything else meanwhile.
func (t *Table) Names(id record.TopicID) iter.Seq[string] {
	return func(yield func(string) bool) {
		t.mu.RLock()
		defer t.mu.RUnlock()
		if p := t.parents[id]; p != nil {
			for name := range p.byName {
				if !yield(name) {
					return
				}
			}
		}
	}
}

// Lite-topic records:
//
//	put:    parent uvarint | queue uvarint | name string
//	delete: parent uvarint | queue uvarint | end uvarint
//
// A delete is void when the queue has grown beyond its end: it was written to
// after that was decided.

// AppendPut encodes the record that makes a lite topic.
func AppendPut(dst []byte, id record.TopicID, queue uint32, name string) []byte {
	dst, start := record.BeginCommand(dst, record.KindLitePut)
	dst = binary.AppendUvarint(dst, uint64(id))
	dst = binary.AppendUvarint(dst, uint64(queue))
	return record.EndCommand(record.AppendString(dst, name), start)
}

// AppendDelete encodes the record that deletes a lite topic whose next queue
// offset is end.
func AppendDelete(dst []byte, key record.QueueKey, end record.QueueOffset) []byte {
	dst, start := record.BeginCommand(dst, record.KindLiteDelete)
	dst = binary.AppendUvarint(dst, uint64(key.Topic()))
	dst = binary.AppendUvarint(dst, uint64(key.Queue()))
	return record.EndCommand(binary.AppendUvarint(dst, uint64(end)), start)
}

// ApplyPut applies the data of a lite-put record. exists says whether the
// parent is still there.
func (t *Table) ApplyPut(data []byte, exists func(record.TopicID) bool) error {
	d := record.NewDecoder(data)
	id, queue, name := record.TopicID(d.Uint32()), d.Uint32(), d.String()
	if err := d.Err(); err != nil {
		return err
	}
	if exists(id) {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.put(id, queue, name)
	}
	return nil
}

func (t *Table) put(id record.TopicID, queue uint32, name string) {
	p := t.parent(id)
	if _, ok := p.topics[queue]; !ok {
		t.count++
	}
	p.byName[name] = queue
	p.topics[queue] = entry{name: name}
	p.next = max(p.next, queue+1)
}

// ApplyDelete applies the data of a lite-delete record. end says what a queue's
// next offset is. gone is false when the record is void.
func (t *Table) ApplyDelete(data []byte, end func(record.QueueKey) record.QueueOffset) (key record.QueueKey, gone bool, err error) {
	d := record.NewDecoder(data)
	key = record.Key(record.TopicID(d.Uint32()), d.Uint32())
	if d.Len() > 0 && end(key) != record.QueueOffset(d.Uvarint()) { // older records have none
		return key, false, d.Err()
	}
	if err := d.Err(); err != nil {
		return 0, false, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.parent(key.Topic())
	e, gone := p.topics[key.Queue()]
	if gone {
		delete(p.topics, key.Queue())
		delete(p.byName, e.name)
		t.count--
	}
	return key, gone, nil
}

// DropParent forgets the lite topics of a deleted parent.
func (t *Table) DropParent(id record.TopicID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.parents[id]; p != nil {
		t.count -= len(p.topics)
		delete(t.parents, id)
	}
}

// AppendSnapshot appends the table:
//
//	parents: count, each  id uvarint | next uvarint | topics: count, each  queue uvarint | name string
//
// in ascending order, so that equal tables give equal bytes.
func (t *Table) AppendSnapshot(dst []byte) []byte {
	t.mu.RLock()
	ids := make([]record.TopicID, 0, len(t.parents))
	for id := range t.parents {
		ids = append(ids, id)
	}
	t.mu.RUnlock()
	slices.Sort(ids)
	dst = binary.AppendUvarint(dst, uint64(len(ids)))
	for _, id := range ids {
		list := t.List(id)
		dst = binary.AppendUvarint(dst, uint64(id))
		dst = binary.AppendUvarint(dst, uint64(t.Next(id)))
		dst = binary.AppendUvarint(dst, uint64(len(list)))
		for _, l := range list {
			dst = binary.AppendUvarint(dst, uint64(l.Queue))
			dst = record.AppendString(dst, l.Name)
		}
	}
	return dst
}

// Restore fills an empty table with what AppendSnapshot wrote.
func (t *Table) Restore(d *record.Decoder) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for n := d.Count(3); n > 0 && !d.Failed(); n-- {
		id := record.TopicID(d.Uint32())
		next := d.Uint32()
		for m := d.Count(2); m > 0 && !d.Failed(); m-- {
			queue := d.Uint32()
			t.put(id, queue, d.String())
		}
		p := t.parent(id)
		p.next = max(p.next, next)
	}
}
