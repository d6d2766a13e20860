package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/gantry-mq/gantry/client"
)

const (
	clientStreams = "gantry.v1, Go client"
	clientTag     = clientStreams + ", tag filter"
	clientSQL     = clientStreams + ", SQL filter"
)

// streams is the load over gantry.v1, by Gantry's Go client, as franz-go is used
// for Kafka: one connection, one producer or reader, the client's own batches.
// Every message has a tag, and every one is what the filters ask for: filtering
// is done, and nothing gets out of being sent.
type streams struct {
	config
	addrs  []string // of the nodes
	topics func(ctx context.Context, prefix string, count, perTopic int) error

	made map[string]bool
	sent map[string]int64 // messages in a topic
}

func (s *streams) phases() []phase {
	var all []phase
	for _, size := range []int{1024, 100} {
		topic := fmt.Sprintf("streams-%d", size)
		all = append(all, phase{Shape: shapePublish, Client: clientStreams, Size: size,
			prepare: func(ctx context.Context) error { return s.topic(ctx, topic, 1, queues) },
			run: func(ctx context.Context, length time.Duration) (outcome, error) {
				return s.publish(ctx, []string{topic}, size, length)
			}})
	}
	for _, size := range []int{1024, 100} {
		topic := fmt.Sprintf("streams-%d", size)
		filled := func(ctx context.Context) error {
			if err := s.topic(ctx, topic, 1, queues); err != nil || s.sent[topic] > 0 {
				return err
			}
			_, err := s.publish(ctx, []string{topic}, size, 2*s.length)
			return err
		}
		for _, r := range []client.ReaderOptions{{}, {Tag: "A"}, {SQL: "TAGS = 'A'"}} {
			r.Topic, r.Start = topic, client.Earliest
			name := clientStreams
			if r.Tag != "" {
				name = clientTag
			} else if r.SQL != "" {
				name = clientSQL
			}
			all = append(all, phase{Shape: shapeConsume, Client: name, Size: size, asyncOnly: true, prepare: filled,
				run: func(ctx context.Context, length time.Duration) (outcome, error) { return s.consume(ctx, r, length) }})
		}
	}
	for _, shape := range []string{shapeSend, shapeThrough} {
		topic := map[string]string{shapeSend: "streams-rate", shapeThrough: "streams-through"}[shape]
		all = append(all, phase{Shape: shape, Client: clientStreams, Size: 1024,
			prepare: func(ctx context.Context) error { return s.topic(ctx, topic, 1, queues) },
			run: func(ctx context.Context, length time.Duration) (outcome, error) {
				return s.rate(ctx, topic, 1024, s.ratedIn(length), shape == shapeThrough)
			}})
	}
	return append(all, phase{Shape: shapeMany, Client: clientStreams, Size: 1024, asyncOnly: true,
		prepare: func(ctx context.Context) error {
			return s.topic(ctx, "streams-many", s.queues/queuesOfMany, queuesOfMany)
		},
		run: func(ctx context.Context, length time.Duration) (outcome, error) {
			return s.publish(ctx, topicNames("streams-many", s.queues/queuesOfMany), 1024, length)
		}})
}

func (s *streams) topic(ctx context.Context, prefix string, count, perTopic int) error {
	if s.made[prefix] {
		return nil
	}
	if s.made == nil {
		s.made, s.sent = map[string]bool{}, map[string]int64{}
	}
	s.made[prefix] = true
	return s.topics(ctx, prefix, count, perTopic)
}

func (s *streams) dial(ctx context.Context) (*client.Client, error) {
	return client.Dial(ctx, s.addrs, client.Options{})
}

