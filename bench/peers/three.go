package main

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"
)

// killAfter is when in a phase of killLength a node is killed.
const (
	killAfter  = 3 * time.Second
	killLength = 30 * time.Second
)

// port is the address of node i, from 0, of three: that of the first with its port
// raised by 100 for each before it.
func port(first string, i int) string {
	host, text, err := net.SplitHostPort(first)
	number, err2 := strconv.Atoi(text)
	if err != nil || err2 != nil {
		panic("not an address: " + first)
	}
	return net.JoinHostPort(host, fmt.Sprint(number+100*i))
}

// threeNodePhases is what three nodes do: clients' batches, a rate, and the same rate
// while a node is killed, which is the last.
func threeNodePhases(client string, topic func(context.Context, string) error,
	publish func(ctx context.Context, topics []string, size int, length time.Duration) (outcome, error),
	rate func(ctx context.Context, topic string, size, n int, through bool) (outcome, error),
	kill func(context.Context) error, c config) []phase {
	var all []phase
	for _, size := range []int{1024, 100} {
		name := fmt.Sprintf("three-%d", size)
		all = append(all, phase{Shape: shapePublish3, Client: client, Size: size,
			prepare: func(ctx context.Context) error { return topic(ctx, name) },
			run: func(ctx context.Context, length time.Duration) (outcome, error) {
				return publish(ctx, []string{name}, size, length)
			}})
	}
	prepare := func(ctx context.Context) error { return topic(ctx, "three-rate") }
	return append(all,
		phase{Shape: shapeSend3, Client: client, Size: 1024, prepare: prepare,
			run: func(ctx context.Context, length time.Duration) (outcome, error) {
				return rate(ctx, "three-rate", 1024, c.ratedIn(length), false)
			}},
		phase{Shape: shapeKill3, Client: client, Size: 1024, prepare: prepare, cold: true, last: true, asyncOnly: true,
			run: func(ctx context.Context, _ time.Duration) (outcome, error) {
				killed := make(chan error, 1)
				go func() {
					time.Sleep(killAfter)
					killed <- kill(ctx)
				}()
				o, err := rate(ctx, "three-rate", 1024, int(killLength.Seconds())*openRate, false)
				if k := <-killed; err == nil {
					err = k
				}
				return o, err
			}})
}
