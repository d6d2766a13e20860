package broker

import (
	"bytes"
	"flag"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/broker/transaction"
	"github.com/gantry-mq/gantry/commitlog"
)

var featureCount = flag.Int("feature-messages", 100_000, "messages of each feature in BenchmarkFeatures")

const (
	featureCallers = 16
	featureBatch   = 32
	featureBody    = 1024
)

// feature is one thing that a message may go through.
type feature struct {
	name   string
	typ    topic.Type
	send   func(i int, m *Outgoing)              // what its producer adds
	sent   func(*testing.B, *Broker, []Sent)     // what its producer does after that; nil = nothing
	ask    func(*ReceiveRequest)                 // what its consumer adds
	refuse func(*testing.B, *Broker, *Delivered) // what happens to the first delivery; nil = there is one only
	buried bool                                  // that was the last one
}

var features = []feature{
	{name: "plain", typ: topic.Normal},
	{name: "tag filter", typ: topic.Normal, send: func(_ int, m *Outgoing) { m.Tag = "A" },
		ask: func(r *ReceiveRequest) { r.Filter = "A" }},
	{name: "SQL filter", typ: topic.Normal,
		send: func(i int, m *Outgoing) {
			m.User = []Property{{"price", fmt.Sprint(20 + i%100)}, {"region", "eu-west"}}
		},
		ask: func(r *ReceiveRequest) {
			r.FilterType, r.Filter = FilterSQL, "price BETWEEN 10 AND 200 AND region IN ('us-east', 'eu-west')"
		}},
	{name: "FIFO, 1,000 message groups", typ: topic.FIFO, send: func(i int, m *Outgoing) { m.Group, m.HasGroup = fmt.Sprint("g", i%1000), true }},
	{name: "priority, 10 levels", typ: topic.Priority, send: func(i int, m *Outgoing) { m.Priority, m.HasPriority = int32(i%10), true }},
	{name: "delayed", typ: topic.Delay, send: func(_ int, m *Outgoing) { m.DueTime = time.Now().Add(time.Second).UnixMilli() }},
	{name: "transaction, committed", typ: topic.Transaction, send: func(_ int, m *Outgoing) { m.Transaction = true },
		sent: func(b *testing.B, br *Broker, sent []Sent) {
			for _, s := range sent {
				if err := br.EndTransaction(b.Context(), name("T"), "", s.TransactionID, transaction.Committed, false); err != nil {
					b.Fatal(err)
				}
			}
		}},
	{name: "refused once, delivered again", typ: topic.Normal,
		refuse: func(b *testing.B, br *Broker, m *Delivered) {
			if _, err := br.ChangeInvisible(b.Context(), name("G"), name("T"), m.Handle, 0, false); err != nil {
				b.Fatal(err)
			}
		}},
	{name: "given up to the dead letters", typ: topic.Normal, buried: true,
		refuse: func(b *testing.B, br *Broker, m *Delivered) {
			if err := br.ForwardToDeadLetter(b.Context(), name("G"), name("T"), m.Handle, 0, 0); err != nil {
				b.Fatal(err)
			}
		}},
}

// BenchmarkFeatures: what each feature costs below the wire, and that a payload is
// written once: CPU of sending (deciding and firing included) and of receiving
// until settled, and bytes of log, all for one message of 1 KiB.
func BenchmarkFeatures(b *testing.B) {
	for _, f := range features {
		b.Run(f.name, func(b *testing.B) {
			for b.Loop() {
				f.measure(b, *featureCount/featureBatch*featureBatch)
			}
		})
	}
}

func (f *feature) measure(b *testing.B, n int) {
	br := open(b, b.TempDir(), func(o *Options) { o.Durability, o.SegmentSize = commitlog.DurabilityUnsafeAsync, 256<<20 })
	defer closeBroker(b, br)
	makeTopic(b, br, "T", f.typ, 8)
	if _, err := br.CreateGroup(b.Context(), group.Group{Name: name("G"), FIFO: f.typ == topic.FIFO}); err != nil {
		b.Fatal(err)
	}
	send(b, br, "T", f.messages(0, 1)...) // makes what the first one makes
	from, cpu := br.wal.Committed(), cpuTime()
	var next atomic.Int64
	f.callers(func() {
		for at := int(next.Add(featureBatch)); at <= n; at = int(next.Add(featureBatch)) {
			sent, err := br.Send(b.Context(), f.messages(at, featureBatch))
			if err != nil {
				b.Error(err)
				return
			}
			if f.sent != nil {
				f.sent(b, br, sent)
			}
		}
	})
	for f.typ == topic.Delay && br.timers.Stats().Pending > 0 {
		time.Sleep(10 * time.Millisecond)
	}
	if err := br.dispatcher.Await(b.Context(), br.wal.Committed()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(perMessage(cpuTime()-cpu, n), "send-us/msg")
	cpu = cpuTime()
	var left atomic.Int64
	left.Store(int64(n))
	f.callers(func() {
		for left.Load() > 0 && !b.Failed() {
			left.Add(-f.receive(b, br))
		}
	})
	if err := br.dispatcher.Await(b.Context(), br.wal.Committed()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(perMessage(cpuTime()-cpu, n), "receive-us/msg")
	b.ReportMetric(float64(br.wal.Committed()-from)/float64(n)-featureBody, "log-overhead-B/msg")
	b.ReportMetric(0, "ns/op")
}

func perMessage(d time.Duration, n int) float64 {
	return float64(d) / float64(time.Microsecond) / float64(n)
}

func (f *feature) callers(do func()) {
	var wait sync.WaitGroup
	for range featureCallers {
		wait.Go(do)
	}
	wait.Wait()
}

var featurePayload = bytes.Repeat([]byte("x"), featureBody)

func (f *feature) messages(at, n int) []Outgoing {
	msgs := make([]Outgoing, n)
	for i := range msgs {
		msgs[i] = Outgoing{Topic: name("T"), ID: "0170C0035AC5673D2D5A0A5C1DF1390299", Body: featurePayload}
		if f.send != nil {
			f.send(at+i, &msgs[i])
		}
	}
	return msgs
}

// receive settles what one call brings, and returns how many are done with.
func (f *feature) receive(b *testing.B, br *Broker) (done int64) {
	req := ReceiveRequest{ClientID: "c", Group: name("G"), Topic: name("T"), Queue: -1, Batch: featureBatch, Invisible: MinInvisible, Filter: "*", Wait: 50 * time.Millisecond}
	if f.ask != nil {
		f.ask(&req)
	}
	d, err := br.Receive(b.Context(), req)
	if err != nil {
		return 0 // nothing there for now
	}
	var acks []AckEntry
	for i := range d.Messages {
		if m := &d.Messages[i]; f.refuse != nil && m.Attempt == 1 {
			f.refuse(b, br, m)
			if f.buried {
				done++
			}
		} else {
			acks = append(acks, AckEntry{Handle: m.Handle})
		}
	}
	d.Release()
	if len(acks) > 0 {
		if _, err := br.Ack(b.Context(), name("G"), name("T"), acks); err != nil {
			b.Error(err)
		}
	}
	return done + int64(len(acks))
}
