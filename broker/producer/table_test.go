package producer

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// table is a table with a log that gives positions.
type table struct {
	*Table
	t    *testing.T
	pos  record.Position
	time int64
}

func newTable(t *testing.T) *table { return &table{Table: NewTable(), t: t, time: 1_700_000_000_000} }

func (b *table) apply(producer, sequence uint64) record.Position {
	b.t.Helper()
	b.pos += 100
	rec := AppendMark(nil, &Mark{Producer: producer, Sequence: sequence, Entries: 1, Bytes: 72})
	if err := b.Apply(b.pos, record.Command(rec), b.time); err != nil {
		b.t.Fatal(err)
	}
	return b.pos
}

func (b *table) begin(producer, sequence uint64) (record.Position, <-chan struct{}, error) {
	b.t.Helper()
	return b.Begin(Name{producer, sequence})
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestAMarkIsReadBack(t *testing.T) {
	m := Mark{Producer: 1 << 63, Sequence: 9, Entries: 300, Bytes: 1 << 20}
	for i := range maxTexts + 1 {
		m.Refused = append(m.Refused, Refusal{Entry: 2 * i, Reason: 7, Text: fmt.Sprint("because ", i)})
	}
	m.Repeats = []Repeat{{Entry: 1, Of: 1}, {Entry: 299, Position: 1 << 40, Queue: 3, Offset: -1, Due: 1 << 41}}
	got, err := ParseMark(record.Command(AppendMark(nil, &m)))
	m.Refused[maxTexts].Text = "" // one too many
	if err != nil || fmt.Sprint(got) != fmt.Sprint(m) {
		t.Fatalf("got  %v, %v\nwant %v", got, err, m)
	}
}

func TestABatchIsNewThenOnItsWayThenKnown(t *testing.T) {
	b := newTable(t)
	if at, wait, err := b.begin(1, 1); at != 0 || wait != nil || err != nil {
		t.Fatal(at, wait, err)
	}
	_, wait, err := b.begin(1, 1)
	if wait == nil || err != nil || closed(wait) {
		t.Fatal("the same batch was let in beside itself")
	}
	if at, other, err := b.begin(1, 2); at != 0 || other != nil || err != nil {
		t.Fatal("the next batch has to wait")
	}
	pos := b.apply(1, 1)
	if !closed(wait) {
		t.Error("who waited was not told")
	}
	if at, wait, err := b.begin(1, 1); at != pos || wait != nil || err != nil {
		t.Fatal(at, wait, err)
	}
}

func TestACancelledBatchIsNewAgain(t *testing.T) {
	b := newTable(t)
	b.begin(1, 1)
	_, wait, _ := b.begin(1, 1)
	b.Cancel(Name{1, 1})
	if at, again, err := b.begin(1, 1); !closed(wait) || at != 0 || again != nil || err != nil {
		t.Fatal(at, again, err)
	}
}

func TestAProducersNewestBatchesAreRemembered(t *testing.T) {
	b := newTable(t)
	first := map[uint64]record.Position{}
	for s := uint64(1); s <= 3*Window; s++ {
		if s%2 == 0 { // sequences need not be dense
			first[s] = b.apply(7, s)
		}
	}
	oldest := uint64(3*Window - 2*(Window-1))
	for s := uint64(1); s <= 3*Window; s++ {
		at, _, err := b.begin(7, s)
		switch {
		case s < oldest && !errors.Is(err, ErrForgotten):
			t.Errorf("%d: %v, %v", s, at, err)
		case s >= oldest && (err != nil || at != first[s]):
			t.Errorf("%d: %v, %v, want %v", s, at, err, first[s])
		}
	}
}

func TestProducersThatAreTooManyOrSilentTooLongAreForgotten(t *testing.T) {
	b := newTable(t)
	for id := range uint64(MaxProducers) {
		b.apply(id+1, 1)
	}
	b.apply(1, 2) // the first is among the newest again
	b.apply(MaxProducers+1, 1)
	if at, _, _ := b.begin(2, 1); at != 0 {
		t.Error("the one silent for longest is known still")
	}
	if at, _, _ := b.begin(1, 1); at == 0 {
		t.Error("one that is not silent was forgotten")
	}
	b.time += Life.Milliseconds()
	b.apply(9, 2)
	if at, _, _ := b.begin(9, 1); at == 0 {
		t.Error("forgotten before its time")
	}
	b.time += time.Minute.Milliseconds()
	b.apply(9, 3)
	if at, _, _ := b.begin(10, 1); at != 0 || b.order.Len() != 1 {
		t.Errorf("known after a day, as %d others", b.order.Len()-1)
	}
}

func TestEqualStatesGiveEqualSnapshots(t *testing.T) {
	b := newTable(t)
	for i := range uint64(500) {
		b.time += 17
		b.apply(i*i%37+1, i+1)
		b.begin(99, i) // a reservation is no state
	}
	snapshot := b.AppendSnapshot(nil)
	restored := newTable(t)
	d := record.NewDecoder(snapshot)
	if restored.Restore(d); d.Err() != nil {
		t.Fatal(d.Err())
	}
	restored.pos, restored.time = b.pos, b.time
	if again := restored.AppendSnapshot(nil); !bytes.Equal(again, snapshot) {
		t.Fatal("not what was restored")
	}
	b.apply(3, 1000)
	restored.apply(3, 1000)
	if !bytes.Equal(restored.AppendSnapshot(nil), b.AppendSnapshot(nil)) {
		t.Fatal("different after the same record")
	}
}

func FuzzParseMark(f *testing.F) {
	f.Add(record.Command(AppendMark(nil, &Mark{Producer: 1, Sequence: 2, Refused: []Refusal{{Entry: 3, Reason: 4, Text: "x"}}})))
	f.Add(record.Command(AppendMark(nil, &Mark{Producer: 1, Sequence: 2, Repeats: []Repeat{{Entry: 3, Of: 1}, {Entry: 5, Position: 99, Queue: 2, Offset: -1, Due: 7}}})))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseMark(data)
		if err != nil {
			return
		}
		again, err := ParseMark(record.Command(AppendMark(nil, &m)))
		if err != nil || again.Producer != m.Producer || len(again.Refused) != len(m.Refused) {
			t.Fatalf("%+v became %+v, %v", m, again, err)
		}
	})
}
