package broker

import (
	"flag"
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

var liteTopics = flag.Int("lite-topics", 100_000, "lite topics of BenchmarkLite")

// BenchmarkLite has 50 clients and 64 senders of messages of 100 bytes, once over
// a plain topic and once over very many lite topics, of which each client
// subscribes to its part: how fast those are made by their first messages and what
// one costs in memory and index files, with a group that consumes it; then, in
// both cases, the rate of sends, of receives of a backlog (each with its ack), and
// of messages that go through while all clients wait; and how long a start takes.
// One iteration is the whole of it: use -benchtime 1x.
func BenchmarkLite(b *testing.B) {
	b.Run("plain_topic", func(b *testing.B) { runLite(b, topic.Normal, 0) })
	b.Run(fmt.Sprint(*liteTopics, "_lite_topics"), func(b *testing.B) { runLite(b, topic.Lite, *liteTopics) })
}

func runLite(b *testing.B, kind topic.Type, topics int) {
	const clients, senders = 50, 64
	messages := *liteTopics
	for range b.N {
		dir := b.TempDir()
		br := open(b, dir, func(o *Options) { o.SegmentSize = 256 << 20 })
		makeTopic(b, br, "P", kind, 8)
		before := heapInUse()

		rate := func(metric string, n int, work func()) {
			began := time.Now()
			work()
			b.ReportMetric(float64(n)/time.Since(began).Seconds(), metric)
		}
		body := make([]byte, 100)
		sendAll := func(to func(i int) string) {
			var next atomic.Int64
			var wg sync.WaitGroup
			for range senders {
				wg.Go(func() {
					for i := next.Add(1); i <= int64(messages); i = next.Add(1) {
						m := Outgoing{Topic: name("P"), ID: "0170C0035AC5673D2D5A0A5C1DF1390299", Body: body, LiteTopic: to(int(i - 1))}
						if _, err := br.Send(b.Context(), []Outgoing{m}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		}
		// receiveAll has every client receive until all messages are acknowledged.
		receiveAll := func() {
			left := atomic.Int64{}
			left.Store(int64(messages))
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
		random := func(int) string { return "" }
		if topics > 0 {
			random = func(int) string { return liteN(rand.IntN(topics)) }
			rate("made/s", topics, func() { sendAll(liteN) })
			for c := range clients {
				var names []string
				for i := c; i < topics; i += clients {
					names = append(names, liteN(i))
				}
				if err := br.SyncLite(b.Context(), fmt.Sprint("c", c), name("G"), name("P"), LiteReplace, names, LiteOffset{}); err != nil {
					b.Fatal(err)
				}
			}
			receiveAll()
			b.ReportMetric(float64(heapInUse()-before)/float64(topics), "heap-B/topic")
			b.ReportMetric(float64(diskUse(b, filepath.Join(dir, "consumequeue")))/float64(topics), "index-B/topic")
		}
		rate("sent/s", messages, func() { sendAll(random) })
		rate("received/s", messages, receiveAll)
		rate("through/s", messages, func() {
			go sendAll(random)
			receiveAll()
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
