package consumequeue

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile"
	"github.com/gantry-mq/gantry/internal/mmapfile/crashtest"
)

const smallArena = 64 << 10

func open(t testing.TB, dir string, opts Options, snapshot []byte) *Store {
	t.Helper()
	s, err := Open(dir, opts, snapshot, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// entryAt makes entry i of any queue: recognisable, position and time rising.
func entryAt(i record.QueueOffset) Entry {
	return Entry{Position: record.Position(1000 * i), Size: 100, TagHash: uint32(i), StoreTime: 10 * int64(i)}
}

func fill(t testing.TB, s *Store, key record.QueueKey, from, to record.QueueOffset) {
	t.Helper()
	for i := from; i < to; i++ {
		if err := s.Put(key, i, entryAt(i)); err != nil {
			t.Fatal(err)
		}
	}
}

func checkRange(t testing.TB, s *Store, key record.QueueKey, from, to record.QueueOffset) {
	t.Helper()
	if lo, hi, ok := s.Bounds(key); !ok || lo != from || hi != to {
		t.Fatalf("bounds [%d, %d) %v, want [%d, %d)", lo, hi, ok, from, to)
	}
	var buf [100]Entry
	for i := from; i < to; {
		n, err := s.Read(key, i, buf[:])
		if err != nil || n == 0 {
			t.Fatalf("read at %d: %d, %v", i, n, err)
		}
		for _, e := range buf[:n] {
			if e != entryAt(i) {
				t.Fatalf("at %d: %+v", i, e)
			}
			i++
		}
	}
	if n, err := s.Read(key, to, buf[:]); n != 0 || err != nil {
		t.Fatalf("read at max: %d, %v", n, err)
	}
}

// checkpoint takes a snapshot as the broker does.
func checkpoint(t testing.TB, s *Store) []byte {
	t.Helper()
	snap := s.AppendSnapshot(nil)
	if err := errors.Join(s.Flush(), s.Persisted(0)); err != nil {
		t.Fatal(err)
	}
	return snap
}

func TestExtentsDoubleUpToOneMiB(t *testing.T) {
	s := open(t, t.TempDir(), Options{}, nil)
	key := record.Key(1, 1)
	fill(t, s, key, 0, 150000)
	checkRange(t, s, key, 0, 150000)
	var orders []uint8
	for _, x := range s.lookup(key).extents() {
		orders = append(orders, x.order)
	}
	if got, want := fmt.Sprint(orders), "[0 1 2 3 4 5 6 7 8 8 8 8]"; got != want {
		t.Fatalf("orders %v, want %v", got, want)
	}
	if st := s.Stats(); st.Arenas != 1 {
		t.Fatalf("%+v", st)
	}
}

func TestPutOfAnOffsetOutOfPlace(t *testing.T) {
	s := open(t, t.TempDir(), Options{ArenaSize: smallArena}, nil)
	key := record.Key(1, 1)
	fill(t, s, key, 100, 200) // a queue may begin anywhere
	fill(t, s, key, 150, 300) // replay, then on
	fill(t, s, key, 0, 100)   // dropped long ago: accepted, not stored
	checkRange(t, s, key, 100, 300)

	run := func(from, to record.QueueOffset) (es []Entry) {
		for i := from; i < to; i++ {
			es = append(es, entryAt(i))
		}
		return es
	}
	if err := s.PutRun(key, 50, run(50, 400)); err != nil { // all of the above at once
		t.Fatal(err)
	}
	checkRange(t, s, key, 100, 400)

	var gap *GapError
	if err := s.Put(key, 402, entryAt(402)); !errors.As(err, &gap) || !errors.Is(err, ErrGap) || gap.Max != 400 || gap.Offset != 402 {
		t.Errorf("gap: %v", err)
	}
	if err := s.PutRun(key, 401, run(401, 500)); !errors.Is(err, ErrGap) {
		t.Errorf("gap before a run: %v", err)
	}
	for name, err := range map[string]error{
		"size 0":                s.Put(key, 400, Entry{Position: 1}),
		"size 0 in a run":       s.PutRun(key, 400, []Entry{entryAt(1), {Position: 1}}),
		"negative offset":       s.Put(key, -1, entryAt(1)),
		"offset too large":      s.Put(key, maxOffset, entryAt(1)),
		"last offset too large": s.PutRun(key, maxOffset-1, run(1, 3)),
	} {
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	checkRange(t, s, key, 100, 400)
}

func TestReadOutsideTheQueueNamesItsBounds(t *testing.T) {
	s := open(t, t.TempDir(), Options{ArenaSize: smallArena}, nil)
	key := record.Key(1, 1)
	fill(t, s, key, 100, 300)
	if err := s.DropBefore(150 * 1000); err != nil {
		t.Fatal(err)
	}
	checkRange(t, s, key, 150, 300)
	for _, off := range []record.QueueOffset{-1, 0, 149, 301, 1 << 40} {
		var re *RangeError
		if _, err := s.Read(key, off, make([]Entry, 1)); !errors.As(err, &re) || !errors.Is(err, ErrOutOfRange) || re.Min != 150 || re.Max != 300 {
			t.Errorf("at %d: %v", off, err)
		}
	}
	if n, err := s.Read(record.Key(9, 9), 0, make([]Entry, 1)); n != 0 || err != nil {
		t.Errorf("unknown queue: %d, %v", n, err)
	}
	if _, err := s.Read(record.Key(9, 9), 1, make([]Entry, 1)); !errors.Is(err, ErrOutOfRange) {
		t.Errorf("unknown queue at 1: %v", err)
	}
}

func TestOffsetAtFindsFirstEntryOfThatTimeOrLater(t *testing.T) {
	s := open(t, t.TempDir(), Options{ArenaSize: smallArena}, nil)
	key := record.Key(1, 1)
	for i := range record.QueueOffset(600) { // three entries to a time: 0, 10, 20, ...
		e := entryAt(i + 50)
		e.StoreTime = int64(i) / 3 * 10
		if err := s.Put(key, i+50, e); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		at   int64
		want record.QueueOffset
	}{
		{-1 << 62, 50}, {-1, 50}, {0, 50}, {1, 53}, {10, 53}, {11, 56}, {1000, 350}, {1001, 353},
		{1989, 647}, {1990, 647}, {1991, 650}, {1 << 62, 650},
	} {
		if got, err := s.OffsetAt(key, c.at); err != nil || got != c.want {
			t.Errorf("at %d: %d, %v, want %d", c.at, got, err, c.want)
		}
	}
	if got, err := s.OffsetAt(record.Key(9, 9), 5); got != 0 || err != nil {
		t.Errorf("unknown queue: %d, %v", got, err)
	}
}

func TestDropBeforeKeepsWhatFollowsALateEntry(t *testing.T) {
	s := open(t, t.TempDir(), Options{ArenaSize: smallArena}, nil)
	key := record.Key(1, 1)
	for i, pos := range []record.Position{100, 200, 5, 300, 7, 400} {
		if err := s.Put(key, record.QueueOffset(i), Entry{Position: pos, Size: 1}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		pos record.Position
		min record.QueueOffset
	}{{50, 0}, {100, 0}, {101, 1}, {201, 3}, {250, 3}, {301, 5}, {401, 6}} {
		if err := s.DropBefore(c.pos); err != nil {
			t.Fatal(err)
		}
		if lo, hi, _ := s.Bounds(key); lo != c.min || hi != 6 {
			t.Errorf("before %d: [%d, %d), want [%d, 6)", c.pos, lo, hi, c.min)
		}
	}
	if err := s.Put(key, 6, entryAt(6)); err != nil { // an emptied queue goes on where it was
		t.Fatal(err)
	}
	checkRange(t, s, key, 6, 7)
}

func TestFreedPagesWaitForTheNextSnapshot(t *testing.T) {
	s := open(t, t.TempDir(), Options{ArenaSize: smallArena}, nil)
	const all = 15 // pages of an arena
	for q := range uint32(all) {
		fill(t, s, record.Key(1, q), 0, 1)
	}
	checkpoint(t, s)
	for q := range uint32(all - 1) {
		s.Delete(record.Key(1, q))
	}
	want := func(when string, arenas, parked int) {
		t.Helper()
		if st := s.Stats(); st.Arenas != arenas || st.ParkedPages != parked {
			t.Fatalf("%s: %+v, want %d arenas, %d parked pages", when, st, arenas, parked)
		}
	}
	fill(t, s, record.Key(2, 0), 0, 1)
	want("before a snapshot", 2, all-1)
	s.AppendSnapshot(nil)
	s.Delete(record.Key(2, 0)) // after the snapshot, so not covered by it
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	fill(t, s, record.Key(2, 1), 0, 1)
	want("before it is persisted", 2, all)
	if err := s.Persisted(0); err != nil {
		t.Fatal(err)
	}
	want("persisted", 2, 1)
	for q := range uint32(all - 1) {
		fill(t, s, record.Key(3, q), 0, 1)
	}
	want("reused", 2, 1)
}

// The one before the newest is needed when that is lost. It is good as long as
// nothing was put where it says that something else is.
func TestOlderSnapshotIsGoodUntilPagesAreUsedAgain(t *testing.T) {
	dir := t.TempDir()
	opts := Options{ArenaSize: smallArena}
	s := open(t, dir, opts, nil)
	persist := func(at record.Position) []byte {
		t.Helper()
		snap := s.AppendSnapshot(nil)
		if err := errors.Join(s.Flush(), s.Persisted(at)); err != nil {
			t.Fatal(err)
		}
		return snap
	}
	reopen := func(snap []byte, at record.Position) error {
		s.Close()
		again, err := Open(dir, opts, snap, at)
		if err == nil {
			s = again
			t.Cleanup(func() { again.Close() })
		}
		return err
	}
	key, other := record.Key(1, 1), record.Key(1, 2)
	fill(t, s, key, 0, 300)
	fill(t, s, other, 0, 100)
	first := persist(10)
	fill(t, s, other, 100, 150)
	persist(20)
	if err := reopen(first, 10); err != nil {
		t.Fatalf("nothing was freed: %v", err)
	}
	checkRange(t, s, key, 0, 300)
	checkRange(t, s, other, 0, 100)
	s.Delete(key)
	third := persist(30)
	fill(t, s, record.Key(1, 3), 0, 300) // where key was
	if err := reopen(first, 10); !errors.Is(err, ErrMissing) {
		t.Fatalf("got %v, want ErrMissing", err)
	}
	if err := reopen(third, 30); err != nil {
		t.Fatal(err)
	}
	checkRange(t, s, other, 0, 100)
}

func TestAnArenaWithoutQueuesIsRemoved(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{ArenaSize: smallArena}, nil)
	fill(t, s, record.Key(1, 0), 0, 4000)
	fill(t, s, record.Key(2, 0), 0, 1)
	s.DeleteTopic(1)
	snap := s.AppendSnapshot(nil)
	fill(t, s, record.Key(3, 0), 0, 100) // not into an arena that leaves
	if err := errors.Join(s.Flush(), s.Persisted(0)); err != nil {
		t.Fatal(err)
	}
	names, err := mmapfile.OS.List(dir)
	if err != nil || len(names) > 2 {
		t.Fatalf("left: %v, %v", names, err)
	}
	checkRange(t, s, record.Key(2, 0), 0, 1)
	checkRange(t, s, record.Key(3, 0), 0, 100)
	s.Close()
	s = open(t, dir, Options{}, snap)
	checkRange(t, s, record.Key(2, 0), 0, 1)
	if _, _, ok := s.Bounds(record.Key(1, 0)); ok {
		t.Fatal("deleted queue is back")
	}
}

func TestOpenRefusesFilesTheSnapshotDoesNotMean(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"missing": os.Remove,
		"short":   func(p string) error { return os.Truncate(p, smallArena/2) },
		"zeroes":  func(p string) error { return os.WriteFile(p, make([]byte, smallArena), 0o600) },
		"another life": func(p string) error {
			b := make([]byte, smallArena)
			encodeArenaHeader(b, arenaName{0, 1}, smallArena, 0)
			return os.WriteFile(p, b, 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir, Options{ArenaSize: smallArena}, nil)
			key := record.Key(1, 1)
			fill(t, s, key, 0, 300)
			snap := checkpoint(t, s)
			s.Close()
			if err := damage(filepath.Join(dir, arenaFile(0))); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(dir, Options{}, snap, 0); !errors.Is(err, ErrMissing) {
				t.Fatalf("got %v, want ErrMissing", err)
			}
			s = open(t, dir, Options{ArenaSize: smallArena}, nil) // the way out
			fill(t, s, key, 0, 300)
			checkRange(t, s, key, 0, 300)
		})
	}
}

func TestOpenRefusesASnapshotThatGivesAPageTwice(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{ArenaSize: smallArena}, nil)
	fill(t, s, record.Key(1, 1), 0, 1)
	fill(t, s, record.Key(1, 2), 0, 1)
	checkpoint(t, s)
	s.lookup(record.Key(1, 1)).extents()[0].page = s.lookup(record.Key(1, 2)).extents()[0].page
	snap := s.AppendSnapshot(nil)
	s.Close()
	if _, err := Open(dir, Options{}, snap, 0); !errors.Is(err, ErrSnapshot) {
		t.Fatalf("got %v, want ErrSnapshot", err)
	}
}

