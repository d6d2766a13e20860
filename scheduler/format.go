package scheduler

import (
	"encoding/binary"
	"fmt"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// A timer's entry is in the queue record.Key(record.TimerTopic, minute), where
// minute is its due time in Unix minutes. The entry is that of the message, but
// for the store time, in whose place is
//
//	bit 32..63  topic  where the message goes
//	bit 16..31  queue
//	bit  0..15  ms     of its minute, 0 to 59999
//
// A timer-fired record is a move to the message's queue; after the move's header:
//
//	off size
//	40   8   position    of the payload
//	48   8   due         Unix ms
//	56   4   size        of the payload's record
//	60   4   tag hash
//	64   4   group hash
//	68   4   hint        where in its bucket the sender of the record found it;
//	                     after a rebuild of the index it may be elsewhere
//
// A timer-cancel record:
//
//	position uvarint | due uvarint | hint uvarint
//
// A timer-move record puts another timer in the place of one: the same payload
// at another time, or a copy of it at the same time.
//
//	position uvarint | due uvarint | hint uvarint           the old timer
//	position uvarint | due uvarint | size uvarint           the new one
//	tag hash uvarint | group hash uvarint | copied 1
//	topic uvarint | queue uvarint                           where it goes
//
// The snapshot, buckets in order of minute:
//
//	uvarint number of buckets, each
//	    uvarint minute - previous minute (the first: minute)
//	    uvarint end       entries that ever were in the bucket
//	    uvarint last      position in its newest entry
//	    1       bit 0: positions do not ascend; bit 1: some are copies
//	    bits settled, bits cancelled: each uvarint n, then n words of 8 bytes,
//	            the last one not 0; cancelled is a subset of settled
const (
	minuteMs = 60_000

	// FiredLen is the size of a timer-fired record, a multiple of record.Align.
	FiredLen = 72

	bucketMixed  = 1 << 0
	bucketCopied = 1 << 1
)

var le = binary.LittleEndian

// Timer is a delayed message.
type Timer struct {
	Due       int64           // Unix ms
	Position  record.Position // of the payload's record
	Size      uint32          // of that record
	TagHash   uint32
	GroupHash uint32
	To        record.QueueKey // the queue it enters when due
	Copied    bool            // the record is a copy that retention made

	// offset is where it is in its bucket: exact here, a hint in a record.
	offset record.QueueOffset
}

func minuteOf(due int64) uint32 { return uint32(due / minuteMs) }

func bucketKey(minute uint32) record.QueueKey { return record.Key(record.TimerTopic, minute) }

func (t *Timer) entry() consumequeue.Entry {
	e := consumequeue.Entry{
		Position: t.Position, Size: t.Size, TagHash: t.TagHash, GroupHash: t.GroupHash,
		StoreTime: int64(uint64(t.To.Topic())<<32 | uint64(t.To.Queue())<<16 | uint64(t.Due%minuteMs)),
	}
	if t.Copied {
		e.Flags = consumequeue.FlagCopied
	}
	return e
}

// msOf returns the millisecond of its minute that a timer's entry is due at.
func msOf(e *consumequeue.Entry) int { return int(uint16(e.StoreTime)) }

func timerOf(minute uint32, off record.QueueOffset, e *consumequeue.Entry) Timer {
	at := uint64(e.StoreTime)
	return Timer{
		Due:      int64(minute)*minuteMs + int64(at&0xffff),
		Position: e.Position, Size: e.Size, TagHash: e.TagHash, GroupHash: e.GroupHash,
		To:     record.Key(record.TopicID(at>>32), uint32(at>>16&0xffff)),
		Copied: e.Flags&consumequeue.FlagCopied != 0,
		offset: off,
	}
}

// AppendFired appends the record that puts a due message into its queue.
func AppendFired(dst []byte, t *Timer) []byte {
	dst, start := record.BeginMove(dst, record.KindTimerFired, t.To)
	dst = le.AppendUint64(dst, uint64(t.Position))
	dst = le.AppendUint64(dst, uint64(t.Due))
	dst = le.AppendUint32(dst, t.Size)
	dst = le.AppendUint32(dst, t.TagHash)
	dst = le.AppendUint32(dst, t.GroupHash)
	dst = le.AppendUint32(dst, uint32(t.offset))
	return record.EndCommand(dst, start)
}

// ParseFired reads a verified timer-fired record, and when it was stored.
func ParseFired(rec []byte) (t Timer, storeTime int64, err error) {
	data, storeTime, err := record.Move(rec)
	if err != nil {
		return Timer{}, 0, err
	}
	if len(rec) != FiredLen {
		return Timer{}, 0, fmt.Errorf("%w: a timer-fired record of %d bytes", record.ErrMalformed, len(rec))
	}
	t = Timer{
		Position: record.Position(le.Uint64(data)), Due: int64(le.Uint64(data[8:])),
		Size: le.Uint32(data[16:]), TagHash: le.Uint32(data[20:]), GroupHash: le.Uint32(data[24:]),
		To: record.KeyOf(rec), offset: record.QueueOffset(le.Uint32(data[28:])),
	}
	return t, storeTime, checkTimer(&t)
}

// checkTimer refuses what could not be an entry.
func checkTimer(t *Timer) error {
	if t.Due <= 0 || t.Due/minuteMs > 1<<32-1 || t.Size == 0 || t.To.Queue() > 1<<16-1 {
		return fmt.Errorf("%w: a timer of size %d for queue %v due at %d", record.ErrMalformed, t.Size, t.To, t.Due)
	}
	return nil
}

func appendName(dst []byte, t *Timer) []byte {
	dst = binary.AppendUvarint(dst, uint64(t.Position))
	dst = binary.AppendUvarint(dst, uint64(t.Due))
	return binary.AppendUvarint(dst, uint64(t.offset))
}

// readName reads what tells a timer from all others.
func readName(d *record.Decoder) Timer {
	t := Timer{Position: record.Position(d.Uvarint()), Due: int64(d.Uvarint()), offset: record.QueueOffset(d.Uvarint())}
	t.Size = 1 // for checkTimer
	return t
}

// AppendCancel appends the record that cancels a reserved timer.
func AppendCancel(dst []byte, t *Timer) []byte {
	dst, start := record.BeginCommand(dst, record.KindTimerCancel)
	return record.EndCommand(appendName(dst, t), start)
}

// ParseCancel reads the data of a timer-cancel record: which timer it names.
func ParseCancel(data []byte) (Timer, error) {
	d := record.NewDecoder(data)
	t := readName(d)
	if err := d.Err(); err != nil {
		return t, err
	}
	return t, checkTimer(&t)
}

// AppendMove appends the record that puts a timer in the place of a reserved one.
func AppendMove(dst []byte, old, t *Timer) []byte {
	dst, start := record.BeginCommand(dst, record.KindTimerMove)
	dst = appendName(dst, old)
	copied := uint64(0)
	if t.Copied {
		copied = 1
	}
	for _, v := range []uint64{
		uint64(t.Position), uint64(t.Due), uint64(t.Size), uint64(t.TagHash), uint64(t.GroupHash),
		copied, uint64(t.To.Topic()), uint64(t.To.Queue()),
	} {
		dst = binary.AppendUvarint(dst, v)
	}
	return record.EndCommand(dst, start)
}

// ParseMove reads the data of a timer-move record: which timer it names, and what
// that is from now on.
func ParseMove(data []byte) (old, t Timer, err error) {
	d := record.NewDecoder(data)
	old = readName(d)
	t = Timer{
		Position: record.Position(d.Uvarint()), Due: int64(d.Uvarint()), Size: d.Uint32(),
		TagHash: d.Uint32(), GroupHash: d.Uint32(), Copied: d.Byte() == 1,
		To: record.Key(record.TopicID(d.Uint32()), d.Uint32()),
	}
	if err = d.Err(); err == nil {
		err = checkTimer(&old)
	}
	if err == nil {
		err = checkTimer(&t)
	}
	return old, t, err
}

// AppendSnapshot appends the state. Equal states give equal bytes.
func (s *Scheduler) AppendSnapshot(dst []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	dst = binary.AppendUvarint(dst, uint64(len(s.minutes)))
	last := uint32(0)
	for _, minute := range s.minutes {
		b := s.buckets[minute]
		dst = binary.AppendUvarint(dst, uint64(minute-last))
		dst = binary.AppendUvarint(dst, uint64(b.end))
		dst = binary.AppendUvarint(dst, uint64(b.last))
		var flags byte
		if b.mixed {
			flags |= bucketMixed
		}
		if b.copied {
			flags |= bucketCopied
		}
		dst = append(dst, flags)
		dst = b.cancelled.append(b.settled.append(dst))
		last = minute
	}
	return dst
}

// Restore replaces the state by what AppendSnapshot wrote. The caller checks d.
func (s *Scheduler) Restore(d *record.Decoder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
	minute := uint32(0)
	for n := d.Count(6); n > 0 && !d.Failed(); n-- {
		minute += d.Uint32()
		b := &bucket{end: record.QueueOffset(d.Uvarint()), last: record.Position(d.Uvarint())}
		flags := d.Byte()
		b.mixed, b.copied = flags&bucketMixed != 0, flags&bucketCopied != 0
		b.settled, b.cancelled = readBits(d), readBits(d)
		b.pending = int64(b.end) - b.settled.count()
		if d.Failed() {
			return
		}
		s.insert(minute, b)
		s.pending += b.pending
	}
}

func (b bitset) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	for _, w := range b {
		dst = le.AppendUint64(dst, w)
	}
	return dst
}

func readBits(d *record.Decoder) bitset {
	n := d.Count(8)
	if n == 0 || d.Failed() {
		return nil
	}
	b := make(bitset, n)
	for i := range b {
		b[i] = d.Uint64()
	}
	return b
}
