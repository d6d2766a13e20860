package producer

import (
	"encoding/binary"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// Mark is what a producer-mark record says. The messages that it is about follow
// it directly.
//
//	producer 8 | sequence uvarint | entries uvarint | bytes uvarint
//	| refused: count, each  entry uvarint (difference from the one before) | reason uvarint | text string
//
// and, when some of its messages were the same as others,
//
//	repeats: count, each  entry uvarint (difference) | of uvarint, and of those with of = 0
//	    position uvarint | queue uvarint | queue offset varint | due varint (Unix ms)
type Mark struct {
	Producer uint64
	Sequence uint64
	Entries  int // records of the batch as it was sent
	Bytes    int // of the records that were stored, padding included
	Refused  []Refusal
	Repeats  []Repeat
}

// Repeat is an entry that was not stored because the same message was: as another
// entry of the batch, or earlier, and then the rest says where.
type Repeat struct {
	Entry    int
	Of       int // 0 = earlier, else 1 + the other entry
	Position record.Position
	Queue    uint32
	Offset   record.QueueOffset
	Due      int64
}

// Refusal is an entry that was not stored.
type Refusal struct {
	Entry  int
	Reason int // the broker's number
	Text   string
}

// maxTexts bounds how many refusals keep their text in the mark.
const maxTexts = 100

// AppendMark encodes a producer-mark record.
func AppendMark(dst []byte, m *Mark) []byte {
	dst, start := record.BeginCommand(dst, record.KindProducerMark)
	dst = binary.LittleEndian.AppendUint64(dst, m.Producer)
	for _, v := range []uint64{m.Sequence, uint64(m.Entries), uint64(m.Bytes), uint64(len(m.Refused))} {
		dst = binary.AppendUvarint(dst, v)
	}
	last := 0
	for i, r := range m.Refused {
		dst = binary.AppendUvarint(dst, uint64(r.Entry-last))
		last = r.Entry
		dst = binary.AppendUvarint(dst, uint64(r.Reason))
		text := r.Text
		if i >= maxTexts {
			text = ""
		}
		dst = record.AppendString(dst, text)
	}
	if len(m.Repeats) > 0 {
		dst = appendRepeats(dst, m.Repeats)
	}
	return record.EndCommand(dst, start)
}

func appendRepeats(dst []byte, rs []Repeat) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(rs)))
	last := 0
	for _, r := range rs {
		dst = binary.AppendUvarint(dst, uint64(r.Entry-last))
		last = r.Entry
		dst = binary.AppendUvarint(dst, uint64(r.Of))
		if r.Of == 0 {
			dst = binary.AppendUvarint(dst, uint64(r.Position))
			dst = binary.AppendUvarint(dst, uint64(r.Queue))
			dst = binary.AppendVarint(dst, int64(r.Offset))
			dst = binary.AppendVarint(dst, r.Due)
		}
	}
	return dst
}

func parseRepeats(d *record.Decoder) (rs []Repeat) {
	entry := 0
	for n := d.Count(2); n > 0 && !d.Failed(); n-- {
		entry += int(d.Uint32())
		r := Repeat{Entry: entry, Of: int(d.Uint32())}
		if r.Of == 0 {
			r.Position, r.Queue = record.Position(d.Uvarint()), d.Uint32()
			r.Offset, r.Due = record.QueueOffset(d.Varint()), d.Varint()
		}
		rs = append(rs, r)
	}
	return rs
}

// ParseMark reads the bytes of a verified producer-mark record.
func ParseMark(data []byte) (Mark, error) {
	d := record.NewDecoder(data)
	m := Mark{Producer: d.Uint64(), Sequence: d.Uvarint(), Entries: int(d.Uint32()), Bytes: int(d.Uint32())}
	entry := 0
	for n := d.Count(3); n > 0 && !d.Failed(); n-- {
		entry += int(d.Uint32())
		m.Refused = append(m.Refused, Refusal{Entry: entry, Reason: int(d.Uint32()), Text: d.String()})
	}
	if d.Len() > 0 && !d.Failed() {
		m.Repeats = parseRepeats(d)
	}
	return m, d.Err()
}

// Snapshot: producers: count, each, the one silent for longest first,
//
//	id 8 | last varint (Unix ms) | marks: count, each, in order
//	    sequence uvarint (difference) | position uvarint

// AppendSnapshot appends the state, without reservations.
func (t *Table) AppendSnapshot(dst []byte) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	dst = binary.AppendUvarint(dst, uint64(t.order.Len()))
	for e := t.order.Front(); e != nil; e = e.Next() {
		p := e.Value.(*known)
		dst = binary.LittleEndian.AppendUint64(dst, p.id)
		dst = binary.AppendVarint(dst, p.last)
		dst = binary.AppendUvarint(dst, uint64(len(p.marks)))
		last := uint64(0)
		for _, m := range p.marks {
			dst = binary.AppendUvarint(dst, m.sequence-last)
			dst = binary.AppendUvarint(dst, uint64(m.pos))
			last = m.sequence
		}
	}
	return dst
}

// Restore adds what AppendSnapshot wrote to an empty table.
func (t *Table) Restore(d *record.Decoder) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for n := d.Count(10); n > 0 && !d.Failed(); n-- {
		p := &known{id: d.Uint64(), last: d.Varint()}
		sequence := uint64(0)
		for m := d.Count(2); m > 0 && !d.Failed(); m-- {
			sequence += d.Uvarint()
			p.marks = append(p.marks, mark{sequence, record.Position(d.Uvarint())})
		}
		t.byID[p.id] = t.order.PushBack(p)
	}
}
