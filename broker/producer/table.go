package producer

import (
	"container/list"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// What is remembered. Part of what records mean: every replica forgets the same.
const (
	Window       = 64      // newest batches of a producer
	MaxProducers = 1 << 14 // newest
	Life         = 24 * time.Hour
)

// ErrForgotten reports a sequence so far below the producer's newest that nobody
// knows any more whether it was stored.
var ErrForgotten = errors.New("producer: the batch is older than what is remembered")

// Name names a batch.
type Name struct{ Producer, Sequence uint64 }

// Table is the producers' batches. Use NewTable.
type Table struct {
	mu    sync.Mutex
	byID  map[uint64]*list.Element
	order *list.List // of *known, the one silent for longest first

	// This node's own: batches on their way, each with what is closed when it is
	// applied, or given up.
	pending map[Name]chan struct{}
}

type known struct {
	id    uint64
	last  int64  // time of its newest mark, Unix ms
	marks []mark // at most Window, by sequence
}

type mark struct {
	sequence uint64
	pos      record.Position // of the mark's record
}

// NewTable returns an empty table.
func NewTable() *Table {
	return &Table{byID: map[uint64]*list.Element{}, order: list.New(), pending: map[Name]chan struct{}{}}
}

// Begin reserves the name of a batch that is about to be stored. The reservation
// ends when the mark is applied, or with Cancel. When the batch was stored before
// there is none, and at is where its mark is. When it is being stored at this
// moment there is none either: wait is closed when that has come to an end.
func (t *Table) Begin(n Name) (at record.Position, wait <-chan struct{}, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if done, ok := t.pending[n]; ok {
		return 0, done, nil
	}
	if e := t.byID[n.Producer]; e != nil {
		p := e.Value.(*known)
		switch i, found := p.find(n.Sequence); {
		case found:
			return p.marks[i].pos, nil, nil
		case i == 0 && len(p.marks) == Window:
			return 0, nil, ErrForgotten
		}
	}
	t.pending[n] = make(chan struct{})
	return 0, nil, nil
}

// Cancel ends a reservation of a batch that was not stored.
func (t *Table) Cancel(n Name) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settle(n)
}

func (t *Table) settle(n Name) {
	if done, ok := t.pending[n]; ok {
		delete(t.pending, n)
		close(done)
	}
}

// Apply applies the mark whose record is at pos, in a frame of time (Unix ms).
func (t *Table) Apply(pos record.Position, data []byte, time int64) error {
	m, err := ParseMark(data)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byID[m.Producer]
	if e == nil {
		e = t.order.PushBack(&known{id: m.Producer})
		t.byID[m.Producer] = e
	}
	p := e.Value.(*known)
	p.last = time
	t.order.MoveToBack(e)
	if i, found := p.find(m.Sequence); !found { // else a replay
		p.marks = slices.Insert(p.marks, i, mark{m.Sequence, pos})
		if len(p.marks) > Window {
			p.marks = slices.Delete(p.marks, 0, 1)
		}
	}
	for e := t.order.Front(); e != nil; e = t.order.Front() {
		oldest := e.Value.(*known)
		if t.order.Len() <= MaxProducers && oldest.last >= time-Life.Milliseconds() {
			break
		}
		t.order.Remove(e)
		delete(t.byID, oldest.id)
	}
	t.settle(Name{m.Producer, m.Sequence})
	return nil
}

// find returns where a sequence is among the marks, or would be.
func (p *known) find(sequence uint64) (int, bool) {
	if n := len(p.marks); n == 0 || sequence > p.marks[n-1].sequence {
		return n, false // nearly always
	}
	return slices.BinarySearchFunc(p.marks, sequence, func(m mark, s uint64) int {
		switch {
		case m.sequence < s:
			return -1
		case m.sequence > s:
			return 1
		}
		return 0
	})
}
