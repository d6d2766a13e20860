package main

import (
	"io/fs"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/internal/host"
)

// heapShare of a container's memory limit is for the Go heap. The rest is for
// what the limit also counts and the runtime does not: stacks of the kernel,
// socket buffers and dirty pages of the log, which take a moment to write out.
const heapShare = 0.8

// limitMemory tells the runtime about the memory limit of the cgroup, so that
// it collects harder instead of being killed. GOMEMLIMIT, when set, wins. It
// returns the limit it set, 0 for none.
func limitMemory() int64 {
	if os.Getenv("GOMEMLIMIT") != "" {
		return 0
	}
	limit, ok := cgroupLimit(os.DirFS("/"))
	if !ok {
		return 0
	}
	limit = int64(float64(limit) * heapShare)
	debug.SetMemoryLimit(limit)
	return limit
}

// cgroupLimit returns the lowest memory limit, in bytes, on the way from this
// process's cgroup up to the root: a limit further up binds as well. It reads
// cgroup v2 and v1; root is the file system's root.
func cgroupLimit(root fs.FS) (limit int64, ok bool) {
	groups, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(groups)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		var mount, file string
		switch parts[1] {
		case "":
			mount, file = "sys/fs/cgroup", "memory.max"
		case "memory":
			mount, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		default:
			continue
		}
		for dir := path.Clean("/" + parts[2]); ; dir = path.Dir(dir) {
			raw, err := fs.ReadFile(root, path.Join(mount, dir, file))
			n, parseErr := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
			// "max" does not parse; v1 says "no limit" by a number near 2^63.
			if err == nil && parseErr == nil && n > 0 && n < 1<<60 && (!ok || n < limit) {
				limit, ok = n, true
			}
			if dir == "/" {
				break
			}
		}
	}
	return limit, ok
}

// sendBound is --send-memory in bytes, or what suits the memory there is.
func (f *serveFlags) sendBound() int64 {
	if f.sendMemory > 0 {
		return int64(f.sendMemory)
	}
	there := host.Memory()
	if limit := debug.SetMemoryLimit(-1); limit < there { // the cgroup's share, or GOMEMLIMIT
		there = limit
	}
	return min(max(there/8, broker.MinSendMemory), 2*broker.DefaultSendMemory)
}
