package broker

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/topic"
)

// BenchmarkLite100k has 100,000 lite topics, 50 clients that each subscribe to
// 2,000 of them, and 64 senders of messages of 100 bytes to lite topics at
// random. It reports how fast lite topics are made by their first messages and
// what one costs in memory and index files, with one group that consumes it;
// then, over topics that are there, the rate of sends, of receives of a backlog
// (each with its ack), and of messages that go through while all clients wait;
// and how long a start takes. One iteration is the whole of it: use
// -benchtime 1x.
func BenchmarkLite100k(b *testing.B) {
	const topics, clients, senders, messages = 100_000, 50, 64, 100_000
	for range b.N {
		dir := b.TempDir()
		br := open(b, dir, func(o *Options) { o.SegmentSize = 256 << 20 })
		makeTopic(b, br, "P", topic.Lite, 1)
		before := heapInUse()

		rate := func(metric string, n int, work func()) {
			began := time.Now()
			work()
			b.ReportMetric(float64(n)/time.Since(began).Seconds(), metric)
		}
		body := make([]byte, 100)
		sendAll := func(n int, to func(i int) int) {
			var next atomic.Int64
			var wg sync.WaitGroup
			for range senders {
				wg.Go(func() {
					for i := next.Add(1); i <= int64(n); i = next.Add(1) {
						m := Outgoing{Topic: name("P"), ID: "0170C0035AC5673D2D5A0A5C1DF1390299", Body: body, LiteTopic: liteN(to(int(i - 1)))}
						if _, err := br.Send(b.Context(), []Outgoing{m}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		}
		rate("made/s", topics, func() { sendAll(topics, func(i int) int { return i }) })

		for c := range clients {
			var names []string
			for i := c; i < topics; i += clients {
				names = append(names, liteN(i))
			}
			if err := br.SyncLite(b.Context(), fmt.Sprint("c", c), name("G"), name("P"), LiteReplace, names, LiteOffset{}); err != nil {
				b.Fatal(err)
			}
		}
		// receiveAll has every client receive until n messages are acknowledged in all.
		receiveAll := func(n int) {
			left := atomic.Int64{}
			left.Store(int64(n))
			var wg sync.WaitGroup
			for c := range clients {
				wg.Go(func() {
					for left.Load() > 0 {
						d, err := br.Receive(b.Context(), ReceiveRequest{ClientID: fmt.Sprint("c", c), Group: name("G"), Topic: name("P"), Queue: -1, Batch: MaxReceiveBatch, Invisible: MaxInvisible, Wait: 50 * time.Millisecond})
						if err != nil {
							continue // nothing for this client now
						}
						var acks []AckEntry
						for _, m := range d.Messages {
							acks = append(acks, AckEntry{Handle: m.Handle})
						}
						d.Release()
						if _, err := br.Ack(b.Context(), name("G"), name("P"), acks); err != nil {
							b.Error(err)
						}
						left.Add(-int64(len(acks)))
					}
				})
			}
			wg.Wait()
		}
		rate("received/s", topics, func() { receiveAll(topics) })
		b.ReportMetric(float64(heapInUse()-before)/topics, "heap-B/topic")
		b.ReportMetric(float64(diskUse(b, filepath.Join(dir, "consumequeue")))/topics, "index-B/topic")

		random := func(int) int { return rand.IntN(topics) }
		rate("sent/s", messages, func() { sendAll(messages, random) })
		receiveAll(messages)
		rate("through/s", messages, func() {
			go sendAll(messages, random)
			receiveAll(messages)
		})
		closeBroker(b, br)
		began := time.Now()
		br = open(b, dir, func(o *Options) { o.SegmentSize = 256 << 20 })
		b.ReportMetric(time.Since(began).Seconds()*1000, "start-ms")
		closeBroker(b, br)
	}
}

func liteN(i int) string { return fmt.Sprintf("session-%08d", i) }

func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func diskUse(t testing.TB, dir string) (bytes int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		bytes += info.Size()
	}
	return bytes
}
