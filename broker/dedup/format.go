package dedup

import (
	"encoding/binary"
	"maps"
	"slices"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// Snapshot:
//
//	topics: count, each  topic uvarint | messages: count, each
//	    key 16 | position varint (difference from the one before) | queue uvarint
//	    | queue offset varint | store time varint (difference) | due varint (Unix ms)
//
// Topics ascend and messages are in the order of the log, so that equal states
// give equal bytes. Window and number are of the topic, not repeated here.
const minEntryLen = len(Key{}) + 5

// AppendSnapshot appends what is remembered, without claims.
func (t *Table) AppendSnapshot(dst []byte) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	ids := slices.Sorted(maps.Keys(t.topics))
	dst = binary.AppendUvarint(dst, uint64(len(ids)))
	for _, id := range ids {
		m := t.topics[id]
		dst = binary.AppendUvarint(dst, uint64(id))
		dst = binary.AppendUvarint(dst, uint64(m.count()))
		dst = slices.Grow(dst, m.count()*(minEntryLen+8))
		var last First
		for n := m.first; n < m.next; n++ {
			e := m.at(n)
			dst = append(dst, e.key[:]...)
			dst = binary.AppendVarint(dst, int64(e.Position-last.Position))
			dst = binary.AppendUvarint(dst, uint64(e.Queue))
			dst = binary.AppendVarint(dst, int64(e.Offset))
			dst = binary.AppendVarint(dst, e.Time-last.Time)
			dst = binary.AppendVarint(dst, e.Due)
			last = e.First
		}
	}
	return dst
}

// Restore fills a table, whose topics are configured, with what AppendSnapshot
// wrote. The caller checks d.
func (t *Table) Restore(d *record.Decoder) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for n := d.Count(2); n > 0 && !d.Failed(); n-- {
		m := t.topics[record.TopicID(d.Uint32())]
		var last First
		for n := d.Count(minEntryLen); n > 0 && !d.Failed(); n-- {
			var e entry
			for i := range e.key {
				e.key[i] = d.Byte()
			}
			e.Position = last.Position + record.Position(d.Varint())
			e.Queue = d.Uint32()
			e.Offset = record.QueueOffset(d.Varint())
			e.Time = last.Time + d.Varint()
			e.Due = d.Varint()
			if last = e.First; m != nil && !d.Failed() {
				m.add(e)
			}
		}
	}
}
