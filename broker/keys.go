package broker

import (
	"context"
	"slices"

	"github.com/gantry-mq/gantry/broker/dispatch"
	"github.com/gantry-mq/gantry/broker/transaction"
	"github.com/gantry-mq/gantry/commitlog/keyindex"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
	"github.com/gantry-mq/gantry/internal/logging"
	"github.com/gantry-mq/gantry/scheduler"
)

// indexKeys puts a record into the key index: a message under its id and keys,
// what is done with a payload under the payload's position, its copies under its
// first one, timer-fired records under the time that they are about. It belongs to
// the dispatcher; what is there already is passed over, so a replay may call it too.
//
// A relocate record is there for the entries that a move put into a queue: the
// record of that move may go with the segment from which the payload was copied.
func (b *Broker) indexKeys(pos record.Position, rec []byte, kind record.Kind) error {
	hashes := b.keyHashes[:0]
	switch kind {
	case record.KindMessage, record.KindHalf, record.KindDelayed, record.KindCopy:
		m, err := record.ParseMessage(rec)
		if err != nil {
			return err
		}
		if _, named := m.Properties.Lookup(record.FieldMessageID); !named && kind == record.KindCopy {
			// A position id finds the first copy by itself, and no other.
			hashes = append(hashes, keyindex.ID(m.Topic, []byte(b.messageID(&m, pos))))
		}
		if kind == record.KindCopy { // one of several, perhaps
			hashes = append(hashes, keyindex.Move(originAt(pos, &m)))
		}
		err = m.Properties.Each(func(f record.Field, _, value []byte) bool {
			switch f {
			case record.FieldMessageID:
				hashes = slices.Insert(hashes, 0, keyindex.ID(m.Topic, value))
			case record.FieldKey:
				hashes = append(hashes, keyindex.Key(m.Topic, value))
			}
			return true
		})
		if err != nil {
			return err
		}
	case record.KindTimerFired: // which does not name payloads
		var f scheduler.Fired
		if err := f.Parse(rec); err != nil {
			return err
		}
		for _, second := range f.Seconds {
			hashes = append(hashes, keyindex.Due(f.To, second))
		}
	case record.KindRelocate:
		rs, err := parseRelocate(record.Command(rec))
		if err != nil {
			return err
		}
		for _, r := range rs {
			if r.Entry.Flags&consumequeue.FlagMoved != 0 {
				hashes = append(hashes, keyindex.Move(r.Entry.Position))
			}
		}
	default:
		payload, ok, err := movedPayload(rec, kind)
		if err != nil || !ok {
			return err
		}
		hashes = append(hashes, keyindex.Move(payload))
	}
	b.keyHashes = hashes
	if len(hashes) == 0 {
		return nil
	}
	return b.keys.Put(pos, hashes)
}

// movedPayload returns the position of the payload that a record does something
// with; false for records that leave payloads alone. A rollback is not among
// them: a half message that is neither open nor committed was rolled back.
func movedPayload(rec []byte, kind record.Kind) (pos record.Position, ok bool, err error) {
	switch kind {
	case record.KindTransactionEnd:
		c, err := transaction.ParseCommit(rec)
		return c.Position, true, err
	case record.KindDeadLetter, record.KindDeadLetterCopy:
		dl, err := parseDeadLetter(rec)
		return dl.Position, true, err
	case record.KindRedrive:
		r, err := parseRedrive(rec)
		return r.Position, true, err
	case record.KindTimerCancel, record.KindTimerMove:
		c, err := parseTimerChange(rec, kind)
		return c.Position, true, err
	}
	return 0, false, nil
}

func parseTimerChange(rec []byte, kind record.Kind) (scheduler.Change, error) {
	if kind == record.KindTimerMove {
		return scheduler.ParseMove(rec)
	}
	return scheduler.ParseCancel(rec)
}

// openKeys opens the key index as the checkpoint says. rebuild says that it is
// empty and must be made again from the log, as of the consume queues.
func (b *Broker) openKeys(cp dispatch.Checkpoint, found bool, dir string) (rebuild bool, err error) {
	opts := keyindex.Options{FS: b.opts.FS, SegmentEntries: b.opts.KeySegmentEntries, Damaged: b.foundDamage, NoSpace: b.noRoom, Logger: b.opts.Logger.With(logging.Component, "keyindex")}
	if found && len(cp.Sections) > sectionKeys {
		if b.keys, err = keyindex.Open(dir, opts, cp.Sections[sectionKeys]); err == nil {
			return false, nil
		}
		b.log.Warn("the key index does not fit the checkpoint: it is rebuilt from the log", "error", err)
	}
	b.keys, err = keyindex.Open(dir, opts, nil)
	return found, err
}

// rebuildKeys puts all records below to.
func (b *Broker) rebuildKeys(ctx context.Context, to record.Position) error {
	err := b.replay(ctx, to, func(pos record.Position, rec []byte, kind record.Kind, _ int64) error {
		return b.indexKeys(pos, rec, kind)
	})
	if err != nil {
		return err
	}
	b.log.Info("key index rebuilt from the log", "from", b.wal.First(), "to", to)
	return nil
}
