package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/gantry-mq/gantry/cmd/gantry/bench"
	"github.com/gantry-mq/gantry/test/bench/text"
)

// numbers are what of a result is compared; 0 where a shape has none.
var numbers = []struct {
	name string
	of   func(bench.Result) float64
}{
	{"messages/s", func(r bench.Result) float64 { return r.PerSecond }},
	{"server CPU, us/message", func(r bench.Result) float64 { return r.ServerCPUMicros }},
	{"p99, ms", func(r bench.Result) float64 {
		if r.Latency == nil {
			return 0
		}
		return r.Latency.P99
	}},
}

// measureBacklog shows that what is stored already does not slow down who sends and
// receives now. Two brokers, one on an empty directory and one with config.backlogMB of
// messages that nobody has read, are measured in turns; each runs alone.
func measureBacklog(ctx context.Context, c config, dir string, r *report) error {
	empty, full := filepath.Join(dir, "empty"), filepath.Join(dir, "full")
	if _, err := c.bench(ctx, full, bench.Options{Shape: "publish", Count: int(c.backlogMB * 1_000_000 / int64(c.size))}); err != nil {
		return err
	}
	length := time.Duration(c.seconds * float64(time.Second))
	var rows [][]string
	for _, shape := range []bench.Options{
		{Shape: "publish", Duration: length},
		{Shape: "end-to-end", Duration: length, Rate: 5000},
		{Shape: "consume", Count: int(c.seconds * 200_000)},
	} {
		var without, with []bench.Result
		for range max(c.repeats, 1) {
			a, err := c.bench(ctx, empty, shape)
			if err != nil {
				return err
			}
			b, err := c.bench(ctx, full, shape)
			if err != nil {
				return err
			}
			without, with = append(without, a), append(with, b)
		}
		what := shape.Shape
		if shape.Rate > 0 {
			what += fmt.Sprint(" --rate ", shape.Rate)
		}
		for _, n := range numbers {
			var e, f, ratio []float64
			for i := range without {
				e, f = append(e, n.of(without[i])), append(f, n.of(with[i]))
				ratio = append(ratio, f[i]/e[i])
			}
			if e[0] > 0 {
				rows = append(rows, []string{what, n.name, text.Spread(e), text.Spread(f), text.Spread(ratio) + "x"})
			}
		}
	}
	r.table(fmt.Sprintf("Beside %.1f GB that nobody has read, unsafe-async, bodies of %d bytes", float64(c.backlogMB)/1000, c.size),
		[]string{"`gantry bench`", "number", "empty", "with the backlog", "with / empty"}, rows)
	return nil
}

// bench runs one shape of `gantry bench` against a broker on a data directory.
func (c config) bench(ctx context.Context, dir string, o bench.Options) (bench.Result, error) {
	s, err := start(ctx, c, serverOptions{dir: dir, args: []string{"--durability", "unsafe-async"}})
	if err != nil {
		return bench.Result{}, err
	}
	o.Server, o.PID, o.Size = s.clients, s.cmd.Process.Pid, c.size
	phases, err := bench.Run(ctx, o)
	if err == nil && phases[0].Errors > 0 {
		err = fmt.Errorf("%d errors", phases[0].Errors)
	}
	if err != nil {
		s.kill()
		return bench.Result{}, fmt.Errorf("%s: %w\n%s", o.Shape, err, strings.TrimSpace(s.stderr.String()))
	}
	return phases[0], s.stop()
}
