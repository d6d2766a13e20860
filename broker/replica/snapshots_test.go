package replica

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// inSnapshots returns the files of that name in a server's snapshots, the oldest first.
func inSnapshots(t *testing.T, s *server, name string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.opts.Dir, snapshotDir, "*", name))
	if err != nil || len(files) == 0 {
		t.Fatalf("%q, %v", files, err)
	}
	slices.SortFunc(files, func(a, b string) int {
		x, _ := os.Stat(a)
		y, _ := os.Stat(b)
		return x.ModTime().Compare(y.ModTime())
	})
	return files
}

// remember has a server write a snapshot.
func (s *server) remember() {
	s.t.Helper()
	s.must(s.node.Remember())
}

// A snapshot says once more what the log, or the snapshot before it, says too.
func TestADamagedSnapshotOfTheMembershipIsRemoved(t *testing.T) {
	for what, damage := range map[string]func(name string) error{
		"another bit": func(name string) error { return flipIndex(name) },
		"truncated":   func(name string) error { return os.Truncate(name, 30) },
		"empty":       func(name string) error { return os.Truncate(name, 0) },
		"missing":     os.Remove,
		"directory":   func(name string) error { return os.RemoveAll(filepath.Dir(name)) },
		"not finished": func(name string) error {
			return os.Rename(filepath.Dir(name), filepath.Dir(name)+".tmp")
		},
	} {
		for _, file := range []string{"meta.json", "state.bin"} {
			t.Run(what+" "+file, func(t *testing.T) {
				t.Parallel()
				all := repairable(t, 3)
				s := all[1]
				id := s.node.parts.id
				s.remember()
				s.close()
				bad := inSnapshots(t, s, file)
				for _, name := range bad {
					if err := damage(name); err != nil {
						t.Fatal(err)
					}
				}
				s.must(s.open(t.Context()))
				voters(t, all...)
				equal(t, 100, all...)
				if s.node.parts.id != id {
					t.Error("it is another node")
				}
				if _, err := os.Stat(filepath.Dir(bad[0])); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("the snapshot: %v", err)
				}
				s.remember()
				s.close()
				s.must(s.open(t.Context()))
				voters(t, all...)
			})
		}
	}
}

// flipIndex changes a bit of the number behind "Index": what follows is as good as before.
func flipIndex(name string) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	const field = `"Index":`
	b[bytes.Index(b, []byte(field))+len(field)] ^= 1
	return os.WriteFile(name, b, 0o600)
}

// No bit of it may say something else than was written.
func TestEveryBitOfASnapshotIsCovered(t *testing.T) {
	s := newServer(t, "n1", nil).bootstrap()
	eventually(t, "a record", func() bool { return s.append(1) == nil })
	s.remember()
	names := []string{inSnapshots(t, s, "meta.json")[0], inSnapshots(t, s, "state.bin")[0]}
	s.close()
	files, err := openSnapshots(&s.opts, "n1")
	if err != nil {
		t.Fatal(err)
	}
	snaps, err := files.List()
	if err != nil || len(snaps) != 1 {
		t.Fatalf("%v, %v", snaps, err)
	}
	want := *snaps[0]
	for _, name := range names {
		good, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for at := range 8 * len(good) {
			b := bytes.Clone(good)
			b[at/8] ^= 1 << (at % 8)
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := verify(files, want.ID); err != nil {
				continue
			}
			got, r, err := files.Open(want.ID)
			if err != nil {
				t.Fatal(err)
			}
			r.Close()
			if got.Index != want.Index || got.Term != want.Term || got.Version != want.Version || got.ConfigurationIndex != want.ConfigurationIndex || !slices.Equal(got.Configuration.Servers, want.Configuration.Servers) {
				t.Errorf("bit %d of %s: %+v", at, filepath.Base(name), got)
			}
		}
		if err := os.WriteFile(name, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// Builds before this one wrote nothing into state.bin.
func TestASnapshotOfTheTimeBeforeIsRead(t *testing.T) {
	s := newServer(t, "n1", nil).bootstrap()
	eventually(t, "a record", func() bool { return s.append(1) == nil })
	s.close()
	files, err := openSnapshots(&s.opts, s.opts.Name)
	if err != nil {
		t.Fatal(err)
	}
	s.must(s.open(t.Context()))
	config := s.node.raft.GetConfiguration()
	sink, err := files.(snapshots).SnapshotStore.Create(1, 1, 1, config.Configuration(), 1, s.node.parts.transport)
	if err != nil {
		t.Fatal(err)
	}
	s.must(sink.Close())
	s.close()
	s.must(removeDamaged(s.opts.Dir, slog.New(slog.DiscardHandler)))
	if snaps, err := files.List(); err != nil || len(snaps) != 1 {
		t.Errorf("%v, %v", snaps, err)
	}
	s.must(s.open(t.Context()))
	voters(t, s)
}

// The only place that says that a node is alone may be its snapshot: of a broker that
// was on its own before.
func TestANodeThatIsAloneFindsThatWithoutItsSnapshot(t *testing.T) {
	s := newServer(t, "n1", nil).bootstrap()
	eventually(t, "records", func() bool { return s.append(10) == nil })
	s.close()
	if err := os.RemoveAll(s.opts.Dir); err != nil { // as if it had never been a node
		t.Fatal(err)
	}
	s.bootstrap()
	eventually(t, "records", func() bool { return s.append(10) == nil })
	eventually(t, "itself known", func() bool {
		k, err := readKnown(s.opts.Dir, peersFile)
		return err == nil && k.Node == s.node.parts.id
	})
	id := s.node.parts.id
	s.close()
	if err := os.RemoveAll(filepath.Join(s.opts.Dir, snapshotDir)); err != nil {
		t.Fatal(err)
	}
	s.must(s.open(t.Context()))
	eventually(t, "records", func() bool { return s.append(10) == nil })
	equal(t, 30, s)
	if s.node.parts.id != id {
		t.Error("it is another node")
	}
}

// Without the beginning of the log, and without a snapshot, nothing says who the members
// are. An older snapshot is of no use when the log does not follow on it.
func TestANodeWithoutItsMembershipRepairsItself(t *testing.T) {
	t.Parallel()
	all := repairable(t, 3)
	s := all[2]
	old := s.node.parts.id
	eventually(t, "some segments", func() bool {
		leader(t, all...).appendBatches(1, 700)
		return s.log.Committed() > 6*64<<10
	})
	s.remember()
	if n, err := s.log.DropBefore(3 * 64 << 10); err != nil || n == 0 {
		t.Fatal(n, err)
	}
	s.close()
	if err := flipIndex(inSnapshots(t, s, "meta.json")[0]); err != nil {
		t.Fatal(err)
	}
	s.must(s.open(t.Context()))
	voters(t, all...)
	eventually(t, "an append", func() bool { return leader(t, all...).append(1) == nil })
	sameLogs(t, all...)
	if s.node.parts.id == old {
		t.Error("it is the node that it was")
	}
}
