package commitlog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile"
	"github.com/gantry-mq/gantry/internal/mmapfile/crashtest"
)

// Everything at once, for the race detector: callers, readers from the start,
// random views, retention behind them, a bound that maps and unmaps all the time.
func TestAppendReadViewAndRetentionAtTheSameTime(t *testing.T) {
	const callers, each = 4, 150
	l := openTest(t, Options{SegmentSize: minSegmentSize, MaxMapped: 2 * minSegmentSize, FrameBytes: 4 << 10})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	type place struct {
		pos  record.Position
		size int
		n    uint64
	}
	places := make(chan place, 64)
	var appending, others sync.WaitGroup
	for c := range callers {
		appending.Go(func() {
			var b Batch
			for i := range each {
				b.Reset()
				n, size := uint64(c)<<32|uint64(i), (i*409+c*97)%5000
				b.Add(makeRecord(n, size))
				if err := l.Append(ctx, &b); err != nil {
					t.Error(err)
					return
				}
				places <- place{b.Position(0), 16 + size, n}
			}
		})
	}
	var read atomic.Int64 // position up to which the reader is done
	others.Go(func() {
		next := map[uint64]uint64{}
		r := l.Reader(l.First())
		for total := 0; total < callers*each; {
			f, err := r.Next(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			for p := f.Payload; len(p) > 0; total++ {
				n, rest, err := checkRecord(p)
				if err != nil || uint64(uint32(n)) != next[n>>32] {
					t.Errorf("read %x, want %d: %v", n, next[n>>32], err)
					return
				}
				next[n>>32]++
				p = rest
			}
			f.Release()
			read.Store(int64(f.End))
		}
	})
	others.Go(func() {
		for p := range places {
			v, err := l.View(p.pos, p.size)
			if errors.Is(err, ErrOutOfRange) {
				continue // retention was faster
			}
			if err != nil {
				t.Error(err)
				continue
			}
			if n, _, err := checkRecord(v.Bytes()); err != nil || n != p.n {
				t.Errorf("view of %x: %x, %v", p.n, n, err)
			}
			v.Release()
		}
	})
	retaining, stop := context.WithCancel(ctx)
	var retention sync.WaitGroup
	dropped := 0
	retention.Go(func() {
		for retaining.Err() == nil {
			n, err := l.DropBefore(record.Position(read.Load()))
			if err != nil {
				t.Error(err)
				return
			}
			dropped += n
			l.Stats()
			time.Sleep(time.Millisecond) // a pace, not a wait
		}
	})
	appending.Wait()
	close(places)
	others.Wait()
	stop()
	retention.Wait()
	if st := l.Stats(); st.Views != 0 || dropped == 0 {
		t.Errorf("dropped %d, stats %+v", dropped, st)
	}
}

func TestAViewOutlivesRetentionEvictionAndClose(t *testing.T) {
	l := openTest(t, Options{SegmentSize: minSegmentSize, MaxMapped: 1})
	var b Batch
	var first View
	for i := range uint64(40) {
		b.Reset()
		b.Add(makeRecord(i, 9000))
		if err := l.Append(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
		v, err := l.View(b.Position(0), 9016)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = v
			first.Retain()
		}
		v.Release()
	}
	if n, err := l.DropBefore(l.Committed()); n < 3 || err != nil {
		t.Fatalf("dropped %d, %v", n, err)
	}
	if _, err := l.View(segmentHeaderLen+frameHeaderLen, 16); !errors.Is(err, ErrOutOfRange) {
		t.Errorf("view of a dropped segment: %v", err)
	}
	if st := l.Stats(); st.Views != 1 {
		t.Errorf("%d views", st.Views)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if n, _, err := checkRecord(first.Bytes()); n != 0 || err != nil {
		t.Errorf("view reads %d, %v", n, err)
	}
	first.Release()
	if st := l.Stats(); st.Views != 0 || st.MappedBytes != 0 {
		t.Errorf("after the last release: %+v", st)
	}
}

func TestViewsOutsideOfWhatIsCommittedAreRefused(t *testing.T) {
	l := openTest(t, Options{SegmentSize: minSegmentSize})
	var b Batch
	b.Add(makeRecord(1, 100))
	if err := l.Append(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	end := l.Committed()
	for _, tt := range []struct {
		pos  record.Position
		size int
	}{{0, 10}, {100, 10}, {end, 1}, {end - 5, 6}, {end + 1, 0}, {b.Position(0), -1}, {b.Position(0), 1 << 40}, {1 << 63, 8}} {
		if v, err := l.View(tt.pos, tt.size); !errors.Is(err, ErrOutOfRange) {
			v.Release()
			t.Errorf("View(%d, %d): %v", tt.pos, tt.size, err)
		}
	}
}

func TestAReaderWaitsForTheNextFrameAndStopsWithItsContextOrTheLog(t *testing.T) {
	l := openTest(t, Options{SegmentSize: minSegmentSize})
	r := l.Reader(l.First())
	for i := range uint64(5) {
		got := make(chan error, 1)
		go func() {
			f, err := r.Next(context.Background())
			if err == nil {
				var n uint64
				if n, _, err = checkRecord(f.Payload); err == nil && (n != i || f.Index != i+1 || f.Term != firstTerm) {
					err = fmt.Errorf("frame %d holds record %d", f.Index, n)
				}
				f.Release()
			}
			got <- err
		}()
		var b Batch
		b.Add(makeRecord(i, 100))
		if err := l.Append(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
		if err := <-got; err != nil {
			t.Fatal(err)
		}
		if r.Position() != b.End() {
			t.Fatalf("reader at %d, the batch ends at %d", r.Position(), b.End())
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error, 1)
	go func() { _, err := r.Next(ctx); got <- err }()
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	go func() { _, err := r.Next(context.Background()); got <- err }()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if _, err := l.Reader(l.First()).Next(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("closed, with frames to read: %v", err)
	}
	if _, err := l.View(l.First()+frameHeaderLen, 16); !errors.Is(err, ErrClosed) {
		t.Errorf("view of a closed log: %v", err)
	}
}

func TestAReaderReportsDamageUnderIt(t *testing.T) {
	im := writeImage(t, 6, 0, true)
	l, err := Open(crashOptions(im.fs, DurabilitySync))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	im.flip(t, int64(im.frames[3].Position)+80)
	r := l.Reader(l.First())
	for range 3 {
		f, err := r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		f.Release()
	}
	for range 2 {
		_, err := r.Next(t.Context())
		var corrupt *CorruptError
		if !errors.As(err, &corrupt) || corrupt.Pos != im.frames[3].Position {
			t.Errorf("%v", err)
		}
	}
	if n := l.Stats().Views; n != 0 {
		t.Errorf("%d views left", n)
	}
}

func TestAMediaErrorOnAColdReadIsAnError(t *testing.T) {
	fs := crashtest.New()
	opt := crashOptions(fs, DurabilitySync)
	opt.SegmentSize = 1 << 20
	l, err := Open(opt)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var b Batch
	b.Add(makeRecord(1, 1000))
	if err := l.Append(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("medium error")
	fs.Hook(func(c crashtest.Call) error {
		if c.Op == crashtest.Read {
			return broken
		}
		return nil
	})
	// As if hotBytes more had been committed since.
	if _, err := l.view(l.last(), b.Position(0), 1016, b.Position(0)+hotBytes+1); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if n := l.Stats().Views; n != 0 {
		t.Errorf("%d views left", n)
	}
}

func TestRetentionByAgeAndSizeStopsAtTheFloor(t *testing.T) {
	now := time.Now()
	for name, tt := range map[string]struct {
		retention Retention
		at        time.Time
		floor     bool // at the second segment's end, else at the log's
		want      func(dropped, before int) bool
	}{
		"nothing set":      {Retention{}, now.Add(time.Hour), false, func(d, n int) bool { return d == 0 }},
		"too young":        {Retention{Age: time.Hour}, now, false, func(d, n int) bool { return d == 0 }},
		"all old":          {Retention{Age: time.Minute}, now.Add(time.Hour), false, func(d, n int) bool { return d == n-1 }},
		"old but floor":    {Retention{Age: time.Minute}, now.Add(time.Hour), true, func(d, n int) bool { return d == 2 }},
		"too large":        {Retention{Size: 3 * minSegmentSize}, now, false, func(d, n int) bool { return d == n-3 }},
		"too large, floor": {Retention{Size: minSegmentSize}, now, true, func(d, n int) bool { return d == 2 }},
	} {
		l := openTest(t, Options{SegmentSize: minSegmentSize, Retention: tt.retention})
		for i := range uint64(30) {
			var b Batch
			b.Add(makeRecord(i, 9000))
			if err := l.Append(t.Context(), &b); err != nil {
				t.Fatal(err)
			}
		}
		before := l.Stats().Segments
		floor := l.Committed()
		if tt.floor {
			floor = 2 * minSegmentSize
		}
		dropped, err := l.Retain(tt.at, floor)
		if err != nil || !tt.want(dropped, before) || l.Stats().Segments != before-dropped {
			t.Errorf("%s: dropped %d of %d, %v", name, dropped, before, err)
		}
		l.Close()
	}
}

func TestBatchesThatCannotBeAppendedAreRefused(t *testing.T) {
	l := openTest(t, Options{SegmentSize: minSegmentSize, MaxBatch: 1000})
	var b Batch
	if err := l.Submit(&b); !errors.Is(err, ErrBatchState) {
		t.Errorf("empty: %v", err)
	}
	b.Add(makeRecord(1, 2000))
	if err := l.Submit(&b); !errors.Is(err, ErrBatchTooLarge) {
		t.Errorf("large: %v", err)
	}
	b.Reset()
	b.Add(makeRecord(1, 20))
	if err := l.Submit(&b); err != nil {
		t.Fatal(err)
	}
	if err := l.Submit(&b); !errors.Is(err, ErrBatchState) {
		t.Errorf("twice: %v", err)
	}
	if err := b.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Submit(&b); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

func TestSequenceSeesBatchesInLogOrderAndItsChangesAreStored(t *testing.T) {
	next := uint64(0)
	l := openTest(t, Options{SegmentSize: 1 << 20, Sequence: func(now int64, b *Batch) {
		for i := range b.Len() {
			le.PutUint64(b.Head(i), next)
			next++
		}
	}})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				var b Batch
				for range 3 {
					b.Add(make([]byte, 16), nil)
				}
				if err := l.Append(t.Context(), &b); err != nil {
					t.Error(err)
				}
				if a, c := le.Uint64(b.Head(0)), le.Uint64(b.Head(2)); c != a+2 {
					t.Errorf("stamped %d to %d", a, c)
				}
			}
		})
	}
	wg.Wait()
	want := uint64(0)
	r := l.Reader(l.First())
	for r.Position() < l.Committed() {
		f, err := r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for p := f.Payload; len(p) > 0; p = p[16:] {
			if got := le.Uint64(p); got != want {
				t.Fatalf("record %d is stamped %d", want, got)
			}
			want++
		}
		f.Release()
	}
	if want != 8*20*3 {
		t.Errorf("%d records", want)
	}
}

func TestAsyncSyncWaitsUntilWhatIsWrittenIsDurable(t *testing.T) {
	fs := crashtest.New()
	opt := crashOptions(fs, DurabilityUnsafeAsync)
	opt.SyncEvery = time.Hour
	l, err := Open(opt)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h := newHistory(1)
	for range 5 {
		var b Batch
		h.add(&b, 0, 100)
		if err := l.Append(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
	}
	if l.Durable() == l.Committed() {
		t.Error("durable already")
	}
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	h.acked[0].Store(5)
	images := 0
	rng := newRNG(t)
	if err := recoverImage(fs.Crash(crashtest.None, rng), h, DurabilityUnsafeAsync, rng, 0, &images); err != nil {
		t.Fatal(err)
	}
}

// A process that has read a long log need not look as if that were its memory.
func TestUnloadedBytesAreOutOfMemoryAndReadTheSame(t *testing.T) {
	const size = 32 << 20
	l := openTest(t, Options{SegmentSize: 2 * size})
	var end record.Position
	for n := uint64(0); n < size/(64<<10); n++ {
		var b Batch
		b.Add(makeRecord(n, 64<<10))
		if err := l.Append(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
		end = b.End()
	}
	read := func() (sum uint32) {
		for r := l.Reader(l.First()); r.Position() < end; {
			f, err := r.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			sum = record.CRC(f.Payload) ^ sum<<1
			f.Release()
		}
		return sum
	}
	resident := func() int64 {
		n, err := mmapfile.Resident()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := resident()
	want := read()
	loaded := resident()
	if loaded-before < size*3/4 {
		t.Fatalf("%d bytes came into memory by reading %d", loaded-before, size)
	}
	if err := l.Unload(); err != nil {
		t.Fatal(err)
	}
	if left := resident() - before; left > size/4 {
		t.Errorf("%d bytes are in memory after all of the log was unloaded", left)
	}
	if got := read(); got != want {
		t.Errorf("read %#x, before it was unloaded %#x", got, want)
	}
}
