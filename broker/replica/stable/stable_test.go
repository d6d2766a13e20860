package stable

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantry-mq/gantry/internal/mmapfile"
	"github.com/gantry-mq/gantry/internal/mmapfile/crashtest"
)

const name = "/d/STABLE"

var quiet = slog.New(slog.DiscardHandler)

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newFS(t testing.TB) *crashtest.FS {
	t.Helper()
	fsys := crashtest.New()
	if err := fsys.MkdirAll("/d"); err != nil {
		t.Fatal(err)
	}
	return fsys
}

func TestWhatWasSetIsThereAfterReopen(t *testing.T) {
	for kind, fsys := range map[string]mmapfile.FS{"memory": newFS(t), "disk": mmapfile.OS} {
		t.Run(kind, func(t *testing.T) {
			name := name
			if kind == "disk" {
				name = filepath.Join(t.TempDir(), "STABLE")
			}
			s := must(Create(fsys, name))(t)
			check := func(when string) {
				t.Helper()
				for key, want := range map[string][]byte{"blob": []byte("value"), "empty": {}, "missing": nil} {
					if got, err := s.Get([]byte(key)); err != nil || !bytes.Equal(got, want) || (got == nil) != (want == nil) {
						t.Errorf("%s: %s = %q, %v; want %q", when, key, got, err, want)
					}
				}
				for key, want := range map[string]uint64{"CurrentTerm": 1<<63 + 7, "missing": 0} {
					if got, err := s.GetUint64([]byte(key)); err != nil || got != want {
						t.Errorf("%s: %s = %d, %v; want %d", when, key, got, err, want)
					}
				}
				if n, err := s.GetUint64([]byte("blob")); err == nil {
					t.Errorf("%s: blob is the number %d", when, n)
				}
			}
			value := []byte("value")
			for _, err := range []error{
				s.SetUint64([]byte("CurrentTerm"), 1), s.SetUint64([]byte("CurrentTerm"), 1<<63+7),
				s.Set([]byte("blob"), value), s.Set([]byte("empty"), nil),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
			value[0] = 'X' // the store has its own
			check("set")
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = must(Open(fsys, name, quiet))(t)
			defer s.Close()
			check("reopened")
		})
	}
}

func TestAMissingStoreIsNotAnEmptyOne(t *testing.T) {
	fsys := newFS(t)
	if _, err := Open(fsys, name, quiet); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), name) {
		t.Errorf("open: %v", err)
	}
	s := must(Create(fsys, name))(t)
	if err := s.SetUint64([]byte("CurrentTerm"), 5); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(fsys, name); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), name) {
		t.Errorf("create over it: %v", err)
	}
	if term, err := s.GetUint64([]byte("CurrentTerm")); term != 5 || err != nil {
		t.Errorf("then: %d, %v", term, err)
	}
}

