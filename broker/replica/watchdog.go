package replica

import (
	"errors"
	"sync/atomic"
	"time"
)

// ErrDiskHung: a write or a sync of the log has not returned for longer than
// Timing.Disk.
var ErrDiskHung = errors.New("replica: the disk hangs")

// A leader whose disk hangs goes on sending heartbeats, from goroutines that touch
// no disk, so nobody stands against it, and nothing is committed any more
// (hashicorp/raft#503). So a node ends when a call of its log store does not return:
// then the others choose another.

// calls counts the beginnings and the ends of the log store's calls: odd while one
// is under way. There is one at a time.
type calls struct{ atomic.Uint64 }

func (c *calls) begin() (end func()) {
	c.Add(1)
	return func() { c.Add(1) }
}

// watchdogTicks is in how many parts Timing.Disk is counted. It is not measured by a
// clock: a process that was stopped for a minute was not held up by its disk.
const watchdogTicks = 15

// guard ends the node when one call is under way for too long. It ends with raft.
func (n *Node) guard(c *calls) {
	tick := time.NewTicker(n.opts.Timing.Disk / watchdogTicks)
	defer tick.Stop()
	var last uint64
	for since := 0; ; since++ {
		select {
		case <-tick.C:
		case <-n.down:
			return
		}
		now := c.Load()
		if now != last || now%2 == 0 {
			last, since = now, 0
		}
		if since == watchdogTicks {
			n.fatal(ErrDiskHung)
		}
	}
}
