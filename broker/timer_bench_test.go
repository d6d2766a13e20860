package broker

import (
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

var timerCount = flag.Int("timers", 1_000_000, "delayed messages in the timer benchmarks")

// sendTimers sends n delayed messages of 128 bytes, due when the function says.
func sendTimers(b testing.TB, br *Broker, n int, due func() int64) {
	body := make([]byte, 128)
	msgs := make([]Outgoing, 0, MaxSendBatch)
	for sent := 0; sent < n; sent += len(msgs) {
		msgs = msgs[:0]
		for i := range min(MaxSendBatch, n-sent) {
			binary.LittleEndian.PutUint64(body, uint64(i))
			msgs = append(msgs, Outgoing{Topic: name("D"), ID: "0170C0035AC5673D2D5A0A5C1DF1390299", Body: body, DueTime: due()})
		}
		if _, err := br.Send(b.Context(), msgs); err != nil {
			b.Fatal(err)
		}
	}
	if err := br.dispatcher.Await(b.Context(), br.wal.Committed()); err != nil {
		b.Fatal(err)
	}
}

// All due within one second: how late each becomes visible to consumers.
func BenchmarkTimersDueInOneSecond(b *testing.B) {
	b.Run("sync", func(b *testing.B) { timersDue(b, commitlog.DurabilitySync, *timerCount, 1000) })
	b.Run("unsafe-async", func(b *testing.B) { timersDue(b, commitlog.DurabilityUnsafeAsync, *timerCount, 1000) })
}

// A hundred a second: how late they are when nothing else is to be done.
func BenchmarkTimersIdle(b *testing.B) {
	b.Run("sync", func(b *testing.B) { timersDue(b, commitlog.DurabilitySync, 1000, 10_000) })
	b.Run("unsafe-async", func(b *testing.B) { timersDue(b, commitlog.DurabilityUnsafeAsync, 1000, 10_000) })
}

// timersDue sends n messages that come due within so many milliseconds and logs
// how late they were visible to consumers.
func timersDue(b *testing.B, d commitlog.Durability, n int, within int64) {
	br := open(b, b.TempDir(), func(o *Options) { o.Durability, o.SegmentSize = d, 256<<20 })
	defer closeBroker(b, br)
	const queues = 8
	makeTopic(b, br, "D", topic.Delay, queues)
	tp, _ := br.topics.Lookup(name("D"))
	began := time.Now()
	second := began.Add(3*time.Second + time.Duration(n)*20*time.Microsecond).Truncate(time.Second).UnixMilli()
	rng := rand.New(rand.NewPCG(1, 2))
	sendTimers(b, br, n, func() int64 { return second + rng.Int64N(within) })
	sendRate := float64(n) / time.Since(began).Seconds()
	if time.Now().UnixMilli() > second-1000 {
		b.Fatalf("sending took %v: too slow for this benchmark", time.Since(began))
	}
	// When each queue was how long, looked at every half millisecond.
	type sample struct {
		at  int64 // Unix us
		max [queues]record.QueueOffset
	}
	var samples []sample
	time.Sleep(time.Until(time.UnixMilli(second)) - 10*time.Millisecond)
	runtime.GC()
	cpu := cpuTime()
	for total := 0; total < n; time.Sleep(500 * time.Microsecond) {
		s := sample{}
		total = 0
		for q := range s.max {
			_, s.max[q], _ = br.index.Bounds(record.Key(tp.ID, uint32(q)))
			total += int(s.max[q])
		}
		s.at = time.Now().UnixMicro()
		samples = append(samples, s)
	}
	cpu = cpuTime() - cpu
	done := time.UnixMicro(samples[len(samples)-1].at)
	var late []int64
	for q := range uint32(queues) {
		i := 0
		_, high, _ := br.index.Bounds(record.Key(tp.ID, q))
		var e [1]consumequeue.Entry
		for off := record.QueueOffset(0); off < high; off++ {
			for samples[i].max[q] <= off {
				i++
			}
			if _, err := br.index.Read(record.Key(tp.ID, q), off, e[:]); err != nil {
				b.Fatal(err)
			}
			l, err := br.loadEntry(e[0], q, off)
			if err != nil {
				b.Fatal(err)
			}
			late = append(late, samples[i].at-l.msg.DueTime*1000)
			l.release()
		}
	}
	slices.Sort(late)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(sendRate, "sent/s")
	b.ReportMetric(perMessage(cpu, n), "cpu-us/msg") // this benchmark's looking included
	b.ReportMetric(done.Sub(time.UnixMilli(second+within)).Seconds()*1000, "over-ms")
	reportLateness(b, late)
	if late[0] < 0 {
		b.Errorf("one was visible %d us before it was due", -late[0])
	}
}

// cpuTime is what the process has used of all processors.
func cpuTime() time.Duration {
	var r syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// reportLateness reports sorted microseconds: percentiles, and what part was at
// most so late.
func reportLateness(b *testing.B, sorted []int64) {
	for _, p := range []float64{50, 99, 99.9, 100} {
		b.ReportMetric(float64(sorted[int(p/100*float64(len(sorted)-1))])/1000, fmt.Sprintf("p%g-ms", p))
	}
	for ms := int64(1); ms <= 1024; ms *= 2 {
		n, _ := slices.BinarySearch(sorted, ms*1000+1)
		b.ReportMetric(100*float64(n)/float64(len(sorted)), fmt.Sprintf("in-%04d-ms-%%", ms))
	}
}

// pendingCost is what pending messages take.
type pendingCost struct {
	heap, timers, index int64 // bytes: in use after a collection; of the checkpoint; of live pages
}

// fillPending makes a broker in which n messages are pending over some time, and
// tells what that took beyond an empty one.
func fillPending(t testing.TB, dir string, n int, over time.Duration) (*Broker, pendingCost) {
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	br := open(t, dir, func(o *Options) { o.SegmentSize = 256 << 20 })
	makeTopic(t, br, "D", topic.Delay, 8)
	makeTopic(t, br, "N", topic.Normal, 1)
	send(t, br, "N", msg("first", "of any: an index has memory of its own"))
	before := heap()
	from := time.Now().Add(time.Hour).UnixMilli()
	rng := rand.New(rand.NewPCG(1, 2))
	sendTimers(t, br, n, func() int64 { return from + rng.Int64N(over.Milliseconds()) })
	cost := pendingCost{
		heap:   heap() - before,
		timers: int64(len(br.timers.AppendSnapshot(nil)) + len(br.index.AppendSnapshot(nil))),
		index:  int64(br.index.Stats().LivePages) << 12,
	}
	return br, cost
}

// What pending messages cost in memory and at a restart.
func BenchmarkTimersPending(b *testing.B) {
	for _, over := range []time.Duration{time.Hour, 365 * 24 * time.Hour} {
		for _, n := range []int{0, *timerCount / 10, *timerCount, *timerCount * 10} {
			b.Run(fmt.Sprintf("%v/%d", over, n), func(b *testing.B) {
				for b.Loop() {
					dir := b.TempDir()
					began := time.Now()
					br, cost := fillPending(b, dir, n, over)
					rate := float64(n) / time.Since(began).Seconds()
					closeBroker(b, br)
					began = time.Now()
					br = open(b, dir, func(o *Options) { o.SegmentSize = 256 << 20 })
					opened := time.Since(began)
					if got := br.timers.Stats().Pending; got != int64(n) {
						b.Fatalf("%d pending, want %d", got, n)
					}
					b.ReportMetric(0, "ns/op")
					b.ReportMetric(rate, "sent/s")
					b.ReportMetric(float64(cost.heap)/(1<<20), "heap-MiB")
					b.ReportMetric(float64(cost.index)/(1<<20), "index-MiB")
					b.ReportMetric(float64(cost.timers)/1024, "checkpoint-KiB")
					b.ReportMetric(opened.Seconds()*1000, "restart-ms")
					closeBroker(b, br)
				}
			})
		}
	}
}

// Memory and what a restart reads do not grow with what is pending, only with how
// many spans of 17 minutes it is spread over.
func TestPendingMessagesTakeBoundedMemory(t *testing.T) {
	const n = 100_000
	for _, c := range []struct {
		over                time.Duration
		heap, timers, index int64 // at most
	}{
		{time.Hour, 1 << 20, 8 << 10, 64 * n},
		{365 * 24 * time.Hour, 16 << 20, 1 << 20, 4096 * 31_000},
	} {
		_, cost := fillPending(t, t.TempDir(), n, c.over)
		t.Logf("over %v: %+v", c.over, cost)
		if cost.heap > c.heap || cost.timers > c.timers || cost.index > c.index {
			t.Errorf("%d pending over %v take %+v, want at most %+v", n, c.over, cost, c)
		}
	}
}
