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

// kinds names file systems by their magic numbers, statfs(2).
var kinds = map[int64]string{
	0xef53: "ext4", 0x58465342: "xfs", 0x9123683e: "btrfs", 0x2fc12fc1: "zfs", 0x01021994: "tmpfs", 0x858458f6: "ramfs",
	0x794c7630: "overlay", 0x6969: "nfs", 0xff534d42: "cifs", 0x65735546: "fuse", 0x01021997: "9p",
}

// Kind returns the name of the file system that holds dir, "" when it is not known.
func Kind(dir string) string {
	var s syscall.Statfs_t
	if syscall.Statfs(dir, &s) != nil {
		return ""
	}
	return kinds[int64(s.Type)]
}

// ClockUnsynchronized reports that the kernel knows of nothing that keeps its clock
// right, such as NTP. That it does not report it is no proof.
func ClockUnsynchronized() bool {
	const timeError = 5 // adjtimex(2): TIME_ERROR
	state, err := syscall.Adjtimex(&syscall.Timex{})
	return err == nil && state == timeError
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

// Memory returns the bytes of memory that the host has; 0 when that is not known.
func Memory() int64 {
	var s syscall.Sysinfo_t
	if syscall.Sysinfo(&s) != nil {
		return 0
	}
	return int64(s.Totalram) * int64(s.Unit)
}
