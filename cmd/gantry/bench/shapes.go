package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/gantry-mq/gantry/client"
)

// senders runs the producers of a phase.
func (b *bench) senders(ctx context.Context, m *meter, s sender) error {
	producers := make([]*client.Producer, b.Producers)
	for i := range producers {
		c, err := b.dial(ctx)
		if err != nil {
			return err
		}
		if producers[i], err = c.NewProducer(client.ProducerOptions{BatchBytes: b.Batch, Compression: b.compression}); err != nil {
			return err
		}
	}
	return each(ctx, len(producers), func(ctx context.Context, i int) error {
		own := s
		own.b, own.m, own.p, own.from, own.of = b, m, producers[i], i, len(producers)
		return own.run(ctx)
	})
}

func (b *bench) publish(ctx context.Context) error {
	if b.Shape == "transactions" {
		return b.transactions(ctx)
	}
	return b.phase(ctx, b.Shape, func(ctx context.Context, m *meter) error {
		return b.senders(ctx, m, sender{rate: b.Rate, count: b.Count, until: b.Duration})
	})
}

// fill sends what the shapes that read find there. Its rate is nobody's business.
func (b *bench) fill(ctx context.Context) (int, error) {
	n := b.Count
	if n == 0 {
		n = prefill
	}
	fmt.Fprintf(b.Progress, "sending %d messages of %d bytes ahead\n", n, b.Size)
	m := &meter{interval: newHistogram(), total: newHistogram()}
	err := b.senders(ctx, m, sender{count: n})
	if e := m.errors.Load(); err == nil && e > 0 {
		err = fmt.Errorf("%d messages were refused", e)
	}
	return n, err
}

// expected is how many of n messages the filter matches.
func (b *bench) expected(n int, filter string) int64 {
	if filter == "" || filter == "none" {
		return int64(n)
	}
	return int64(float64(n) * b.Match)
}

func filters(filter string) (tag, sql string) {
	switch filter {
	case "tag":
		return hit, ""
	case "sql":
		return "", "TAGS = '" + hit + "'"
	}
	return "", ""
}

// consume reads all queues of the topic by offset, each reader its share of them.
func (b *bench) consume(ctx context.Context, filter string) error {
	if len(b.results) == 0 {
		if _, err := b.fill(ctx); err != nil {
			return err
		}
	}
	n := b.Count
	if n == 0 {
		n = prefill
	}
	want := b.expected(n, filter)
	name := "consume"
	if filter != "" && filter != "none" {
		name += "-" + filter
	}
	readers := make([]*client.Reader, b.Consumers)
	for i := range readers {
		c, err := b.dial(ctx)
		if err != nil {
			return err
		}
		defer c.Close(ctx)
		tag, sql := filters(filter)
		offsets := map[uint32]int64{}
		for q := i; q < b.Queues*b.shards; q += b.Consumers {
			offsets[client.Queue(uint32(q/b.Queues), uint32(q%b.Queues))] = 0
		}
		if len(offsets) == 0 {
			return errors.New("there are more consumers than queues")
		}
		if readers[i], err = c.NewReader(client.ReaderOptions{Topic: b.topics[0], Tag: tag, SQL: sql, Offsets: offsets, FrameBytes: b.Batch}); err != nil {
			return err
		}
	}
	return b.phase(ctx, name, func(ctx context.Context, m *meter) error {
		ctx, done := context.WithCancel(ctx)
		defer done()
		err := each(ctx, len(readers), func(ctx context.Context, i int) error {
			for {
				batch, err := readers[i].Batch(ctx)
				if err != nil {
					return err
				}
				k := int64(0)
				for rec, err := range batch.Records() {
					if err != nil {
						return err
					}
					if len(rec.Body()) != b.Size {
						return fmt.Errorf("a body has %d bytes", len(rec.Body()))
					}
					k++
				}
				batch.Release()
				if m.messages.Add(k) >= want {
					done()
				}
			}
		})
		return finished(err, m.messages.Load(), want)
	})
}

