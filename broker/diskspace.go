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

// watchDisk has sends refused while space is short; a follower would refuse them if it
// led. It asks for an eighth more before they go on, or they would stop and go with every
// file that comes and goes.
func (b *Broker) watchDisk() {
	tick := time.NewTicker(diskLookEvery)
	defer tick.Stop()
	unknown := false
	for first := true; ; first = false {
		free, err := b.opts.DiskFree()
		if err != nil && !unknown {
			b.log.Warn("the free space of the data directory is not known", "error", err)
		}
		unknown = err != nil
		b.diskFree.Store(free)
		enough := b.opts.DiskReserve
		was := b.diskShort.Load()
		if was {
			enough = b.enoughAgain()
		}
		if short := !unknown && free < enough; short != was {
			b.diskShort.Store(short)
			switch {
			case short && first:
				// An empty broker takes some 80 MiB for its first files.
				b.log.Error("no message will be taken: the disk is too small for the reserve, or full", "free", free, "reserve", b.opts.DiskReserve, "needed", b.enoughAgain())
			case short:
				b.log.Error("disk space is short, refusing messages", "free", free, "reserve", b.opts.DiskReserve)
			default:
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

// noRoomLook is how often it is tried again to make a file of an index.
const noRoomLook = 100 * time.Millisecond

// noRoom is asked by an index that the disk has no room for, although there was a reserve:
// somebody else has taken that, too. What is in the log is not lost, and is applied when
// there is room; until then nobody is answered, so messages are refused.
func (b *Broker) noRoom(err error) bool {
	if err == nil {
		b.indexShort.Store(false)
		b.log.Info("the disk has room for the index again")
		return true
	}
	if !b.indexShort.Swap(true) {
		b.log.Error("disk space is short: there is no room for an index, and nothing is answered until there is", "error", err)
	}
	select {
	case <-time.After(noRoomLook):
		return true
	case <-b.ctx.Done():
		return false
	}
}

// DiskFull reports whether messages are refused for want of disk space, or would be
// if this broker took any.
func (b *Broker) DiskFull() bool {
	return b.diskShort.Load() || b.indexShort.Load() || b.wal.Stats().DiskFull
}

// enoughAgain is how much must be free before sends go on.
func (b *Broker) enoughAgain() int64 { return b.opts.DiskReserve + b.opts.DiskReserve/8 }

// noSpace is why a send is refused then.
func (b *Broker) noSpace() error {
	b.gate.refused[DiskSpace].Add(1)
	if b.indexShort.Load() {
		return Errorf(TooManyRequests, "disk space is short: there is no room for an index; nothing was stored, try again when there is")
	}
	return Errorf(TooManyRequests, "disk space is short: %d bytes are free, less than the %d that are kept in reserve; nothing was stored, try again when %d are free", b.diskFree.Load(), b.opts.DiskReserve, b.enoughAgain())
}

// refusedAppend is wrapAppend for messages; those that the log has no space for count
// as refused, too.
func (b *Broker) refusedAppend(err error) error {
	if errors.Is(err, commitlog.ErrDiskFull) {
		b.gate.refused[DiskSpace].Add(1)
	}
	return wrapAppend(err)
}
