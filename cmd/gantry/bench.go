package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gantry-mq/gantry/cmd/gantry/bench"
)

func newBench() *cobra.Command {
	var o bench.Options
	var caller callerFlags
	var jsonOut, quiet bool
	var svg string
	cmd := &cobra.Command{
		Use:       "bench SHAPE",
		Short:     "Put load on a broker through gantry.v1 and measure it",
		Long:      "Put load on a broker through gantry.v1 and measure what comes of it. Shapes:\n\n" + shapeList() + "\nWith --rate, latency counts from the time at which a message should have been sent.",
		Example:   "  gantry bench publish --size 100 --producers 2 --duration 20s --svg publish.svg\n  gantry bench end-to-end --rate 5000 --json",
		ValidArgs: bench.ShapeNames(),
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		RunE: run(func(cmd *cobra.Command, args []string) error {
			if _, _, err := splitAddr(o.Server); err != nil {
				return usageErrorf("--server %q: want HOST:PORT", o.Server)
			}
			o.Shape = args[0]
			var err error
			if o.User, o.Secret, err = caller.read(); err != nil {
				return err
			}
			if !quiet && !jsonOut {
				o.Progress = cmd.ErrOrStderr()
			}
			results, err := bench.Run(cmd.Context(), o)
			if svg != "" && len(results) > 0 {
				err = errors.Join(err, writeSVG(svg, results))
			}
			if jsonOut {
				return errors.Join(printJSON(cmd.OutOrStdout(), results), err)
			}
			return errors.Join(printBench(cmd.OutOrStdout(), results), err)
		}),
	}
	f := cmd.Flags()
	server := defaultAddr
	if env := os.Getenv(serverEnv); env != "" {
		server = env
	}
	f.StringVar(&o.Server, "server", server, "broker to talk to, as `HOST:PORT` (environment: "+serverEnv+")")
	caller.add(cmd)
	f.IntVar(&o.Size, "size", 0, "`BYTES` of a body (default 1024)")
	f.IntVar(&o.Count, "count", 0, "messages in all; shapes that read send so many ahead (default 1000000 there)")
	f.DurationVar(&o.Duration, "duration", 0, "how long to send (default 10s without --count)")
	f.IntVar(&o.Rate, "rate", 0, "messages a second, of all producers; 0: as many as go")
	f.IntVar(&o.Producers, "producers", 1, "producers, each with a connection of its own")
	f.IntVar(&o.Consumers, "consumers", 1, "consumers or readers (of each group), each with a connection of its own")
	f.IntVar(&o.Topics, "topics", 1, "topics")
	f.IntVar(&o.Queues, "queues", 8, "queues of each topic")
	f.IntVar(&o.Groups, "groups", 3, "groups of fanout")
	f.StringVar(&o.Filter, "filter", "none", "none, tag or sql")
	f.Float64Var(&o.Match, "match", 1, "share of the messages that the filter matches, above 0 to 1")
	f.IntVar(&o.Batch, "batch", 0, "`BYTES` of a producer's batch or a reader's frame; 0: the client's default")
	f.StringVar(&o.Compress, "compress", "none", "none, zstd, lz4 or s2: how producers compress bodies, which then are JSON")
	f.IntVar(&o.PID, "server-pid", 0, "process whose CPU and memory are counted; 0: the one that holds the data directory")
	f.BoolVar(&jsonOut, "json", false, "print JSON")
	f.BoolVar(&quiet, "quiet", false, "no progress line")
	f.StringVar(&svg, "svg", "", "draw the result over time into `FILE`")
	cmd.RegisterFlagCompletionFunc("filter", cobra.FixedCompletions([]string{"none", "tag", "sql"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RegisterFlagCompletionFunc("compress", cobra.FixedCompletions([]string{"none", "zstd", "lz4", "s2"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func shapeList() string {
	var s strings.Builder
	for _, name := range bench.ShapeNames() {
		fmt.Fprintf(&s, "  %-13s %s\n", name, bench.Shapes[name])
	}
	return s.String()
}

// writeSVG writes the first result into path, the others beside it.
func writeSVG(path string, results []bench.Result) error {
	for i, r := range results {
		name := path
		if i > 0 {
			name = strings.TrimSuffix(path, ".svg") + "-" + r.Phase + ".svg"
		}
		f, err := os.Create(name)
		if err != nil {
			return err
		}
		if err := errors.Join(bench.WriteSVG(f, r), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

func printBench(w io.Writer, results []bench.Result) error {
	var rows [][]string
	for _, r := range results {
		row := []string{
			r.Phase, fmt.Sprint(r.Messages), (time.Duration(r.Seconds * float64(time.Second))).Round(10 * time.Millisecond).String(),
			fmt.Sprintf("%.0f", r.PerSecond), fmt.Sprintf("%.1f", r.MiBPerSec), "-", "-", "-", "-",
			fmt.Sprintf("%.2f", r.ServerCPUMicros), fmt.Sprintf("%.2f", r.ClientCPUMicros),
			fmt.Sprintf("%d", r.ServerRSS>>20), fmt.Sprintf("%d", r.ServerAnon>>20), fmt.Sprint(r.Errors),
		}
		if l := r.Latency; l != nil {
			for i, v := range []float64{l.P50, l.P99, l.P999, l.Max} {
				row[5+i] = fmt.Sprintf("%.2f", v)
			}
		}
		rows = append(rows, row)
	}
	return printTable(w, []string{"SHAPE", "MESSAGES", "TIME", "MSG/S", "MIB/S", "P50 MS", "P99 MS", "P99.9 MS", "MAX MS", "SERVER US/MSG", "CLIENT US/MSG", "RSS MIB", "ANON MIB", "ERRORS"}, rows)
}
