package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gantry-mq/gantry/client"
	"github.com/gantry-mq/gantry/test/bench/meter"
	"github.com/gantry-mq/gantry/test/bench/openloop"
	"github.com/gantry-mq/gantry/test/bench/text"
)

// What a server stores when more is sent than it can store. Senders do not wait for
// answers, and the server has one processor, so that those who send can be ahead of it
// with the others.

const streamConns = 4

// door is a way in with load on it for a while.
type door struct {
	name  string
	first float64 // messages a second that any machine takes
	load  func(ctx context.Context, s *server, c config, rate float64, length time.Duration) (*openloop.Outcome, error)
}

var doors = []door{
	{"SendMessage", 2000, func(ctx context.Context, s *server, c config, rate float64, length time.Duration) (*openloop.Outcome, error) {
		return openloop.Sends{Addr: s.clients, Topic: topicName, Size: c.size, Conns: c.senders, Rate: rate, For: length}.Run(ctx)
	}},
	{"Publish", 50_000, publishes},
}

func measureOverload(ctx context.Context, c config, dir string, r *report) error {
	var rows [][]string
	length := time.Duration(c.seconds * float64(time.Second))
	for _, durability := range []string{"sync", "unsafe-async"} {
		for _, d := range doors {
			if c.phases != nil && !c.phases.MatchString(durability+" "+d.name) {
				continue
			}
			s, err := start(ctx, c, serverOptions{
				dir: filepath.Join(dir, durability+d.name), prefix: []string{"taskset", "-c", "0"},
				args: []string{"--durability", durability, fmt.Sprintf("--pprof=%t", c.profile != ""), "--retention-size", "2GiB", "--segment-size", "256MiB"},
			})
			if err != nil {
				return err
			}
			more, err := overload(ctx, c, s, durability, d, length)
			if err != nil {
				s.kill()
				return fmt.Errorf("%s, %s: %w\n%s", durability, d.name, err, s.stderr.String())
			}
			if err := s.stop(); err != nil {
				return err
			}
			rows = append(rows, more...)
		}
	}
	r.table(fmt.Sprintf("Overload, bodies of %d bytes, %d connections of SendMessage, the server on one processor, %v each", c.size, c.senders, length),
		[]string{"durability", "door", "offered", "due/s", "stored and told so within 3 s, /s", "of peak", "p99 of these, ms", "of a processor: server, senders", "stored per CPU second of the server", "server's memory, MiB", "a consumer beside them waits for, p50, p99, ms", "the others"}, rows)
	return nil
}

// overload finds the peak and then offers it once, twice and ten times.
func overload(ctx context.Context, c config, s *server, durability string, d door, length time.Duration) (rows [][]string, err error) {
	l, err := dialLoad(ctx, c, s) // makes the topic
	if err != nil {
		return nil, err
	}
	l.Close()
	peak := 0.0
	for rate, worse := d.first, 0; worse < 2; rate *= 1.4 {
		o, err := d.load(ctx, s, c, rate, length/2)
		if err != nil {
			return nil, err
		}
		if got := o.PerSecond(); got > peak {
			peak = got
		}
		if o.PerSecond() < 0.9*rate {
			worse++
		}
	}
	for _, times := range []float64{1, 2, 10} {
		var top memory
		beside, err := watchBeside(ctx, s.clients, length)
		if err != nil {
			return nil, err
		}
		used, err := cpuOf(s.cmd.Process.Pid)
		if err != nil {
			return nil, err
		}
		begun := time.Now()
		watch := top.watch(s.cmd.Process.Pid)
		stopProfile := s.profiled(c.profile, fmt.Sprintf("%s %s %.0fx", durability, d.name, times), length)
		o, err := d.load(ctx, s, c, times*peak, length)
		watch()
		if err := stopProfile(); err != nil {
			return nil, err
		}
		if err != nil {
			return nil, err
		}
		waited, err := beside()
		if err != nil {
			return nil, err
		}
		now, err := cpuOf(s.cmd.Process.Pid)
		if err != nil {
			return nil, err
		}
		took := time.Since(begun).Seconds() // with the answers to the last ones
		server, senders := (now.server - used.server).Seconds(), (now.senders - used.senders).Seconds()
		p99 := "-"
		if slices.Sort(o.Latency); len(o.Latency) > 0 {
			p99 = text.Number(1000 * o.Latency[len(o.Latency)*99/100])
		}
		rows = append(rows, []string{durability, d.name, fmt.Sprintf("%.0fx", times), text.Number(float64(o.Due) / o.Duration.Seconds()), text.Number(o.PerSecond()),
			fmt.Sprintf("%.0f %%", 100*o.PerSecond()/peak), p99,
			fmt.Sprintf("%.0f %%, %.0f %%", 100*server/took, 100*senders/took), text.Number(float64(o.Acked) / server), fmt.Sprintf("%d, %d anonymous", top.rss>>20, top.anon>>20), waited.text(), others(o)})
	}
	return rows, nil
}

