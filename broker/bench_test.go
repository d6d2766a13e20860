package broker

import (
	"bytes"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
)

func benchBroker(b *testing.B, d commitlog.Durability) *Broker {
	br := open(b, b.TempDir(), func(o *Options) { o.Durability, o.SegmentSize = d, 256<<20 })
	makeTopic(b, br, "T", topic.Normal, 8)
	return br
}

// 64 callers, one message of 1 KiB each.
func BenchmarkSend(b *testing.B) {
	for _, d := range []commitlog.Durability{commitlog.DurabilitySync, commitlog.DurabilityUnsafeAsync} {
		b.Run(fmt.Sprint(d), func(b *testing.B) {
			br := benchBroker(b, d)
			body := bytes.Repeat([]byte("x"), 1024)
			b.SetBytes(1024)
			b.SetParallelism(32) // times 2 processors
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := br.Send(b.Context(), []Outgoing{{Topic: name("T"), ID: "0170C0035AC5673D2D5A0A5C1DF1390299", Body: body, Tag: "A"}}); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// 64 callers, 32 messages to a receive, acknowledged in one call.
func BenchmarkReceiveAck(b *testing.B) {
	for _, d := range []commitlog.Durability{commitlog.DurabilitySync, commitlog.DurabilityUnsafeAsync} {
		b.Run(fmt.Sprint(d), func(b *testing.B) {
			br := benchBroker(b, d)
			body := bytes.Repeat([]byte("x"), 1024)
			for left := b.N; left > 0; left -= 256 {
				msgs := make([]Outgoing, 256)
				for i := range msgs {
					msgs[i] = Outgoing{ID: "0170C0035AC5673D2D5A0A5C1DF1390299", Body: body, Tag: "A"}
				}
				send(b, br, "T", msgs...)
			}
			var left atomic.Int64
			left.Store(int64(b.N))
			b.SetBytes(1024)
			b.SetParallelism(32)
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for left.Load() > 0 {
					d, err := br.Receive(b.Context(), ReceiveRequest{ClientID: "c", Group: name("G"), Topic: name("T"), Queue: -1, Batch: 32, Invisible: MinInvisible, Filter: "A", Wait: 50 * time.Millisecond})
					if err != nil {
						continue
					}
					var acks []AckEntry
					for _, m := range d.Messages {
						acks = append(acks, AckEntry{Handle: m.Handle})
					}
					d.Release()
					if _, err := br.Ack(b.Context(), name("G"), name("T"), acks); err != nil {
						b.Error(err)
					}
					left.Add(-int64(len(acks)))
				}
				for pb.Next() {
				}
			})
		})
	}
}

func BenchmarkSealHandle(b *testing.B) {
	k := newHandleKey([]byte("secret"))
	b.ReportAllocs()
	for b.Loop() {
		k.seal(handle{Offset: record.QueueOffset(b.N)})
	}
}
