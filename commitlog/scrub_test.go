package commitlog

import (
	"context"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// scrubbing runs Scrub on a log until the test ends, and returns what it finds.
func scrubbing(t *testing.T, l *Log, rate int64) func() []*CorruptError {
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	var mu sync.Mutex
	var found []*CorruptError
	run.Go(func() {
		l.Scrub(ctx, rate, func(err *CorruptError) {
			mu.Lock()
			defer mu.Unlock()
			found = append(found, err)
		})
	})
	t.Cleanup(func() { cancel(); run.Wait() })
	return func() []*CorruptError {
		mu.Lock()
		defer mu.Unlock()
		return found
	}
}

// appendRecords makes a log longer by that many records of 9,000 bytes.
func appendRecords(t *testing.T, l *Log, n int) {
	t.Helper()
	for i := range n {
		var b Batch
		b.Add(makeRecord(uint64(i), 9000))
		if err := l.Append(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
	}
}

// change flips a bit of a file, at from the middle on.
func change(t *testing.T, path string, at int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[int64(len(b))/2+at] ^= 4
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// opened is a log with segments of that size and so many records, as it is after a start.
func opened(t *testing.T, segmentSize int64, records int) *Log {
	t.Helper()
	l := openTest(t, Options{SegmentSize: segmentSize})
	appendRecords(t, l, records)
	opt := l.opt
	must(t, l.Close())
	return openTest(t, opt)
}

func TestDamageThatNobodyReadsIsFoundWithinADayAndToldOnce(t *testing.T) {
	for name, damage := range map[string]func(*testing.T, string){
		"a bit":        func(t *testing.T, path string) { change(t, path, 0) },
		"its header":   func(t *testing.T, path string) { change(t, path, 20-minSegmentSize/2) },
		"cut":          func(t *testing.T, path string) { must(t, os.Truncate(path, minSegmentSize/2)) },
		"empty":        func(t *testing.T, path string) { must(t, os.Truncate(path, 0)) },
		"missing":      func(t *testing.T, path string) { must(t, os.Remove(path)) },
		"another file": func(t *testing.T, path string) { must(t, os.WriteFile(path, make([]byte, minSegmentSize), 0o600)) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := opened(t, minSegmentSize, 60)
				found := scrubbing(t, l, 8<<10)
				if v := l.Stats().Verified; v != 0 {
					t.Errorf("verified at %d, before it was looked at", v)
				}
				time.Sleep(25 * time.Hour)
				if bad := found(); len(bad) != 0 {
					t.Fatalf("of a good log: %v", bad)
				}
				bytes := l.Committed() - record.Position(len(*l.segs.Load())*segmentHeaderLen)
				if st := l.Stats(); st.Verified == 0 || st.Scrubbed < int64(bytes) {
					t.Errorf("%d of %d bytes verified, all since %d", st.Scrubbed, bytes, st.Verified)
				}
				s := (*l.segs.Load())[2]
				damage(t, s.path)
				for range 3 {
					time.Sleep(25 * time.Hour)
					bad := found()
					if len(bad) != 1 || bad[0].Segment != s.path || bad[0].Pos < s.base || bad[0].Pos >= s.end() {
						t.Fatalf("found %v, want one in %s", bad, s.path)
					}
				}
			})
		})
	}
}

func TestScrubbingKeepsToItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := opened(t, 4*scanChunk, 1000)
		scrubbing(t, l, 64<<10)
		time.Sleep(scrubDelay + time.Minute)
		// It waits after it has read.
		if n := l.Stats().Scrubbed; n < 3<<20 || n > 60*(64<<10)+scanChunk {
			t.Errorf("%d bytes in a minute", n)
		}
		appendRecords(t, l, 1) // nobody waits for it
	})
}

func TestASuspectIsVerifiedAtOnceAndOnce(t *testing.T) {
	for _, rate := range []int64{0, 1} { // at 1, another segment is under way for days
		synctest.Test(t, func(t *testing.T) {
			l := opened(t, minSegmentSize, 60)
			found := scrubbing(t, l, rate)
			time.Sleep(time.Minute)
			s := (*l.segs.Load())[2]
			for range 3 {
				l.Suspect(s.base + minSegmentSize/2)
				synctest.Wait()
			}
			if bad := found(); len(bad) != 0 {
				t.Errorf("found %v in what is good", bad)
			}
			s = (*l.segs.Load())[3]
			change(t, s.path, 0)
			for range 3 {
				l.Suspect(s.base + minSegmentSize/2)
				synctest.Wait()
			}
			if bad := found(); len(bad) != 1 || bad[0].Segment != s.path {
				t.Errorf("found %v, want one in %s", bad, s.path)
			}
			l.Suspect(l.Committed() + 1<<40) // nowhere
		})
	}
}

// A file that retention gives to another segment while it is verified is no damage.
func TestRetentionMayTakeWhatIsVerified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openTest(t, Options{SegmentSize: 4 * scanChunk})
		found := scrubbing(t, l, 100<<10)
		for range 8 {
			for len(*l.segs.Load()) < 3 {
				appendRecords(t, l, 100)
			}
			(*l.segs.Load())[0].verified.Store(0) // is next
			read := l.Stats().Scrubbed
			for l.Stats().Scrubbed == read {
				time.Sleep(time.Second)
			}
			if n, err := l.DropBefore(l.Committed()); n != 2 || err != nil {
				t.Fatal(n, err)
			}
			appendRecords(t, l, 500) // into its file
			time.Sleep(time.Minute)
		}
		if bad := found(); len(bad) != 0 {
			t.Errorf("found %v", bad)
		}
	})
}

// What is not committed is not looked at, and what is being written is no damage.
func TestWhatIsWrittenMeanwhileIsNoDamage(t *testing.T) {
	l := openTest(t, Options{SegmentSize: minSegmentSize, Durability: DurabilityUnsafeAsync})
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	var looked atomic.Int64
	run.Go(func() {
		sc := scrub{l: l, ctx: ctx, found: func(err *CorruptError) { t.Error(err) }}
		for ctx.Err() == nil {
			sc.segment(l.last(), true)
			looked.Add(1)
		}
	})
	for looked.Load() < 200 && !t.Failed() {
		appendRecords(t, l, 3)
	}
	cancel()
	run.Wait()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