// cpu is the processor time that the server and those who send to it have used.
type cpu struct{ server, senders time.Duration }

func cpuOf(server int) (c cpu, err error) {
	if c.server, err = meter.CPU(server); err == nil {
		c.senders, err = meter.CPU(os.Getpid())
	}
	return c, err
}

// others says what came of what was not stored in time.
func others(o *openloop.Outcome) string {
	var s []string
	share := func(what string, n int64) {
		if n > 0 {
			s = append(s, fmt.Sprintf("%.2f %% %s", 100*float64(n)/float64(o.Due), what))
		}
	}
	share("not sent, held back by the connection", o.Held)
	share("told too late", o.Late)
	share("no answer", o.Silent)
	for _, k := range slices.Sorted(maps.Keys(o.Refused)) {
		share(k, o.Refused[k])
	}
	return strings.Join(s, "; ")
}

// memory is the most that a process took.
type memory struct{ rss, anon int64 }

// watch looks until the function it returns is called.
func (m *memory) watch(pid int) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if rss, anon, err := meter.Memory(pid); err == nil {
				m.rss, m.anon = max(m.rss, rss), max(m.anon, anon)
			}
			select {
			case <-done:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	return func() { close(done); <-ended }
}

// publishes is load through gantry.v1, whose clients are held back: they have no room
// for a message rather than an answer to it.
func publishes(ctx context.Context, s *server, c config, rate float64, length time.Duration) (*openloop.Outcome, error) {
	all := &openloop.Outcome{Refused: map[string]int64{}, Duration: length}
	var mu sync.Mutex
	var first error
	var wait sync.WaitGroup
	var acked, within, late atomic.Int64
	body := make([]byte, c.size)
	for range streamConns {
		cl, err := client.Dial(ctx, []string{s.clients}, client.Options{})
		if err != nil {
			return nil, err
		}
		p, err := cl.NewProducer(client.ProducerOptions{Topic: topicName})
		if err != nil {
			return nil, err
		}
		wait.Go(func() {
			o := openloop.Outcome{Refused: map[string]int64{}}
			begun := time.Now()
			pause := time.Duration(float64(time.Second) / rate * streamConns)
			until, cancel := context.WithTimeout(ctx, length)
			defer cancel()
			for i := 0; ; i++ {
				due := begun.Add(pause * time.Duration(i))
				if due.Sub(begun) >= length {
					break
				}
				o.Due++
				if i%64 == 0 {
					if ahead := time.Until(due); ahead > 0 {
						time.Sleep(max(ahead, time.Millisecond))
					} else if old := -ahead - openloop.Queue; old > 0 { // what is due since is not sent, or all that leaves would be ever older
						n := int64(old/pause) + 1
						o.Due += n - 1
						o.Held += n
						i += int(n) - 1
						continue
					}
				}
				sampled := i%32 == 0 // a callback for each message would be what is measured
				err := p.Publish(until, &client.Message{Body: body}, func(_ client.Result, err error) {
					if err != nil {
						mu.Lock()
						words, _, _ := strings.Cut(err.Error(), ":")
						o.Refused[words]++
						mu.Unlock()
						return
					}
					took := time.Since(due)
					if took > openloop.Patience {
						late.Add(1)
						return
					}
					acked.Add(1)
					if time.Since(begun) < length {
						within.Add(1)
					}
					if sampled {
						mu.Lock()
						all.Latency = append(all.Latency, took.Seconds())
						mu.Unlock()
					}
				})
				if err != nil { // no room until the end
					o.Due += int64((length - due.Sub(begun)) / pause)
					o.Held += int64((length-due.Sub(begun))/pause) + 1
					break
				}
			}
			flush, cancel := context.WithTimeout(ctx, 2*openloop.Patience)
			defer cancel()
			err := p.Flush(flush)
			cl.Close(flush)
			mu.Lock()
			defer mu.Unlock()
			if err != nil && len(o.Refused) == 0 {
				first = err
			}
			all.Add(&o)
		})
	}
	wait.Wait()
	all.Acked, all.Within, all.Late = acked.Load(), within.Load(), late.Load()
	return all, first
}
