// Package host asks the operating system how it is: the disk of a directory, this
// process's files and time. What cannot be told is 0, or an error where that
// matters.
package host

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Disk returns the size of the file system that holds dir, in bytes, and how much
// of it a process without privileges may still use.
func Disk(dir string) (total, free int64, err error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, 0, fmt.Errorf("host: statfs %s: %w", dir, err)
	}
	return int64(s.Blocks) * s.Bsize, int64(s.Bavail) * s.Bsize, nil
}

// OpenFiles returns how many descriptors this process has open, and how many it
// may have.
func OpenFiles() (open int, limit int64) {
	if names, err := os.ReadDir("/proc/self/fd"); err == nil {
		open = len(names) - 1 // one of them is that of the listing
	}
	var r syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r) == nil {
		limit = int64(min(r.Cur, 1<<62))
	}
	return open, limit
}

// CPU returns the time this process has spent on processors.
func CPU() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Resident returns the bytes of memory that this process has resident, mapped files
// included.
func Resident() int64 {
	raw, err := os.ReadFile("/proc/self/statm") // proc(5): pages, of them resident, ...
	if err != nil {
		return 0
	}
	f := strings.Fields(string(raw))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize())
}
