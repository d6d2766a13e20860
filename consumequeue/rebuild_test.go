package consumequeue

import (
	"testing"

	"github.com/gantry-mq/gantry/commitlog/record"
)

func TestRebuiltQueueWithoutMessagesNumbersOn(t *testing.T) {
	s, err := Open(t.TempDir(), Options{}, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	gone, kept := record.Key(1, 0), record.Key(1, 1)
	for off := range record.QueueOffset(300) {
		for i, key := range []record.QueueKey{gone, kept} {
			if err := s.Put(key, off, Entry{Position: record.Position(off*2) + record.Position(i), Size: 1}); err != nil {
				t.Fatal(err)
			}
		}
	}
	snapshot := s.AppendSnapshot(nil)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s, err = Open(t.TempDir(), Options{}, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Put(kept, 299, Entry{Position: 599, Size: 1}); err != nil { // all that the log still has
		t.Fatal(err)
	}
	ends, err := Ends(snapshot)
	if err != nil {
		t.Fatal(err)
	}
	for key, end := range ends {
		s.Reserve(key, end)
	}
	for key, want := range map[record.QueueKey][2]record.QueueOffset{gone: {300, 300}, kept: {299, 300}} {
		if low, high, ok := s.Bounds(key); !ok || low != want[0] || high != want[1] {
			t.Errorf("queue %v has [%d, %d), want %v", key, low, high, want)
		}
		if err := s.Put(key, 300, Entry{Position: 700, Size: 1}); err != nil {
			t.Error(err)
		}
	}
}
