package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gantry-mq/gantry/proto/gantryv1"
	"github.com/gantry-mq/gantry/test/bench/load"
	"github.com/gantry-mq/gantry/test/bench/meter"
	"github.com/gantry-mq/gantry/test/bench/text"
)

const (
	topicName = "bench"
	queues    = 16
)

// phase is one measured kind of work.
type phase struct {
	name string
	work load.Work
}

var phases = []phase{
	{"send, 1 message a call", load.Work{Batch: 1}},
	{"send, 32 messages a call", load.Work{Batch: 32}},
	{"receive 1 a call, ack it", load.Work{Batch: 1, Acks: 1}},
	{"receive 32 a call, ack each", load.Work{Batch: 32, Acks: 1}},
	{"receive 32 a call, ack 32 a call", load.Work{Batch: 32, Acks: 32}},
}

// wanted is the phases that the command line asked for.
func (c config) wanted() []phase {
	if c.phases == nil {
		return phases
	}
	return slices.DeleteFunc(slices.Clone(phases), func(p phase) bool { return !c.phases.MatchString(p.name) })
}

// cost is what a phase took in one run, per message where it says so.
type cost struct {
	rate   float64 // messages per second
	cpu    float64 // us of server CPU per message
	allocs float64 // heap allocations in the server per message
	bytes  float64 // heap bytes allocated in the server per message
}

// measureLoad runs every phase under both durabilities, in turns.
func measureLoad(ctx context.Context, c config, dir string, r *report) error {
	durabilities := []string{"sync", "unsafe-async"}
	costs := map[string][]cost{}
	for run := range c.repeats {
		for _, d := range durabilities {
			s, err := start(ctx, c, serverOptions{
				dir:  filepath.Join(dir, fmt.Sprintf("%s-%d", d, run)),
				args: []string{"--durability", d, fmt.Sprintf("--pprof=%t", c.profile != "")},
			})
			if err != nil {
				return err
			}
			err = measurePhases(ctx, c, s, func(p phase, k cost) {
				key := d + "/" + p.name
				costs[key] = append(costs[key], k)
			})
			if err != nil {
				s.kill()
				return fmt.Errorf("%w\n%s", err, s.stderr.String())
			}
			if err := s.stop(); err != nil {
				return err
			}
		}
	}
	var rows [][]string
	for _, p := range c.wanted() {
		for _, d := range durabilities {
			k := costs[d+"/"+p.name]
			column := func(of func(cost) float64) string {
				var v []float64
				for _, one := range k {
					v = append(v, of(one))
				}
				return text.Spread(v)
			}
			rows = append(rows, []string{p.name, d,
				column(func(k cost) float64 { return k.rate }), column(func(k cost) float64 { return k.cpu }),
				column(func(k cost) float64 { return k.allocs }), column(func(k cost) float64 { return k.bytes })})
		}
	}
	r.table(fmt.Sprintf("%d callers on %d connections, bodies of %d bytes", c.callers, c.conns, c.size),
		[]string{"work", "durability", "messages/s", "server CPU, us/message", "allocations/message", "bytes allocated/message"}, rows)
	return nil
}

func measurePhases(ctx context.Context, c config, s *server, report func(phase, cost)) error {
	l, err := dialLoad(ctx, c, s)
	if err != nil {
		return err
	}
	defer l.Close()
	length := time.Duration(c.seconds * float64(time.Second))
	for _, p := range c.wanted() {
		if p.work.Acks > 0 {
			// Something to receive, whatever the phases before left.
			if _, err := l.Run(ctx, load.Work{Batch: 64}, length/2); err != nil {
				return fmt.Errorf("filling: %w", err)
			}
		}
		k, err := measure(ctx, l, s, c.profile, p, length)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		report(p, k)
	}
	return nil
}

// dialLoad makes the topic when it is missing.
func dialLoad(ctx context.Context, c config, s *server) (*load.Load, error) {
	conn, err := s.dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_, err = gantryv1.NewManagementClient(conn).CreateTopic(ctx, &gantryv1.CreateTopicRequest{Name: topicName, Queues: queues})
	if err != nil && status.Code(err) != codes.AlreadyExists {
		return nil, err
	}
	return load.Dial(ctx, load.Options{
		Addr: s.clients, Topics: []string{topicName}, Group: "bench-readers", Callers: c.callers, Conns: c.conns, Size: c.size,
	})
}

// measure runs p and reads the server's meters around it.
func measure(ctx context.Context, l *load.Load, s *server, profile string, p phase, length time.Duration) (cost, error) {
	read := func() (cpu time.Duration, mallocs, heap float64, err error) {
		mallocs, err1 := s.metric("go_memstats_mallocs_total")
		heap, err2 := s.metric("go_memstats_alloc_bytes_total")
		cpu, err3 := meter.CPU(s.cmd.Process.Pid)
		return cpu, mallocs, heap, errors.Join(err1, err2, err3)
	}
	cpu0, mallocs0, heap0, err := read()
	if err != nil {
		return cost{}, err
	}
	stopProfile := s.profiled(profile, p.name, length)
	done, err := l.Run(ctx, p.work, length)
	if err = errors.Join(err, stopProfile()); err != nil {
		return cost{}, err
	}
	cpu1, mallocs1, heap1, err := read()
	if err != nil {
		return cost{}, err
	}
	if done.Messages == 0 || done.Refused > 0 {
		return cost{}, fmt.Errorf("%d messages got through, %d calls were refused", done.Messages, done.Refused)
	}
	per := float64(done.Messages)
	return cost{
		rate:   per / done.Took.Seconds(),
		cpu:    float64(cpu1-cpu0) / float64(time.Microsecond) / per,
		allocs: (mallocs1 - mallocs0) / per,
		bytes:  (heap1 - heap0) / per,
	}, nil
}
