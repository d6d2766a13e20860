package broker

import (
	"encoding/binary"
	"errors"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// A relocate record names entries whose payload, or dead-letter record, has been
// copied forward: uvarint count, each
//
//	topic uvarint | queue uvarint | queue offset uvarint
//	position uvarint | size uvarint | flags uvarint       of the entry from now on
//	tag hash uvarint | group hash uvarint | store time varint
//
// It is appended when the copies are durable, so an entry never names a record
// that a crash could take back.
type relocation struct {
	Key    record.QueueKey
	Offset record.QueueOffset
	Entry  consumequeue.Entry
}

func appendRelocate(dst []byte, rs []relocation) []byte {
	dst, start := record.BeginCommand(dst, record.KindRelocate)
	dst = binary.AppendUvarint(dst, uint64(len(rs)))
	for _, r := range rs {
		for _, v := range []uint64{
			uint64(r.Key.Topic()), uint64(r.Key.Queue()), uint64(r.Offset), uint64(r.Entry.Position), uint64(r.Entry.Size),
			uint64(r.Entry.Flags), uint64(r.Entry.TagHash), uint64(r.Entry.GroupHash),
		} {
			dst = binary.AppendUvarint(dst, v)
		}
		dst = binary.AppendVarint(dst, r.Entry.StoreTime)
	}
	return record.EndCommand(dst, start)
}

func parseRelocate(data []byte) ([]relocation, error) {
	d := record.NewDecoder(data)
	rs := make([]relocation, 0, d.Count(9))
	for range cap(rs) {
		rs = append(rs, relocation{
			Key:    record.Key(record.TopicID(d.Uint32()), d.Uint32()),
			Offset: record.QueueOffset(d.Uvarint()),
			Entry: consumequeue.Entry{
				Position: record.Position(d.Uvarint()), Size: d.Uint32(), Flags: consumequeue.Flags(d.Uint32()),
				TagHash: d.Uint32(), GroupHash: d.Uint32(), StoreTime: d.Varint(),
			},
		})
	}
	return rs, d.Err()
}

// indexRelocate applies a relocate record: an entry that is still there names the
// copy. What was flagged since the copy was decided stays flagged.
func (b *Broker) indexRelocate(data []byte) error {
	rs, err := parseRelocate(data)
	if err != nil {
		return err
	}
	for _, r := range rs {
		var e [1]consumequeue.Entry
		n, err := b.index.Read(r.Key, r.Offset, e[:])
		if errors.Is(err, consumequeue.ErrOutOfRange) || err == nil && n == 0 {
			continue // dropped, or its topic is gone
		}
		if err != nil {
			return err
		}
		r.Entry.Flags |= e[0].Flags
		if err := b.index.Put(r.Key, r.Offset, r.Entry); err != nil {
			return err
		}
	}
	return nil
}

// relocations are what relocate records say of entries, for a rebuild of the
// index. A relocated entry outlives its neighbours: it may be all that a log
// that was trimmed says of its part of the queue, and it says so late. So they
// are collected first and put in where their queue begins.
type relocations map[record.QueueKey]map[record.QueueOffset]consumequeue.Entry

func (m relocations) collect(data []byte, wanted func(relocation) bool) error {
	rs, err := parseRelocate(data)
	for _, r := range rs {
		if !wanted(r) {
			continue
		}
		if m[r.Key] == nil {
			m[r.Key] = map[record.QueueOffset]consumequeue.Entry{}
		}
		m[r.Key][r.Offset] = r.Entry
	}
	return err
}

// end returns the offset after the last that is known of a queue.
func (m relocations) end(key record.QueueKey) (end record.QueueOffset) {
	for off := range m[key] {
		end = max(end, off+1)
	}
	return end
}

// beginTimers is begin for the buckets of timers: at once, because other queues'
// records refer to their entries. own says of a bucket which is the first that has
// a record of its own, and learns of buckets without; ends says which is the next,
// pending the first that is pending in the checkpoint. Records that follow it may
// have settled that and freed its own: they still find an entry.
func (m relocations) beginTimers(index *consumequeue.Store, own, ends map[record.QueueKey]record.QueueOffset, pending func(record.QueueKey) record.QueueOffset) error {
	for key := range ends {
		if key.Topic() == record.TimerTopic && m[key] == nil {
			m[key] = map[record.QueueOffset]consumequeue.Entry{}
		}
	}
	for key := range m {
		if key.Topic() != record.TimerTopic {
			continue
		}
		end, ok := own[key]
		if !ok {
			end = max(ends[key], m.end(key))
			own[key] = end
		}
		from := end
		if _, known := ends[key]; known {
			from = min(pending(key), end)
		}
		if err := m.begin(index, key, from, end); err != nil {
			return err
		}
	}
	return nil
}

// begin puts the entries of a queue that come before end, which is the first that
// has a record of its own: from the first that was relocated on, or already from
// from on. Offsets that nothing is known of get an entry whose record is gone: position 0 is the log's own header.
func (m relocations) begin(index *consumequeue.Store, key record.QueueKey, from, end record.QueueOffset) error {
	known := m[key]
	for off := range known {
		from = min(from, off)
	}
	delete(m, key)
	e := consumequeue.Entry{}
	for off := from; off < end; off++ {
		copied, ok := known[off]
		e = consumequeue.Entry{Size: 1, StoreTime: e.StoreTime}
		if ok {
			e = copied
		}
		if err := index.Put(key, off, e); err != nil {
			return err
		}
	}
	return nil
}

// mark is markEntry for entries that a rebuild of the index knows from relocate
// records only so far.
func (m relocations) mark(key record.QueueKey, off record.QueueOffset, flag consumequeue.Flags) {
	if e, ok := m[key][off]; ok {
		e.Flags |= flag
		m[key][off] = e
	}
}

// markEntry sets a flag of an entry, in place. One that retention has taken needs
// no mark.
func (b *Broker) markEntry(key record.QueueKey, off record.QueueOffset, flag consumequeue.Flags) error {
	var e [1]consumequeue.Entry
	n, err := b.index.Read(key, off, e[:])
	if errors.Is(err, consumequeue.ErrOutOfRange) || err == nil && n == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	e[0].Flags |= flag
	return b.index.Put(key, off, e[0])
}
