package broker

import (
	"encoding/binary"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// Retention of a replicated log: the leader copies forward what is still referred
// to, and then a log-begin record says where the log begins for all replicas.
//
//	position uvarint
//
// Each drops what is before when none of its checkpoints needs it any more. Until
// then it has it, but nobody is shown it: what one replica refuses, all do.

func appendLogBegin(dst []byte, at record.Position) []byte {
	dst, start := record.BeginCommand(dst, record.KindLogBegin)
	return record.EndCommand(binary.AppendUvarint(dst, uint64(at)), start)
}

func (b *Broker) applyLogBegin(data []byte) error {
	d := record.NewDecoder(data)
	at := d.Uvarint()
	if d.Err() == nil && at > b.logBegins.Load() {
		b.logBegins.Store(at)
	}
	return d.Err()
}

// restoreLogBegin reads the section of a checkpoint: a position, as in the record. It
// is 0 while no record has said where the log begins.
func (b *Broker) restoreLogBegin(d *record.Decoder) { b.logBegins.Store(d.Uvarint()) }

// logBegin is the first position that clients may be shown.
func (b *Broker) logBegin() record.Position {
	return max(b.wal.First(), record.Position(b.logBegins.Load()))
}

// followRetention drops the beginning of a replicated log now and then.
func (b *Broker) followRetention() {
	tick := time.NewTicker(housekeepEvery)
	defer tick.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-tick.C:
			b.dropAgreed()
		}
	}
}

// dropAgreed drops what all may drop, as far as this node's checkpoints allow.
func (b *Broker) dropAgreed() {
	b.dropping.Lock()
	defer b.dropping.Unlock()
	pos := min(record.Position(b.logBegins.Load()), record.Position(b.checkpt.replayFrom.Load()))
	if pos <= b.wal.First() {
		return
	}
	n, err := 0, b.opts.Remember()
	if err == nil {
		n, err = b.wal.DropBefore(pos)
	}
	b.dropped(n, err)
}

// dropped tells the indexes of segments that are gone.
func (b *Broker) dropped(segments int, err error) {
	if err != nil {
		b.log.Error("retention failed", "error", err)
	}
	if segments == 0 {
		return
	}
	first := b.wal.First()
	if err := b.index.DropBefore(first); err != nil {
		b.log.Error("the consume queues did not drop what retention took", "error", err)
	}
	b.keys.DropBefore(first)
	b.log.Info("retention dropped segments", "segments", segments, "log_begins", first)
}
