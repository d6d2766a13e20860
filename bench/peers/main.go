// Command peers measures Gantry, Apache Kafka and Apache RocketMQ on the same
// machine in one run, and writes the second generated part of docs/benchmarks.md
// with its plots. `make bench-peers` runs it.
//
// The brokers run one at a time, in turns, on loopback in a network namespace of
// their own: they have the same cores, nobody else reaches them, and ports need
// no choosing. CPU time is the server's alone, read from the kernel. Everything
// is bounded: by time, by count, and by the size of what is written.
//
// It is a module of its own, because Kafka's Go client has no business in
// Gantry's.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

type config struct {
	root         string // top of the repository
	work         string // where data directories are made
	only         *regexp.Regexp
	systems      []string
	durabilities []string
	reps         int
	length       time.Duration // of a measured phase
	warm         time.Duration // of the unmeasured work before it
	warmFirst    time.Duration // the same, where it is the first of its path
	settle       time.Duration // before idle memory is read
	queues       int           // of the phase with many of them
	rated        int           // messages of an open-loop phase
	quick        bool
	fill         bool
	extend       bool
	render       bool
	results      string // JSON
	page         string // Markdown
	plots        string // directory
}

func main() {
	c := config{length: 3 * time.Second, warm: time.Second, warmFirst: 8 * time.Second, settle: 3 * time.Second,
		queues: 10_000, rated: 20_000, reps: 3}
	only := flag.String("only", "", "measure only phases whose name system/client/shape/size/durability matches this `REGEXP`, e.g. 'publish.*/1024/'")
	systems := flag.String("systems", "gantry,kafka,rocketmq,gantry-3,kafka-3,rocketmq-3", "measure only these, in this order; -3 is three nodes")
	durabilities := flag.String("durabilities", async+","+sync_, "measure only with these")
	flag.StringVar(&c.root, "root", "../..", "top of the repository")
	flag.StringVar(&c.work, "work", "", "where to make data directories; not a tmpfs (default: the system's temporary directory)")
	flag.IntVar(&c.reps, "reps", c.reps, "how often each phase is measured")
	flag.DurationVar(&c.length, "length", c.length, "length of a measured phase")
	flag.IntVar(&c.queues, "queues", c.queues, "how many there are where there are many")
	flag.BoolVar(&c.quick, "quick", false, "one short repetition with fewer queues: shows that it works")
	flag.BoolVar(&c.fill, "fill", true, "fill the page cache before each start: memory that is free may cost a virtual machine 5 to 10 times what memory in use does")
	flag.BoolVar(&c.extend, "extend", false, "add the repetitions to the results that are there")
	flag.BoolVar(&c.render, "render", false, "measure nothing: write the page and the plots from the results that are there")
	flag.StringVar(&c.results, "results", "", "JSON `FILE` of raw results (default: docs/benchmarks-peers.json)")
	flag.StringVar(&c.page, "page", "", "`FILE` whose generated part to replace, \"-\" to print it (default: docs/benchmarks.md)")
	flag.StringVar(&c.plots, "plots", "", "`DIR` for the plots (default: docs)")
	flag.Parse()
	if c.quick {
		c.reps, c.length, c.warm, c.warmFirst = 1, 1500*time.Millisecond, 500*time.Millisecond, 4*time.Second
		c.settle, c.queues, c.rated = time.Second, 1000, 7500
	}
	c.results = orIn(c.results, c.root, "docs/benchmarks-peers.json")
	c.page = orIn(c.page, c.root, "docs/benchmarks.md")
	c.plots = orIn(c.plots, c.root, "docs")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := func() (err error) {
		c.systems, c.durabilities = strings.Split(*systems, ","), strings.Split(*durabilities, ",")
		if c.only, err = regexp.Compile(*only); err != nil {
			return err
		}
		return run(ctx, c)
	}()
	if err != nil {
		if !errors.Is(err, errInside) {
			fmt.Fprintln(os.Stderr, "peers:", err)
		}
		os.Exit(1)
	}
}

func orIn(file, root, otherwise string) string {
	if file == "" {
		return filepath.Join(root, otherwise)
	}
	return file
}

func run(ctx context.Context, c config) error {
	if c.render {
		r, err := readResults(c.results)
		if err != nil {
			return err
		}
		return c.publish(r)
	}
	systems, err := choose(c.systems)
	if err != nil {
		return err
	}
	if !isolated() {
		for _, s := range systems {
			logf("preparing %s", s.name())
			if err := s.prepare(ctx, c); err != nil {
				return fmt.Errorf("preparing %s: %w", s.name(), err)
			}
		}
		return isolate(ctx)
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	results, err := newResults(ctx, c, systems)
	if err != nil {
		return err
	}
	if c.extend {
		old, err := readResults(c.results)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err == nil {
			if err := results.follow(old); err != nil {
				return err
			}
		}
	}
	if err := measureAll(ctx, c, systems, results); err != nil {
		return err
	}
	if err := results.write(c.results); err != nil {
		return err
	}
	return c.publish(results)
}

func choose(names []string) ([]system, error) {
	var chosen []system
	for _, name := range names {
		switch name {
		case "gantry":
			chosen = append(chosen, &gantry{nodes: 1})
		case "kafka":
			chosen = append(chosen, &kafka{nodes: 1})
		case "rocketmq":
			chosen = append(chosen, &rocketmq{nodes: 1})
		case "gantry-3":
			chosen = append(chosen, &gantry{nodes: 3})
		case "kafka-3":
			chosen = append(chosen, &kafka{nodes: 3})
		case "rocketmq-3":
			chosen = append(chosen, &rocketmq{nodes: 3})
		default:
			return nil, fmt.Errorf("-systems: %q is not one of gantry, kafka, rocketmq, gantry-3, kafka-3, rocketmq-3", name)
		}
	}
	return chosen, nil
}

// publish writes the page and the plots of r.
func (c config) publish(r *results) error {
	for name, svg := range plots(r) {
		if err := os.WriteFile(filepath.Join(c.plots, name), []byte(svg), 0o644); err != nil {
			return err
		}
	}
	return writePage(c.page, page(r))
}

func logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s "+format+"\n", append([]any{time.Now().Format("15:04:05")}, args...)...)
}
