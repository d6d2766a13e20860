package topic

import (
	"bytes"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

func apply(t *testing.T, tb *Table, rec []byte) {
	t.Helper()
	if err := record.Verify(rec); err != nil {
		t.Fatal(err)
	}
	var err error
	switch record.KindOf(rec) {
	case record.KindTopicPut:
		err = tb.ApplyPut(record.Command(rec))
	case record.KindTopicDelete:
		_, err = tb.ApplyDelete(record.Command(rec))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestTopicMadeAgainIsAnotherTopic(t *testing.T) {
	tb := NewTable()
	name := record.Resource{Namespace: "ns", Name: "T"}
	first := Topic{ID: tb.NextID(), Name: name, Type: FIFO, Queues: 8, Created: 1, LiteTTL: time.Hour}
	apply(t, tb, AppendPut(nil, first))
	if got, ok := tb.Lookup(name); !ok || got != first {
		t.Fatalf("%+v", got)
	}
	if _, ok := tb.Lookup(record.Resource{Name: "T"}); ok {
		t.Fatal("namespaces do not isolate")
	}
	apply(t, tb, AppendDelete(nil, first.ID))
	if _, ok := tb.Lookup(name); ok {
		t.Fatal("still there")
	}
	if tb.NextID() == first.ID {
		t.Fatal("its id is given again")
	}
	apply(t, tb, AppendDelete(nil, first.ID)) // nothing to delete: nothing happens
}

func TestSnapshotRestores(t *testing.T) {
	tb := NewTable()
	for i := range record.TopicID(20) {
		apply(t, tb, AppendPut(nil, Topic{ID: i + 1, Name: record.Resource{Name: string(rune('a' + i))}, Type: Normal, Queues: uint32(i)}))
	}
	apply(t, tb, AppendDelete(nil, 20))
	snapshot := tb.AppendSnapshot(nil)
	again := NewTable()
	d := record.NewDecoder(snapshot)
	if again.Restore(d); d.Err() != nil {
		t.Fatal(d.Err())
	}
	if !bytes.Equal(again.AppendSnapshot(nil), snapshot) || again.NextID() != 21 {
		t.Fatal("another table")
	}
}

func FuzzApply(f *testing.F) {
	f.Add(record.Command(AppendPut(nil, Topic{ID: 3, Name: record.Resource{Name: "T"}, Type: Lite, Queues: 4, Created: 5})))
	f.Fuzz(func(t *testing.T, data []byte) {
		NewTable().ApplyPut(data)
		NewTable().ApplyDelete(data)
		NewTable().Restore(record.NewDecoder(data))
	})
}
