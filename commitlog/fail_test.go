package commitlog

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/gantry-mq/gantry/internal/mmapfile"
	"github.com/gantry-mq/gantry/internal/mmapfile/crashtest"
)

// Every write, sync and so on of a run fails once, in one run each. A failed
// sync loses its data while later syncs succeed, as on Linux.
func TestAnyFailingCallStopsTheLogWithoutAFalseAcknowledgement(t *testing.T) {
	rng := newRNG(t)
	for _, op := range []crashtest.Op{crashtest.Write, crashtest.Sync, crashtest.Rename, crashtest.SyncDir, crashtest.Create} {
		failed := 0
		for nth := 1; ; nth++ {
			fs, h := crashtest.New(), newHistory(3)
			count, injected := 0, false
			fs.Hook(func(c crashtest.Call) error {
				if c.Op != op {
					return nil
				}
				if count++; count == nth {
					injected = true
					return syscall.EIO
				}
				return nil
			})
			var fatal atomic.Int32
			opt := crashOptions(fs, DurabilitySync)
			opt.Fatal = func(err error) {
				if !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
					t.Errorf("%s %d: Fatal(%v)", op, nth, err)
				}
				fatal.Add(1)
			}
			l, err := Open(opt)
			if err != nil {
				if !errors.Is(err, syscall.EIO) {
					t.Fatalf("%s %d: Open: %v", op, nth, err)
				}
			} else {
				var wg sync.WaitGroup
				for s := range 3 {
					wg.Go(func() {
						var b Batch
						for i := range 15 {
							b.Reset()
							h.add(&b, s, (i*1013+s*701)%7000)
							if err := l.Append(context.Background(), &b); err != nil {
								if !errors.Is(err, ErrFailed) {
									t.Errorf("%s %d: Append: %v", op, nth, err)
								}
								return
							}
							h.acked[s].Add(1)
						}
					})
				}
				wg.Wait()
				stopped := l.Stats().Err != nil
				if err := l.Close(); err == nil && injected {
					t.Errorf("%s %d: nobody was told", op, nth)
				}
				if n := fatal.Load(); stopped && n != 1 {
					t.Errorf("%s %d: Fatal called %d times", op, nth, n)
				}
			}
			fs.Hook(nil)
			if !injected {
				break
			}
			failed++
			images := 0
			for _, s := range crashtest.Survivals {
				if err := recoverImage(fs.Crash(s, rng), h.snapshot(), DurabilitySync, rng, 0, &images); err != nil {
					t.Fatalf("%s %d failed, then power lost (%v): %v", op, nth, s, err)
				}
			}
		}
		t.Logf("%s: each of %d calls failed once", op, failed)
	}
}

func TestAFullDiskRefusesBodiesFirstThenAllAndRecovers(t *testing.T) {
	ctx := t.Context()
	fs := crashtest.New()
	fs.SetCapacity(minSegmentSize + manifestLen) // one segment, no spare
	l, err := Open(crashOptions(fs, DurabilitySync))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	message := func() error {
		var b Batch
		b.Add(makeRecord(1, 4000))
		return l.Append(ctx, &b)
	}
	command := func() error {
		var b Batch
		b.Add(make([]byte, 200), nil)
		return l.Append(ctx, &b)
	}
	for range minSegmentSize / 2 / 4000 { // a spare is made from the middle of a segment on
		if err := message(); err != nil {
			t.Fatal(err)
		}
	}
	if err := message(); err != nil && !errors.Is(err, ErrDiskFull) {
		t.Fatal(err)
	}
	for !l.Stats().DiskFull { // it is made beside us
		l.kickNow()
		runtime.Gosched()
	}
	if err := message(); !errors.Is(err, ErrDiskFull) {
		t.Fatalf("a message: %v, want ErrDiskFull", err)
	}
	n := 0
	for err = nil; err == nil; n++ {
		err = command()
	}
	if !errors.Is(err, ErrDiskFull) || n < 2 {
		t.Fatalf("command %d: %v, want ErrDiskFull, but only when the segment is full", n, err)
	}
	if st := l.Stats(); !st.DiskFull || st.Err != nil {
		t.Fatalf("stats %+v", st)
	}
	fs.SetCapacity(0)
	l.kickNow()
	for {
		if err = message(); !errors.Is(err, ErrDiskFull) {
			break
		}
	}
	if err != nil {
		t.Fatalf("with space again: %v", err)
	}
}

func TestOpenOnAFullDiskSaysSo(t *testing.T) {
	fs := crashtest.New()
	fs.SetCapacity(minSegmentSize)
	_, err := Open(crashOptions(fs, DurabilitySync))
	if !errors.Is(err, ErrDiskFull) || !errors.Is(err, mmapfile.ErrNoSpace) {
		t.Fatalf("%v", err)
	}
	fs.SetCapacity(0)
	l, err := Open(crashOptions(fs, DurabilitySync))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}
