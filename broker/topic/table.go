package topic

import (
	"cmp"
	"slices"
	"sync"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// Table is the set of topics. The zero value is not ready: use NewTable.
type Table struct {
	mu     sync.RWMutex
	byName map[record.Resource]Topic
	byID   map[record.TopicID]Topic
	next   record.TopicID // the next id to give
}

// NewTable returns an empty table. IDs start at 1, so 0 names no topic.
func NewTable() *Table {
	return &Table{byName: map[record.Resource]Topic{}, byID: map[record.TopicID]Topic{}, next: 1}
}

// Lookup returns the topic called name.
func (t *Table) Lookup(name record.Resource) (Topic, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	tp, ok := t.byName[name]
	return tp, ok
}

// ByID returns the topic with the id.
func (t *Table) ByID(id record.TopicID) (Topic, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	tp, ok := t.byID[id]
	return tp, ok
}

// List returns all topics, by id.
func (t *Table) List() []Topic {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make([]Topic, 0, len(t.byID))
	for _, tp := range t.byID {
		out = append(out, tp)
	}
	slices.SortFunc(out, func(a, b Topic) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// NextID is the id that the next topic gets. Whoever uses it must not let
// another creation be appended in between.
func (t *Table) NextID() record.TopicID {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.next
}

// ApplyPut applies the data of a topic-put record and returns the topic.
func (t *Table) ApplyPut(data []byte) (Topic, error) {
	tp, err := ParsePut(data)
	if err != nil {
		return Topic{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.put(tp)
	return tp, nil
}

func (t *Table) put(tp Topic) {
	t.byID[tp.ID] = tp
	t.byName[tp.Name] = tp
	t.next = max(t.next, tp.ID+1)
}

// ApplyDelete applies the data of a topic-delete record and returns the id of
// the topic that is gone.
func (t *Table) ApplyDelete(data []byte) (record.TopicID, error) {
	d := record.NewDecoder(data)
	id := record.TopicID(d.Uint32())
	if err := d.Err(); err != nil {
		return 0, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if tp, ok := t.byID[id]; ok {
		delete(t.byID, id)
		delete(t.byName, tp.Name)
	}
	return id, nil
}

// AppendSnapshot appends the table. Equal tables give equal bytes.
func (t *Table) AppendSnapshot(dst []byte) []byte {
	list := t.List()
	dst = appendUvarint(dst, uint64(t.NextID()))
	dst = appendUvarint(dst, uint64(len(list)))
	for _, tp := range list {
		dst = appendTopic(dst, tp)
	}
	list = slices.DeleteFunc(list, func(tp Topic) bool { return !tp.hasSettings() })
	dst = appendUvarint(dst, uint64(len(list)))
	for _, tp := range list {
		dst = appendSettings(appendUvarint(dst, uint64(tp.ID)), tp)
	}
	return dst
}

// Restore replaces the table by what AppendSnapshot wrote.
func (t *Table) Restore(d *record.Decoder) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := record.TopicID(d.Uint32())
	for n := d.Count(6); n > 0 && !d.Failed(); n-- {
		t.put(readTopic(d))
	}
	t.next = max(t.next, next)
	if d.Len() == 0 {
		return // of a build that had no settings
	}
	for n := d.Count(6); n > 0 && !d.Failed(); n-- {
		tp, ok := t.byID[record.TopicID(d.Uint32())]
		if readSettings(d, &tp); ok {
			t.put(tp)
		}
	}
}
