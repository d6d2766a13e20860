package transaction

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// A commit (record.KindTransactionEnd) is a move to the half message's queue. It
// repeats what the queue's entry needs, so that an index can be rebuilt without
// this package's state. After the move header:
//
//	position uvarint | payload position uvarint | payload size uvarint
//	| tag hash uvarint | group hash uvarint | source 1
//
// Rollback: position uvarint | source 1
// Move:     position uvarint | payload position uvarint | payload size uvarint
//
// Check: half messages that were asked about, or parked, or opened again:
//
//	messages: count, each
//	    position varint (difference from the one before)
//	    | checks uvarint, done so far | next check varint (Unix ms) | parked 1

// Commit is what a commit record says.
type Commit struct {
	Position  record.Position
	Payload   record.Position
	Size      uint32
	TagHash   uint32
	GroupHash uint32
	Source    Source
	StoreTime int64 // Unix ms
}

// AppendCommit encodes the commit of h.
func AppendCommit(dst []byte, h Half, s Source) []byte {
	dst, start := record.BeginMove(dst, record.KindTransactionEnd, h.Key)
	for _, v := range []uint64{uint64(h.Position), uint64(h.Payload), uint64(h.Size), uint64(h.TagHash), uint64(h.GroupHash)} {
		dst = binary.AppendUvarint(dst, v)
	}
	return record.EndCommand(append(dst, byte(s)), start)
}

// ParseCommit reads a verified commit record.
func ParseCommit(rec []byte) (Commit, error) {
	data, stored, err := record.Move(rec)
	if err != nil {
		return Commit{}, err
	}
	d := record.NewDecoder(data)
	c := Commit{
		Position: record.Position(d.Uvarint()), Payload: record.Position(d.Uvarint()), Size: d.Uint32(),
		TagHash: d.Uint32(), GroupHash: d.Uint32(),
		Source: Source(d.Byte()), StoreTime: stored,
	}
	return c, d.Err()
}

// AppendRollback encodes the rollback of the half message at pos.
func AppendRollback(dst []byte, pos record.Position, s Source) []byte {
	dst, start := record.BeginCommand(dst, record.KindTransactionRollback)
	dst = binary.AppendUvarint(dst, uint64(pos))
	return record.EndCommand(append(dst, byte(s)), start)
}

// AppendMove encodes that the half message at pos is held by another record.
func AppendMove(dst []byte, pos, payload record.Position, size uint32) []byte {
	dst, start := record.BeginCommand(dst, record.KindTransactionMove)
	for _, v := range []uint64{uint64(pos), uint64(payload), uint64(size)} {
		dst = binary.AppendUvarint(dst, v)
	}
	return record.EndCommand(dst, start)
}

// Check is where a half message stands after it was asked about.
type Check struct {
	Position record.Position
	Checks   uint32
	Next     int64 // Unix ms
	Parked   bool
}

// AppendCheck encodes a check record.
func AppendCheck(dst []byte, checks []Check) []byte {
	dst, start := record.BeginCommand(dst, record.KindTransactionCheck)
	dst = binary.AppendUvarint(dst, uint64(len(checks)))
	var last record.Position
	for _, c := range checks {
		dst = appendStanding(dst, c, last)
		last = c.Position
	}
	return record.EndCommand(dst, start)
}

// standing is the part that check records and snapshots share.
func appendStanding(dst []byte, c Check, last record.Position) []byte {
	dst = binary.AppendVarint(dst, int64(c.Position-last))
	dst = binary.AppendUvarint(dst, uint64(c.Checks))
	dst = binary.AppendVarint(dst, c.Next)
	if c.Parked {
		return append(dst, 1)
	}
	return append(dst, 0)
}

func readStanding(d *record.Decoder, last record.Position) Check {
	return Check{Position: last + record.Position(d.Varint()), Checks: d.Uint32(), Next: d.Varint(), Parked: d.Byte() == 1}
}

const standingMin = 4 // bytes, at least

// Snapshot:
//
//	half messages: count, each
//	    standing as in a check record | payload position - position uvarint | size uvarint | topic uvarint | queue uvarint
//	    | tag hash uvarint | group hash uvarint | born varint | stored varint (Unix ms)
//	    | recovery varint (ms) | message id string
//	decisions: count, each
//	    position varint (difference) | outcome 1 | source 1 | time varint (Unix ms)
//
// Half messages ascend by position and decisions are in the order they were
// taken, so that equal states give equal bytes.

// AppendSnapshot appends the state, without reservations.
func (t *Table) AppendSnapshot(dst []byte) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	rows := t.sorted(func(*row) bool { return true })
	dst = binary.AppendUvarint(dst, uint64(len(rows)))
	var last record.Position
	for _, r := range rows {
		dst = appendStanding(dst, Check{r.Position, r.Checks, r.next, r.Parked}, last)
		last = r.Position
		dst = binary.AppendUvarint(dst, uint64(r.Payload-r.Position))
		for _, v := range []uint32{r.Size, uint32(r.Key.Topic()), r.Key.Queue(), r.TagHash, r.GroupHash} {
			dst = binary.AppendUvarint(dst, uint64(v))
		}
		for _, v := range []int64{r.Born, r.Stored, r.Recovery} {
			dst = binary.AppendVarint(dst, v)
		}
		dst = record.AppendString(dst, r.MessageID)
	}
	order := t.order[t.forgotten:]
	dst = binary.AppendUvarint(dst, uint64(len(order)))
	last = 0
	for _, pos := range order {
		dec := t.decided[pos]
		dst = binary.AppendVarint(dst, int64(pos-last))
		last = pos
		dst = append(dst, byte(dec.Outcome), byte(dec.Source))
		dst = binary.AppendVarint(dst, dec.Time)
	}
	return dst
}

// Restore adds what AppendSnapshot wrote to an empty table.
func (t *Table) Restore(d *record.Decoder) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var last record.Position
	for n := d.Count(standingMin + 10); n > 0 && !d.Failed(); n-- {
		c := readStanding(d, last)
		last = c.Position
		r := &row{next: c.Next, Half: Half{
			Position: c.Position, Checks: c.Checks, Parked: c.Parked, Payload: c.Position + record.Position(d.Uvarint()),
			Size: d.Uint32(), Key: record.Key(record.TopicID(d.Uint32()), d.Uint32()),
			TagHash: d.Uint32(), GroupHash: d.Uint32(),
			Born: d.Varint(), Stored: d.Varint(), Recovery: d.Varint(), MessageID: d.String(),
		}}
		t.put(r)
	}
	last = 0
	for n := d.Count(4); n > 0 && !d.Failed(); n-- {
		pos := last + record.Position(d.Varint())
		last = pos
		dec := Decision{Outcome: Outcome(d.Byte()), Source: Source(d.Byte()), Time: d.Varint()}
		t.keep(pos, dec)
	}
}

// sorted returns the rows that f takes, by position. Called with mu held.
func (t *Table) sorted(f func(*row) bool) []*row {
	var rows []*row
	for _, r := range t.rows {
		if f(r) {
			rows = append(rows, r)
		}
	}
	slices.SortFunc(rows, func(a, b *row) int {
		if a.Position < b.Position {
			return -1
		}
		return 1
	})
	return rows
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", record.ErrMalformed, fmt.Sprintf(format, args...))
}
