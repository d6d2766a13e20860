package replica

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/gantry-mq/gantry/broker/replica/peer"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/internal/mmapfile/crashtest"
)

var (
	seedFlag   = flag.Uint64("seed", 0, "seed of the cluster tests; 0 means a new one each time")
	faultsFlag = flag.Int("faults", 12, "faults of a run")
)

func newRNG(t *testing.T) *rand.Rand {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed: -seed=%d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// cluster is hosts on a network.
type cluster struct {
	t     *testing.T
	hosts []*host

	mu    sync.Mutex
	nodes map[string]*Node // that are there, by their ID
	cut   map[string]bool  // names of hosts that are alone
	term  *Term            // of whoever leads, or did last
}

func newCluster(t *testing.T, n int) *cluster {
	c := &cluster{t: t, nodes: map[string]*Node{}, cut: map[string]bool{}}
	for i := range n {
		c.hosts = append(c.hosts, newHost(t, fmt.Sprint("n", i+1)))
	}
	return c
}

func (c *cluster) parts(h *host) parts {
	self := h.id()
	return parts{
		id: self, stable: h.stable, snapshots: h.snaps, transport: h.wire, address: string(h.address()),
		consult: func(_ context.Context, id, _ string, q question) (answer, error) {
			c.mu.Lock()
			to := c.nodes[id]
			if c.cut[h.name] || c.cut[peer.NameOf(id)] {
				to = nil
			}
			c.mu.Unlock()
			if to == nil {
				return answer{}, fmt.Errorf("%s does not reach %s", h.name, id)
			}
			return to.answer(q, self), nil
		},
	}
}

// up starts a host's node; the first time, the first host makes the cluster.
func (c *cluster) up(h *host, bootstrap bool) {
	c.t.Helper()
	h.log = h.openLog()
	h.openStable()
	h.wire.dark = func(to raft.ServerAddress) bool {
		return h.dark.Load() || slices.ContainsFunc(c.hosts, func(o *host) bool { return o.address() == to && o.dark.Load() })
	}
	_, h.wire.InmemTransport = raft.NewInmemTransportWithTimeout(h.address(), 50*time.Millisecond)
	p := c.parts(h)
	if bootstrap {
		if err := p.bootstrap(h.log); err != nil {
			c.t.Fatal(err)
		}
	}
	node, err := start(h.options(), p)
	if err != nil {
		c.t.Fatalf("%s: %v", h.name, err)
	}
	h.node = node
	c.mu.Lock()
	c.nodes[h.id()] = h.node
	c.mu.Unlock()
	h.led.Go(func() { c.lead(h) })
	c.connect()
}

// lead serves whenever the host's node leads: its state is how many records there
// are.
func (c *cluster) lead(h *host) {
	for {
		t, err := h.node.Lead(context.Background())
		if errors.Is(err, ErrClosed) {
			return
		}
		all, err := records(h.log)
		if err != nil {
			h.fatal(err)
			return
		}
		t.Begin(func() int64 { return time.Now().UnixNano() }, sequenced(uint64(len(all))))
		c.mu.Lock()
		c.term = t
		c.mu.Unlock()
		<-t.Over()
	}
}

// connect makes the network as cut says.
func (c *cluster) connect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.hosts {
		if a.wire.InmemTransport == nil {
			continue
		}
		for _, b := range c.hosts {
			if b.wire.InmemTransport == nil || a == b {
				continue
			}
			if c.cut[a.name] || c.cut[b.name] {
				a.wire.Disconnect(b.address())
			} else {
				a.wire.Connect(b.address(), b.wire.InmemTransport)
			}
		}
	}
}

// stop ends a host's node.
func (c *cluster) stop(h *host) {
	if err := h.node.Close(); err != nil {
		h.fatal(err)
	}
	c.mu.Lock()
	delete(c.nodes, h.id())
	c.mu.Unlock()
	h.led.Wait()
	if err := h.log.Close(); err != nil {
		h.fatal(err)
	}
}

// powerOff ends a host in the middle of whatever it does.
func (c *cluster) powerOff(h *host, s crashtest.Survival, rng *rand.Rand) {
	h.off.Store(true)
	h.dark.Store(true)
	image := h.fs.PowerOff(s, rng)
	c.stop(h)
	h.fs = image
	h.off.Store(false)
	h.dark.Store(false)
}

func (c *cluster) current() *Term {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.term
}

// submit has whoever leads append a batch, and returns where it is, or !ok when
// that is not known.
func (c *cluster) submit(ctx context.Context, b *commitlog.Batch) (ok bool) {
	t := c.current()
	if t == nil || t.Submit(b) != nil {
		time.Sleep(time.Millisecond) // nobody leads: a moment for the election
		return false
	}
	err := b.Wait(ctx)
	if err != nil && !errors.Is(err, ErrUnknown) && !errors.Is(err, ErrNotLeading) {
		c.t.Errorf("%v", err)
	}
	return err == nil
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for range 3000 {
		if f() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("in half a minute: not %s", what)
}

// join has the leader take h in and waits until it counts.
func (c *cluster) join(h *host) {
	c.t.Helper()
	eventually(c.t, h.name+" joined", func() bool {
		for _, l := range c.hosts {
			ask := func(a asked) bool {
				q := question{Ask: a, Node: h.id(), Address: string(h.address()), Last: h.log.LastIndex(), Segment: h.log.SegmentSize()}
				return l.node.decide(q).Verdict == granted
			}
			if l.node != nil && ask(askJoin) && ask(askUpdate) {
				m, err := l.node.member(h.name)
				return err == nil && m.Voter
			}
		}
		return false
	})
	// The library votes for nobody of whose promotion it has not heard: when the leader
	// ends before the others have, and does not come back, nobody can lead.
	eventually(c.t, "all know that "+h.name+" votes", func() bool {
		for _, l := range c.hosts {
			if l.node == nil {
				continue
			}
			if m, err := l.node.member(h.name); err != nil || !m.Voter || m.ID != h.id() {
				return false
			}
		}
		return true
	})
}

// assemble makes the hosts a cluster.
func (c *cluster) assemble() {
	c.t.Helper()
	for i, h := range c.hosts {
		c.up(h, i == 0)
		if i > 0 {
			c.join(h)
		}
	}
}

// remove has the leader take out the one that h was.
func (c *cluster) remove(h *host) {
	c.t.Helper()
	eventually(c.t, h.name+" removed", func() bool {
		for _, l := range c.hosts {
			if v := l.node.decide(question{Ask: askRemove, Node: h.name}).Verdict; v == granted || v == noMember {
				return true
			}
		}
		return false
	})
}
