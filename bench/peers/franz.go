package main

import (
	"bytes"
	"context"
	"errors"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// publish produces to topics in turn, flat out for length, with the settings of
// kafkaProducer as franz-go calls them.
func (s *kafkaServer) publish(ctx context.Context, topics []string, size int, length time.Duration) (outcome, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.seeds...),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.ProducerBatchMaxBytes(200_000),
		kgo.ProducerLinger(10*time.Millisecond),
		kgo.MaxBufferedRecords(64<<20/size), // buffer.memory
	)
	if err != nil {
		return outcome{}, err
	}
	defer cl.Close()
	body := bytes.Repeat([]byte("peers-bench-"), size/12+1)[:size]
	var done atomic.Int64
	acked := func(_ *kgo.Record, err error) {
		if err != nil {
			cancel(err)
			return
		}
		done.Add(1)
	}
	begun := time.Now()
	for i := 0; ctx.Err() == nil && (i%64 != 0 || time.Since(begun) < length); i++ {
		cl.Produce(ctx, &kgo.Record{Topic: topics[i%len(topics)], Value: body}, acked)
	}
	if err := cl.Flush(ctx); err != nil {
		return outcome{}, errors.Join(err, context.Cause(ctx))
	}
	n := done.Load()
	o := outcome{Messages: n, Rate: float64(n) / time.Since(begun).Seconds()}
	if len(topics) == 1 {
		s.sent[topics[0]] += n
		s.rates[topics[0]] = o.Rate
	}
	return o, context.Cause(ctx)
}

// consume fetches the topic from its beginning, until its end or length is over.
func (s *kafkaServer) consume(ctx context.Context, topic string, length time.Duration) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.seeds...), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return outcome{}, err
	}
	defer cl.Close()
	begun := time.Now()
	var n int64
	for n < s.sent[topic] && time.Since(begun) < length {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return outcome{}, err
		}
		n += int64(fetches.NumRecords())
	}
	return outcome{Messages: n, Rate: float64(n) / time.Since(begun).Seconds()}, nil
}

// rate produces n messages in an open loop, without linger, as one does for
// latency. With through a consumer of its own fetches them meanwhile.
func (s *kafkaServer) rate(ctx context.Context, topic string, size, n int, through bool) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(n)*time.Second/openRate+time.Minute)
	defer cancel()
	producer, err := kgo.NewClient(kgo.SeedBrokers(s.seeds...), kgo.DefaultProduceTopic(topic), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerLinger(0), kgo.MaxBufferedRecords(n+1))
	if err != nil {
		return outcome{}, err
	}
	defer producer.Close()
	l := openLoop{size: size, n: n}
	// Connections and the producer's id are there before the clock runs.
	if err := producer.ProduceSync(ctx, &kgo.Record{Value: l.body(time.Unix(0, 0))}).FirstErr(); err != nil {
		return outcome{}, err
	}
	var receive func() error
	if through {
		consumer, err := kgo.NewClient(kgo.SeedBrokers(s.seeds...), kgo.ConsumeTopics(topic),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		if err != nil {
			return outcome{}, err
		}
		defer consumer.Close()
		// What is there already, the first message at least, shows that it fetches.
		if err := consumer.PollFetches(ctx).Err(); err != nil {
			return outcome{}, err
		}
		receive = func() error {
			fetches := consumer.PollFetches(ctx)
			if err := fetches.Err(); err != nil {
				return err
			}
			now := time.Now()
			fetches.EachRecord(func(r *kgo.Record) { l.arrive(now, r.Value) })
			return nil
		}
	}
	return l.run(ctx, func(body []byte, done func(error)) {
		producer.Produce(ctx, &kgo.Record{Value: body}, func(_ *kgo.Record, err error) { done(err) })
	}, receive)
}

func percentilesOf(d []time.Duration) *percentiles {
	d = slices.Sorted(slices.Values(d))
	at := func(p float64) float64 {
		i := max(0, min(len(d)-1, int(p*float64(len(d)))))
		return float64(d[i]) / float64(time.Microsecond)
	}
	if len(d) == 0 {
		return nil
	}
	return &percentiles{P50: at(0.5), P99: at(0.99), P999: at(0.999), Max: at(1)}
}

// ratedIn is how many messages of the fixed rate go into a phase: all that were
// asked for, or, warming up, what fits.
func (c config) ratedIn(length time.Duration) int {
	if length == c.length {
		return c.rated
	}
	return int(length.Seconds() * openRate)
}

func moduleVersion(path string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, d := range info.Deps {
		if d.Path == path {
			return d.Version
		}
	}
	return "unknown"
}
