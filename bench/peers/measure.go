package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// system is one broker program.
type system interface {
	name() string // ends with threeNodes if it is of so many
	// prepare fetches or builds it; nothing is measured yet.
	prepare(ctx context.Context, c config) error
	// versions says what was prepared, part by part.
	versions(ctx context.Context, c config) (map[string]string, error)
	// start returns when clients are served.
	start(ctx context.Context, c config, at place) (server, error)
}

// threeNodes ends the name of a system of so many: what it does is named by a shape
// that begins with shapeOfThree.
const (
	threeNodes   = "-3"
	shapeOfThree = "three nodes: "
)

func ofThree(s system) bool   { return strings.HasSuffix(s.name(), threeNodes) }
func product(s system) string { return strings.TrimSuffix(s.name(), threeNodes) }

// named is the name of a product's system of so many nodes, 1 or 3.
func named(product string, nodes int) string {
	if nodes == 3 {
		return product + threeNodes
	}
	return product
}

// place is where a server starts, and with what promise.
type place struct {
	dir        string // its own, empty
	durability string // async or sync
	commands   *commands
}

// server is a running system.
type server interface {
	// processes are those whose CPU time and memory count.
	processes() []*process
	// phases are run in their order. A later one may use what an earlier one
	// left, but must not need it: it may have been left out.
	phases() []phase
	// stop ends it, with the clients that it keeps.
	stop()
}

// Durabilities: what the answer to a send promises about fsync.
const (
	async = "async" // it is in the page cache
	sync_ = "sync"  // it was synced
)

// phase is one kind of work against a running server.
type phase struct {
	Shape  string `json:"shape"`
	Client string `json:"client"`
	Size   int    `json:"size"` // bytes of a body; 0 where it has no meaning

	asyncOnly bool // fsync makes no difference
	cold      bool // warms up by itself
	kills     bool // a process: what the server used is not looked at
	prepare   func(ctx context.Context) error
	run       func(ctx context.Context, length time.Duration) (outcome, error)
}

// outcome is what the clients of a phase saw.
type outcome struct {
	Messages int64   `json:"messages"`          // handled by the server meanwhile
	Rate     float64 `json:"rate,omitempty"`    // messages per second; 0 where the rate was given
	Refused  int64   `json:"refused,omitempty"` // calls that the server refused for load

	Regained float64 `json:"regained,omitempty"` // seconds for each GB of bodies that a node had lost

	Send     *percentiles `json:"send,omitempty"`       // from the intended time to the answer
	EndToEnd *percentiles `json:"end_to_end,omitempty"` // from the intended time to a consumer
}

// idlePhase is measured before the clients of any other come.
var idlePhase = phase{Shape: shapeIdle}

