package broker

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/gantry-mq/gantry/broker/dispatch"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
	"github.com/gantry-mq/gantry/internal/mmapfile"
	"github.com/gantry-mq/gantry/scheduler"
)

// copyOf returns a copy of the directory of a running broker, without one of its
// parts: what a kill -9 at this moment would leave.
func copyOf(t *testing.T, from, without string) string {
	t.Helper()
	dir := t.TempDir()
	// In this order a checkpoint written meanwhile is newer than the copied one,
	// never older.
	for _, part := range []string{"FORMAT", "state", "consumequeue", "keyindex", "commitlog"} {
		if part != without {
			copySparse(t, filepath.Join(from, part), filepath.Join(dir, part))
		}
	}
	return dir
}

// A directory that is refused is one that the build which wrote it can go on with.
func TestTimersOfTheLayoutBeforeAreRefusedBeforeAnythingIsThrownAway(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	makeTopic(t, b, "t", topic.Normal, 1)
	send(t, b, "t", msg("a", "body"))
	closeBroker(t, b)
	o := Options{Dir: dir, SegmentSize: 1 << 20}
	cp, found, _, err := dispatch.ReadCheckpoint(mmapfile.OS, o.stateDir())
	if !found || err != nil {
		t.Fatal(found, err)
	}
	// One minute of 2026 with three timers, and arenas that had no floor in their heads.
	cp.Sections[sectionTimers] = append(binary.AppendUvarint([]byte{1}, 29928908), 3, 100, 0, 0, 0)
	if err := dispatch.WriteCheckpoint(mmapfile.OS, o.stateDir(), cp, cp.Position); err != nil {
		t.Fatal(err)
	}
	arenas, err := filepath.Glob(filepath.Join(dir, "consumequeue", "*.arena"))
	if err != nil || len(arenas) == 0 {
		t.Fatal(arenas, err)
	}
	for _, name := range arenas {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{1}, 8); err != nil || f.Close() != nil {
			t.Fatal(err)
		}
	}
	if b, err := Open(t.Context(), o); !errors.Is(err, scheduler.ErrOldLayout) {
		t.Errorf("opened: %v, %v", b, err)
	}
	for _, name := range arenas {
		if _, err := os.Stat(name); err != nil {
			t.Errorf("the index is gone: %v", err)
		}
	}
}

func copySparse(t *testing.T, from, to string) {
	t.Helper()
	zero := make([]byte, 64<<10)
	err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if e.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		b, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			return nil // an old checkpoint that was just replaced
		}
		if err != nil {
			return err
		}
		f, err := os.Create(target)
		if err != nil {
			return err
		}
		defer f.Close()
		for at := 0; at < len(b); at += len(zero) {
			if block := b[at:min(at+len(zero), len(b))]; !bytes.Equal(block, zero[:len(block)]) {
				if _, err := f.WriteAt(block, int64(at)); err != nil {
					return err
				}
			}
		}
		return f.Truncate(int64(len(b)))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// killed is copyOf for a broker that is not used any more.
func killed(t *testing.T, b *Broker, from, without string) string {
	t.Helper()
	dir := copyOf(t, from, without)
	closeBroker(t, b)
	return dir
}

// survivesKills kills a broker that nobody uses, in copies of its directory, with
// all of its files and without its indexes or its state, and finds the same state
// and the same entries each time.
func survivesKills(t *testing.T, b *Broker, dir string, change ...func(*Options)) {
	t.Helper()
	at := quiet(t, b)
	want, entries := b.snapshot(at), allEntries(t, b)
	for _, without := range []string{"", "consumequeue", "state"} {
		if without == "state" && b.wal.Trimmed() {
			continue // then it is the only place where the beginning is
		}
		again := open(t, copyOf(t, dir, without), change...)
		sameState(t, "without "+without, b, again, at, want, entries)
		closeBroker(t, again)
	}
}

// sameState compares a broker that was opened again with the one before, and what that
// had at a position.
func sameState(t *testing.T, what string, b, again *Broker, at record.Position, want dispatch.Checkpoint, entries map[entryRef]consumequeue.Entry) {
	t.Helper()
	got := again.snapshot(at)
	for i := range want.Sections {
		switch i {
		case sectionIndex, sectionKeys: // which pages and files they have depends on when others were freed
		case sectionTimers:
			if g, w := again.timers.Stats().Pending, b.timers.Stats().Pending; g != w {
				t.Errorf("%s: %d timers are pending, want %d", what, g, w)
			}
		default:
			if !bytes.Equal(got.Sections[i], want.Sections[i]) {
				t.Errorf("%s: section %d of the state is\n%x, want\n%x", what, i, got.Sections[i], want.Sections[i])
			}
		}
	}
	found := allEntries(t, again)
	for key, w := range entries {
		if g := found[key]; g != w && !(trimmedAway(b, g) && trimmedAway(b, w)) {
			t.Errorf("%s: the entry %v is %+v, want %+v", what, key, g, w)
		}
		delete(found, key)
	}
	for key, g := range found {
		if !trimmedAway(b, g) {
			t.Errorf("%s: there is an entry %v, %+v", what, key, g)
		}
	}
}

// quiet waits until everything is applied, acknowledgements too.
func quiet(t *testing.T, b *Broker) record.Position {
	t.Helper()
	at := b.wal.Committed()
	if err := b.dispatcher.Await(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	return at
}

// trimmedAway reports an entry whose record the log does not have: a rebuild of
// the index fills gaps with such.
func trimmedAway(b *Broker, e consumequeue.Entry) bool { return e.Position < b.wal.First() }

func allEntries(t *testing.T, b *Broker) map[entryRef]consumequeue.Entry {
	t.Helper()
	all := map[entryRef]consumequeue.Entry{}
	for _, tp := range b.Topics() {
		for _, q := range b.allQueues(tp) {
			key := record.Key(tp.ID, q)
			low, high, _ := b.index.Bounds(key)
			for off := low; off < high; off++ {
				e, ok, err := b.entryAt(key, off)
				if err != nil || !ok {
					t.Fatalf("entry %v/%d: %v, %v", key, off, ok, err)
				}
				all[entryRef{key, off}] = e
			}
		}
	}
	return all
}
