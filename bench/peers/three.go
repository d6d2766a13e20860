package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
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

// cluster is a server of three nodes.
type cluster struct {
	nodes   []*process
	topic   func(ctx context.Context, name string) error
	publish func(ctx context.Context, topics []string, size int, length time.Duration) (outcome, error)
	rate    func(ctx context.Context, topic string, size, n int, through bool) (outcome, error)
	kill    func(ctx context.Context) error        // a node that leads, as a power cut would
	spare   func(ctx context.Context) (int, error) // a node that others can do without
	data    func(i int) string                     // directory of node i
	launch  func(ctx context.Context, i int) (*process, error)
	// inSync reports whether the nodes that have all, of each part there is, are as many
	// as enough says.
	inSync func(ctx context.Context, enough func(nodes int) bool) (bool, error)
}

// lose ends a node, with all that it had, and returns which when the others know.
func (s cluster) lose(ctx context.Context) (i int, err error) {
	if i, err = s.spare(ctx); err != nil {
		return 0, err
	}
	s.nodes[i].stop()
	if err := os.RemoveAll(s.data(i)); err != nil {
		return 0, err
	}
	return i, until(ctx, func() (bool, error) { return s.inSync(ctx, func(n int) bool { return n < len(s.nodes) }) })
}

// regain starts a node that was lost, and returns when it has all again.
func (s cluster) regain(ctx context.Context, i int) error {
	p, err := s.launch(ctx, i)
	if err != nil {
		return err
	}
	s.nodes[i] = p
	return until(ctx, func() (bool, error) { return s.inSync(ctx, func(n int) bool { return n == len(s.nodes) }) })
}

// lostBytes is how much a node that is lost has had, in bytes of bodies, at least.
const lostBytes = 3 << 30

// threeNodePhases is what three nodes do: clients' batches, a rate, one comes back with
// nothing, and the same rate while a node is killed, which is the last.
func threeNodePhases(client string, s cluster, c config) []phase {
	bodies := int64(0) // bytes, published by clients; what a rate adds is nothing beside it
	publish := func(ctx context.Context, topic string, size int, length time.Duration) (outcome, error) {
		o, err := s.publish(ctx, []string{topic}, size, length)
		bodies += o.Messages * int64(size)
		return o, err
	}
	var all []phase
	for _, size := range []int{1024, 100} {
		name := fmt.Sprintf("three-%d", size)
		all = append(all, phase{Shape: shapePublish3, Client: client, Size: size,
			prepare: func(ctx context.Context) error { return s.topic(ctx, name) },
			run: func(ctx context.Context, length time.Duration) (outcome, error) {
				return publish(ctx, name, size, length)
			}})
	}
	prepare := func(ctx context.Context) error { return s.topic(ctx, "three-rate") }
	return append(all,
		phase{Shape: shapeSend3, Client: client, Size: 1024, prepare: prepare,
			run: func(ctx context.Context, length time.Duration) (outcome, error) {
				return s.rate(ctx, "three-rate", 1024, c.ratedIn(length), false)
			}},
		phase{Shape: shapeLost3, Client: client, Size: 1024, cold: true, kills: true, asyncOnly: true,
			prepare: func(ctx context.Context) error {
				err := s.topic(ctx, "three-lost")
				for err == nil && bodies < lostBytes {
					_, err = publish(ctx, "three-lost", 1024, c.length)
				}
				return err
			},
			run: func(ctx context.Context, _ time.Duration) (outcome, error) {
				i, err := s.lose(ctx)
				if err != nil {
					return outcome{}, err
				}
				begun := time.Now()
				err = s.regain(ctx, i)
				return outcome{Regained: time.Since(begun).Seconds() / (float64(bodies) / 1e9)}, err
			}},
		phase{Shape: shapeKill3, Client: client, Size: 1024, prepare: prepare, cold: true, kills: true, asyncOnly: true,
			run: func(ctx context.Context, _ time.Duration) (outcome, error) {
				killed := make(chan error, 1)
				go func() {
					time.Sleep(killAfter)
					killed <- s.kill(ctx)
				}()
				o, err := s.rate(ctx, "three-rate", 1024, int(killLength.Seconds())*openRate, false)
				if k := <-killed; err == nil {
					err = k
				}
				return o, err
			}})
}

// until asks five times a second until the answer is yes, for phaseLimit at most.
func until(ctx context.Context, ask func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, phaseLimit)
	defer cancel()
	for {
		yes, err := ask()
		if yes && err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}
