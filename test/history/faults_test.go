package history

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/gantry-mq/gantry/test/history/faultnet"
)

// fault is something that is done to a cluster, and undone.
type fault struct {
	name   string
	weight int
	do     func(*cluster, *rand.Rand)
	can    func(*cluster) bool // nil: always
}

// faultsOfThree are what happens to three nodes.
var faultsOfThree = []fault{
	{name: "leader killed", weight: 3, do: func(c *cluster, r *rand.Rand) { c.kill(r, c.leader()) }},
	{name: "follower killed", weight: 2, do: func(c *cluster, r *rand.Rand) { c.kill(r, c.follower(r)) }},
	{name: "all killed", weight: 2, do: func(c *cluster, r *rand.Rand) {
		for _, s := range c.nodes {
			must(c.t, s.kill())
		}
		for _, s := range c.nodes {
			must(c.t, s.start())
		}
		for _, s := range c.nodes {
			must(c.t, s.await())
		}
	}},
	{name: "node stopped for a while", weight: 2, do: func(c *cluster, r *rand.Rand) {
		s := c.nodes[c.some(r)]
		must(c.t, s.cmd.Process.Signal(syscall.SIGSTOP))
		// As often for 1 to 8 s as for 8 to 60 s.
		time.Sleep(min(*clusterStop, time.Duration(math.Pow(60, r.Float64())*float64(time.Second))))
		must(c.t, s.cmd.Process.Signal(syscall.SIGCONT))
	}},
	{name: "ended and started", weight: 1, do: func(c *cluster, r *rand.Rand) { c.restart(r, r.IntN(3)) }},
	{name: "one after the other restarted", weight: 1, do: func(c *cluster, r *rand.Rand) {
		for i := range c.nodes {
			c.restart(r, i)
			c.await(c.settled)
		}
	}},
	{name: "node replaced", weight: 1, do: func(c *cluster, r *rand.Rand) { c.replace(r, c.some(r)) }},
	{name: "node wiped", weight: 1, do: func(c *cluster, r *rand.Rand) { c.wipe(r, c.some(r)) }},
	{name: "node damaged", weight: 1, do: func(c *cluster, r *rand.Rand) { c.damage(r, c.some(r)) }},
	{name: "disk full", weight: 1, do: (*cluster).fill, can: func(c *cluster) bool { return c.mounted }},
	{name: "disk hung", weight: 1, do: (*cluster).hang, can: func(c *cluster) bool { return c.freezes }},
	{name: "disk slow", weight: 1, do: (*cluster).stutter, can: func(c *cluster) bool { return c.freezes }},
	{name: "clocks jump", weight: 2, do: (*cluster).jump},
	{name: "leadership handed over", weight: 1, do: func(c *cluster, r *rand.Rand) {
		out, err := exec.Command(c.nodes[0].binary, "cluster", "transfer", "--shard", fmt.Sprint(c.shard), "--server", c.nodes[r.IntN(3)].addr).CombinedOutput()
		if err != nil {
			c.t.Logf("transfer: %v %s", err, out) // it was not settled yet
		}
	}},
	{name: "node isolated", weight: 2, do: func(c *cluster, r *rand.Rand) { c.cut(r, c.some(r), true, true) }},
	{name: "node heard and not hearing", weight: 1, do: func(c *cluster, r *rand.Rand) { c.cut(r, c.some(r), false, true) }},
	{name: "node hearing and not heard", weight: 1, do: func(c *cluster, r *rand.Rand) { c.cut(r, c.some(r), true, false) }},
	{name: "all apart", weight: 1, do: func(c *cluster, r *rand.Rand) {
		defer c.net.Heal()
		for i := range c.nodes {
			c.links(i, faultnet.Link{Cut: true}, true, false)
		}
		pause(r, 5*time.Second)
	}},
	{name: "link between two cut", weight: 1, do: func(c *cluster, r *rand.Rand) {
		defer c.net.Heal()
		a := c.some(r)
		b := (a + 1 + r.IntN(2)) % 3
		c.net.Set(c.names[a], c.names[b], faultnet.Link{Cut: true})
		if r.IntN(2) == 0 {
			c.net.Set(c.names[b], c.names[a], faultnet.Link{Cut: true})
		}
		pause(r, 8*time.Second)
	}},
	{name: "links flapping", weight: 1, do: func(c *cluster, r *rand.Rand) {
		defer c.net.Heal()
		for range 5 + r.IntN(15) {
			a := r.IntN(3)
			b := (a + 1 + r.IntN(2)) % 3
			c.net.Set(c.names[a], c.names[b], faultnet.Link{Cut: r.IntN(2) == 0})
			if r.IntN(2) == 0 {
				c.net.Reset(c.names[a], c.names[b])
			}
			pause(r, 400*time.Millisecond)
		}
	}},
	{name: "slow links", weight: 1, do: func(c *cluster, r *rand.Rand) {
		defer c.net.Heal()
		c.links(c.some(r), faultnet.Link{Delay: time.Duration(5+r.IntN(100)) * time.Millisecond}, true, true)
		pause(r, 6*time.Second)
	}},
}

// pick returns a fault, those with more weight more often.
func (c *cluster) pick(r *rand.Rand) fault {
	sum := 0
	var of []fault
	for _, f := range faultsOfThree {
		switch {
		case f.can != nil && !f.can(c):
		case f.name == *onlyFault:
			return f
		default:
			of = append(of, f)
			sum += f.weight
		}
	}
	n := r.IntN(sum)
	for _, f := range of {
		if n -= f.weight; n < 0 {
			return f
		}
	}
	panic("weights")
}

func pause(r *rand.Rand, d time.Duration) { time.Sleep(time.Duration(r.Int64N(int64(d)))) }

func (c *cluster) follower(r *rand.Rand) int { return (c.leader() + 1 + r.IntN(2)) % 3 }

// some returns the leader as often as another node.
func (c *cluster) some(r *rand.Rand) int {
	if r.IntN(2) == 0 {
		return c.leader()
	}
	return c.follower(r)
}

func (c *cluster) kill(r *rand.Rand, i int) {
	must(c.t, c.nodes[i].kill())
	pause(r, 4*time.Second)
	c.again(r, i)
}

func (c *cluster) restart(r *rand.Rand, i int) {
	must(c.t, c.nodes[i].stop())
	c.again(r, i)
}

// again starts a node, now and then without what can be made again.
func (c *cluster) again(r *rand.Rand, i int) {
	s := c.nodes[i]
	if r.IntN(4) == 0 {
		must(c.t, os.RemoveAll(filepath.Join(s.data(), "consumequeue")))
	}
	must(c.t, s.start())
	must(c.t, s.await())
}

// links makes those from a node, and those to it, what l is.
func (c *cluster) links(i int, l faultnet.Link, from, to bool) {
	for j, other := range c.names {
		if j != i && from {
			c.net.Set(c.names[i], other, l)
		}
		if j != i && to {
			c.net.Set(other, c.names[i], l)
		}
	}
}

// cut cuts the links from a node, and those to it, for a while.
func (c *cluster) cut(r *rand.Rand, i int, from, to bool) {
	defer c.net.Heal()
	c.links(i, faultnet.Link{Cut: true}, from, to)
	pause(r, 10*time.Second)
}
