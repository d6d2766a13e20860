package main

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

// A sent is what sending left behind: the id that each flight was acknowledged under, and how often a send had to be repeated.
type sent struct {
	ids      []string // by index of the flight
	repeated atomic.Int64
	done     atomic.Int64
	took     time.Duration
}

// sendAll sends every flight, with many goroutines over a few clients, and repeats a send until it is acknowledged.
// It stops early when ctx ends.
func sendAll(ctx context.Context, o *options, flights []flight, s *sent) error {
	s.ids = make([]string, len(flights))
	begun := time.Now()
	producers := make([]rmq.Producer, o.producers)
	for i := range producers {
		p, err := rmq.NewProducer(o.config(""), rmq.WithTopics(o.topic))
		if err == nil {
			err = p.Start()
		}
		if err != nil {
			return err
		}
		defer p.GracefulStop()
		producers[i] = p
	}
	var next atomic.Int64
	var senders sync.WaitGroup
	for i := range o.senders {
		p := producers[i%len(producers)]
		senders.Go(func() {
			for ctx.Err() == nil {
				n := int(next.Add(1)) - 1
				if n >= len(flights) {
					return
				}
				s.ids[n] = s.send(ctx, p, flights[n].message(o.topic))
				s.done.Add(1)
			}
		})
	}
	senders.Wait()
	s.took = time.Since(begun)
	return ctx.Err()
}

func (s *sent) send(ctx context.Context, p rmq.Producer, m *rmq.Message) string {
	for ctx.Err() == nil {
		receipts, err := p.Send(ctx, m)
		if err == nil {
			return receipts[0].MessageID
		}
		s.repeated.Add(1)
		pause(ctx, 100*time.Millisecond)
	}
	return ""
}

// pause waits, or returns when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
