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
	"slices"
	"sync"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// FirstQueue is the number of a parent's first lite queue. The numbers below
// are the parent's own queues.
const FirstQueue = 1 << 20

// Table holds the lite topics of all parents. Use NewTable.
type Table struct {
	mu      sync.RWMutex
	parents map[record.TopicID]*parent
	count   int
}

type parent struct {
	next   uint32 // queue number of the next lite topic; never reused
	byName map[string]uint32
	names  map[uint32]string
}

func NewTable() *Table { return &Table{parents: map[record.TopicID]*parent{}} }

func (t *Table) parent(id record.TopicID) *parent {
	p := t.parents[id]
	if p == nil {
		p = &parent{next: FirstQueue, byName: map[string]uint32{}, names: map[uint32]string{}}
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
func (t *Table) Has(key record.QueueKey) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	p := t.parents[key.Topic()]
	return p != nil && p.names[key.Queue()] != ""
}

// Resolve appends the queues of those names that exist, in the order of names.
func (t *Table) Resolve(dst []uint32, id record.TopicID, names []string) []uint32 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	p := t.parents[id]
	if p == nil {
		return dst
	}
	for _, name := range names {
		if q, ok := p.byName[name]; ok {
			dst = append(dst, q)
		}
	}
	return dst
}

// Next returns the queue number that the parent's next lite topic gets.
func (t *Table) Next(id record.TopicID) uint32 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if p := t.parents[id]; p != nil {
		return p.next
	}
	return FirstQueue
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
	out := make([]Topic, 0, len(p.names))
	for q, name := range p.names {
		out = append(out, Topic{name, q})
	}
	slices.SortFunc(out, func(a, b Topic) int { return cmp.Compare(a.Queue, b.Queue) })
	return out
}

// Lite-topic records:
//
//	put:    parent uvarint | queue uvarint | name string
//	delete: parent uvarint | queue uvarint

// AppendPut encodes the record that makes a lite topic.
func AppendPut(dst []byte, id record.TopicID, queue uint32, name string) []byte {
	dst, start := record.BeginCommand(dst, record.KindLitePut)
	dst = binary.AppendUvarint(dst, uint64(id))
	dst = binary.AppendUvarint(dst, uint64(queue))
	return record.EndCommand(record.AppendString(dst, name), start)
}

// AppendDelete encodes the record that deletes a lite topic.
func AppendDelete(dst []byte, id record.TopicID, queue uint32) []byte {
	dst, start := record.BeginCommand(dst, record.KindLiteDelete)
	dst = binary.AppendUvarint(dst, uint64(id))
	return record.EndCommand(binary.AppendUvarint(dst, uint64(queue)), start)
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
	if _, ok := p.names[queue]; !ok {
		t.count++
	}
	p.byName[name] = queue
	p.names[queue] = name
	p.next = max(p.next, queue+1)
}

// ApplyDelete applies the data of a lite-delete record and returns what went.
func (t *Table) ApplyDelete(data []byte) (key record.QueueKey, name string, err error) {
	d := record.NewDecoder(data)
	id, queue := record.TopicID(d.Uint32()), d.Uint32()
	if err := d.Err(); err != nil {
		return 0, "", err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.parent(id)
	name, ok := p.names[queue]
	if ok {
		delete(p.names, queue)
		delete(p.byName, name)
		t.count--
	}
	return record.Key(id, queue), name, nil
}

// DropParent forgets the lite topics of a deleted parent.
func (t *Table) DropParent(id record.TopicID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.parents[id]; p != nil {
		t.count -= len(p.names)
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
