package replica

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/internal/mmapfile/crashtest"
)

// TestTheLogStoreKeepsWhatRaftExpects compares with the library's own store in
// memory, over what raft does with one.
func TestTheLogStoreKeepsWhatRaftExpects(t *testing.T) {
	rng := newRNG(t)
	l, err := commitlog.Open(commitlog.Options{Dir: "/log", FS: crashtest.New(), SegmentSize: 64 << 10, Replicated: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ours, theirs := &logStore{log: l, fatal: func(err error) { t.Error(err) }}, raft.NewInmemStore()
	next, term := uint64(1), uint64(1)
	for range 300 {
		if rng.IntN(4) > 0 || next < 3 {
			var logs []*raft.Log
			for range 1 + rng.IntN(5) {
				e := &raft.Log{Index: next, Term: term, Type: []raft.LogType{raft.LogCommand, raft.LogNoop, raft.LogBarrier, raft.LogConfiguration}[rng.IntN(4)], Data: make([]byte, 8*rng.IntN(300))}
				if e.Type != raft.LogCommand {
					e.Data = make([]byte, rng.IntN(300))
				}
				for i := range e.Data {
					e.Data[i] = byte(rng.Uint32())
				}
				logs = append(logs, e)
				next++
			}
			if err := errors.Join(ours.StoreLogs(logs), theirs.StoreLogs(logs)); err != nil {
				t.Fatal(err)
			}
		} else {
			from := 1 + rng.Uint64N(next-1)
			if err := errors.Join(ours.DeleteRange(from, next-1), theirs.DeleteRange(from, next-1)); err != nil {
				t.Fatal(err)
			}
			next = from
			term++
		}
		for range 5 {
			i := rng.Uint64N(next + 2)
			var a, b raft.Log
			errA, errB := ours.GetLog(i, &a), theirs.GetLog(i, &b)
			if errA != errB || errA == nil && (a.Index != b.Index || a.Term != b.Term || a.Type != b.Type || !bytes.Equal(a.Data, b.Data)) {
				t.Fatalf("entry %d: %+v, %v; want %+v, %v", i, a, errA, b, errB)
			}
			var c raft.Log // from the log, not from memory
			err := (&logStore{log: l}).GetLog(i, &c)
			if err != errA || !bytes.Equal(a.Data, c.Data) || !bytes.Equal(a.Extensions, c.Extensions) || !a.AppendedAt.Equal(c.AppendedAt) {
				t.Fatalf("entry %d: %+v, %v; in the log %+v, %v", i, a, errA, c, err)
			}
		}
		lastA, _ := ours.LastIndex()
		if lastA != next-1 {
			t.Fatalf("the last index is %d, want %d", lastA, next-1)
		}
	}
}

func TestOfRecentEntriesTheNewestAreKept(t *testing.T) {
	var r recent
	var l raft.Log
	for i := range uint64(20) {
		r.add(raft.Log{Index: 5 + i, Data: make([]byte, recentBytes/4)})
	}
	for i := range uint64(30) {
		if got, want := r.get(i, &l), i > 20 && i < 25; got != want || got && l.Index != i {
			t.Errorf("entry %d: %v, %d", i, got, l.Index)
		}
	}
	r.add(raft.Log{Index: 25, Data: make([]byte, 2*recentBytes)})
	if r.get(24, &l) || !r.get(25, &l) {
		t.Error("of more than there is room for, not only the last is kept")
	}
	r.forget()
	if r.get(25, &l) {
		t.Error("an entry that was taken back is still there")
	}
}

func TestProposalsOutOfTheirTermOrOrderAreNotStored(t *testing.T) {
	l, err := commitlog.Open(commitlog.Options{Dir: "/log", FS: crashtest.New(), SegmentSize: 64 << 10, Replicated: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := &logStore{log: l}
	for i, tt := range []struct {
		term, proposed, serial, number uint64
		stored                         bool
	}{
		{3, 3, 1, 2, false}, // the first was turned away
		{3, 3, 1, 1, true},
		{3, 3, 1, 3, false}, // the second was
		{3, 3, 1, 2, true},
		{5, 3, 1, 3, false}, // led, lost and led again meanwhile
		{5, 5, 2, 1, true},
		{5, 5, 3, 2, false}, // begun anew in the same term: the first was turned away
		{5, 5, 3, 1, true},
		{5, 5, 2, 2, false}, // of before
		{5, 5, 3, 2, true},
	} {
		last, _ := s.LastIndex()
		err := s.StoreLog(&raft.Log{Index: last + 1, Term: tt.term, Data: make([]byte, recordLen), Extensions: stamp(1, tt.proposed, tt.serial, tt.number)})
		if (err == nil) != tt.stored {
			t.Errorf("%d, %+v: %v", i, tt, err)
		}
	}
}