func TestOpenWithoutASnapshotLeavesOnlyWhatIsNotTheStores(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{ArenaSize: smallArena}, nil)
	fill(t, s, record.Key(1, 1), 0, 3000)
	s.Close()
	if err := os.WriteFile(filepath.Join(dir, "README"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, dir, Options{ArenaSize: smallArena}, nil)
	if names, err := mmapfile.OS.List(dir); err != nil || len(names) != 1 {
		t.Fatalf("left: %v, %v", names, err)
	}
}

func TestADamagedEntryIsReportedWithItsPlace(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{ArenaSize: smallArena}, nil)
	key := record.Key(1, 1)
	fill(t, s, key, 0, 500)
	snap := checkpoint(t, s)
	s.Close()

	const bad = 200 // second extent, pages 2 and 3
	at := int64(2*pageSize + (bad-128)*entryLen)
	f, err := os.OpenFile(filepath.Join(dir, arenaFile(0)), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xff}, at+5); err != nil {
		t.Fatal(err)
	}
	f.Close()

	var told []error
	s = open(t, dir, Options{Damaged: func(err error) { told = append(told, err) }}, snap)
	buf := make([]Entry, 100)
	if n, err := s.Read(key, 150, buf); n != bad-150 || err != nil {
		t.Fatalf("up to the damage: %d, %v", n, err)
	}
	var ce *CorruptError
	_, err = s.Read(key, bad, buf)
	if !errors.As(err, &ce) || !errors.Is(err, ErrCorrupt) || ce.Key != key || ce.Offset != bad || ce.At != at || !strings.HasSuffix(ce.Arena, arenaFile(0)) {
		t.Fatalf("got %v, want byte %d", err, at)
	}
	if err := s.ReadEach(key, []record.QueueOffset{3, bad, 5}, buf); !errors.As(err, &ce) || ce.Offset != bad || ce.At != at {
		t.Fatalf("reading each: %v, want byte %d", err, at)
	}
	if _, err := s.OffsetAt(key, 10*bad); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("time lookup across it: %v", err)
	}

	// A drop goes up to it and says so; a drop beyond its extent need not read it.
	if err := s.DropBefore(300 * 1000); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("drop: %v", err)
	}
	if lo, _, _ := s.Bounds(key); lo != bad {
		t.Fatalf("min %d, want %d", lo, bad)
	}
	if err := s.DropBefore(450 * 1000); err != nil {
		t.Fatal(err)
	}
	checkRange(t, s, key, 450, 500)
	if len(told) != 1 || !errors.As(told[0], &ce) || ce.Offset != bad {
		t.Errorf("told %v", told)
	}

	// Replay mends it, and it is noticed that there must be one.
	snap = checkpoint(t, s)
	s.Close()
	if _, err := Open(dir, Options{}, snap, 0); !errors.Is(err, ErrMissing) {
		t.Fatalf("opened as it is: %v", err)
	}
	s = open(t, dir, Options{ArenaSize: smallArena}, nil)
	fill(t, s, key, 0, 500)
	checkRange(t, s, key, 0, 500)
}

