// Command bench measures a real broker: it starts the binary, drives it over
// gRPC on loopback with 64 callers, reads its CPU time from /proc and its
// allocations from /metrics, and writes the tables of docs/benchmarks.md.
//
// It says nothing about other brokers, and its absolute numbers are those of
// one machine that client and server share. What it is for is ratios within one
// run: sync against unsafe-async (in turns, so that both see the same weather),
// this commit against the one before.
//
// Everything is bounded: by time, by count, and by the size of the store.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

type config struct {
	binary  string
	dir     string
	out     string
	callers int
	conns   int
	size    int
	idle    int
	senders int
	seconds float64
	repeats int
	starts  int
	storeMB int64

	backlogMB int64
	settle    time.Duration
	only      string
	smoke     bool
	phases    *regexp.Regexp
	profile   string
}

func main() {
	c := config{callers: 64, conns: 8, size: 1024, starts: 10, settle: 3 * time.Second}
	flag.BoolVar(&c.smoke, "smoke", false, "tiny sizes: shows that it works, measures nothing")
	flag.StringVar(&c.binary, "binary", "", "gantry binary (default: build it)")
	flag.StringVar(&c.dir, "dir", "", "where to make data directories; not a tmpfs (default: the system's temporary directory)")
	flag.StringVar(&c.out, "out", "", "file whose generated part to replace (default: print)")
	flag.Float64Var(&c.seconds, "seconds", 8, "length of each measured phase")
	flag.IntVar(&c.repeats, "repeats", 3, "how often each phase is measured")
	flag.Int64Var(&c.storeMB, "store-mb", 10_000, "size of the store that is restarted, in MB")
	flag.Int64Var(&c.backlogMB, "backlog-mb", 50_000, "size of the backlog in the part backlog, in MB")
	flag.StringVar(&c.only, "only", "", "measure one part: start, load, restart or inside; or overload, idle or backlog, which are not in the page")
	flag.IntVar(&c.idle, "idle", 10_000, "how many wait in the part idle; each takes a file of this process and one of the server")
	flag.IntVar(&c.size, "size", c.size, "bytes of a body")
	flag.IntVar(&c.senders, "senders", 8, "connections of SendMessage in the part overload")
	beside := flag.String("beside", "", "be the consumer beside the senders of the part overload, of the server at `ADDR`")
	flag.Func("phases", "measure only the phases of load whose name matches this `REGEXP`", func(s string) (err error) {
		c.phases, err = regexp.Compile(s)
		return err
	})
	flag.StringVar(&c.profile, "profile", "", "write a CPU profile of the server during each phase into `DIR`; the figures are a little worse for it")
	flag.Parse()
	if *beside != "" {
		if err := consumeBeside(*beside, time.Duration(c.seconds*float64(time.Second))); err != nil {
			fmt.Fprintln(os.Stderr, "bench: beside:", err)
			os.Exit(1)
		}
		return
	}
	if c.smoke {
		c.seconds, c.repeats, c.starts, c.storeMB, c.settle = 0.3, 1, 2, 20, 100*time.Millisecond
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, c); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, c config) error {
	work, err := os.MkdirTemp(c.dir, "gantry-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if c.binary == "" {
		c.binary = filepath.Join(work, "gantry")
		build := exec.CommandContext(ctx, "go", "build", "-o", c.binary, "./cmd/gantry")
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("building gantry (run this from the top of the repository): %w", err)
		}
	}
	r, err := newReport(ctx, c, work)
	if err != nil {
		return err
	}
	for _, part := range []struct {
		name    string
		measure func(context.Context, config, string, *report) error
		asked   bool // only when asked for
	}{
		{"start", measureStart, false},
		{"load", measureLoad, false},
		{"restart", measureRestart, false},
		{"inside", measureInside, false},
		{"overload", measureOverload, true},
		{"idle", measureIdle, true},
		{"backlog", measureBacklog, true},
	} {
		if c.only != part.name && (c.only != "" || part.asked) {
			continue
		}
		dir := filepath.Join(work, part.name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := part.measure(ctx, c, dir, r); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return r.write(c.out)
}