// finished forgives the end of a context that was ended because all was done.
func finished(err error, got, want int64) error {
	if got >= want && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// consumers runs handle for each message of the topics, under leases, for every
// group, until ctx is done.
func (b *bench) consumers(ctx context.Context, groups int, handle func(*client.Delivery)) error {
	type one struct{ group, topic string }
	var all []one
	stamp := time.Now().UnixNano()
	for g := range groups {
		for i := range b.Consumers {
			all = append(all, one{fmt.Sprintf("bench-%d-%d", stamp, g), b.topics[i%len(b.topics)]})
		}
	}
	consumers := make([]*client.Consumer, len(all))
	for i, o := range all {
		c, err := b.dial(ctx)
		if err != nil {
			return err
		}
		tag, sql := filters(b.Filter)
		if consumers[i], err = c.NewConsumer(client.ConsumerOptions{Group: o.group, Topic: o.topic, Tag: tag, SQL: sql, Prefetch: 16384}); err != nil {
			return err
		}
	}
	return each(ctx, len(consumers), func(ctx context.Context, i int) error {
		for d, err := range consumers[i].Messages(ctx) {
			if err != nil {
				return err
			}
			handle(d)
		}
		return nil
	})
}

func (b *bench) receive(ctx context.Context) error {
	n, err := b.fill(ctx)
	if err != nil {
		return err
	}
	want := b.expected(n, b.Filter)
	return b.phase(ctx, "receive", func(ctx context.Context, m *meter) error {
		ctx, done := context.WithCancel(ctx)
		defer done()
		err := b.consumers(ctx, 1, func(d *client.Delivery) {
			d.AckAsync(func(err error) {
				if err != nil {
					m.errors.Add(1)
				} else if m.messages.Add(1) >= want {
					done()
				}
			})
		})
		return finished(err, m.messages.Load(), want)
	})
}

// endToEnd receives what is sent meanwhile. What it counts are deliveries.
func (b *bench) endToEnd(ctx context.Context) error {
	if b.Size < 8 {
		return errors.New("bodies of this shape hold their time: at least 8 bytes")
	}
	groups := 1
	if b.Shape == "fanout" {
		groups = b.Groups
	}
	return b.phase(ctx, b.Shape, func(ctx context.Context, m *meter) error {
		ctx, done := context.WithCancel(ctx)
		defer done()
		var got atomic.Int64
		var want atomic.Int64
		received := make(chan error, 1)
		go func() {
			received <- b.consumers(ctx, groups, func(d *client.Delivery) {
				m.observe(time.Since(time.Unix(0, int64(binary.LittleEndian.Uint64(d.Body())))))
				d.AckAsync(nil)
				m.messages.Add(1)
				if w := want.Load(); got.Add(1) >= w && w > 0 {
					done()
				}
			})
		}()
		sends := &meter{interval: newHistogram(), total: newHistogram()}
		err := b.senders(ctx, sends, sender{rate: b.Rate, count: b.Count, until: b.Duration, stamp: true})
		m.errors.Add(sends.errors.Load())
		if err != nil {
			done()
			<-received
			return err
		}
		want.Store(sends.messages.Load() * int64(groups))
		if got.Load() >= want.Load() {
			done()
		}
		return finished(<-received, got.Load(), want.Load())
	})
}

// delay sends messages that are due at one instant and reads the queues until all
// are there.
func (b *bench) delay(ctx context.Context) error {
	n := b.Count
	if n == 0 {
		n = prefill
	}
	ahead := time.Duration(float64(n)/100_000*float64(time.Second)) + 5*time.Second
	due := time.Now().Add(ahead).Truncate(time.Millisecond)
	fmt.Fprintf(b.Progress, "sending %d messages that are due in %v\n", n, ahead.Round(time.Second))
	c, err := b.dial(ctx)
	if err != nil {
		return err
	}
	p, err := c.NewProducer(client.ProducerOptions{Topic: b.topics[0], BatchBytes: b.Batch, Compression: b.compression})
	if err != nil {
		return err
	}
	for i := range n {
		if err := p.Publish(ctx, &client.Message{Body: b.payload.body(i), DeliverAt: due}, nil); err != nil {
			return err
		}
	}
	if err := p.Flush(ctx); err != nil {
		return err
	}
	if time.Now().After(due) {
		return fmt.Errorf("%d messages took longer to send than they were to wait", n)
	}
	r, err := c.NewReader(client.ReaderOptions{Topic: b.topics[0], Start: client.Earliest})
	if err != nil {
		return err
	}
	sleep(ctx, time.Until(due))
	return b.phase(ctx, "delay", func(ctx context.Context, m *meter) error {
		for m.messages.Load() < int64(n) {
			batch, err := r.Batch(ctx)
			if err != nil {
				return err
			}
			late := time.Since(due)
			if late < 0 {
				return fmt.Errorf("a message came %v before it was due", -late)
			}
			k := batch.Len()
			for range k {
				m.observe(late)
			}
			batch.Release()
			m.messages.Add(int64(k))
		}
		return nil
	})
}

// transactions begins and commits, Producers callers on a connection each, 16
// transactions under way in each.
func (b *bench) transactions(ctx context.Context) error {
	const each1 = 16
	return b.phase(ctx, "transactions", func(ctx context.Context, m *meter) error {
		begun := time.Now()
		var taken atomic.Int64
		producers := make([]*client.Producer, b.Producers)
		for i := range producers {
			c, err := b.dial(ctx)
			if err != nil {
				return err
			}
			if producers[i], err = c.NewProducer(client.ProducerOptions{Topic: b.topics[0], Linger: -1, Compression: b.compression}); err != nil {
				return err
			}
		}
		return each(ctx, b.Producers*each1, func(ctx context.Context, i int) error {
			p := producers[i%len(producers)]
			for b.Duration == 0 || time.Since(begun) < b.Duration {
				k := taken.Add(1)
				if b.Count > 0 && k > int64(b.Count) {
					return nil
				}
				sent := time.Now()
				t, err := p.Begin(ctx, &client.Message{Body: b.payload.body(int(k))}, 0)
				if err == nil {
					err = t.Commit(ctx)
				}
				if err != nil {
					return err
				}
				m.messages.Add(1)
				m.observe(time.Since(sent))
			}
			return nil
		})
	})
}

// backlog drains a backlog while new messages arrive at the rate.
func (b *bench) backlog(ctx context.Context) error {
	n, err := b.fill(ctx)
	if err != nil {
		return err
	}
	return b.phase(ctx, "backlog", func(ctx context.Context, m *meter) error {
		ctx, done := context.WithCancel(ctx)
		defer done()
		sending := make(chan error, 1)
		go func() {
			if b.Rate == 0 {
				sending <- nil
				return
			}
			sending <- b.senders(ctx, &meter{interval: newHistogram(), total: newHistogram()}, sender{rate: b.Rate})
		}()
		err := b.consumers(ctx, 1, func(d *client.Delivery) {
			d.AckAsync(nil)
			if m.messages.Add(1) >= int64(n) {
				done()
			}
		})
		return errors.Join(finished(err, m.messages.Load(), int64(n)), finished(<-sending, m.messages.Load(), int64(n)))
	})
}
