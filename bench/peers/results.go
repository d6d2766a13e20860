package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/gantry-mq/gantry/test/bench/meter"
	"github.com/gantry-mq/gantry/test/bench/text"
)

// results are everything that a page is written from, and what is kept in JSON.
type results struct {
	Measured string            `json:"measured"` // when, UTC
	Machine  machine           `json:"machine"`
	Versions map[string]string `json:"versions"`
	Length   float64           `json:"seconds"` // of a measured phase
	Queues   int               `json:"queues"`  // asked for where there are many
	Rated    int               `json:"rated"`   // messages of an open-loop phase
	Commands *commands         `json:"commands"`
	Samples  []sample          `json:"samples"`
	Failures []string          `json:"failures,omitempty"` // phases that ended in an error, and have no sample
}

type machine struct {
	CPU    string    `json:"cpu"`
	CPUs   int       `json:"cpus"`
	Memory int64     `json:"memory_mib"`
	Kernel string    `json:"kernel"`
	FS     string    `json:"file_system"`
	Sync   []float64 `json:"fdatasync_us"`
}

// sample is one phase in one repetition.
type sample struct {
	System     string `json:"system"`
	Durability string `json:"durability"`
	Rep        int    `json:"rep"`
	phase
	outcome
	CPU   float64 `json:"cpu_us,omitempty"`   // of the server, per message
	RSS   float64 `json:"rss_mib"`            // the most that was seen
	Anon  float64 `json:"anon_mib"`           // of it what is not file pages
	Ready float64 `json:"ready_ms,omitempty"` // idle only: from the start until clients were served

	Written float64 `json:"written,omitempty"` // bytes to the disk, per byte of the bodies and per node; of three nodes only
}

func (s sample) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s", s.Shape)
	if s.Client != "" {
		fmt.Fprintf(&b, ", %s, %d B", s.Client, s.Size)
	}
	if s.Rate > 0 {
		fmt.Fprintf(&b, ": %s/s", text.Number(s.Rate))
	}
	for _, l := range []struct {
		what string
		p    *percentiles
	}{{"send", s.Send}, {"end to end", s.EndToEnd}} {
		if l.p != nil {
			fmt.Fprintf(&b, ", %s p50 %s p99 %s us", l.what, text.Number(l.p.P50), text.Number(l.p.P99))
		}
	}
	if s.Regained > 0 {
		fmt.Fprintf(&b, ", %s s/GB", text.Number(s.Regained))
	}
	if s.CPU > 0 {
		fmt.Fprintf(&b, ", %s us", text.Number(s.CPU))
	}
	fmt.Fprintf(&b, ", RSS %.0f MiB", s.RSS)
	if s.Refused > 0 {
		fmt.Fprintf(&b, ", %d refused", s.Refused)
	}
	return b.String()
}

func newResults(ctx context.Context, c config, systems []system) (*results, error) {
	r := &results{
		Measured: time.Now().UTC().Format("2006-01-02 15:04"),
		Machine:  machine{CPU: meter.CPUModel(), CPUs: runtime.NumCPU()},
		Versions: map[string]string{"go": runtime.Version()},
		Length:   c.length.Seconds(), Queues: c.queues, Rated: c.rated,
		Commands: &commands{},
	}
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return nil, err
	}
	r.Machine.Memory = int64(info.Totalram) * int64(info.Unit) >> 20
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return nil, err
	}
	r.Machine.Kernel = strings.TrimSpace(string(kernel))
	for _, s := range systems {
		v, err := s.versions(ctx, c)
		if err != nil {
			return nil, err
		}
		maps.Copy(r.Versions, v)
	}
	return r, nil
}

// measureDisk adds what bounds every row with fsync.
func (r *results) measureDisk(dir string) error {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return err
	}
	r.Machine.FS = fmt.Sprintf("%#x", fs.Type)
	took, err := meter.SyncLatency(dir)
	r.Machine.Sync = append(r.Machine.Sync, took...)
	return err
}

// follow puts r after older results of the same programs on the same machine.
func (r *results) follow(old *results) error {
	same := old.Length == r.Length && old.Queues == r.Queues && old.Rated == r.Rated &&
		old.Machine.CPU == r.Machine.CPU && old.Machine.CPUs == r.Machine.CPUs && old.Machine.Kernel == r.Machine.Kernel
	for name, v := range r.Versions {
		if have, ok := old.Versions[name]; ok && have != v {
			return fmt.Errorf("-extend: the results there are of %s %s, and this is %s", name, have, v)
		}
	}
	if !same {
		return fmt.Errorf("-extend: the results there are of another machine or of phases of another length")
	}
	maps.Copy(r.Versions, old.Versions)
	r.Machine.Sync = old.Machine.Sync
	r.Commands.Lines = old.Commands.Lines
	r.Samples, r.Failures = old.Samples, old.Failures
	return nil
}

// reps is how many repetitions there are of some samples.
func (r *results) reps(of func(sample) bool) (n int) {
	for _, s := range r.Samples {
		if of(s) {
			n = max(n, s.Rep+1)
		}
	}
	return n
}

func anything(sample) bool { return true }

func readResults(file string) (*results, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := &results{Commands: &commands{}}
	if err := json.Unmarshal(raw, r); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return r, nil
}

func (r *results) write(file string) error {
	raw, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(raw, '\n'), 0o644)
}

// commands keeps what was run, once each, with the paths of this run and this
// machine replaced by names.
type commands struct {
	Lines []string `json:"lines"`

	work string
}

func (c *commands) add(replace map[string]string, argv ...string) {
	line := strings.Join(argv, " ")
	// Longer paths first: one may begin with another.
	keys := slices.SortedFunc(maps.Keys(replace), func(a, b string) int { return len(b) - len(a) })
	for _, k := range keys {
		line = strings.ReplaceAll(line, k, replace[k])
	}
	if !slices.Contains(c.Lines, line) {
		c.Lines = append(c.Lines, line)
	}
}

// javaVersion is the one that runs the peers.
func javaVersion(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, java(), "-version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s -version: %w", java(), err)
	}
	lines := strings.Split(string(out), "\n")
	return strings.TrimSpace(lines[min(1, len(lines)-1)]), nil
}
