package transaction

import (
	"container/heap"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// What is remembered of decisions: the newest, up to a number and an age.
const (
	maxDecisions = 1 << 16
	decisionLife = 24 * time.Hour
)

// Half is a half message that nobody has decided on.
type Half struct {
	Position  record.Position // of the record it came with: its name
	Payload   record.Position // of the record that holds it now: that one, or a copy
	Size      uint32          // of that record, in bytes
	Key       record.QueueKey // where it goes when committed
	TagHash   uint32
	GroupHash uint32
	MessageID string
	Born      int64 // Unix ms, as the producer said
	Stored    int64 // Unix ms
	Recovery  int64 // ms from Stored to the first check as the producer wishes, 0 = no wish
	Next      int64 // when it is due for a check, Unix ms; meaningless when parked
	Checks    uint32
	Parked    bool
}

// Outcome is what was decided. Values are part of the disk format.
type Outcome uint8

const (
	Committed  Outcome = 1
	RolledBack Outcome = 2
)

func (o Outcome) String() string {
	switch o {
	case Committed:
		return "committed"
	case RolledBack:
		return "rolled back"
	}
	return fmt.Sprintf("outcome(%d)", uint8(o))
}

// Source is who decided. Values are part of the disk format.
type Source uint8

const (
	FromProducer Source = 1 // on its own account
	FromCheck    Source = 2 // a producer, asked by a check
	FromOperator Source = 3
)

func (s Source) String() string {
	switch s {
	case FromProducer:
		return "the producer"
	case FromCheck:
		return "a check"
	case FromOperator:
		return "an operator"
	}
	return fmt.Sprintf("source(%d)", uint8(s))
}

// Decision is an outcome that was reached.
type Decision struct {
	Outcome Outcome
	Source  Source
	Time    int64 // Unix ms
}

// ErrUnknown reports a position that holds no half message, or one that was
// decided so long ago that it is forgotten.
var ErrUnknown = errors.New("transaction: no such half message")

// DecidedError reports a half message that was decided before.
type DecidedError struct{ Decision }

func (e *DecidedError) Error() string {
	return fmt.Sprintf("transaction: %v by %v at %s", e.Outcome, e.Source, time.UnixMilli(e.Time).UTC().Format(time.RFC3339))
}

// Table is the set of half messages.
type Table struct {
	immunity int64 // ms
	changed  chan struct{}

	mu     sync.Mutex
	rows   map[record.Position]*row
	topics map[record.TopicID]int // rows of each, none of 0
	due    dueHeap                // the open ones
	// decided are the newest decisions, order[forgotten:] in the order taken.
	decided   map[record.Position]Decision
	order     []record.Position
	forgotten int
}

type row struct {
	Half
	next int64 // as the last check record said, 0 = never asked; Half.Next follows from it
	i    int   // in due, -1 = not there
	// busy is closed when the decision that is under way has been taken, or given
	// up. nil: there is none.
	busy chan struct{}
}

// New returns an empty table. A half message without a wish of its own is due
// for its first check when it is immunity old. That is no part of the state.
func New(immunity time.Duration) *Table {
	return &Table{
		immunity: immunity.Milliseconds(),
		changed:  make(chan struct{}, 1),
		rows:     map[record.Position]*row{},
		topics:   map[record.TopicID]int{},
		decided:  map[record.Position]Decision{},
	}
}

// put adds a row, or replaces the one of the same record. Called with mu held.
func (t *Table) put(r *row) {
	if old := t.rows[r.Position]; old != nil {
		t.remove(old)
	}
	t.rows[r.Position] = r
	t.topics[r.Key.Topic()]++
	r.i = -1
	t.schedule(r)
}

// schedule gives the row its place among those to be checked. Called with mu held.
func (t *Table) schedule(r *row) {
	switch {
	case r.next != 0:
		r.Next = r.next
	case r.Recovery != 0:
		r.Next = r.Stored + r.Recovery
	default:
		r.Next = r.Stored + t.immunity
	}
	switch {
	case r.Parked && r.i >= 0:
		heap.Remove(&t.due, r.i)
	case r.Parked:
	case r.i >= 0:
		heap.Fix(&t.due, r.i)
	default:
		heap.Push(&t.due, r)
	}
	if r.i == 0 {
		t.kick()
	}
}

func (t *Table) kick() {
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// remove takes a row out. Called with mu held.
func (t *Table) remove(r *row) {
	delete(t.rows, r.Position)
	if t.topics[r.Key.Topic()]--; t.topics[r.Key.Topic()] == 0 {
		delete(t.topics, r.Key.Topic())
	}
	if r.i >= 0 {
		heap.Remove(&t.due, r.i)
	}
	r.release()
}

func (r *row) release() {
	if r.busy != nil {
		close(r.busy)
		r.busy = nil
	}
}

// Get returns the half message at pos: ErrUnknown, or a *DecidedError.
func (t *Table) Get(pos record.Position) (Half, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, err := t.find(pos)
	if err != nil {
		return Half{}, err
	}
	return r.Half, nil
}

func (t *Table) find(pos record.Position) (*row, error) {
	if r := t.rows[pos]; r != nil {
		return r, nil
	}
	if d, ok := t.decided[pos]; ok {
		return nil, &DecidedError{d}
	}
	return nil, ErrUnknown
}

// List returns the half messages that f takes, the oldest first. It looks at
// all; f must be quick.
func (t *Table) List(f func(*Half) bool) []Half {
	t.mu.Lock()
	defer t.mu.Unlock()
	rows := t.sorted(func(r *row) bool { return f(&r.Half) })
	out := make([]Half, len(rows))
	for i, r := range rows {
		out[i] = r.Half
	}
	return out
}

// ByTopic returns how many there are of each topic.
func (t *Table) ByTopic() map[record.TopicID]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.topics)
}

// Counts returns how many half messages are open and how many are parked.
func (t *Table) Counts() (open, parked int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.due), len(t.rows) - len(t.due)
}
