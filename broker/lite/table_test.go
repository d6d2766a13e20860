package lite

import (
	"bytes"
	"testing"

	"github.com/gantry-mq/gantry/commitlog/record"
)

func always(record.TopicID) bool { return true }

func put(t *testing.T, tb *Table, id record.TopicID, queue uint32, name string) {
	t.Helper()
	rec := AppendPut(nil, id, queue, name)
	if err := record.Verify(rec); err != nil {
		t.Fatal(err)
	}
	if err := tb.ApplyPut(record.Command(rec), always); err != nil {
		t.Fatal(err)
	}
}

func TestLiteTopicMadeAgainHasAnotherQueue(t *testing.T) {
	tb := NewTable()
	q := tb.Next(7)
	put(t, tb, 7, q, "a")
	put(t, tb, 8, q, "a") // another parent
	written := func(end record.QueueOffset) func(record.QueueKey) record.QueueOffset {
		return func(record.QueueKey) record.QueueOffset { return end }
	}
	rec := AppendDelete(nil, record.Key(7, q), 3)
	if err := record.Verify(rec); err != nil {
		t.Fatal(err)
	}
	if _, gone, err := tb.ApplyDelete(record.Command(rec), written(4)); gone || err != nil || !tb.Has(record.Key(7, q)) {
		t.Fatalf("written to since the delete was decided, and gone: %v %v", gone, err)
	}
	if key, gone, err := tb.ApplyDelete(record.Command(rec), written(3)); key != record.Key(7, q) || !gone || err != nil {
		t.Fatalf("%v %v %v", key, gone, err)
	}
	if _, gone, err := tb.ApplyDelete(record.Command(rec), written(3)); gone || err != nil {
		t.Fatalf("deleted twice: %v %v", gone, err)
	}
	if _, ok := tb.Lookup(7, "a"); ok || !tb.Has(record.Key(8, q)) || tb.Count() != 1 {
		t.Fatal("the wrong one is gone")
	}
	if again := tb.Next(7); again == q {
		t.Fatal("its queue number is given again")
	}
	tb.DropParent(8)
	if tb.Count() != 0 || tb.Has(record.Key(8, q)) {
		t.Fatal("there without its parent")
	}
}

func TestIdleLiteTopicsAreThoseKnownToBe(t *testing.T) {
	tb := NewTable()
	for i, name := range []string{"old", "new", "unknown"} {
		put(t, tb, 7, record.FirstLiteQueue+uint32(i), name)
	}
	tb.Wrote(record.Key(7, record.FirstLiteQueue), 10)
	tb.Wrote(record.Key(7, record.FirstLiteQueue+1), 20)
	tb.Wrote(record.Key(9, record.FirstLiteQueue), 20)
	idle, unknown := tb.Idle(7, 20)
	if len(idle) != 1 || idle[0].Name != "old" || len(unknown) != 1 || unknown[0].Name != "unknown" {
		t.Fatalf("idle %v, unknown %v", idle, unknown)
	}
}

func TestSnapshotRestores(t *testing.T) {
	tb := NewTable()
	for i, name := range []string{"c", "a", "b"} {
		put(t, tb, 9, record.FirstLiteQueue+uint32(i), name)
		put(t, tb, 7, record.FirstLiteQueue+uint32(i), name)
	}
	last := AppendDelete(nil, record.Key(7, record.FirstLiteQueue+2), 0)
	if _, _, err := tb.ApplyDelete(record.Command(last), func(record.QueueKey) record.QueueOffset { return 0 }); err != nil {
		t.Fatal(err)
	}
	snapshot := tb.AppendSnapshot(nil)
	again := NewTable()
	d := record.NewDecoder(snapshot)
	if again.Restore(d); d.Err() != nil {
		t.Fatal(d.Err())
	}
	if !bytes.Equal(again.AppendSnapshot(nil), snapshot) || again.Count() != 5 || again.Next(7) != record.FirstLiteQueue+3 {
		t.Fatal("another table")
	}
}

func FuzzApply(f *testing.F) {
	f.Add(record.Command(AppendPut(nil, 3, record.FirstLiteQueue, "name")))
	f.Add(record.Command(AppendDelete(nil, record.Key(3, record.FirstLiteQueue), 5)))
	f.Fuzz(func(t *testing.T, data []byte) {
		tb := NewTable()
		tb.ApplyPut(data, always)
		tb.ApplyDelete(data, func(record.QueueKey) record.QueueOffset { return 5 })
		NewTable().Restore(record.NewDecoder(data))
	})
}