// percentiles of latencies, in us.
type percentiles struct {
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

// Shapes of work.
const (
	shapeIdle    = "idle"
	shapePublish = "publish in batches"
	shapeSingle  = "publish, 1 message a call"
	shapeConsume = "consume"
	shapeAckEach = "receive, acknowledge each"
	shapeSend    = "send at 5,000/s"
	shapeThrough = "end to end at 5,000/s"
	shapeMany    = "publish to many queues"

	// Of three nodes, acknowledged when a majority has it.
	shapePublish3 = shapeOfThree + shapePublish
	shapeSend3    = shapeOfThree + shapeSend
	shapeLost3    = shapeOfThree + "one comes back with nothing"
	shapeKill3    = shapeOfThree + "one is killed"
)

const (
	openRate = 5000 // messages per second of the open-loop phases
	queues   = 16   // of a topic

	queuesOfMany = 8 // of a topic where there are many

	phaseLimit = 4 * time.Minute // with what it prepares; many times what any needs
)

// wanted says whether a phase was asked for.
func (c config) wanted(system string, p phase, durability string) bool {
	return c.only.MatchString(fmt.Sprintf("%s/%s/%s/%d/%s", system, p.Client, p.Shape, p.Size, durability))
}

// measureAll runs every system under every durability, in turns, c.reps times.
func measureAll(ctx context.Context, c config, systems []system, r *results) error {
	work, err := os.MkdirTemp(c.work, "gantry-peers-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	r.Commands.work = work
	if err := r.measureDisk(work); err != nil {
		return err
	}
	var cache *filler
	if c.fill {
		if cache, err = newFiller(work); err != nil {
			return err
		}
		defer cache.file.Close()
	}
	first := map[string]int{}
	for _, s := range systems {
		first[s.name()] = r.reps(func(x sample) bool { return strings.HasPrefix(x.Shape, shapeOfThree) == ofThree(s) })
	}
	for rep := range c.reps {
		for _, durability := range c.durabilities {
			for _, s := range systems {
				dir := filepath.Join(work, fmt.Sprintf("%s-%s-%d", s.name(), durability, rep))
				if err := os.Mkdir(dir, 0o755); err != nil {
					return err
				}
				if cache != nil {
					if err := cache.fill(ctx); err != nil {
						return err
					}
				}
				m := measurement{config: c, system: s, rep: first[s.name()] + rep, durability: durability, results: r, warmed: map[string]bool{}}
				if err := m.run(ctx, dir); err != nil {
					return fmt.Errorf("%s, %s: %w", s.name(), durability, err)
				}
				if err := os.RemoveAll(dir); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// measurement is one start of one system.
type measurement struct {
	config
	system     system
	rep        int
	durability string
	results    *results
	warmed     map[string]bool // paths
}

// path names the code that a phase runs in the server. A JVM needs seconds of it
// before it has compiled it; phases that share it share that.
func (p phase) path() string {
	client, _, _ := strings.Cut(p.Client, ",")
	switch p.Shape {
	case shapeConsume, shapeAckEach:
		return client + ", out"
	}
	return client + ", in"
}

func (m *measurement) run(ctx context.Context, dir string) error {
	begun := time.Now()
	s, err := m.system.start(ctx, m.config, place{dir: dir, durability: m.durability, commands: m.results.Commands})
	if err != nil {
		return err
	}
	defer s.stop()
	ready := time.Since(begun)
	if !ofThree(m.system) && m.durability == async && m.wanted(m.system.name(), idlePhase, async) {
		if err := m.idle(ctx, s, ready); err != nil {
			return err
		}
	}
	for _, p := range s.phases() {
		if p.asyncOnly && m.durability != async || !m.wanted(m.system.name(), p, m.durability) {
			continue
		}
		err := m.phase(ctx, s, p)
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			return err
		}
		// The others still say something: a run takes too long to throw away.
		failure := fmt.Sprintf("%s, %s, %s, %s, %s: %v", names[product(m.system)], p.Client, p.Shape, bytesOf(p.Size), fsync(m.durability), err)
		m.results.Failures = append(m.results.Failures, failure)
		for _, proc := range s.processes() {
			failure += "\n" + proc.tail()
		}
		logf("%d failed: %s", m.rep, failure)
	}
	return nil
}

func (m *measurement) idle(ctx context.Context, s server, ready time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(m.settle):
	}
	u, err := usageOf(s.processes())
	if err != nil {
		return err
	}
	m.add(sample{phase: idlePhase, Ready: ready.Seconds() * 1e3, RSS: mib(u.rss), Anon: mib(u.anon)})
	return nil
}

func (m *measurement) phase(ctx context.Context, s server, p phase) error {
	ctx, cancel := context.WithTimeout(ctx, phaseLimit)
	defer cancel()
	if p.prepare != nil {
		if err := p.prepare(ctx); err != nil {
			return fmt.Errorf("preparing: %w", err)
		}
	}
	if !p.cold {
		warm := m.warm
		if path := p.path(); !m.warmed[path] {
			warm = m.warmFirst
			m.warmed[path] = true
		}
		if _, err := p.run(ctx, warm); err != nil {
			return fmt.Errorf("warming up: %w", err)
		}
	}
	if p.kills {
		done, err := p.run(ctx, m.length)
		if err == nil {
			m.add(sample{phase: p, outcome: done})
		}
		return err
	}
	syscall.Sync() // what others left to be written is not this phase's
	before, err := usageOf(s.processes())
	if err != nil {
		return err
	}
	peak := watch(s.processes())
	done, err := p.run(ctx, m.length)
	most := peak()
	if err != nil {
		return err
	}
	after, err := usageOf(s.processes())
	if err != nil {
		return err
	}
	if done.Messages == 0 {
		return errors.New("no message got through")
	}
	one := sample{
		phase: p, outcome: done,
		CPU: float64(after.cpu-before.cpu) / float64(time.Microsecond) / float64(done.Messages),
		RSS: mib(max(most.rss, after.rss)), Anon: mib(max(most.anon, after.anon)),
	}
	if ofThree(m.system) {
		one.Written = float64(after.written-before.written) / 3 / float64(done.Messages*int64(p.Size))
	}
	m.add(one)
	return nil
}

func (m *measurement) add(s sample) {
	s.System, s.Durability, s.Rep = product(m.system), m.durability, m.rep
	m.results.Samples = append(m.results.Samples, s)
	logf("%d %-8s %-5s %s", m.rep, s.System, s.Durability, s)
}

// watch follows the memory of processes until the function it returns is called,
// which gives the most that was seen.
func watch(processes []*process) func() usage {
	stop, result := make(chan struct{}), make(chan usage, 1)
	go func() {
		var most usage
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				result <- most
				return
			case <-tick.C:
				if u, err := usageOf(processes); err == nil {
					most.rss, most.anon = max(most.rss, u.rss), max(most.anon, u.anon)
				}
			}
		}
	}()
	return func() usage {
		close(stop)
		return <-result
	}
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }
