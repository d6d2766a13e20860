package history

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

// replace takes a node out of the cluster, one that works or one that has lost its
// disk, and has another of the same name join with nothing.
func (c *cluster) replace(r *rand.Rand, i int) {
	s := c.nodes[i]
	lost := r.IntN(2) == 0
	if lost {
		must(c.t, s.kill())
	}
	c.remove(c.names[i])
	if !lost {
		must(c.t, s.left())
	}
	c.joinEmpty(r, i)
}

// wipe has a node lose its disk, and come back with nothing, as what watches over a
// process has it. The others take the one before out by themselves.
func (c *cluster) wipe(r *rand.Rand, i int) {
	c.await(c.settled)
	time.Sleep(2 * time.Second) // see damage
	must(c.t, c.nodes[i].kill())
	c.joinEmpty(r, i)
}

// joinEmpty starts a node that is not running with an empty directory.
func (c *cluster) joinEmpty(r *rand.Rand, i int) {
	s := c.nodes[i]
	must(c.t, os.RemoveAll(s.data()))
	pause(r, 2*time.Second)
	s.args = append(slices.DeleteFunc(s.args, func(a string) bool { return a == "--bootstrap" }), "--join", c.peers[(i+1)%len(c.peers)])
	must(c.t, s.start())
	must(c.t, s.await())
}

// remove asks until no node has that name: an answer may be lost with its leader.
func (c *cluster) remove(name string) {
	c.t.Helper()
	conn := c.dial(c.t)
	defer conn.Close()
	ops := gantryv1.NewClusterClient(conn)
	for begun := time.Now(); ; {
		ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
		_, err := ops.Remove(ctx, &gantryv1.RemoveNodeRequest{Name: name})
		r, e := ops.Describe(ctx, &gantryv1.DescribeClusterRequest{})
		cancel()
		there := e != nil
		for _, n := range r.GetNodes() {
			there = there || n.GetName() == name
		}
		if !there {
			return
		}
		if time.Since(begun) > startLimit {
			c.t.Fatalf("%s is not removed after %v: %v %v", name, startLimit, err, e)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// left waits until the process has ended because its node was removed.
func (s *server) left() error {
	select {
	case <-s.ended:
		s.wait() // it says that it was removed, and that is its exit code
		return nil
	case <-time.After(startLimit):
		return fmt.Errorf("the node does not hear in %v that it was removed", startLimit)
	}
}
