package history

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// frozenNode is the node whose disk may hang.
const frozenNode = 0

// mountFile gives that node a file system in a file, if this process may; else its disk
// never hangs. One that is frozen is a disk that hangs: what writes or syncs waits.
func (c *cluster) mountFile(s *server) {
	file := filepath.Join(c.t.TempDir(), "disk")
	err := os.WriteFile(file, nil, 0o600)
	if err == nil {
		err = os.Truncate(file, diskSize)
	}
	must(c.t, err)
	for _, args := range [][]string{{"mkfs.ext4", "-q", "-F", file}, {"mount", "-o", "loop", file, s.dir}, {"fsfreeze", "--version"}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			c.t.Logf("no disk will hang here: %q: %v %s", args, err, out)
			return
		}
		if args[0] == "mount" {
			c.t.Cleanup(func() { syscall.Unmount(s.dir, syscall.MNT_DETACH) })
		}
	}
	c.freezes = true
}

// freeze has that node's disk hang and go on in turn, times of both in seconds. A process
// of its own does it, so that the disk goes on whatever becomes of this one.
func (c *cluster) freeze(r *rand.Rand, times ...float64) {
	s := c.nodes[frozenNode]
	to := c.names[r.IntN(len(c.names))] // the one with that disk, or another
	if out, err := exec.Command(s.binary, "cluster", "transfer", to, "--server", s.addr).CombinedOutput(); err != nil {
		c.t.Logf("transfer: %v %s", err, out)
	}
	var script strings.Builder
	for i, t := range times {
		fmt.Fprintf(&script, "fsfreeze -%c %q; sleep %f; ", "fu"[i%2], s.dir, t)
	}
	out, err := exec.Command("sh", "-c", script.String()+"fsfreeze -u "+s.dir+" 2>&1; true").CombinedOutput()
	if err != nil || len(times) > 1 && len(out) == 0 {
		c.t.Errorf("fsfreeze: %v %s", err, out)
	}
}

// hang has the disk hang once. A node ends when that is longer than it waits for a disk.
func (c *cluster) hang(r *rand.Rand) {
	s := c.nodes[frozenNode]
	c.freeze(r, min(clusterStop.Seconds(), math.Pow(60, r.Float64())))
	select {
	case <-s.ended:
		c.t.Logf("%s has ended: %v", c.names[frozenNode], s.wait())
		must(c.t, s.start())
		must(c.t, s.await())
	case <-time.After(3 * time.Second):
	}
}

// stutter has the disk hang again and again for a moment, which makes it slow.
func (c *cluster) stutter(r *rand.Rand) {
	var times []float64
	for range 10 + r.IntN(30) {
		times = append(times, math.Pow(100, r.Float64())/200, r.Float64()/5) // 5 to 500 ms; up to 200
	}
	c.freeze(r, times...)
}