// failFS fails on demand.
type failFS struct {
	mmapfile.FS
	create, sync error
}

func (f *failFS) Create(name string, size int64) (mmapfile.File, error) {
	if f.create != nil {
		return nil, f.create
	}
	file, err := f.FS.Create(name, size)
	return &failFile{file, f}, err
}

type failFile struct {
	mmapfile.File
	fs *failFS
}

func (f *failFile) Datasync() error {
	if f.fs.sync != nil {
		return f.fs.sync
	}
	return f.File.Datasync()
}

func TestAFullDiskRefusesPutsUntilThereIsSpace(t *testing.T) {
	fsys := &failFS{FS: mmapfile.OS}
	s := open(t, t.TempDir(), Options{FS: fsys, ArenaSize: smallArena}, nil)
	key := record.Key(1, 1)
	fill(t, s, key, 0, 1)
	fsys.create = fmt.Errorf("%w: test", mmapfile.ErrNoSpace)
	end := record.QueueOffset(1)
	var err error
	for err == nil {
		if err = s.Put(key, end, entryAt(end)); err == nil {
			end++
		}
	}
	if !errors.Is(err, mmapfile.ErrNoSpace) {
		t.Fatal(err)
	}
	if want := record.QueueOffset(15 * 128); end != want { // smaller extents fill the holes
		t.Fatalf("stopped at %d, want %d", end, want)
	}
	checkRange(t, s, key, 0, end)
	fsys.create = nil
	fill(t, s, key, end, end+1000)
	checkRange(t, s, key, 0, end+1000)
	checkSpace(t, s)
}

