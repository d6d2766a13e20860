package broker

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/gantry-mq/gantry/broker/dispatch"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile"
)

// checkpointer writes checkpoints beside the dispatcher: the dispatcher encodes
// the state, which takes no I/O, and hands it over; one goroutine flushes the
// index and writes the file.
type checkpointer struct {
	b    *Broker
	dir  string
	work chan dispatch.Checkpoint // capacity 1
	// busy from the taking of a snapshot until its checkpoint is durable: what a
	// second snapshot would let go, the first may still name.
	busy atomic.Bool

	last record.Position // newest that is good; the run goroutine's, then final's

	// replayFrom is the checkpoint before the newest: a restart that finds the
	// newest damaged replays from here, so older log is not needed.
	replayFrom atomic.Uint64
}

func (c *checkpointer) init(b *Broker, dir string, at record.Position) {
	c.b, c.dir, c.work, c.last = b, dir, make(chan dispatch.Checkpoint, 1), at
}

// take is called by the dispatcher. When the writer is still busy with the
// checkpoint before, this one is left out: the next comes soon enough.
func (c *checkpointer) take(at record.Position) {
	if c.busy.CompareAndSwap(false, true) {
		c.work <- c.b.snapshot(at)
	}
}

func (c *checkpointer) run() {
	for {
		select {
		case <-c.b.ctx.Done():
			return
		case cp := <-c.work:
			if err := c.write(cp); err != nil {
				c.b.fatal(err)
				return
			}
			c.busy.Store(false)
		}
	}
}

func (c *checkpointer) write(cp dispatch.Checkpoint) error {
	began := time.Now()
	// Recovery refuses a log that ends before its checkpoint.
	if err := c.b.wal.Sync(); err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	if err := c.b.index.Flush(); err != nil {
		return fmt.Errorf("broker: flush the consume queues: %w", err)
	}
	if err := c.b.keys.Flush(); err != nil {
		return fmt.Errorf("broker: flush the key index: %w", err)
	}
	err := dispatch.WriteCheckpoint(c.b.opts.FS, c.dir, cp, c.last)
	if errors.Is(err, mmapfile.ErrNoSpace) {
		c.b.log.Warn("the disk has no room for a checkpoint; a start would go on from the one before", "error", err)
		return nil
	}
	if err != nil {
		return err
	}
	if err := c.b.index.Persisted(cp.Position); err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	if err := c.b.keys.Persisted(); err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	c.replayFrom.Store(uint64(c.last))
	c.last = cp.Position
	c.b.counters.checkpoint(time.Since(began))
	return nil
}

// final writes the last checkpoint, after the dispatcher and run have ended.
func (c *checkpointer) final() error {
	if at := c.b.dispatcher.Applied(); at > c.last {
		return c.write(c.b.snapshot(at))
	}
	return nil
}
