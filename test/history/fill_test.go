package history

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

const (
	// smallNode is the node whose disk may become full.
	smallNode = 2
	// diskSize is what it has at other times.
	diskSize = 2 << 30
)

// mount gives that node a file system of its own, if this process may; else its disk
// is never full. One in memory can be made as small as what is on it.
func (c *cluster) mount(s *server) {
	if err := syscall.Mount("tmpfs", s.dir, "tmpfs", 0, fmt.Sprint("size=", diskSize)); err != nil {
		c.t.Logf("a file system cannot be mounted here, no disk will be full: %v", err)
		return
	}
	c.t.Cleanup(func() { syscall.Unmount(s.dir, syscall.MNT_DETACH) })
	c.mounted = true
}

// fill leaves nothing on the disk, or less than is kept in reserve, for a while, in
// which the node does not go on leading.
func (c *cluster) fill(r *rand.Rand) {
	s := c.nodes[smallNode]
	to := c.names[r.IntN(len(c.names))] // the one with that disk, or another
	if out, err := exec.Command(s.binary, "cluster", "transfer", to, "--server", s.addr).CombinedOutput(); err != nil {
		c.t.Logf("transfer: %v %s", err, out)
	}
	left := int64(r.IntN(4 << 20))
	if r.IntN(2) == 0 {
		left = 100 << 20
	}
	resize := func(size int64) {
		must(c.t, syscall.Mount("tmpfs", s.dir, "tmpfs", syscall.MS_REMOUNT, fmt.Sprint("size=", size)))
	}
	var st syscall.Statfs_t
	must(c.t, syscall.Statfs(s.dir, &st))
	resize(int64(st.Blocks-st.Bfree)*st.Bsize + left)
	c.await(func(nodes []*gantryv1.ClusterNode) bool {
		return slices.ContainsFunc(nodes, func(n *gantryv1.ClusterNode) bool { return n.GetLeader() && n.GetName() != c.names[smallNode] })
	})
	pause(r, 8*time.Second)
	resize(diskSize)
	pause(r, 4*time.Second) // a leader refuses messages until it has looked
}
