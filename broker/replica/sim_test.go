//go:debug randseednop=0

package replica

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	oldrand "math/rand"

	"github.com/hashicorp/raft"
)

var simsFlag = flag.Int("sims", 10, "runs of TestSimulation, each with its own seed; -seed is the first's")

// TestSimulation runs clusters in virtual time, on disks in memory that lose what was not
// synced, and on a network in memory that is slow, loses calls and answers, and is cut
// in one way and in both. Minutes of trouble take a fraction of a second, and a seed gives
// nearly the same run each time: the raft library takes its timeouts from it too, and one thread
// runs all goroutines.
//
//	go test ./broker/replica -run TestSimulation -seed 123 -sims 1 -v
func TestSimulation(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	first := *seedFlag
	if first == 0 {
		first = rand.Uint64()
	}
	for i := range uint64(*simsFlag) {
		seed := first + i
		if !t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			oldrand.Seed(int64(seed)) // see go:debug above
			synctest.Test(t, func(t *testing.T) { simulate(t, rand.New(rand.NewPCG(seed, 2))) })
		}) {
			return
		}
	}
}

func simulate(t *testing.T, rng *rand.Rand) {
	c := newCluster(t, []int{1, 2, 3, 3, 3, 3, 5}[rng.IntN(7)])
	n := &simNet{rng: rand.New(rand.NewPCG(rng.Uint64(), 3)), names: map[raft.ServerAddress]string{}, cut: map[[2]string]bool{}}
	for _, h := range c.hosts {
		n.names[h.address()] = h.name
		h.wire.weather = func(to raft.ServerAddress) weather { return n.weather(h.name, n.names[to]) }
	}
	c.assemble()
	n.set(time.Duration(rng.IntN(20))*time.Millisecond, []float64{0, 0, 0.01, 0.1}[rng.IntN(4)])
	load := c.load(3, 2*time.Millisecond)
	var reads sync.WaitGroup
	over := make(chan struct{})
	reads.Go(func() {
		for {
			select {
			case <-over:
				return
			case <-time.After(7 * time.Millisecond):
				c.read(load)
			}
		}
	})
	for range 4 + rng.IntN(8) {
		h := c.pick(rng)
		pause := time.Duration(rng.IntN(3000)) * time.Millisecond
		var what string
		if rng.IntN(2) == 0 {
			what = c.fail(h, pause, rng)
		} else {
			what = n.fail(c, h, pause, rng)
		}
		t.Log(what)
		load.progress(what)
	}
	close(over)
	reads.Wait()
	if rng.IntN(2) == 0 {
		c.powerCut(rng)
		load.progress("all lost power")
	}
	load.judge()
	time.Sleep(time.Minute) // what is under way on the network arrives
}

// read reads from whoever says it leads. It must know of all that was acknowledged
// before.
func (c *cluster) read(w *workload) {
	for _, h := range c.hosts {
		c.mu.Lock()
		node, term := c.nodes[h.id()], c.term
		c.mu.Unlock()
		if node == nil || term == nil || node.serves() != term {
			continue
		}
		w.mu.Lock()
		acked := w.end
		w.mu.Unlock()
		at := node.opts.Log.Committed()
		if node.Verify() == nil && at < acked {
			c.t.Errorf("%s leads and has %d, %d was acknowledged before", h.name, at, acked)
		}
	}
}

// serves is the term of a node that leads and has begun to serve.
func (n *Node) serves() *Term {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.term
}

// simNet is the network's weather.
type simNet struct {
	names map[raft.ServerAddress]string

	mu    sync.Mutex
	rng   *rand.Rand
	slow  time.Duration      // a leg takes up to so long
	loses float64            // that part of all legs
	cut   map[[2]string]bool // from, to
}

func (n *simNet) set(slow time.Duration, loses float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.slow, n.loses = slow, loses
}

func (n *simNet) setCut(from, to string, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[[2]string{from, to}] = cut
}

func (n *simNet) weather(from, to string) weather {
	n.mu.Lock()
	defer n.mu.Unlock()
	leg := func(from, to string) leg {
		if n.cut[[2]string{from, to}] {
			return leg{takes: 50 * time.Millisecond, lost: true} // a caller waits for a while
		}
		return leg{takes: time.Duration(n.rng.Int64N(int64(n.slow) + 1)), lost: n.rng.Float64() < n.loses}
	}
	return weather{there: leg(from, to), back: leg(to, from)}
}

// fail does something bad to the network around h, or its disk, for so long, and says
// what.
func (n *simNet) fail(c *cluster, h *host, pause time.Duration, rng *rand.Rand) (what string) {
	other := c.hosts[rng.IntN(len(c.hosts))]
	switch rng.IntN(6) {
	case 0:
		what = fmt.Sprintf("nothing came from %s for %v", h.name, pause)
		n.around(c, h, true, false)
	case 1:
		what = fmt.Sprintf("nothing came to %s for %v", h.name, pause)
		n.around(c, h, false, true)
	case 2:
		what = fmt.Sprintf("%s and %s did not reach each other for %v", h.name, other.name, pause)
		n.setCut(h.name, other.name, true)
		n.setCut(other.name, h.name, true)
	case 3:
		what = fmt.Sprintf("all were apart for %v", pause)
		for _, h := range c.hosts {
			n.around(c, h, true, true)
		}
	case 4:
		what = fmt.Sprintf("%s came and went for %v", h.name, pause)
		for left := pause; left > 0; left -= 300 * time.Millisecond {
			n.around(c, h, true, true)
			time.Sleep(150 * time.Millisecond)
			n.around(c, h, false, false)
			time.Sleep(150 * time.Millisecond)
		}
		return what
	case 5:
		each := time.Duration(1+rng.IntN(100)) * time.Millisecond
		what = fmt.Sprintf("a sync of %s took %v for %v", h.name, each, pause)
		h.fs.SetSyncTime(each)
	}
	time.Sleep(pause)
	h.fs.SetSyncTime(0)
	for _, h := range c.hosts {
		n.around(c, h, false, false)
	}
	return what
}

// around cuts what comes from h, or to it, or ends that.
func (n *simNet) around(c *cluster, h *host, from, to bool) {
	for _, o := range c.hosts {
		if o != h {
			n.setCut(h.name, o.name, from)
			n.setCut(o.name, h.name, to)
		}
	}
}
