package group

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// Table is the set of consumer groups. Use NewTable.
type Table struct {
	mu     sync.RWMutex
	byName map[record.Resource]Group
	byID   map[record.GroupID]Group
	next   record.GroupID
	paused atomic.Int32 // groups that are; changed with mu held
}

// NewTable returns an empty table. IDs start at 1, so 0 names no group.
func NewTable() *Table {
	return &Table{byName: map[record.Resource]Group{}, byID: map[record.GroupID]Group{}, next: 1}
}

// Lookup returns the group called name.
func (t *Table) Lookup(name record.Resource) (Group, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	g, ok := t.byName[name]
	return g, ok
}

// ByID returns the group with the id.
func (t *Table) ByID(id record.GroupID) (Group, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	g, ok := t.byID[id]
	return g, ok
}

// Paused reports that a group is handed nothing. A receive asks this each time it looks,
// so it takes no lock while no group is.
func (t *Table) Paused(id record.GroupID) bool {
	if t.paused.Load() == 0 {
		return false
	}
	g, _ := t.ByID(id)
	return g.Paused
}

// List returns all groups, by id.
func (t *Table) List() []Group {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make([]Group, 0, len(t.byID))
	for _, g := range t.byID {
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b Group) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// NextID is the id that the next group gets. Whoever uses it must not let
// another creation be appended in between.
func (t *Table) NextID() record.GroupID {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.next
}

// ApplyPut applies the data of a group-put record. It returns the group's id when it was
// paused before and is not any more, else 0.
func (t *Table) ApplyPut(data []byte) (resumed record.GroupID, err error) {
	d := record.NewDecoder(data)
	g := readGroup(d)
	if err := d.Err(); err != nil {
		return 0, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[g.ID].Paused && !g.Paused {
		resumed = g.ID
	}
	t.put(g)
	return resumed, nil
}

// unpause takes the group that is about to be replaced or deleted out of the count.
func (t *Table) unpause(id record.GroupID) {
	if t.byID[id].Paused {
		t.paused.Add(-1)
	}
}

func (t *Table) put(g Group) {
	t.unpause(g.ID)
	if g.Paused {
		t.paused.Add(1)
	}
	t.byID[g.ID] = g
	t.byName[g.Name] = g
	t.next = max(t.next, g.ID+1)
}

// ApplyDelete applies the data of a group-delete record and returns the id of
// the group that is gone.
func (t *Table) ApplyDelete(data []byte) (record.GroupID, error) {
	d := record.NewDecoder(data)
	id := record.GroupID(d.Uint32())
	if err := d.Err(); err != nil {
		return 0, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if g, ok := t.byID[id]; ok {
		t.unpause(id)
		delete(t.byID, id)
		delete(t.byName, g.Name)
	}
	return id, nil
}

// AppendSnapshot appends the table. Equal tables give equal bytes.
func (t *Table) AppendSnapshot(dst []byte) []byte {
	list := t.List()
	dst = appendUvarint(dst, uint64(t.NextID()))
	dst = appendUvarint(dst, uint64(len(list)))
	for _, g := range list {
		dst = appendGroup(dst, g)
	}
	return dst
}

// Restore replaces the table by what AppendSnapshot wrote.
func (t *Table) Restore(d *record.Decoder) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := record.GroupID(d.Uint32())
	for n := d.Count(8); n > 0 && !d.Failed(); n-- {
		t.put(readGroup(d))
	}
	t.next = max(t.next, next)
}
