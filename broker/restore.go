package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/gantry-mq/gantry/broker/dispatch"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
	"github.com/gantry-mq/gantry/internal/logging"
	"github.com/gantry-mq/gantry/internal/mmapfile"
	"github.com/gantry-mq/gantry/scheduler"
)

// formatVersion is the version of the data directory as a whole: it is raised
// when any format below it changes in a way that an older build cannot read.
const formatVersion = 1

// FormatVersion returns the version of the data directory's format.
func FormatVersion() int { return formatVersion }

// prepareDirs makes the directories and checks the FORMAT file, which holds one
// decimal number and a newline. It comes last, and makes their names durable.
func prepareDirs(fsys mmapfile.FS, dir string, subdirs ...string) error {
	for _, d := range append([]string{dir}, subdirs...) {
		if err := fsys.MkdirAll(d); err != nil {
			return fmt.Errorf("broker: %w", err)
		}
	}
	name := filepath.Join(dir, "FORMAT")
	b, err := mmapfile.ReadFile(fsys, name)
	if errors.Is(err, fs.ErrNotExist) {
		if err := mmapfile.WriteFile(fsys, name, []byte(strconv.Itoa(formatVersion)+"\n")); err != nil {
			return fmt.Errorf("broker: %w", err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	v, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return fmt.Errorf("broker: %s is not a number: %q", name, b)
	}
	if v != formatVersion {
		return fmt.Errorf("broker: %s says format %d, this build reads %d", name, v, formatVersion)
	}
	return nil
}

// Sections of a checkpoint, in order.
const (
	sectionIdentity = iota
	sectionTopics
	sectionGroups
	sectionInflight
	sectionIndex
	sectionLite
	sectionTransactions
	sectionTimers
	sectionKeys
	sectionHistory
	sectionReplays
	sectionProducers
	sectionDedup
	sectionAccess
	sectionQuotas
	sectionLogBegin
	sectionCount
)

// sectionsBefore is how many sections the oldest build wrote that this one reads.
// Those behind are as after nothing when they are missing.
const sectionsBefore = sectionKeys

// snapshot encodes the state. It is called by the dispatcher, between frames.
func (b *Broker) snapshot(at record.Position) dispatch.Checkpoint {
	sections := b.tables()
	sections[sectionIndex] = b.index.AppendSnapshot(nil)
	sections[sectionKeys] = b.keys.AppendSnapshot(nil)
	return dispatch.Checkpoint{Position: at, Sections: sections}
}

// tables encodes what is not an index: equal in all replicas.
func (b *Broker) tables() [][]byte {
	sections := make([][]byte, sectionCount)
	sections[sectionIdentity] = b.identity.append(nil)
	sections[sectionTopics] = b.topics.AppendSnapshot(nil)
	sections[sectionGroups] = b.groups.AppendSnapshot(nil)
	sections[sectionInflight] = b.inflight.AppendSnapshot(nil)
	sections[sectionLite] = b.lites.AppendSnapshot(nil)
	sections[sectionTransactions] = b.transactions.AppendSnapshot(nil)
	sections[sectionTimers] = b.timers.AppendSnapshot(nil)
	sections[sectionHistory] = b.inflight.AppendHistory(nil)
	sections[sectionReplays] = b.replays.AppendSnapshot(nil)
	sections[sectionProducers] = b.producers.AppendSnapshot(nil)
	sections[sectionDedup] = b.dedup.AppendSnapshot(nil)
	sections[sectionAccess] = b.access.AppendSnapshot(nil)
	sections[sectionQuotas] = b.quotas.AppendSnapshot(nil)
	sections[sectionLogBegin] = binary.AppendUvarint(nil, b.logBegins.Load())
	return sections
}

// restore loads a checkpoint. rebuild says that the index must be made again
// from the log: its files are gone or damaged, or the checkpoint is older than
// another that there was, and the index has gone on with that.
func (b *Broker) restore(cp dispatch.Checkpoint, found bool, indexDir string) (rebuild bool, err error) {
	var indexSnapshot []byte
	if found {
		if n := len(cp.Sections); n < sectionsBefore || n > sectionCount {
			return false, fmt.Errorf("broker: the checkpoint has %d sections, want %d to %d", n, sectionsBefore, sectionCount)
		}
		// Before the index is looked at, for one that does not fit is thrown away.
		if err := scheduler.CheckSnapshot(cp.Sections[sectionTimers]); err != nil {
			return false, fmt.Errorf("broker: checkpoint %d: %w", cp.Position, err)
		}
		for _, load := range []struct {
			section int
			restore func(*record.Decoder)
		}{
			{sectionIdentity, b.restoreIdentity},
			{sectionTopics, b.restoreTopics},
			{sectionGroups, b.groups.Restore},
			{sectionInflight, b.inflight.Restore},
			{sectionHistory, b.inflight.RestoreHistory}, // behind the leases that it is of
			{sectionLite, b.lites.Restore},
			{sectionTransactions, b.transactions.Restore},
			{sectionReplays, b.replays.Restore},
			{sectionProducers, b.producers.Restore},
			{sectionDedup, b.dedup.Restore}, // behind the topics that it is of
			{sectionAccess, b.access.Restore},
			{sectionQuotas, b.quotas.Restore},
			{sectionLogBegin, b.restoreLogBegin},
		} {
			if load.section >= len(cp.Sections) {
				continue
			}
			d := record.NewDecoder(cp.Sections[load.section])
			if load.restore(d); d.Err() != nil {
				return false, fmt.Errorf("broker: checkpoint section %d: %w", load.section, d.Err())
			}
		}
		indexSnapshot = cp.Sections[sectionIndex]
	}
	opts := consumequeue.Options{FS: b.opts.FS, ArenaSize: b.opts.ArenaSize, Damaged: b.foundDamage, NoSpace: b.noRoom, Logger: b.opts.Logger.With(logging.Component, "consumequeue")}
	if found {
		if b.index, err = consumequeue.Open(indexDir, opts, indexSnapshot, cp.Position); err == nil {
			return false, nil
		}
		b.log.Warn("the consume queues do not fit the checkpoint: they are rebuilt from the log", "error", err)
	}
	// What is there belongs to no checkpoint: without one Open removes it, and replay
	// fills it.
	b.index, err = consumequeue.Open(indexDir, opts, nil, 0)
	return found, err
}

func (b *Broker) restoreTopics(d *record.Decoder) {
	b.topics.Restore(d)
	for _, tp := range b.topics.List() {
		b.dedup.Configure(tp.ID, tp.DedupWindow, tp.DedupMax, string(tp.DedupKey))
	}
}

// restoreTimers makes the scheduler. Its entries are where the checkpoint says,
// whether their queues are the checkpoint's or will be made again.
func (b *Broker) restoreTimers(cp dispatch.Checkpoint, found bool) error {
	b.timers = scheduler.New(b.index, b.clock.Wall)
	if !found {
		return nil
	}
	d := record.NewDecoder(cp.Sections[sectionTimers])
	if b.timers.Restore(d); d.Err() != nil {
		return fmt.Errorf("broker: checkpoint section %d: %w", sectionTimers, d.Err())
	}
	return nil
}

// rebuildIndex puts the entries of all placed records below to. Queue offsets
// are in the records, so no other state is needed.
func (b *Broker) rebuildIndex(ctx context.Context, snapshot []byte, to record.Position) error {
	snap, err := consumequeue.Ends(snapshot)
	if err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	ends := maps.Collect(snap)
	moved := relocations{}
	timers := map[record.QueueKey]record.QueueOffset{} // buckets: the first place that has a record
	err = b.replay(ctx, b.wal.Committed(), func(pos record.Position, rec []byte, kind record.Kind, _ int64) error {
		if pos >= to {
			if kind == record.KindRelocate { // of an entry from before, whose own record may be gone
				return moved.collect(record.Command(rec), func(r relocation) bool { return r.Offset < ends[r.Key] })
			}
			return nil
		}
		switch kind {
		case record.KindDelayed, record.KindTimerMove:
			key := indexKey(rec, kind)
			if _, seen := timers[key]; !seen {
				timers[key] = record.OffsetOf(rec)
			}
		case record.KindRelocate:
			return moved.collect(record.Command(rec), func(relocation) bool { return true })
		case record.KindRedrive, record.KindDiscard:
			return moved.settle(rec, kind)
		case record.KindTrim:
			return moved.trim(record.Command(rec))
		case record.KindDelete:
			return moved.delete(record.Command(rec))
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := moved.beginTimers(b.index, timers, ends, b.timers.FirstPending); err != nil {
		return err
	}
	err = b.replay(ctx, to, func(pos record.Position, rec []byte, kind record.Kind, _ int64) error {
		if kind.Placed() {
			if key := indexKey(rec, kind); b.topicExists(key.Topic()) {
				at := record.OffsetOf(rec)
				if err := moved.begin(b.index, key, at, at); err != nil {
					return err
				}
			}
		}
		switch kind {
		case record.KindDelayed, record.KindTimerMove, record.KindTimerFired:
			return b.indexTimer(pos, rec, kind)
		case record.KindDiscard:
			return b.indexDiscard(record.Command(rec))
		case record.KindRelocate:
			return b.indexRelocate(record.Command(rec))
		case record.KindTrim:
			t, err := parseTrim(record.Command(rec))
			b.indexTrim(t)
			return err
		case record.KindDelete:
			refs, err := parseDelete(record.Command(rec))
			if err != nil {
				return err
			}
			return b.indexDelete(refs)
		}
		if kind.Placed() {
			return b.indexPlaced(pos, rec, kind)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for key := range timers {
		if !b.timers.Has(key) {
			b.index.Delete(key)
		}
	}
	for key, end := range ends {
		if b.topicExists(key.Topic()) {
			if err := moved.begin(b.index, key, end, end); err != nil {
				return err
			}
		}
		b.index.Reserve(key, end)
	}
	b.log.Info("consume queues rebuilt from the log", "from", b.wal.First(), "to", to)
	return nil
}

// replay calls apply for all records below to that are still in the log.
func (b *Broker) replay(ctx context.Context, to record.Position, apply func(record.Position, []byte, record.Kind, int64) error) error {
	first := b.wal.First()
	d := dispatch.New(b.wal.Reader(first), first, 1<<62, dispatch.Sinks{
		Apply: apply, Wake: func() {}, Checkpoint: func(record.Position) {},
	})
	if err := d.CatchUp(ctx, to); err != nil {
		return fmt.Errorf("broker: replay for a rebuild: %w", err)
	}
	return nil
}
