package keyindex

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile"
	"github.com/gantry-mq/gantry/internal/mmapfile/crashtest"
)

func testSeed(t *testing.T) *rand.Rand {
	a, b := rand.Uint64(), rand.Uint64()
	t.Logf("seed %d, %d", a, b)
	return rand.New(rand.NewPCG(a, b))
}

func open(t testing.TB, dir string, o Options, snapshot []byte) *Index {
	t.Helper()
	x, err := Open(dir, o, snapshot)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	return x
}

// put is one record.
type put struct {
	pos    record.Position
	hashes []uint64
}

// model is all that was put, from position from on for sure.
type model struct {
	puts []put
	at   map[uint64][]record.Position // by hash
	from record.Position
}

// next makes a record; few hashes are common, so that runs of one cross blocks
// and segments.
func (m *model) next(r *rand.Rand) put {
	p := put{pos: 4096}
	if n := len(m.puts); n > 0 {
		p.pos = m.puts[n-1].pos + 1 + record.Position(r.IntN(300))
	}
	for range 1 + r.IntN(4) {
		h := mix(uint64(r.IntN(2000)))
		if r.IntN(3) == 0 {
			h = mix(uint64(r.IntN(3)))
		}
		p.hashes = append(p.hashes, h)
	}
	m.puts = append(m.puts, p)
	for _, h := range p.hashes {
		if all := m.at[h]; len(all) == 0 || all[len(all)-1] != p.pos {
			m.at[h] = append(all, p.pos)
		}
	}
	return p
}

func (m *model) find(hash uint64, before record.Position) (all []record.Position) {
	for _, pos := range slices.Backward(m.at[hash]) {
		if pos < before {
			all = append(all, pos)
		}
	}
	return all
}