func TestAFailedFlushIsFinal(t *testing.T) {
	fsys := &failFS{FS: mmapfile.OS}
	s := open(t, t.TempDir(), Options{FS: fsys, ArenaSize: smallArena}, nil)
	fill(t, s, record.Key(1, 1), 0, 1)
	broken := errors.New("broken disk")
	fsys.sync = broken
	if err := s.Flush(); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	fsys.sync = nil
	if err := s.Flush(); !errors.Is(err, broken) {
		t.Fatalf("second flush: %v", err)
	}
	if err := s.Put(record.Key(1, 1), 1, entryAt(1)); !errors.Is(err, broken) {
		t.Fatalf("put: %v", err)
	}
}

func TestAClosedStoreSaysSo(t *testing.T) {
	s := open(t, t.TempDir(), Options{ArenaSize: smallArena}, nil)
	fill(t, s, record.Key(1, 1), 0, 1)
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	_, err := s.Read(record.Key(1, 1), 0, make([]Entry, 1))
	for what, err := range map[string]error{"read": err, "put": s.Put(record.Key(1, 1), 1, entryAt(1)), "flush": s.Flush(), "persisted": s.Persisted(0)} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestOptionsNameEveryBadField(t *testing.T) {
	_, err := Open(t.TempDir(), Options{ArenaSize: 100 << 10, MaxMapped: -1}, nil, 0)
	if err == nil || !strings.Contains(err.Error(), "ArenaSize") || !strings.Contains(err.Error(), "MaxMapped") {
		t.Fatal(err)
	}
}

// TestReadersRunBesideTheWriter: whatever a reader gets is right, while the
// writer appends, drops, deletes, reuses pages and removes files, with fewer
// mappings than arenas. For the race detector above all.
func TestReadersRunBesideTheWriter(t *testing.T) {
	s := open(t, t.TempDir(), Options{ArenaSize: smallArena, MaxMapped: 3 * smallArena}, nil)
	const queues = 8
	rounds := 20
	if testing.Short() {
		rounds = 10
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for g := range 4 {
		readers.Go(func() {
			buf := make([]Entry, 40)
			for i := g; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				key := record.Key(1+record.TopicID(i%3), uint32(i)%queues)
				lo, hi, ok := s.Bounds(key)
				if ok && lo > hi {
					t.Errorf("bounds [%d, %d)", lo, hi)
					return
				}
				from := lo + record.QueueOffset(i)%(hi-lo+1)
				n, err := s.Read(key, from, buf)
				if err != nil && !errors.Is(err, ErrOutOfRange) {
					t.Error(err)
					return
				}
				for j, e := range buf[:n] {
					if e != entryAt(from+record.QueueOffset(j)) {
						t.Errorf("queue %v at %d: %+v", key, from+record.QueueOffset(j), e)
						return
					}
				}
				each := []record.QueueOffset{max(lo, hi-1), lo, from}
				err = s.ReadEach(key, each, buf)
				if err != nil && !errors.Is(err, ErrOutOfRange) {
					t.Error(err)
					return
				}
				for j, off := range each {
					if err == nil && buf[j] != entryAt(off) {
						t.Errorf("queue %v at %d: %+v", key, off, buf[j])
						return
					}
				}
				if _, err := s.OffsetAt(key, 10*int64(from)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	next := record.QueueOffset(0)
	for r := range rounds {
		for topic := range record.TopicID(3) {
			for q := range uint32(queues) {
				fill(t, s, record.Key(1+topic, q), next, next+200)
			}
		}
		next += 200
		if err := s.DropBefore(record.Position(1000 * (next - 500))); next > 500 && err != nil {
			t.Error(err)
		}
		s.Delete(record.Key(2, uint32(r%queues))) // comes back at next
		if r%7 == 6 {
			s.DeleteTopic(3)
		}
		checkpoint(t, s)
	}
	close(stop)
	readers.Wait()
	checkSpace(t, s)
}

// TestEntriesAreWrittenBeforeTheyArePublished runs over memory that, unlike a
// real mapping, the race detector watches.
func TestEntriesAreWrittenBeforeTheyArePublished(t *testing.T) {
	s := open(t, "/index", Options{FS: crashtest.New(), ArenaSize: smallArena}, nil)
	key := record.Key(1, 1)
	const all = 5000
	fill(t, s, key, 0, 1)
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			buf := make([]Entry, 50)
			for i := record.QueueOffset(0); i < all; {
				n, err := s.Read(key, i, buf)
				if err != nil {
					t.Error(err)
					return
				}
				for _, e := range buf[:n] {
					if e != entryAt(i) {
						t.Errorf("at %d: %+v", i, e)
						return
					}
					i++
				}
			}
		})
	}
	fill(t, s, key, 1, all)
	readers.Wait()
}

func TestAReplacedEntryIsDroppedByItsNewPosition(t *testing.T) {
	s := open(t, t.TempDir(), Options{ArenaSize: smallArena}, nil)
	key := record.Key(1, 1)
	for i := range record.QueueOffset(400) {
		if err := s.Put(key, i, Entry{Position: 1, Size: 1}); err != nil {
			t.Fatal(err)
		}
	}
	for _, off := range []record.QueueOffset{0, 130} {
		if err := s.Put(key, off, Entry{Position: 1000, Size: 1}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		pos record.Position
		min record.QueueOffset
	}{{500, 0}, {1001, 400}} {
		if err := s.DropBefore(c.pos); err != nil {
			t.Fatal(err)
		}
		if lo, _, _ := s.Bounds(key); lo != c.min {
			t.Errorf("before %d: min %d, want %d", c.pos, lo, c.min)
		}
	}

	fill(t, s, record.Key(2, 2), 0, 400)
	if err := s.Put(record.Key(2, 2), 130, Entry{Position: 1 << 30, Size: 1}); err != nil {
		t.Fatal(err)
	}
	if err := s.DropBefore(1 << 20); err != nil {
		t.Fatal(err)
	}
	if lo, _, _ := s.Bounds(record.Key(2, 2)); lo != 130 {
		t.Errorf("min %d, want 130", lo)
	}
}
