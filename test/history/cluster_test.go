package history

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/gantry-mq/gantry/internal/freeaddr"
	"github.com/gantry-mq/gantry/internal/sharding"
	"github.com/gantry-mq/gantry/proto/gantryv1"
	"github.com/gantry-mq/gantry/test/history/check"
	"github.com/gantry-mq/gantry/test/history/faultnet"
)

var (
	clusterRounds = flag.Int("cluster-rounds", 1, "rounds with three nodes")
	clusterTime   = flag.Duration("cluster-time", 20*time.Second, "how long a round with three nodes has faults")
	clusterStop   = flag.Duration("cluster-stop", 6*time.Second, "for how long a node is stopped at most")
	onlyFault     = flag.String("fault", "", "the one fault that three nodes have, see faultsOfThree")
)

// faults is what was done to a cluster.
type faults map[string]int

func (f faults) String() string {
	var parts []string
	for _, what := range slices.Sorted(maps.Keys(f)) {
		parts = append(parts, fmt.Sprintf("%s: %d", what, f[what]))
	}
	return strings.Join(parts, ", ")
}

// Three nodes, of which any may die, stop for a while, or all at once: what was
// acknowledged is there, in order, once, as on a broker that is alone.
func TestNothingIsLostWhenNodesFail(t *testing.T) {
	binary := build(t)
	programs := prepareOfficial(t)
	all := faults{}
	var sum check.Report
	for i := range *clusterRounds {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Logf("-seed %d", *seed)
			r := rand.New(rand.NewPCG(*seed+uint64(i), 1))
			c := newCluster(t, binary)
			others := startOfficial(t, programs, c)
			report := underLoad(t, c, *seed+uint64(i), func() {
				for began := time.Now(); time.Since(began) < *clusterTime; {
					f := c.pick(r)
					t.Logf("%8v %s", time.Since(began).Round(time.Millisecond), f.name)
					f.do(c, r)
					all[f.name]++
					c.sameState()
				}
				c.clocksRight()
			})
			others.settle(t)
			c.stopAll()
			t.Logf("%v", report)
			sum.Add(report)
		})
	}
	t.Logf("in all: %v\n%v", all, &sum)
}

// cluster is three servers, and the network between them.
type cluster struct {
	t     *testing.T
	net   *faultnet.Net
	nodes []*server
	names []string
	peers []string // where they reach each other
	shard int      // of those below that are asked for something, see in

	dialled int
	mounted bool // the small node has a disk of its own
	freezes bool // the one whose disk may hang
}

func newCluster(t *testing.T, binary string) *cluster {
	c := &cluster{t: t, net: faultnet.New()}
	t.Cleanup(c.net.Close)
	for i := range 3 {
		listens := freeaddr.Of(t, 1, 1)[0]
		reached, err := c.net.Add(fmt.Sprint("n", i+1), listens)
		must(t, err)
		s := newServer(t, binary, "sync")
		c.add(s, reached, "--peer", listens, "--peer-advertise", reached)
		switch i {
		case smallNode:
			c.mount(s)
		case frozenNode:
			c.mountFile(s)
		}
		must(t, s.start())
	}
	for _, s := range c.nodes {
		must(t, s.await())
	}
	c.await(c.settled)
	return c
}

// add makes a server, which others reach at an address, the next node, and the first one
// the one that begins the cluster.
func (c *cluster) add(s *server, reached string, args ...string) {
	name := fmt.Sprint("n", len(c.nodes)+1)
	s.args = append([]string{"--node", name}, args...)
	if len(c.nodes) == 0 {
		s.args = append(s.args, "--bootstrap")
	} else {
		s.args = append(s.args, "--join", c.peers[0])
	}
	c.nodes, c.names, c.peers = append(c.nodes, s), append(c.names, name), append(c.peers, reached)
}

// in is the same cluster, of which another shard is asked.
func (c *cluster) in(shard int) *cluster {
	other := *c
	other.shard = shard
	return &other
}

