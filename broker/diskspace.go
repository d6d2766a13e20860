package broker

import (
	"errors"
	"time"

	"github.com/gantry-mq/gantry/commitlog"
)

// The disk is full before it is: what is left below Options.DiskReserve is for
// commands, checkpoints and indexes, so that what frees space still works. A disk
// that fills up nevertheless, because somebody else writes to it, is found by the log
// when it prepares a segment (commitlog.ErrDiskFull).

const diskLookEvery = time.Second

// watchDisk has sends refused while space is short. It asks for an eighth more before
// they go on, or they would stop and go with every file that comes and goes.
func (b *Broker) watchDisk() {
	tick := time.NewTicker(diskLookEvery)
	defer tick.Stop()
	unknown := false
	for {
		free, err := b.opts.DiskFree()
		if err != nil && !unknown {
			b.log.Warn("the free space of the data directory is not known", "error", err)
		}
		unknown = err != nil
		enough := b.opts.DiskReserve
		was := b.diskShort.Load()
		if was {
			enough += enough / 8
		}
		if short := !unknown && free < enough; short != was {
			b.diskShort.Store(short)
			if short {
				b.log.Error("disk space is short, refusing messages", "free", free, "reserve", b.opts.DiskReserve)
			} else {
				b.log.Info("there is disk space again, taking messages", "free", free, "reserve", b.opts.DiskReserve)
			}
		}
		select {
		case <-tick.C:
		case <-b.ctx.Done():
			return
		}
	}
}

// noSpace is why a send is refused then.
func (b *Broker) noSpace() error {
	b.gate.refused[DiskSpace].Add(1)
	return Errorf(TooManyRequests, "disk space is short: less than the %d bytes that are kept in reserve are free; nothing was stored, try again when there is space", b.opts.DiskReserve)
}

// refusedAppend is wrapAppend for messages; those that the log has no space for count
// as refused, too.
func (b *Broker) refusedAppend(err error) error {
	if errors.Is(err, commitlog.ErrDiskFull) {
		b.gate.refused[DiskSpace].Add(1)
	}
	return wrapAppend(err)
}
