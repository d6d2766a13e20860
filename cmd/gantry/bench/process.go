package bench

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// process is one on this machine whose use of it the kernel counts. nil is one
// that is elsewhere: it uses nothing that can be seen.
type process struct{ pid int }

// findProcess returns the server's process: the one named, or the one that holds
// its data directory.
func findProcess(pid int, dataDir string) *process {
	if pid == 0 {
		raw, err := os.ReadFile(filepath.Join(dataDir, "commitlog", "LOCK"))
		if err != nil {
			return nil
		}
		pid, _ = strconv.Atoi(strings.TrimSpace(string(raw)))
	}
	p := &process{pid}
	if rss, _ := p.memory(); pid <= 0 || rss == 0 { // its processor time may be less than a tick yet
		return nil
	}
	return p
}

// tick is the unit in which /proc/PID/stat counts.
const tick = 10 * time.Millisecond

// cpu is the processor time used so far, user and system.
func (p *process) cpu() time.Duration {
	if p == nil {
		return 0
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	if err != nil {
		return 0
	}
	// The name in parentheses may hold spaces; fields count from after it.
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * tick
}

// memory is what it keeps in RAM, in bytes, and what of that is not file pages.
func (p *process) memory() (rss, anon int64) {
	if p == nil {
		return 0, 0
	}
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "VmRSS:":
			rss = n << 10
		case "RssAnon:":
			anon = n << 10
		}
	}
	return rss, anon
}
