package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/gantry-mq/gantry/test/bench/text"
)

// inside is a table of what Go benchmarks below the wire report.
type inside struct {
	title   string
	pkg     string
	bench   string   // name
	flags   []string // of a full run
	smoke   []string // of one that measures nothing
	first   string   // header of the column with the names of the cases
	once    bool     // however often others are repeated
	columns []column
}

// column is one value that a benchmark reports.
type column struct{ unit, header string }

var lateness = []column{
	{"p50-ms", "p50, ms"}, {"p99-ms", "p99"}, {"p99.9-ms", "p99.9"}, {"p100-ms", "latest"},
	{"in-0001-ms-%", "within 1 ms, %"}, {"in-0004-ms-%", "4 ms"}, {"in-0016-ms-%", "16 ms"}, {"in-0064-ms-%", "64 ms"}, {"in-0256-ms-%", "256 ms"}, {"in-1024-ms-%", "1,024 ms"},
}

var insides = []inside{
	{
		title: "Features below the wire: 16 callers, 32 messages a call, bodies of 1,024 bytes, unsafe-async",
		pkg:   "./broker", bench: "BenchmarkFeatures", smoke: []string{"-feature-messages", "640"},
		first: "feature",
		columns: []column{{"send-us/msg", "send, us of CPU/message"}, {"receive-us/msg", "receive and settle, us of CPU/message"},
			{"log-overhead-B/msg", "bytes of log/message beyond its body"}},
	},
	{
		title: "SQL filters, one message",
		pkg:   "./filter/sql92", bench: "BenchmarkMatch", flags: []string{"-benchtime", "1s"},
		first:   "expression",
		columns: []column{{"ns/op", "ns"}, {"allocs/op", "allocations"}},
	},
	{
		title: "1,000,000 delayed messages due in one second: how late they are visible",
		pkg:   "./broker", bench: "BenchmarkTimersDueInOneSecond", smoke: []string{"-timers", "1000"},
		first:   "durability",
		columns: append([]column{{"cpu-us/msg", "us of CPU/message"}}, lateness...),
	},
	{
		title: "100 delayed messages a second: how late they are visible",
		pkg:   "./broker", bench: "BenchmarkTimersIdle",
		first: "durability", columns: lateness,
	},
	{
		title: "Lite topics and a plain one: 50 clients, 64 senders, bodies of 100 bytes, one message a send",
		pkg:   "./broker", bench: "BenchmarkLite", smoke: []string{"-lite-topics", "500"},
		first: "over",
		columns: []column{{"made/s", "made by their first messages/s"}, {"sent/s", "sent/s"}, {"received/s", "received and acknowledged/s"}, {"through/s", "sent and received at once/s"},
			{"heap-B/topic", "heap, bytes/lite topic"}, {"index-B/topic", "index files, bytes/lite topic"}, {"start-ms", "start, ms"}},
	},
	{
		title: "Pending delayed messages, due within the next hour or year",
		pkg:   "./broker", bench: "BenchmarkTimersPending", smoke: []string{"-timers", "1000"}, once: true,
		first: "within/messages",
		columns: []column{{"sent/s", "sent/s"}, {"heap-MiB", "heap, MiB"}, {"index-MiB", "index pages (mapped), MiB"},
			{"checkpoint-KiB", "checkpoint, KiB"}, {"restart-ms", "restart, ms"}},
	},
}

// measureInside runs Go's own benchmarks of what is below the wire.
func measureInside(ctx context.Context, c config, dir string, r *report) error {
	for _, in := range insides {
		if c.smoke && in.bench == "BenchmarkTimersIdle" {
			continue // takes its ten seconds however few
		}
		names, values, err := in.run(ctx, c, dir)
		if err != nil {
			return err
		}
		var rows [][]string
		for _, name := range names {
			row := []string{name}
			for _, col := range in.columns {
				row = append(row, text.Spread(values[name][col.unit]))
			}
			rows = append(rows, row)
		}
		header := []string{in.first}
		for _, col := range in.columns {
			header = append(header, col.header)
		}
		r.table(in.title, header, rows)
	}
	return nil
}

func (in *inside) run(ctx context.Context, c config, dir string) (names []string, values map[string]map[string][]float64, err error) {
	args := []string{"test", in.pkg, "-run", "^$", "-bench", "^" + in.bench + "$", "-timeout", "30m", "-benchmem"}
	switch {
	case c.smoke:
		args = append(append(args, "-benchtime", "1x"), in.smoke...)
	case in.flags != nil:
		args = append(args, in.flags...)
	default:
		args = append(args, "-benchtime", "1x")
	}
	if !in.once {
		args = append(args, "-count", strconv.Itoa(c.repeats))
	}
	run := exec.CommandContext(ctx, "go", args...)
	run.Stderr = os.Stderr
	run.Env = append(os.Environ(), "TMPDIR="+dir)
	out, err := run.Output()
	if err != nil {
		return nil, nil, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	if names, values = parseBenchmarks(string(out), in.bench+"/"); len(names) == 0 {
		return nil, nil, fmt.Errorf("go %s: no results in\n%s", strings.Join(args, " "), out)
	}
	return names, values, nil
}

// parseBenchmarks reads what go test -bench prints: a case's values by unit, one
// for each repetition, and the cases in order.
func parseBenchmarks(out, prefix string) (names []string, values map[string]map[string][]float64) {
	values = map[string]map[string][]float64{}
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], prefix) {
			continue
		}
		name := strings.TrimPrefix(fields[0], prefix)
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			name = name[:i] // the number of processors
		}
		name = strings.ReplaceAll(name, "_", " ")
		if values[name] == nil {
			names = append(names, name)
			values[name] = map[string][]float64{}
		}
		for i := 2; i+1 < len(fields); i += 2 {
			if v, err := strconv.ParseFloat(fields[i], 64); err == nil {
				values[name][fields[i+1]] = append(values[name][fields[i+1]], v)
			}
		}
	}
	return names, values
}
