package consumequeue

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

func BenchmarkPut(b *testing.B) {
	for _, c := range []struct {
		name   string
		queues uint32
	}{{"1queue", 1}, {"10000queues", 10000}} {
		b.Run(c.name, func(b *testing.B) {
			s := open(b, b.TempDir(), Options{}, nil)
			e := entryAt(1)
			off := record.QueueOffset(0)
			for q := range c.queues { // the first round makes the queues
				if err := s.Put(record.Key(1, q), off, e); err != nil {
					b.Fatal(err)
				}
			}
			off++
			q := uint32(0)
			b.ReportAllocs()
			for b.Loop() {
				e.Position += 100
				if err := s.Put(record.Key(1, q), off, e); err != nil {
					b.Fatal(err)
				}
				if q++; q == c.queues {
					q = 0
					off++
				}
			}
		})
	}
}

func BenchmarkPutRun(b *testing.B) {
	s := open(b, b.TempDir(), Options{}, nil)
	es := make([]Entry, 512)
	off := record.QueueOffset(0)
	b.ReportAllocs()
	for b.Loop() {
		for i := range es {
			es[i] = entryAt(off + record.QueueOffset(i))
			es[i].Size = 100
		}
		if err := s.PutRun(record.Key(1, 1), off, es); err != nil {
			b.Fatal(err)
		}
		off += record.QueueOffset(len(es))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(off), "ns/entry")
}

func BenchmarkRead32(b *testing.B) {
	for _, c := range []struct {
		name string
		from record.QueueOffset
	}{{"tail", 99900}, {"behind", 50000}} {
		b.Run(c.name, func(b *testing.B) {
			s := open(b, b.TempDir(), Options{}, nil)
			key := record.Key(1, 1)
			fill(b, s, key, 0, 100000)
			var buf [32]Entry
			b.ReportAllocs()
			for b.Loop() {
				if n, err := s.Read(key, c.from, buf[:]); n != len(buf) || err != nil {
					b.Fatal(n, err)
				}
			}
		})
	}
}

// BenchmarkReadCold reads a queue that is not in the page cache.
func BenchmarkReadCold(b *testing.B) {
	for _, batch := range []int{32, 1024} {
		b.Run(fmt.Sprint(batch), func(b *testing.B) {
			const each = 1 << 17
			dir := b.TempDir()
			s := open(b, dir, Options{}, nil)
			for off := range record.QueueOffset(each) {
				for q := range uint32(4) {
					if err := s.Put(record.Key(1, q), off, entryAt(off)); err != nil {
						b.Fatal(err)
					}
				}
			}
			checkpoint(b, s)
			buf := make([]Entry, batch)
			read, q := 0, uint32(0)
			for b.Loop() {
				b.StopTimer()
				forget(b, s, dir)
				b.StartTimer()
				for at := 0; at < each; {
					n, err := s.Read(record.Key(1, q), record.QueueOffset(at), buf)
					if err != nil {
						b.Fatal(err)
					}
					at += n
				}
				read += each
				q = (q + 1) % 4
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(read), "ns/entry")
		})
	}
}

// forget takes a store's files out of the page cache, and out of the process.
func forget(b *testing.B, s *Store, dir string) {
	b.Helper()
	if err := s.Unload(); err != nil {
		b.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.arena"))
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range files {
		if out, err := exec.Command("dd", "if="+name, "iflag=nocache", "count=0").CombinedOutput(); err != nil {
			b.Skipf("%v: %s", err, out)
		}
	}
}

// BenchmarkWritten counts what the disk is given for entries of 32 bytes that are
// flushed as often as checkpoints do it.
func BenchmarkWritten(b *testing.B) {
	const queues, between = 16, 1 << 16
	s := open(b, b.TempDir(), Options{}, nil)
	written := func() (n int64) {
		raw, err := os.ReadFile("/proc/self/io")
		if err != nil {
			b.Skip(err)
		}
		_, rest, _ := strings.Cut(string(raw), "\nwrite_bytes: ")
		fmt.Sscan(rest, &n)
		return n
	}
	before, i := written(), 0
	for b.Loop() {
		for range between {
			if err := s.Put(record.Key(1, uint32(i%queues)), record.QueueOffset(i/queues), entryAt(1)); err != nil {
				b.Fatal(err)
			}
			i++
		}
		checkpoint(b, s)
	}
	b.ReportMetric(float64(written()-before)/float64(i), "written-B/entry")
}

func BenchmarkOffsetAt(b *testing.B) {
	s := open(b, b.TempDir(), Options{}, nil)
	key := record.Key(1, 1)
	fill(b, s, key, 0, 1000000)
	b.ReportAllocs()
	i := int64(0)
	for b.Loop() {
		if _, err := s.OffsetAt(key, i%10000000); err != nil {
			b.Fatal(err)
		}
		i += 1234567
	}
}

// Benchmark100kQueues measures what a store of many small queues costs. Its own
// time is that of one snapshot.
func Benchmark100kQueues(b *testing.B) {
	const queues = 100000
	dir := b.TempDir()
	before := heap()
	s := open(b, dir, Options{}, nil)
	for off := range record.QueueOffset(3) {
		for q := range uint32(queues) {
			e := entryAt(off*queues + record.QueueOffset(q))
			if err := s.Put(record.Key(record.TopicID(q/8), q%8), off, e); err != nil {
				b.Fatal(err)
			}
		}
	}
	perQueue := float64(heap()-before) / queues
	snap := checkpoint(b, s)
	b.ReportAllocs()
	for b.Loop() {
		snap = s.AppendSnapshot(snap[:0])
	}
	st := s.Stats()
	s.Close()
	start := time.Now()
	s = open(b, dir, Options{}, snap)
	opened := time.Since(start)
	start = time.Now()
	if err := s.DropBefore(1000 * 2 * queues); err != nil { // reads each queue's page
		b.Fatal(err)
	}
	b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms/drop")
	b.ReportMetric(float64(opened.Milliseconds()), "ms/open")
	b.ReportMetric(perQueue, "heap-B/queue")
	b.ReportMetric(float64(len(snap))/queues, "snapshot-B/queue")
	b.ReportMetric(float64(st.Arenas), "files")
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
