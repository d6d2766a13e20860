package history

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	streams "github.com/gantry-mq/gantry/client"
	"github.com/gantry-mq/gantry/test/history/check"
)

// streamTopic is written and read by gantry.v1 alone, in message groups.
const streamTopic = "streamed"

// streamer sends or receives by our own client, which keeps its streams going by
// itself: what it says of a message is final. It belongs to one goroutine.
type streamer struct {
	*recorder
	*rand.Rand
	name string
	c    *streams.Client
}

func newStreamer(t *testing.T, r *recorder, servers []string, name string, seed uint64) streamer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startLimit)
	defer cancel()
	c, err := streams.Dial(ctx, servers, streams.Options{ID: name, Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	t.Cleanup(func() { c.Close(context.Background()) })
	return streamer{recorder: r, name: name, c: c, Rand: rand.New(rand.NewPCG(seed, check.Sum([]byte(name))))}
}

// produce sends bursts without waiting for answers, until stop. All of it counts as one
// call: messages of one group are stored in the order in which they were given to the
// producer, and each once, however often it was sent.
func (s *streamer) produce(t *testing.T, stop <-chan struct{}) {
	p, err := s.c.NewProducer(streams.ProducerOptions{Topic: streamTopic, Compression: streams.Compression(s.IntN(4))})
	if err != nil {
		t.Error(err)
		return
	}
	call := int(s.calls.Add(1))
	for n := 0; ; n++ {
		if s.IntN(8) == 0 {
			select {
			case <-time.After(time.Duration(s.Int64N(int64(20 * time.Millisecond)))):
			case <-stop:
				if err := p.Close(context.Background()); err != nil {
					t.Errorf("%s: close: %v", s.name, err)
				}
				return
			}
		}
		m := &streams.Message{ID: fmt.Sprintf("%s-%06d", s.name, n), Group: fmt.Sprintf("%s-%d", s.name, s.IntN(40)), Tag: tags[s.IntN(len(tags))]}
		m.Body = append([]byte(m.ID), make([]byte, s.IntN(2000))...)
		sent := check.Send{ID: m.ID, Topic: streamTopic, Group: m.Group, Tag: m.Tag, Body: check.Sum(m.Body), Call: call, Position: n, Begin: s.now()}
		err := p.Publish(context.Background(), m, func(r streams.Result, err error) {
			sent.OK, sent.Offset, sent.End = err == nil, r.Offset, s.now()
			s.AddSends(sent)
		})
		if err != nil {
			t.Errorf("%s: publish: %v", s.name, err)
			return
		}
	}
}

// consume receives and settles until ctx ends. Before drain it forgets messages now and
// then, or wants them again later.
func (s *streamer) consume(ctx context.Context, t *testing.T, g check.Consumers, drained func() bool) {
	co, err := s.c.NewConsumer(streams.ConsumerOptions{Group: g.Name, Topic: g.Topic, Tag: filter(g), Invisible: lease})
	if err != nil {
		t.Error(err)
		return
	}
	for d, err := range co.Messages(ctx) {
		if err != nil {
			t.Errorf("%s: receive: %v", s.name, err)
			return
		}
		got := check.Delivery{
			Consumers: g.Name, Slot: check.Slot{Topic: d.Topic(), Queue: int32(d.Queue()), Offset: d.Offset()},
			ID: d.ID(), Group: d.Group(), Tag: d.Tag(), Body: check.Sum(d.Body()), Attempt: int32(d.Attempt()), End: s.now(),
			// When it was handed out, by a clock that is never ahead.
			Begin: int64(d.LeaseEnd().Sub(s.began) - lease - time.Second),
		}
		s.AddDelivery(got)
		switch luck := s.IntN(200); {
		case drained() || luck >= 10:
			ack := check.Ack{Consumers: g.Name, Slot: got.Slot, Attempt: got.Attempt, Begin: s.now()}
			d.AckAsync(func(err error) {
				if errors.Is(err, streams.ErrLeaseLost) {
					return // that has settled nothing
				}
				ack.OK, ack.End = err == nil, s.now()
				s.AddAcks(ack)
			})
		case luck > 0:
			d.Retry(ctx, time.Duration(luck)*100*time.Millisecond)
		} // else it comes again when its lease ends; not often, as it counts against the prefetch
	}
	if err := co.Close(context.Background()); err != nil {
		t.Errorf("%s: close: %v", s.name, err)
	}
}