func TestAValueThatDoesNotFitChangesNothing(t *testing.T) {
	fsys := newFS(t)
	s := must(Create(fsys, name))(t)
	full := bytes.Repeat([]byte("x"), slotLen-slotHeader-4-1)
	if err := s.Set([]byte("k"), full); err != nil {
		t.Fatal(err)
	}
	if err := s.Set([]byte("k"), append(full, 'x')); !errors.Is(err, ErrTooLarge) {
		t.Errorf("%v", err)
	}
	s = must(Open(fsys, name, quiet))(t)
	if got, err := s.Get([]byte("k")); err != nil || !bytes.Equal(got, full) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestAfterAFailedWriteTheStoreAnswersNothing(t *testing.T) {
	broken := errors.New("broken")
	for _, op := range []crashtest.Op{crashtest.Write, crashtest.Sync} {
		for n := range 2 { // of the first slot, of the second
			fsys := newFS(t)
			s := must(Create(fsys, name))(t)
			fsys.Hook(func(c crashtest.Call) error {
				if c.Op == op {
					if n == 0 {
						return broken
					}
					n--
				}
				return nil
			})
			if err := s.SetUint64([]byte("CurrentTerm"), 2); !errors.Is(err, broken) {
				t.Errorf("%s: %v", op, err)
			}
			fsys.Hook(nil)
			if err := s.SetUint64([]byte("CurrentTerm"), 3); !errors.Is(err, broken) {
				t.Errorf("%s, next set: %v", op, err)
			}
			if _, err := s.GetUint64([]byte("CurrentTerm")); !errors.Is(err, broken) {
				t.Errorf("%s, get: %v", op, err)
			}
		}
	}
}

// slots is a file in the making: what a crash, or a bad disk, left in each slot.
func slots(t *testing.T, first, second []byte) *crashtest.FS {
	t.Helper()
	fsys := newFS(t)
	if err := mmapfile.WriteFile(fsys, name, append(bytes.Clone(first), second...)); err != nil {
		t.Fatal(err)
	}
	return fsys
}

func TestOnlyWhatACrashCanLeaveIsOpened(t *testing.T) {
	at := func(seq uint64, term string) []byte {
		return must(slot{seq: seq, values: map[string][]byte{"CurrentTerm": []byte(term)}}.encode())(t)
	}
	rotten := func(b []byte) []byte {
		b = bytes.Clone(b)
		b[40] ^= 1
		return b
	}
	newer := at(7, "g")
	newer[8] = slotVersion + 1
	for what, c := range map[string]struct {
		first, second []byte
		want          string // "" = refused
	}{
		"both":                          {at(7, "g"), at(7, "g"), "g"},
		"stopped between":               {at(8, "h"), at(7, "g"), "h"},
		"first torn":                    {rotten(at(8, "h")), at(7, "g"), "g"},
		"second torn":                   {at(8, "h"), rotten(at(8, "h")), "h"},
		"first never written":           {make([]byte, slotLen), at(7, "g"), "g"},
		"both rotten":                   {rotten(at(7, "g")), rotten(at(7, "g")), ""},
		"both empty":                    {make([]byte, slotLen), make([]byte, slotLen), ""},
		"the second is newer":           {at(7, "g"), at(8, "h"), ""},
		"a write is missing in between": {at(9, "i"), at(7, "g"), ""},
		"one number, two contents":      {at(7, "g"), at(7, "h"), ""},
		"from another version":          {newer, newer, ""},
		"too short":                     {at(7, "g"), at(7, "g")[:100], ""},
	} {
		t.Run(what, func(t *testing.T) {
			fsys := slots(t, c.first, c.second)
			s, err := Open(fsys, name, quiet)
			if c.want == "" {
				if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), name) {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, err := s.Get([]byte("CurrentTerm")); string(got) != c.want || err != nil {
				t.Errorf("%q, %v; want %q", got, err, c.want)
			}
			b := must(mmapfile.ReadFile(fsys, name))(t)
			if !bytes.Equal(b[:slotLen], b[slotLen:]) {
				t.Error("the slots still differ")
			}
		})
	}
}

func TestARestoredSlotIsLoggedWithTheFile(t *testing.T) {
	good := must(slot{seq: 3, values: map[string][]byte{}}.encode())(t)
	bad := bytes.Clone(good)
	bad[100] ^= 4
	for what, c := range map[string]struct {
		second []byte
		logged bool
	}{"damaged": {bad, true}, "whole": {good, false}} {
		var out bytes.Buffer
		must(Open(slots(t, good, c.second), name, slog.New(slog.NewTextHandler(&out, nil))))(t)
		if strings.Contains(out.String(), name) != c.logged {
			t.Errorf("%s: logged %q", what, out.String())
		}
	}
}

func FuzzDecodeIsTheInverseOfEncode(f *testing.F) {
	for _, s := range []slot{
		{seq: 1, values: map[string][]byte{}},
		{seq: 1 << 40, values: map[string][]byte{"CurrentTerm": {1, 0, 0, 0, 0, 0, 0, 0}, "LastVoteCand": []byte("127.0.0.1:8083"), "": {}}},
	} {
		b := must(s.encode())(f)
		f.Add(b[slotHeader:200], s.seq, uint16(len(s.values)))
	}
	f.Fuzz(func(t *testing.T, body []byte, seq uint64, keys uint16) {
		// A slot with a good checksum, so that the rest is reached.
		b := make([]byte, slotLen)
		copy(b, slotMagic)
		le.PutUint32(b[8:], slotVersion)
		le.PutUint64(b[16:], seq)
		le.PutUint16(b[24:], keys)
		copy(b[slotHeader:], body)
		sum(b)
		s, err := decode(b)
		if err != nil {
			return
		}
		again, err := s.encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%+v, %v: other bytes", s, err)
		}
		if back, err := decode(again); err != nil || !maps.EqualFunc(back.values, s.values, bytes.Equal) || back.seq != s.seq {
			t.Fatalf("%+v, %v; want %+v", back, err, s)
		}
	})
}
