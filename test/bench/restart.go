package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/gantry-mq/gantry/test/bench/meter"
	"github.com/gantry-mq/gantry/test/bench/text"
)

// fillBatch is how many messages one call carries while the store is filled.
const fillBatch = 256

// measureRestart times starts on a large store, after an orderly stop and after
// a kill. The store is in the page cache as far as it fits, as after any
// restart of the process alone.
func measureRestart(ctx context.Context, c config, dir string, r *report) error {
	o := serverOptions{dir: filepath.Join(dir, "store"), args: []string{"--durability", "unsafe-async"}}
	s, err := start(ctx, c, o)
	if err != nil {
		return err
	}
	messages, err := fill(ctx, c, s)
	if err != nil {
		s.kill()
		return fmt.Errorf("%w\n%s", err, s.stderr.String())
	}
	if err := s.stop(); err != nil {
		return err
	}
	var orderly, killed, memory []float64
	for range max(c.repeats, 1) {
		for _, how := range []struct {
			took *[]float64
			kill bool
		}{{&orderly, false}, {&killed, true}} {
			if how.kill {
				// Something to recover: work after the last checkpoint.
				if s, err = start(ctx, c, o); err != nil {
					return err
				}
				few := c
				few.storeMB = min(c.storeMB, 50)
				if _, err := fill(ctx, few, s); err != nil {
					s.kill()
					return err
				}
				s.kill()
			}
			if s, err = start(ctx, c, o); err != nil {
				return err
			}
			*how.took = append(*how.took, ms(s.called))
			rss, _, err := meter.Memory(s.cmd.Process.Pid)
			if err != nil {
				return err
			}
			memory = append(memory, float64(rss)/(1<<20))
			if err := s.stop(); err != nil {
				return err
			}
		}
	}
	r.table(fmt.Sprintf("Restart with %.1f GB, %s messages", float64(c.storeMB)/1000, text.Number(float64(messages))),
		[]string{"stopped by", "fork to a first call answered, ms"}, [][]string{
			{"SIGTERM", text.Spread(orderly)},
			{"SIGKILL, 50 MB after the fill", text.Spread(killed)},
		})
	r.line("\nRSS after these starts: %s MiB.", text.Spread(memory))
	return nil
}

// fill sends config.storeMB of bodies.
func fill(ctx context.Context, c config, s *server) (int64, error) {
	c.callers = min(c.callers, 16)
	l, err := dialLoad(ctx, c, s)
	if err != nil {
		return 0, err
	}
	defer l.Close()
	total := c.storeMB * 1_000_000 / int64(c.size)
	return total, l.Send(ctx, total, fillBatch)
}
