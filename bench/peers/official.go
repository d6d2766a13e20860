package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/gantry-mq/gantry/test/bench/load"
)

const (
	callers = 64
	conns   = 8

	clientOne     = "gRPC, 64 callers"
	clientBatch   = "gRPC, 32 a call, 64 callers"
	clientReceive = "gRPC, receive and acknowledge 32 a call, 64 callers"
)

// official is the load over apache.rocketmq.v2, the same for whoever serves it.
type official struct {
	config
	addr string
	// topics makes those of topicNames, with so many queues each, and the group
	// readers-PREFIX.
	topics func(ctx context.Context, prefix string, count, perTopic int) error

	loads map[string]*load.Load // by prefix
}

func (o *official) phases() []phase {
	var all []phase
	add := func(shape, client string, size int, w load.Work) {
		all = append(all, phase{Shape: shape, Client: client, Size: size,
			prepare: func(ctx context.Context) error {
				l, err := o.load(ctx, fmt.Sprintf("official-%d", size), size)
				if err != nil || w.Acks == 0 {
					return err
				}
				// Something to receive for all of the phase, whatever the others left.
				want := int64(80_000 * (o.length + o.warm + o.warmFirst).Seconds())
				if l.Left() >= want {
					return nil
				}
				return l.Send(ctx, want-l.Left(), 32)
			},
			run: func(ctx context.Context, length time.Duration) (outcome, error) {
				l, err := o.load(ctx, fmt.Sprintf("official-%d", size), size)
				if err != nil {
					return outcome{}, err
				}
				done, err := l.Run(ctx, w, length)
				return outcome{Messages: done.Messages, Rate: float64(done.Messages) / done.Took.Seconds(), Refused: done.Refused}, err
			}})
	}
	for _, size := range []int{1024, 100} {
		add(shapeSingle, clientOne, size, load.Work{Batch: 1})
		add(shapePublish, clientBatch, size, load.Work{Batch: 32})
	}
	add(shapeAckEach, "gRPC, receive 32 a call, 64 callers", 1024, load.Work{Batch: 32, Acks: 1})
	for _, size := range []int{1024, 100} {
		add(shapeConsume, clientReceive, size, load.Work{Batch: 32, Acks: 32})
	}
	for _, p := range []struct {
		shape, topic string
		consumers    int
	}{{shapeSend, "official-rate", 0}, {shapeThrough, "official-through", conns}} {
		all = append(all, phase{Shape: p.shape, Client: "gRPC", Size: 1024, run: func(ctx context.Context, length time.Duration) (outcome, error) {
			l, err := o.load(ctx, p.topic, 1024)
			if err != nil {
				return outcome{}, err
			}
			n := o.ratedIn(length)
			r, err := l.Rate(ctx, openRate, n, p.consumers)
			return outcome{Messages: int64(n), Send: percentilesOf(r.Send), EndToEnd: percentilesOf(r.EndToEnd)}, err
		}})
	}
	return all
}

// many is the phase that publishes to o.queues queues.
func (o *official) many() phase {
	return phase{Shape: shapeMany, Client: clientBatch, Size: 1024, asyncOnly: true,
		run: func(ctx context.Context, length time.Duration) (outcome, error) {
			l, err := o.dial(ctx, "many", o.queues/queuesOfMany, queuesOfMany, 1024)
			if err != nil {
				return outcome{}, err
			}
			done, err := l.Run(ctx, load.Work{Batch: 32}, length)
			return outcome{Messages: done.Messages, Rate: float64(done.Messages) / done.Took.Seconds(), Refused: done.Refused}, err
		}}
}

func (o *official) load(ctx context.Context, topic string, size int) (*load.Load, error) {
	return o.dial(ctx, topic, 1, queues, size)
}

func (o *official) dial(ctx context.Context, prefix string, count, perTopic, size int) (*load.Load, error) {
	if l, ok := o.loads[prefix]; ok {
		return l, nil
	}
	if err := o.topics(ctx, prefix, count, perTopic); err != nil {
		return nil, err
	}
	l, err := load.Dial(ctx, load.Options{Addr: o.addr, Topics: topicNames(prefix, count), Group: "readers-" + prefix,
		Callers: callers, Conns: conns, Size: size})
	if err != nil {
		return nil, err
	}
	if o.loads == nil {
		o.loads = map[string]*load.Load{}
	}
	o.loads[prefix] = l
	return l, nil
}

// topicNames is prefix alone for one topic, else prefix-0 and on.
func topicNames(prefix string, count int) []string {
	if count == 1 {
		return []string{prefix}
	}
	names := make([]string, count)
	for i := range names {
		names[i] = fmt.Sprintf("%s-%d", prefix, i)
	}
	return names
}

func (o *official) close() {
	for _, l := range o.loads {
		l.Close()
	}
}

// dialable succeeds when something listens at addr.
func dialable(addr string) func(context.Context) error {
	return func(ctx context.Context) error {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		return c.Close()
	}
}
