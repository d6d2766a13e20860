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
func sendTimers(b *testing.B, br *Broker, n int, due func() int64) {
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
	at := func(p float64) string {
		return (time.Duration(late[int(p*float64(len(late)-1))]) * time.Microsecond).String()
	}
	b.Logf("%d due in %d ms: sent at %.0f/s; visible late by min %s p50 %s p90 %s p99 %s p99.9 %s max %s; the last one %v after the end",
		n, within, sendRate, at(0), at(.5), at(.9), at(.99), at(.999), at(1), done.Sub(time.UnixMilli(second+within)).Round(time.Millisecond))
	b.Logf("%v of CPU, %v for each, this benchmark's looking included", cpu.Round(time.Millisecond), cpu/time.Duration(n))
	b.Logf("histogram: %s", histogram(late))
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

// histogram counts microseconds by powers of two of milliseconds.
func histogram(sorted []int64) (s string) {
	for lo, hi := int64(0), int64(1000); len(sorted) > 0; lo, hi = hi, hi*2 {
		n, _ := slices.BinarySearch(sorted, hi)
		if n > 0 {
			s += fmt.Sprintf("[%d,%d) ms: %d  ", lo/1000, hi/1000, n)
		}
		sorted = sorted[n:]
	}
	return s
}

// What pending messages cost in memory and at a restart. The heap is what is in
// use after a collection.
func BenchmarkTimersPending(b *testing.B) {
	for b.Loop() {
		n := *timerCount
		dir := b.TempDir()
		heap := func() uint64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		change := func(o *Options) { o.SegmentSize = 256 << 20 }
		br := open(b, dir, change)
		makeTopic(b, br, "D", topic.Delay, 8)
		before := heap()
		from := time.Now().Add(time.Hour).UnixMilli()
		began := time.Now()
		sendTimers(b, br, n, func() int64 { return from + rand.Int64N(24*3600*1000) })
		took := time.Since(began)
		after := heap()
		closeBroker(b, br)
		began = time.Now()
		br = open(b, dir, change)
		opened := time.Since(began)
		b.Logf("%d pending over 24 h: sent at %.0f/s, heap %+d KiB, restart in %v, heap after it %+d KiB",
			n, float64(n)/took.Seconds(), int64(after-before)/1024, opened.Round(time.Millisecond), int64(heap()-before)/1024)
		closeBroker(b, br)
	}
}
