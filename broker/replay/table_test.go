package replay

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/gantry-mq/gantry/commitlog/record"
)

var key = Key{Group: 3, Topic: 7}

func apply(t testing.TB, table *Table, rec []byte) {
	t.Helper()
	if err := table.Apply(record.KindOf(rec), record.Command(rec), func(k Key) bool { return k.Group != 9 }); err != nil {
		t.Fatal(err)
	}
	// What is restored from a snapshot is the same table.
	snapshot := table.AppendSnapshot(nil)
	again := New()
	d := record.NewDecoder(snapshot)
	if again.Restore(d); d.Err() != nil || !bytes.Equal(again.AppendSnapshot(nil), snapshot) {
		t.Fatalf("%x restores to %x, %v", snapshot, again.AppendSnapshot(nil), d.Err())
	}
}

func picture(table *Table) string {
	r, ok := table.Get(key)
	if !ok {
		return "none"
	}
	return fmt.Sprintf("%d..%d %q %v: %v, %d of %d left, %d done", r.From, r.To, r.Filter, r.SQL, r.Queues, r.Left(), r.Total, r.Done)
}

func TestAReplayIsWhatIsLeftOfItsRange(t *testing.T) {
	table := New()
	begun := Replay{Key: key, From: 10, To: 20, SQL: true, Filter: "a > 1", Total: 30, Queues: []Range{{0, 5, 15}, {2, 0, 10}, {7, 90, 100}}}
	for _, c := range []struct {
		rec  []byte
		want string
	}{
		{AppendStep(nil, key, 0, 7, 2), "none"},
		{AppendBegin(nil, &begun), `10..20 "a > 1" true: [{0 5 15} {2 0 10} {7 90 100}], 30 of 30 left, 0 done`},
		{AppendStep(nil, key, 2, 6, 4), `10..20 "a > 1" true: [{0 5 15} {2 6 10} {7 90 100}], 24 of 30 left, 4 done`},
		{AppendStep(nil, key, 2, 3, 0), `10..20 "a > 1" true: [{0 5 15} {2 6 10} {7 90 100}], 24 of 30 left, 4 done`},
		{AppendStep(nil, key, 2, 10, 1), `10..20 "a > 1" true: [{0 5 15} {7 90 100}], 20 of 30 left, 5 done`},
		{AppendStep(nil, key, 1, 10, 0), `10..20 "a > 1" true: [{0 5 15} {7 90 100}], 20 of 30 left, 5 done`},
		{AppendStep(nil, Key{Group: 3, Topic: 8}, 0, 10, 9), `10..20 "a > 1" true: [{0 5 15} {7 90 100}], 20 of 30 left, 5 done`},
		{AppendBegin(nil, &Replay{Key: key, Total: 1, Queues: []Range{{0, 0, 1}}}), `0..0 "" false: [{0 0 1}], 1 of 1 left, 0 done`},
		{AppendEnd(nil, key), "none"},
		{AppendBegin(nil, &Replay{Key: Key{Group: 9}}), "none"}, // of a group that is gone
	} {
		apply(t, table, c.rec)
		if got := picture(table); got != c.want {
			t.Errorf("%v: %s\nwant %s", record.KindOf(c.rec), got, c.want)
		}
	}
	if n := len(table.rows); n != 0 {
		t.Errorf("%d rows", n)
	}
	apply(t, table, AppendBegin(nil, &begun))
	table.Drop(func(k Key) bool { return k.Topic == 7 })
	if got := picture(table); got != "none" {
		t.Error(got)
	}
}

// FuzzApply feeds records to a table: nothing may panic, and what was taken must
// survive a snapshot.
func FuzzApply(f *testing.F) {
	for _, rec := range [][]byte{
		AppendBegin(nil, &Replay{Key: key, From: 10, To: 20, Filter: "A", Total: 30, Queues: []Range{{0, 5, 15}, {2, 0, 10}}}),
		AppendStep(nil, key, 2, 6, 4), AppendEnd(nil, key),
	} {
		f.Add(byte(record.KindOf(rec)), record.Command(rec))
	}
	f.Fuzz(func(t *testing.T, kind byte, data []byte) {
		table := New()
		if table.Apply(record.Kind(kind), data, func(Key) bool { return true }) != nil {
			return
		}
		snapshot := table.AppendSnapshot(nil)
		again := New()
		d := record.NewDecoder(snapshot)
		if again.Restore(d); d.Err() != nil || !bytes.Equal(again.AppendSnapshot(nil), snapshot) {
			t.Fatalf("%x restores to %x, %v", snapshot, again.AppendSnapshot(nil), d.Err())
		}
		_ = picture(table)
	})
}
