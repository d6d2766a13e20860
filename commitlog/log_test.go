package commitlog

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// makeRecord returns the head and body of record number i: 16 bytes that name i,
// and a body that follows from it.
func makeRecord(i uint64, size int) (head, body []byte) {
	head = binary.LittleEndian.AppendUint64(nil, i)
	head = binary.LittleEndian.AppendUint64(head, uint64(size))
	body = make([]byte, size)
	for j := range body {
		body[j] = byte(i) + byte(j*7)
	}
	return head, body
}

func checkRecord(b []byte) (i uint64, rest []byte, err error) {
	if len(b) < 16 {
		return 0, nil, fmt.Errorf("record of %d bytes", len(b))
	}
	i, size := binary.LittleEndian.Uint64(b), int(binary.LittleEndian.Uint64(b[8:]))
	if size > len(b)-16 {
		return 0, nil, fmt.Errorf("record %d of %d bytes in %d", i, size, len(b))
	}
	head, body := makeRecord(i, size)
	if !bytes.Equal(b[:16], head) || !bytes.Equal(b[16:16+size], body) {
		return 0, nil, fmt.Errorf("record %d has other bytes than were appended", i)
	}
	return i, b[min(record.Padded(16+size), len(b)):], nil
}

func openTest(t testing.TB, opt Options) *Log {
	t.Helper()
	if opt.Dir == "" {
		opt.Dir = t.TempDir()
	}
	if opt.Logger == nil {
		opt.Logger = quiet
	}
	if opt.Fatal == nil {
		opt.Fatal = func(err error) { t.Errorf("Fatal(%v)", err) }
	}
	l, err := Open(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestWhatIsAppendedIsReadAndViewedAndSurvivesReopening(t *testing.T) {
	for _, d := range []Durability{DurabilitySync, DurabilityUnsafeAsync} {
		t.Run(fmt.Sprint(d), func(t *testing.T) {
			opt := Options{Dir: t.TempDir(), SegmentSize: minSegmentSize, Durability: d}
			ctx := t.Context()
			var at []record.Position
			var sizes []int
			n := uint64(0)
			for round := range 3 {
				l := openTest(t, opt)
				var b Batch
				for range 60 {
					b.Reset()
					for range 1 + n%3 {
						size := int(n*n*37) % 9000
						h, body := makeRecord(n, size)
						b.Add(h, body)
						sizes = append(sizes, 16+size)
						n++
					}
					if err := l.Append(ctx, &b); err != nil {
						t.Fatal(err)
					}
					for i := range b.Len() {
						at = append(at, b.Position(i))
					}
				}
				r := l.Reader(l.First())
				want := uint64(0)
				for want < n {
					f, err := r.Next(ctx)
					if err != nil {
						t.Fatal(err)
					}
					for p := f.Payload; len(p) > 0; want++ {
						i, rest, err := checkRecord(p)
						if err != nil || i != want {
							t.Fatalf("round %d: read record %d, %v, want %d", round, i, err, want)
						}
						p = rest
					}
					f.Release()
				}
				for i, pos := range at {
					v, err := l.View(pos, sizes[i])
					if err != nil {
						t.Fatal(err)
					}
					if got, _, err := checkRecord(v.Bytes()); err != nil || got != uint64(i) {
						t.Fatalf("view of record %d: %d, %v", i, got, err)
					}
					v.Release()
				}
				if st := l.Stats(); st.Views != 0 || st.Segments < 2 {
					t.Fatalf("stats %+v", st)
				}
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				if rep, err := Check(opt.Dir); err != nil || rep.TornBytes != 0 {
					t.Fatalf("check: %+v, %v", rep, err)
				}
			}
		})
	}
}

func BenchmarkAppendOneCaller(b *testing.B) {
	for _, size := range []int{100, 1 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			l := openTest(b, Options{Durability: DurabilitySync})
			head, body := makeRecord(1, size)
			var batch Batch
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				batch.Reset()
				batch.Add(head, body)
				if err := l.Append(context.Background(), &batch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendManyCallers(b *testing.B) {
	for _, d := range []Durability{DurabilitySync, DurabilityUnsafeAsync} {
		for _, size := range []int{100, 1 << 10, 64 << 10} {
			b.Run(fmt.Sprintf("%d/%d", d, size), func(b *testing.B) {
				l := openTest(b, Options{Durability: d})
				b.SetBytes(int64(size))
				b.ReportAllocs()
				b.SetParallelism(128)
				b.RunParallel(func(pb *testing.PB) {
					head, body := makeRecord(1, size)
					var batch Batch
					for pb.Next() {
						batch.Reset()
						batch.Add(head, body)
						if err := l.Append(context.Background(), &batch); err != nil {
							b.Error(err)
							return
						}
					}
				})
				st := l.Stats()
				b.ReportMetric(float64(st.Batches)/float64(max(st.Syncs, 1)), "batches/sync")
				b.ReportMetric(float64(st.SyncTime.Microseconds())/float64(max(st.Syncs, 1)), "us/sync")
			})
		}
	}
}

// The latency of a small append, and what the disk has to do with it. Its
// figures, with and without zeros ahead, are in prepare.go.
func BenchmarkSmallSyncs(b *testing.B) {
	l := openTest(b, Options{})
	head, body := makeRecord(1, 1000)
	var batch Batch
	var took []time.Duration
	b.ReportAllocs()
	for b.Loop() {
		start := time.Now()
		batch.Reset()
		batch.Add(head, body)
		if err := l.Append(context.Background(), &batch); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	for _, p := range []int{10, 50, 90, 99} {
		b.ReportMetric(float64(took[len(took)*p/100].Microseconds()), fmt.Sprintf("p%d-us", p))
	}
}

// How long a start takes with segments of the default size: of an empty log, and
// of one with 100 MB in it.
func BenchmarkOpen(b *testing.B) {
	b.Run("empty", func(b *testing.B) {
		for b.Loop() {
			openTest(b, Options{Dir: b.TempDir()}).Close()
		}
	})
	b.Run("100MB", func(b *testing.B) {
		dir := b.TempDir()
		l := openTest(b, Options{Dir: dir, Durability: DurabilityUnsafeAsync})
		head, body := makeRecord(1, 1<<20)
		for range 100 {
			var batch Batch
			batch.Add(head, body)
			if err := l.Append(context.Background(), &batch); err != nil {
				b.Fatal(err)
			}
		}
		l.Close()
		for b.Loop() {
			l := openTest(b, Options{Dir: dir})
			b.StopTimer()
			l.Close()
			b.StartTimer()
		}
	})
}
