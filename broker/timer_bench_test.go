package broker

import (
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
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
	for _, d := range []commitlog.Durability{commitlog.DurabilitySync, commitlog.DurabilityUnsafeAsync} {
		b.Run(fmt.Sprint(d), func(b *testing.B) {
			for b.Loop() {
				timersDue(b, d, *timerCount, 1000)
			}
		})
	}
}

// A hundred a second: how late they are when nothing else is to be done.
func BenchmarkTimersIdle(b *testing.B) {
	for _, d := range []commitlog.Durability{commitlog.DurabilitySync, commitlog.DurabilityUnsafeAsync} {
		b.Run(fmt.Sprint(d), func(b *testing.B) {
			for b.Loop() {
				timersDue(b, d, 1000, 10_000)
			}
		})
	}
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
	b.Logf("%d due in %d ms, sent at %.0f/s; the last one was visible %v after the end; %v of CPU for each, this benchmark's looking included\n%s",
		n, within, sendRate, done.Sub(time.UnixMilli(second+within)).Round(time.Millisecond), cpu/time.Duration(n), latenessTable(late))
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

// latenessTable prints microseconds: percentiles, then how many by powers of two of
// milliseconds.
func latenessTable(sorted []int64) string {
	var t strings.Builder
	fmt.Fprint(&t, "late by")
	for _, p := range []float64{0, .5, .9, .99, .999, 1} {
		fmt.Fprintf(&t, "  p%g %v", p*100, time.Duration(sorted[int(p*float64(len(sorted)-1))])*time.Microsecond)
	}
	fmt.Fprintf(&t, "\n%12s %12s %8s %8s\n", "ms", "messages", "%", "sum %")
	sum := 0
	for lo, hi := int64(0), int64(1000); sum < len(sorted); lo, hi = hi, hi*2 {
		n, _ := slices.BinarySearch(sorted[sum:], hi)
		sum += n
		fmt.Fprintf(&t, "%5d to %4d %12d %8.2f %8.2f\n", lo/1000, hi/1000, n, 100*float64(n)/float64(len(sorted)), 100*float64(sum)/float64(len(sorted)))
	}
	return t.String()
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
		for _, n := range []int{0, *timerCount / 10, *timerCount} {
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
					b.Logf("%d pending over %v, sent at %.0f/s: %d KiB of heap, %d KiB of index, %d KiB in the checkpoint; restart in %v",
						n, over, rate, cost.heap/1024, cost.index/1024, cost.timers/1024, opened.Round(time.Millisecond))
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