func found(t testing.TB, x *Index, hash uint64, before record.Position) (all []record.Position) {
	t.Helper()
	err := x.Find(hash, before, func(pos record.Position) bool {
		all = append(all, pos)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// compare asks for some hashes. What was dropped may still be there, whole
// segments of it.
func compare(t testing.TB, r *rand.Rand, x *Index, m *model) {
	t.Helper()
	for i := range 60 {
		hash := mix(uint64(r.IntN(2000)))
		if i < 3 {
			hash = mix(uint64(i))
		}
		before := ^record.Position(0)
		if n := len(m.puts); n > 0 && i%2 == 0 {
			before = m.puts[r.IntN(n)].pos + record.Position(r.IntN(2))
		}
		got, want := found(t, x, hash, before), m.find(hash, before)
		kept := len(want)
		for kept > 0 && want[kept-1] < m.from {
			kept--
		}
		if len(got) < kept || len(got) > len(want) || !slices.Equal(got, want[:len(got)]) {
			t.Fatalf("hash %x before %d: found %d positions %v, want %d to %d of %v", hash, before, len(got), got, kept, len(want), want)
		}
	}
}

func TestIndexFindsWhatWasPutAsAModelDoes(t *testing.T) {
	r := testSeed(t)
	fs := crashtest.New()
	o := Options{FS: fs, SegmentEntries: 700}
	m := &model{at: map[uint64][]record.Position{}}
	x := open(t, "/k", o, nil)
	for range 60 {
		for range r.IntN(600) {
			p := m.next(r)
			if err := x.Put(p.pos, p.hashes); err != nil {
				t.Fatal(err)
			}
		}
		switch r.IntN(4) {
		case 0:
			snapshot := x.AppendSnapshot(nil)
			if err := errors.Join(x.Flush(), x.Persisted()); err != nil {
				t.Fatal(err)
			}
			x.Close()
			x = open(t, "/k", o, snapshot)
		case 1:
			if n := len(m.puts); n > 0 {
				m.from = max(m.from, m.puts[r.IntN(n)].pos)
				x.DropBefore(m.from)
			}
		case 2:
			if err := x.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		compare(t, r, x, m)
	}
	t.Logf("%+v", x.Stats())
}

// TestAnyCrashIsRecoveredFromTheLastSnapshot loses power within the index's calls
// to the file system and between them.
func TestAnyCrashIsRecoveredFromTheLastSnapshot(t *testing.T) {
	r := testSeed(t)
	fs := crashtest.New()
	m := &model{at: map[uint64][]record.Position{}}
	var snapshot []byte
	at := 0
	opts := func(fs mmapfile.FS) Options { return Options{FS: fs, SegmentEntries: 300} }
	crashes := 0
	recover := func() (*crashtest.FS, *Index) {
		crashes++
		after := fs.Crash(crashtest.Survivals[r.IntN(len(crashtest.Survivals))], r)
		x, err := Open("/k", opts(after), snapshot)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range m.puts[at:] {
			if err := x.Put(p.pos, p.hashes); err != nil {
				t.Fatal(err)
			}
		}
		compare(t, r, x, m)
		return after, x
	}
	inCall := func(c crashtest.Call) error {
		switch c.Op {
		case crashtest.Create, crashtest.Sync, crashtest.SyncDir, crashtest.Remove, crashtest.Write:
			if r.IntN(8) == 0 {
				_, x := recover()
				x.Close()
			}
		}
		return nil
	}
	x := open(t, "/k", opts(fs), nil)
	fs.Hook(inCall)
	steps := func(n int) {
		for range n {
			p := m.next(r)
			if err := x.Put(p.pos, p.hashes); err != nil {
				t.Fatal(err)
			}
		}
	}
	rounds := 60
	if testing.Short() {
		rounds = 15
	}
	for range rounds {
		steps(r.IntN(300))
		if r.IntN(3) == 0 {
			m.from = max(m.from, m.puts[max(0, len(m.puts)-1000)].pos)
			x.DropBefore(m.from)
		}
		next, reached := x.AppendSnapshot(nil), len(m.puts)
		steps(r.IntN(200))
		if err := x.Flush(); err != nil {
			t.Fatal(err)
		}
		steps(r.IntN(200))
		snapshot, at = next, reached
		if err := x.Persisted(); err != nil {
			t.Fatal(err)
		}
		if r.IntN(3) == 0 {
			after, y := recover()
			x.Close()
			fs, x = after, y
			fs.Hook(inCall)
		}
	}
	compare(t, r, x, m)
	x.Close()
	t.Logf("%d crashes", crashes)
}

func TestASecondSnapshotBeforeTheFirstIsPersistedTakesNoFileFromIt(t *testing.T) {
	fs := crashtest.New()
	o := Options{FS: fs, SegmentEntries: 64}
	x := open(t, "/k", o, nil)
	fill := func(from, n int) {
		for i := range n {
			if err := x.Put(record.Position(from+i), []uint64{uint64(i)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill(1, 100)
	first := x.AppendSnapshot(nil) // names the first segment raw
	if err := x.Flush(); err != nil {
		t.Fatal(err)
	}
	x.AppendSnapshot(nil) // names it sealed
	if err := x.Persisted(); err != nil {
		t.Fatal(err)
	}
	open(t, "/k", Options{FS: fs.Kill(), SegmentEntries: 64}, first)
}

func TestFullDiskOnlyPutsSortingOff(t *testing.T) {
	fs := crashtest.New()
	x := open(t, "/k", Options{FS: fs, SegmentEntries: 64}, nil)
	for i := range 64 {
		if err := x.Put(record.Position(i+1), []uint64{uint64(i)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, room := range []int64{1500, 0} {
		fs.SetCapacity(room)
		snapshot := x.AppendSnapshot(nil)
		if err := errors.Join(x.Flush(), x.Persisted()); err != nil {
			t.Fatal(err)
		}
		if raw := x.Stats().Raw; raw == 0 != (room == 0) {
			t.Errorf("room for %d bytes: %d raw segments", room, raw)
		}
		y := open(t, "/k", Options{FS: fs.Crash(crashtest.None, nil)}, snapshot)
		for i := range 64 {
			if got := found(t, y, uint64(i), 100); !slices.Equal(got, []record.Position{record.Position(i + 1)}) {
				t.Fatal(i, got)
			}
		}
	}
}

func TestRecordIsPutOnce(t *testing.T) {
	x := open(t, t.TempDir(), Options{SegmentEntries: 64}, nil)
	for _, pos := range []record.Position{10, 20, 10, 20} {
		if err := x.Put(pos, []uint64{7, 7, 8}); err != nil {
			t.Fatal(err)
		}
	}
	if got := found(t, x, 7, 100); !slices.Equal(got, []record.Position{20, 10}) {
		t.Fatal(got)
	}
	if st := x.Stats(); st.Entries != 6 {
		t.Fatalf("%+v", st)
	}
}

func TestDamagedFilesAreRefused(t *testing.T) {
	for _, ext := range []string{".raw", ".sealed"} {
		for _, damage := range []string{"flip", "remove", "cut"} {
			t.Run(damage+ext, func(t *testing.T) {
				dir := t.TempDir()
				x := open(t, dir, Options{SegmentEntries: 64}, nil)
				for i := range 100 {
					if err := x.Put(record.Position(i+1), []uint64{uint64(i)}); err != nil {
						t.Fatal(err)
					}
				}
				if err := x.Flush(); err != nil {
					t.Fatal(err)
				}
				snapshot := x.AppendSnapshot(nil)
				if err := errors.Join(x.Flush(), x.Persisted(), x.Close()); err != nil {
					t.Fatal(err)
				}
				names, _ := filepath.Glob(filepath.Join(dir, "*"+ext))
				if len(names) != 1 {
					t.Fatal(names)
				}
				b, err := os.ReadFile(names[0])
				switch damage {
				case "flip":
					b[17] ^= 1
					err = errors.Join(err, os.WriteFile(names[0], b, 0o644))
				case "cut":
					err = errors.Join(err, os.Truncate(names[0], 100))
				case "remove":
					err = os.Remove(names[0])
				}
				if err != nil {
					t.Fatal(err)
				}
				if _, err := Open(dir, Options{}, snapshot); !errors.Is(err, ErrMissing) {
					t.Fatal(err)
				}
				x = open(t, dir, Options{}, nil)
				if left, _ := os.ReadDir(dir); len(left) != 0 {
					t.Fatal(left)
				}
			})
		}
	}
}

func TestDamagedBlockIsAnErrorNotAMiss(t *testing.T) {
	dir := t.TempDir()
	var told []error
	x := open(t, dir, Options{SegmentEntries: 64, Damaged: func(err error) { told = append(told, err) }}, nil)
	for i := range 64 {
		if err := x.Put(record.Position(i+1), []uint64{uint64(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.Flush(); err != nil {
		t.Fatal(err)
	}
	snap := x.AppendSnapshot(nil)
	if err := x.Persisted(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "00000000.sealed"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte{99}, blockLen+40)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		err = x.Find(3, 100, func(record.Position) bool { return true })
		if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "block 0") {
			t.Fatal(err)
		}
	}
	if len(told) != 1 || !errors.Is(told[0], ErrMissing) {
		t.Errorf("told %v", told)
	}
	x.Close()
	if _, err := Open(dir, Options{SegmentEntries: 64}, snap); !errors.Is(err, ErrMissing) {
		t.Errorf("opened as it is: %v", err)
	}
}

func TestEveryFailedCallIsReportedAndTheSnapshotStaysGood(t *testing.T) {
	broken := errors.New("broken")
	for n := 1; ; n++ {
		fs := crashtest.New()
		x := open(t, "/k", Options{FS: fs, SegmentEntries: 64}, nil)
		calls, failed := 0, false
		fs.Hook(func(crashtest.Call) error {
			if calls++; calls == n {
				failed = true
				return broken
			}
			return nil
		})
		var snapshot []byte
		at := 0
		var errs []error
		for i := 0; i < 1000 && errs == nil; i++ {
			err := x.Put(record.Position(i+1), []uint64{uint64(i)})
			if err == nil && i%100 == 99 {
				next := x.AppendSnapshot(nil)
				if err = x.Flush(); err == nil {
					snapshot, at = next, i+1
					err = x.Persisted()
				}
			}
			if err != nil {
				errs = append(errs, err)
			}
		}
		x.Close()
		if !failed {
			return
		}
		if err := errors.Join(errs...); !errors.Is(err, broken) {
			t.Fatalf("call %d failed: %v", n, err)
		}
		x = open(t, "/k", Options{FS: fs.Crash(crashtest.None, nil), SegmentEntries: 64}, snapshot)
		for i := at; i < 1000; i++ {
			if err := x.Put(record.Position(i+1), []uint64{uint64(i)}); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 1000 {
			if got := found(t, x, uint64(i), 1<<60); len(got) != 1 {
				t.Fatalf("call %d failed: hash %d is at %v", n, i, got)
			}
		}
	}
}

func TestSearchesRunBesidePutsFlushesAndDrops(t *testing.T) {
	x := open(t, t.TempDir(), Options{SegmentEntries: 256}, nil)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				last := record.Position(1 << 60)
				err := x.Find(1, last, func(pos record.Position) bool {
					if pos >= last || pos%2 != 1 {
						t.Errorf("%d after %d", pos, last)
					}
					last = pos
					return true
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				if err := x.Flush(); err != nil {
					t.Error(err)
				}
				x.Persisted()
			}
		}
	})
	for i := record.Position(1); i < 6_000; i++ {
		if err := x.Put(i, []uint64{uint64(i % 2), uint64(i)}); err != nil {
			t.Fatal(err)
		}
		if i%2000 == 0 {
			x.AppendSnapshot(nil)
			x.DropBefore(i - 1500)
		}
	}
	close(done)
	wg.Wait()
}

func TestHashesTellWhatTheyAreOfApart(t *testing.T) {
	seen := map[uint64]string{}
	for _, text := range []string{"", "\x00", "a", "a\x00", "12345678", "12345678\x00", "0170C0035AC5673D2D5A0A5C1DF1390299", "0170C0035AC5673D2D5A0A5C1DF139029A"} {
		for topic := record.TopicID(1); topic < 4; topic++ {
			for _, h := range []uint64{ID(topic, text), Key(topic, []byte(text))} {
				if old, ok := seen[h]; ok {
					t.Errorf("%q of topic %d has the hash of %q", text, topic, old)
				}
				seen[h] = text
			}
		}
	}
	// They are on disk.
	if h := ID(7, "order-1"); h != ID(7, []byte("order-1")) || h != goldenID {
		t.Errorf("%#x", h)
	}
	if h := Move(4096); h != goldenMove {
		t.Errorf("%#x", h)
	}
	if h := Due(record.Key(7, 3), 1_700_000_000); h != goldenDue {
		t.Errorf("%#x", h)
	}
}

const (
	goldenID   = 0xe9b43884a8219342
	goldenDue  = 0xf85ead94f50cfaaf
	goldenMove = 0xb6ac3e9075f06083
)

func FuzzSnapshotDecoder(f *testing.F) {
	f.Add(appendSnapshot(nil, &image{last: 900, next: 3, segments: []meta{
		{id: 0, sealed: true, count: 64, first: 1, last: 300, crc: 5}, {id: 2, count: 3, first: 300, last: 900, crc: 1 << 31},
	}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := len(b); n > 4 { // let it past the checksum
			b = b[:n-4]
			crc := record.CRC(b)
			b = append(slices.Clone(b), byte(crc), byte(crc>>8), byte(crc>>16), byte(crc>>24))
		}
		img, err := parseSnapshot(b)
		if err != nil {
			if !errors.Is(err, ErrSnapshot) {
				t.Fatal(err)
			}
			return
		}
		again, err := parseSnapshot(appendSnapshot(nil, img))
		if err != nil || again.last != img.last || !slices.Equal(again.segments, img.segments) {
			t.Fatalf("%+v, %+v, %v", img, again, err)
		}
	})
}

func FuzzSealedHeaderDecoder(f *testing.F) {
	f.Add(appendSealedHeader(nil, meta{id: 3, count: 64, first: 1, last: 300}, 9))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= sealedHeaderLen {
			b = slices.Clone(b)
			crc := record.CRC(b[:40])
			b[40], b[41], b[42], b[43] = byte(crc), byte(crc>>8), byte(crc>>16), byte(crc>>24)
		}
		m, fence, err := parseSealedHeader(b)
		if err == nil && !slices.Equal(appendSealedHeader(nil, m, fence), b[:sealedHeaderLen]) {
			t.Fatalf("%+v", m)
		}
	})
}

func FuzzBlockDecoder(f *testing.F) {
	var b [blockLen]byte
	sealBlock(b[:], 1, 2, []entry{{1, 2}, {3, 4}})
	f.Add(b[:])
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < blockLen {
			return
		}
		b = slices.Clone(b[:blockLen])
		crc := record.CRC(b[:blockLen-4])
		b[blockLen-4], b[blockLen-3], b[blockLen-2], b[blockLen-1] = byte(crc), byte(crc>>8), byte(crc>>16), byte(crc>>24)
		if entries, err := checkBlock(b, 1, 2); err == nil && (len(entries) == 0 || len(entries)%entryLen != 0 || len(entries) > blockFoot) {
			t.Fatal(len(entries))
		}
	})
}

// One id and one key a record, a checkpoint every 250,000.
func BenchmarkPut(b *testing.B) {
	x := open(b, b.TempDir(), Options{}, nil)
	id, key := []byte("0170C0035AC5673D2D5A0A5C1DF1390299"), []byte("order-000000")
	hashes := make([]uint64, 2)
	b.ReportAllocs()
	for i := 1; b.Loop(); i++ {
		for at, n := len(id)-1, i; n > 0; n, at = n/10, at-1 {
			id[at], key[min(at, len(key)-1)] = '0'+byte(n%10), '0'+byte(n%10)
		}
		hashes[0], hashes[1] = ID(1, id), Key(1, key)
		if err := x.Put(record.Position(i), hashes); err != nil {
			b.Fatal(err)
		}
		if i%250_000 == 0 {
			b.StopTimer()
			x.AppendSnapshot(nil)
			if err := errors.Join(x.Flush(), x.Persisted()); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	}
}

// Of 16 million entries in 15 sealed segments and a raw one.
func BenchmarkFind(b *testing.B) {
	x := open(b, b.TempDir(), Options{}, nil)
	const n = 16_000_000
	for i := range n {
		if err := x.Put(record.Position(i+1), []uint64{mix(uint64(i))}); err != nil {
			b.Fatal(err)
		}
	}
	if err := x.Flush(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i = (i + 7_654_321) % n
		hits := 0
		if err := x.Find(mix(uint64(i)), 1<<60, func(record.Position) bool { hits++; return true }); err != nil || hits != 1 {
			b.Fatal(hits, err)
		}
	}
	st := x.Stats()
	b.ReportMetric(float64(st.Memory)/(1<<20), "MiB")
	b.ReportMetric(float64(st.Entries), "entries")
}
