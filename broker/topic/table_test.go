package topic

import (
	"bytes"
	"slices"
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
		_, err = tb.ApplyPut(record.Command(rec))
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
		tp := Topic{ID: i + 1, Name: record.Resource{Name: string(rune('a' + i))}, Type: Normal, Queues: uint32(i)}
		switch i % 4 {
		case 1:
			tp.Retention = Retention{RetainAge: time.Hour}
		case 2:
			tp.Retention = Retention{RetainAge: time.Second, RetainSize: 1 << 40}
			tp.Dedup = Dedup{DedupWindow: time.Minute, DedupKey: "property:order", DedupMax: 7}
		}
		apply(t, tb, AppendPut(nil, tp))
	}
	apply(t, tb, AppendDelete(nil, 20))
	snapshot := tb.AppendSnapshot(nil)
	again := NewTable()
	d := record.NewDecoder(snapshot)
	if again.Restore(d); d.Err() != nil {
		t.Fatal(d.Err())
	}
	if !bytes.Equal(again.AppendSnapshot(nil), snapshot) || again.NextID() != 21 || !slices.Equal(again.List(), tb.List()) {
		t.Fatal("another table")
	}
}

// Records and snapshots of a build that knew no settings end before them.
func TestTopicsWithoutSettingsAreRead(t *testing.T) {
	plain := Topic{ID: 3, Name: record.Resource{Name: "T"}, Type: Mixed, Queues: 4, Created: 5}
	if got, err := ParsePut(appendTopic(nil, plain)); err != nil || got != plain {
		t.Fatalf("%+v, %v", got, err)
	}
	tb := NewTable()
	d := record.NewDecoder(appendTopic([]byte{4, 1}, plain)) // the next id, one topic
	if tb.Restore(d); d.Err() != nil || tb.NextID() != 4 {
		t.Fatal(d.Err())
	}
	if got, _ := tb.ByID(3); got != plain {
		t.Fatalf("%+v", got)
	}
}

func TestDedupKeysAreValidated(t *testing.T) {
	for key, want := range map[DedupKey]bool{
		"id": true, "key": true, "property:order": true, "property:": false, "": false, "ID": false, "order": false,
	} {
		if key.Valid() != want {
			t.Errorf("%q: valid is %v", key, !want)
		}
	}
}

func FuzzApply(f *testing.F) {
	f.Add(record.Command(AppendPut(nil, Topic{ID: 3, Name: record.Resource{Name: "T"}, Type: Lite, Queues: 4, Created: 5})))
	f.Add(record.Command(AppendPut(nil, Topic{ID: 3, Retention: Retention{1, 2}, Dedup: Dedup{3, "id", 4}})))
	f.Fuzz(func(t *testing.T, data []byte) {
		NewTable().ApplyPut(data)
		NewTable().ApplyDelete(data)
		NewTable().Restore(record.NewDecoder(data))
	})
}