// publish sends to topics in turn, flat out for length.
func (s *streams) publish(ctx context.Context, topics []string, size int, length time.Duration) (outcome, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c, err := s.dial(ctx)
	if err != nil {
		return outcome{}, err
	}
	defer c.Close(ctx)
	p, err := c.NewProducer(client.ProducerOptions{})
	if err != nil {
		return outcome{}, err
	}
	body := bytes.Repeat([]byte("peers-bench-"), size/12+1)[:size]
	var done atomic.Int64
	acked := func(_ client.Result, err error) {
		if err != nil {
			cancel(err)
			return
		}
		done.Add(1)
	}
	begun := time.Now()
	for i := 0; ctx.Err() == nil && (i%64 != 0 || time.Since(begun) < length); i++ {
		if err := p.Publish(ctx, &client.Message{Topic: topics[i%len(topics)], Body: body, Tag: "A"}, acked); err != nil {
			return outcome{}, errors.Join(err, context.Cause(ctx))
		}
	}
	if err := p.Flush(ctx); err != nil {
		return outcome{}, errors.Join(err, context.Cause(ctx))
	}
	n := done.Load()
	if len(topics) == 1 {
		s.sent[topics[0]] += n
	}
	return outcome{Messages: n, Rate: float64(n) / time.Since(begun).Seconds()}, context.Cause(ctx)
}

// consume reads the topic from its beginning, until its end or length is over.
func (s *streams) consume(ctx context.Context, o client.ReaderOptions, length time.Duration) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	c, err := s.dial(ctx)
	if err != nil {
		return outcome{}, err
	}
	defer c.Close(ctx)
	r, err := c.NewReader(o)
	if err != nil {
		return outcome{}, err
	}
	begun := time.Now()
	var n int64
	for n < s.sent[o.Topic] && time.Since(begun) < length {
		b, err := r.Batch(ctx)
		if err != nil {
			return outcome{}, err
		}
		for rec, err := range b.Records() {
			if err != nil {
				return outcome{}, err
			}
			if len(rec.Body()) == 0 {
				return outcome{}, errors.New("a message has no body")
			}
			n++
		}
		b.Release()
	}
	return outcome{Messages: n, Rate: float64(n) / time.Since(begun).Seconds()}, nil
}

// rate sends n messages in an open loop, without linger, as one does for latency.
// With through a reader on a connection of its own gets them meanwhile.
func (s *streams) rate(ctx context.Context, topic string, size, n int, through bool) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(n)*time.Second/openRate+time.Minute)
	defer cancel()
	c, err := s.dial(ctx)
	if err != nil {
		return outcome{}, err
	}
	defer c.Close(ctx)
	p, err := c.NewProducer(client.ProducerOptions{Topic: topic, Linger: -1, MaxBuffered: 2 * n * size}) // nobody waits before it is sent
	if err != nil {
		return outcome{}, err
	}
	l := openLoop{size: size, n: n}
	// The stream and the producer's numbers are there before the clock runs.
	if _, err := p.Send(ctx, &client.Message{Body: l.body(time.Unix(0, 0))}); err != nil {
		return outcome{}, err
	}
	var receive func() error
	if through {
		rc, err := s.dial(ctx)
		if err != nil {
			return outcome{}, err
		}
		defer rc.Close(ctx)
		r, err := rc.NewReader(client.ReaderOptions{Topic: topic, Start: client.Earliest})
		if err != nil {
			return outcome{}, err
		}
		// What is there already, the first message at least, shows that it reads.
		b, err := r.Batch(ctx)
		if err != nil {
			return outcome{}, err
		}
		b.Release()
		receive = func() error {
			b, err := r.Batch(ctx)
			if err != nil {
				return err
			}
			now := time.Now()
			for rec, err := range b.Records() {
				if err != nil {
					return err
				}
				l.arrive(now, rec.Body())
			}
			b.Release()
			return nil
		}
	}
	return l.run(ctx, func(body []byte, done func(error)) {
		if err := p.Publish(ctx, &client.Message{Body: body}, func(_ client.Result, err error) { done(err) }); err != nil {
			done(err)
		}
	}, receive)
}
