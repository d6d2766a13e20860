package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/gantry-mq/gantry/test/bench/meter"
	"github.com/gantry-mq/gantry/test/bench/text"
)

// measureStart times starts on a new directory and on one that was used, and
// looks at the memory of a broker that does nothing.
func measureStart(ctx context.Context, c config, dir string, r *report) error {
	var fresh, again, freshCall, againCall []float64
	for i := range c.starts {
		o := serverOptions{dir: filepath.Join(dir, fmt.Sprint(i))}
		for _, to := range []struct{ ready, call *[]float64 }{{&fresh, &freshCall}, {&again, &againCall}} {
			s, err := start(ctx, c, o)
			if err != nil {
				return err
			}
			*to.ready = append(*to.ready, ms(s.ready))
			*to.call = append(*to.call, ms(s.called))
			if err := s.stop(); err != nil {
				return err
			}
		}
		if err := os.RemoveAll(o.dir); err != nil {
			return err
		}
	}
	r.table("Start to ready", []string{"data directory", "fork to /readyz, ms", "fork to a first call answered, ms"}, [][]string{
		{"new", text.Spread(fresh), text.Spread(freshCall)},
		{"used before", text.Spread(again), text.Spread(againCall)},
	})

	var rows [][]string
	for _, limit := range []string{"", "64MiB"} {
		o := serverOptions{dir: filepath.Join(dir, "idle"+limit), env: []string{"GOMEMLIMIT=" + limit}}
		s, err := start(ctx, c, o)
		if err != nil {
			return err
		}
		time.Sleep(c.settle)
		rss, anon, err := meter.Memory(s.cmd.Process.Pid)
		if err != nil {
			return err
		}
		if err := s.stop(); err != nil {
			return err
		}
		name := "unset"
		if limit != "" {
			name = limit
		}
		rows = append(rows, []string{name, mib(rss), mib(anon)})
	}
	r.table("Idle memory", []string{"GOMEMLIMIT", "RSS, MiB", "of it not file pages, MiB"}, rows)
	return nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func mib(n int64) string { return fmt.Sprintf("%.1f", float64(n)/(1<<20)) }
