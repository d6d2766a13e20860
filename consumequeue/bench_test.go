package consumequeue

import (
	"runtime"
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