// settled reports whether three nodes count, answer, and have all of the log.
func (c *cluster) settled(nodes []*gantryv1.ClusterNode) bool {
	leads := false
	for _, n := range nodes {
		if n.GetError() != "" || !n.GetVoter() || n.GetLag() > 0 {
			return false
		}
		leads = leads || n.GetLeader()
	}
	return leads && len(nodes) == len(c.nodes)
}

// await asks for the state of the cluster until f is content.
func (c *cluster) await(f func([]*gantryv1.ClusterNode) bool) {
	c.t.Helper()
	for begun := time.Now(); ; {
		nodes, err := c.describe()
		if err == nil && f(nodes) {
			return
		}
		if time.Since(begun) > startLimit {
			c.t.Fatalf("the cluster is not as it should be after %v: %v %v", startLimit, nodes, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (c *cluster) describe() ([]*gantryv1.ClusterNode, error) {
	conn := c.dial(c.t)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	r, err := gantryv1.NewClusterClient(conn).Describe(ctx, &gantryv1.DescribeClusterRequest{})
	return r.GetNodes(), err
}

// leader returns which node leads, or some node.
func (c *cluster) leader() int {
	nodes, _ := c.describe()
	for _, n := range nodes {
		for i, name := range c.names {
			if n.GetLeader() && n.GetName() == name {
				return i
			}
		}
	}
	return 0
}

// stopAll ends the nodes when they are equal, and compares their states and logs.
func (c *cluster) stopAll() {
	t := c.t
	c.sameState()
	for _, s := range c.nodes {
		must(t, s.stop())
		for _, line := range s.complaints() {
			t.Errorf("a node logged %s", line)
		}
	}
	for _, s := range c.nodes {
		must(t, s.check())
	}
}

// sameState waits until all nodes have all of the log, and has them say what their
// state is, as of one position, while clients go on.
func (c *cluster) sameState() {
	c.t.Helper()
	for begun := time.Now(); ; {
		c.await(c.settled)
		nodes, err := c.digest()
		if err == nil {
			for _, n := range nodes {
				for i, s := range n.GetSections() {
					if o := nodes[0].GetSections()[i]; s.GetSum() != o.GetSum() {
						c.t.Errorf("nodes differ in %s: %v on %s, %v on %s", s.GetName(), s, n.GetName(), o, nodes[0].GetName())
					}
				}
			}
			return
		}
		if time.Since(begun) > startLimit {
			c.t.Fatalf("the states are not compared after %v: %v", startLimit, err)
		}
	}
}

// digest fails when not all nodes answer: leadership may move at any time.
func (c *cluster) digest() ([]*gantryv1.NodeDigest, error) {
	conn := c.dial(c.t)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	r, err := gantryv1.NewClusterClient(conn).Digest(ctx, &gantryv1.DigestClusterRequest{})
	for _, n := range r.GetNodes() {
		if n.GetError() != "" || len(n.GetSections()) < 10 {
			err = errors.Join(err, fmt.Errorf("%s says of its state: %s, %d sections", n.GetName(), n.GetError(), len(n.GetSections())))
		}
	}
	if err == nil && len(r.GetNodes()) != len(c.nodes) {
		err = fmt.Errorf("%d nodes answer", len(r.GetNodes()))
	}
	return r.GetNodes(), err
}

// dial makes a connection to any node, another first each time.
func (c *cluster) dial(t *testing.T) *grpc.ClientConn {
	c.dialled++
	return dial(t, c.servers()...)
}

// servers begins with another node after each dial.
func (c *cluster) servers() (addrs []string) {
	for i := range c.nodes {
		addr, err := sharding.Address(c.nodes[(c.dialled+i)%len(c.nodes)].addr, c.shard)
		must(c.t, err)
		addrs = append(addrs, addr)
	}
	return addrs
}
