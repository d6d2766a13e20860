// Package meter reads what the kernel knows about a process and a machine.
package meter

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// CPU is the processor time, user and system, that the process has used, with
// that of its children that ended. The kernel counts it in ticks of 10 ms, fine
// enough for phases of seconds.
func CPU(pid int) (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name in parentheses may hold spaces; fields count from after it.
	i := bytes.LastIndexByte(raw, ')')
	fields := strings.Fields(string(raw[i+1:]))
	if len(fields) < 15 {
		return 0, errors.New("short /proc/PID/stat")
	}
	var ticks int64
	for _, f := range fields[11:15] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// Memory is what the process keeps in RAM, in bytes: all of it, and the part
// that is not file pages the kernel could drop.
func Memory(pid int) (rss, anon int64, err error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch n, _ := strconv.ParseInt(f[1], 10, 64); f[0] {
		case "VmRSS:":
			rss = n << 10
		case "RssAnon:":
			anon = n << 10
		}
	}
	return rss, anon, nil
}

// Written is how many bytes the process has caused to be written to a disk, as
// pages that it dirtied.
func Written(pid int) (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if n, ok := strings.CutPrefix(line, "write_bytes: "); ok {
			return strconv.ParseInt(strings.TrimSpace(n), 10, 64)
		}
	}
	return 0, errors.New("no write_bytes in /proc/PID/io")
}

// CPUModel is the processor's name.
func CPUModel() string {
	raw, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(raw)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// SyncLatency times what bounds every durable send on the disk of dir: 200
// fdatasyncs, each after a write of 4 KiB, in us.
func SyncLatency(dir string) ([]float64, error) {
	f, err := os.Create(filepath.Join(dir, "sync"))
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	page := make([]byte, 4096)
	const n = 200
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, n*4096); err != nil {
		return nil, err
	}
	var took []float64
	for i := range int64(n) {
		if _, err := f.WriteAt(page, i*4096); err != nil {
			return nil, err
		}
		begun := time.Now()
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return nil, err
		}
		took = append(took, float64(time.Since(begun))/float64(time.Microsecond))
	}
	return took, nil
}
