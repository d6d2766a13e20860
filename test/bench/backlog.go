package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/gantry-mq/gantry/test/bench/text"
)

// What is stored already must not slow down who sends and receives now. Two
// brokers, one on an empty directory and one with config.backlogMB of messages that
// nobody has read, are measured in turns; each of them alone is running.

// behindShapes are shapes of `gantry bench`, which measures itself.
var behindShapes = []struct {
	name string
	args []string
}{
	{"publish", nil},
	{"end-to-end", []string{"--rate", "5000"}},
	{"consume", nil},
}

// benched is what `gantry bench --json` says of a phase.
type benched struct {
	PerSecond float64 `json:"messages_per_second"`
	ServerCPU float64 `json:"server_cpu_us_per_message"`
	Errors    int64   `json:"errors"`
	Latency   *struct {
		P99 float64 `json:"p99_ms"`
	} `json:"latency"`
}

func measureBacklog(ctx context.Context, c config, dir string, r *report) error {
	// What is measured goes with the segments of before, so that it always finds as much.
	stores := []serverOptions{
		{dir: filepath.Join(dir, "empty")},
		{dir: filepath.Join(dir, "full")},
	}
	for i := range stores {
		stores[i].args = []string{"--durability", "unsafe-async"}
	}
	messages := c.backlogMB * 1_000_000 / int64(c.size)
	if _, err := c.bench(ctx, stores[1], "publish", "--count", fmt.Sprint(messages)); err != nil {
		return err
	}
	got := make([]map[string][]benched, len(stores))
	for i := range got {
		got[i] = map[string][]benched{}
	}
	for range max(c.repeats, 1) {
		for _, shape := range behindShapes {
			for i, store := range stores {
				args := append([]string{"--duration", fmt.Sprintf("%gs", c.seconds)}, shape.args...)
				if shape.name == "consume" {
					args = []string{"--count", fmt.Sprint(int(c.seconds * 200_000))}
				}
				b, err := c.bench(ctx, store, shape.name, args...)
				if err != nil {
					return err
				}
				got[i][shape.name] = append(got[i][shape.name], b)
			}
		}
	}
	var rows [][]string
	for _, shape := range behindShapes {
		for _, what := range []struct {
			name string
			of   func(benched) float64
		}{
			{"messages/s", func(b benched) float64 { return b.PerSecond }},
			{"server CPU, us/message", func(b benched) float64 { return b.ServerCPU }},
			{"p99, ms", func(b benched) float64 {
				if b.Latency == nil {
					return 0
				}
				return b.Latency.P99
			}},
		} {
			var empty, full, ratio []float64
			for i, b := range got[0][shape.name] {
				e, f := what.of(b), what.of(got[1][shape.name][i])
				if e == 0 {
					continue
				}
				empty, full, ratio = append(empty, e), append(full, f), append(ratio, f/e)
			}
			if len(empty) > 0 {
				rows = append(rows, []string{strings.Join(append([]string{shape.name}, shape.args...), " "), what.name, text.Spread(empty), text.Spread(full), text.Spread(ratio) + "x"})
			}
		}
	}
	r.table(fmt.Sprintf("Beside %.1f GB that nobody has read, unsafe-async, bodies of %d bytes", float64(c.backlogMB)/1000, c.size),
		[]string{"`gantry bench`", "number", "empty", "with the backlog", "with / empty"}, rows)
	return nil
}

// bench runs one shape against a broker of its own on a data directory.
func (c config) bench(ctx context.Context, o serverOptions, shape string, args ...string) (benched, error) {
	s, err := start(ctx, c, o)
	if err != nil {
		return benched{}, err
	}
	args = append([]string{"bench", shape, "--server", s.clients, "--server-pid", fmt.Sprint(s.cmd.Process.Pid), "--size", fmt.Sprint(c.size), "--quiet", "--json"}, args...)
	cmd := exec.CommandContext(ctx, c.binary, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var phases []benched
	if err == nil {
		err = json.Unmarshal(out, &phases)
	}
	if err == nil && (len(phases) != 1 || phases[0].Errors > 0) {
		err = fmt.Errorf("it says %s", out)
	}
	if err != nil {
		s.kill()
		return benched{}, errors.Join(fmt.Errorf("gantry %s: %w\n%s", strings.Join(args, " "), err, stderr.String()), errors.New(s.stderr.String()))
	}
	return phases[0], s.stop()
}
