package replica

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/gantry-mq/gantry/internal/mmapfile/crashtest"
)

// alone cuts a host off, or ends that.
func (c *cluster) alone(h *host, alone bool) {
	c.mu.Lock()
	c.cut[h.name] = alone
	c.mu.Unlock()
	c.connect()
}

// pick is one of the hosts; more often, the one that leads.
func (c *cluster) pick(rng *rand.Rand) *host {
	h := c.hosts[rng.IntN(len(c.hosts))]
	if rng.IntN(2) == 0 {
		for _, l := range c.hosts {
			if m, ok := l.node.Leader(); ok && m.ID == l.id() {
				h = l
			}
		}
	}
	return h
}

// fail does something bad to a host, for so long, and says what.
func (c *cluster) fail(h *host, pause time.Duration, rng *rand.Rand) (what string) {
	if rng.IntN(3) == 0 { // some start from a snapshot then; there may be nothing new for one
		h.node.ask(func() raft.Future { return h.node.raft.Snapshot() })
	}
	faults := 6
	if len(c.hosts) < 3 {
		faults = 5 // without a majority nobody takes it in again
	}
	switch rng.IntN(faults) {
	case 0, 1:
		what = fmt.Sprintf("%s was alone for %v", h.name, pause)
		c.alone(h, true)
		time.Sleep(pause)
		c.alone(h, false)
	case 2:
		what = h.name + " was restarted"
		c.stop(h)
		time.Sleep(pause)
		c.up(h, false)
	case 3:
		s := crashtest.Survivals[rng.IntN(len(crashtest.Survivals))]
		what = fmt.Sprintf("%s lost power (%v)", h.name, s)
		c.powerOff(h, s, rng)
		time.Sleep(pause)
		c.up(h, false)
	case 4:
		to := c.hosts[rng.IntN(len(c.hosts))].name
		what = "leadership was to be handed to " + to
		h.node.transfer(to) // which only a leader can
	case 5:
		what = h.name + " lost its disk"
		c.powerOff(h, crashtest.None, rng)
		h.replaceDisk()
		c.remove(h)
		time.Sleep(pause)
		c.up(h, false)
		c.join(h)
	}
	return what
}

// TestNothingAcknowledgedIsLostWhateverFails cuts, kills, unplugs, replaces and
// restarts the nodes of a cluster under load, in real time. TestSimulation does more
// of it.
func TestNothingAcknowledgedIsLostWhateverFails(t *testing.T) {
	rng := newRNG(t)
	c := newCluster(t, 3)
	c.assemble()
	load := c.load(4, 0)
	for range *faultsFlag {
		pause := time.Duration(rng.IntN(400)) * time.Millisecond
		what := c.fail(c.pick(rng), pause, rng)
		t.Log(what)
		load.progress(what)
	}
	c.powerCut(rng)
	load.progress("all lost power")
	load.judge()
}

// powerCut ends all hosts at once, with what they have not synced.
func (c *cluster) powerCut(rng *rand.Rand) {
	for _, h := range c.hosts {
		c.powerOff(h, crashtest.None, rng)
	}
	for _, h := range c.hosts {
		c.up(h, false)
	}
}

// A leader whose disk hangs still sends heartbeats, so that nobody stands against
// it: it must end by itself.
func TestANodeWhoseDiskHangsEnds(t *testing.T) {
	c := newCluster(t, 3)
	for _, h := range c.hosts {
		h.patience = 300 * time.Millisecond
	}
	c.assemble()
	appended := func() bool { return c.submit(context.Background(), batchOf(1)) }
	eventually(t, "an append", appended)
	var h *host
	eventually(t, "a leader", func() bool {
		for _, h = range c.hosts {
			if h.node.Verify() == nil {
				return true
			}
		}
		return false
	})
	hung := c.current()
	h.off.Store(true) // it may complain
	repaired := make(chan struct{})
	h.fs.Hook(func(call crashtest.Call) error {
		if call.Op == crashtest.Sync {
			<-repaired
		}
		return nil
	})
	var load sync.WaitGroup
	load.Go(func() { appended() }) // its answer has to wait
	if err := <-h.died; !errors.Is(err, ErrDiskHung) {
		t.Errorf("it ended with: %v", err)
	}
	c.mu.Lock()
	c.cut[h.name] = true // as it is when the process is gone
	c.mu.Unlock()
	c.connect()
	eventually(t, "another leader", func() bool { return c.current() != hung })
	eventually(t, "an append", appended)
	close(repaired)
	load.Wait()
	for _, h := range c.hosts {
		c.stop(h)
	}
}

// TestANodeThatHasDivergedEnds gives a node a log in which one frame is another. The
// other two must go on, also when that node leads: raft sees nothing wrong with it.
func TestANodeThatHasDivergedEnds(t *testing.T) {
	for _, leads := range []bool{false, true} {
		t.Run(fmt.Sprintf("leads=%t", leads), func(t *testing.T) {
			c := newCluster(t, 3)
			c.assemble()
			for range 50 {
				eventually(t, "an append", func() bool { return c.submit(context.Background(), batchOf(1)) })
			}
			h := c.hosts[2]
			c.stop(h)
			const other = 30
			h.forge(c.hosts[0].log, other)
			h.off.Store(true) // it may complain
			if leads {
				c.stop(c.hosts[0])
			}
			c.up(h, false)
			if leads { // one against one: neither may end
				eventually(t, "led by the diverged node", func() bool {
					c.hosts[1].node.Transfer(context.Background(), h.name)
					l, ok := c.hosts[1].node.Leader()
					return ok && l.Name == h.name
				})
				c.up(c.hosts[0], false)
			}
			if err := <-h.died; !errors.Is(err, ErrDiverged) || !strings.Contains(err.Error(), fmt.Sprintf("frame %d on", other)) {
				t.Errorf("it ended with: %v", err)
			}
			for _, h := range c.hosts {
				c.stop(h)
			}
		})
	}
}

// raft ends without answering what is still in its channels: a node must not end
// raft before that is answered.
func TestCloseAnswersEverythingThatWasSubmitted(t *testing.T) {
	for range 5 {
		c := newCluster(t, 1)
		h := c.hosts[0]
		c.up(h, true)
		eventually(t, "an append", func() bool { return c.submit(context.Background(), batchOf(0)) })
		var load sync.WaitGroup
		var acked atomic.Int64
		for range 8 {
			load.Go(func() {
				for ; ; acked.Add(1) {
					b := batchOf(1)
					err := c.current().Submit(b)
					if err == nil {
						err = b.Wait(context.Background())
					}
					if err != nil {
						if !errors.Is(err, ErrNotLeading) {
							t.Errorf("nothing stands against the append, but %v", err)
						}
						return
					}
				}
			})
		}
		eventually(t, "load", func() bool { return acked.Load() > 100 })
		if err := h.node.Close(); err != nil {
			t.Error(err)
		}
		load.Wait()
		if err := h.node.Verify(); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		c.stop(h)
	}
}
