package broker

import (
	"context"

	"github.com/gantry-mq/gantry/commitlog"
)

// command is a batch of one command, in memory that is used again.
type command struct {
	buf   []byte
	batch commitlog.Batch
	lost  bool // the log may still be reading it: never again
}

// room is where the next command is to be appended.
func (c *command) room() []byte {
	c.batch.Reset()
	return c.buf[:0]
}

// set makes cmd, which was appended to room, the command to submit.
func (c *command) set(cmd []byte) {
	c.buf = cmd
	c.batch.Add(cmd, nil)
}

// await returns when the command, which has been submitted, is applied.
func (c *command) await(b *Broker) error {
	c.lost = true
	if err := b.await(&c.batch); err != nil {
		return err
	}
	c.lost = false
	return nil
}

// durable returns when the command, which has been submitted, is durable.
func (c *command) durable() error {
	c.lost = true
	if err := c.batch.Wait(context.Background()); err != nil {
		return wrapAppend(err)
	}
	c.lost = false
	return nil
}
