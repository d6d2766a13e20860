package scheduler

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// A timer's entry is in the queue record.Key(record.TimerTopic, bucket), where
// bucket is its due time, Unix ms, without the low 20 bits. The entry is that of
// the message, but for the store time, in whose place is
//
//	bit 32..63  topic  where the message goes
//	bit 16..31  queue
//	bit  0..15  due    bits 0 to 15
//
// and for bits 12 to 15 of the flags, which are bits 16 to 19 of the due time. So
// 16 windows of 2^16 ms make a bucket. FlagMoved says that the timer came into its
// bucket by a timer-move record.
//
// A delayed message's record has its place in its bucket where other messages
// have their queue offset.
//
// A timer-fired record is a move of many messages to one queue. The queue offset
// in its header is that of the first; after the header:
//
//	off size
//	40   4   bucket
//	44   4   count   of messages, at least 1
//	48   n   groups, each of messages that were due in the same 1024 ms:
//	             uvarint which, from the bucket's beginning - that of the group before
//	             uvarint number
//	             number times varint place in the bucket - the place before
//
// A timer-cancel record:
//
//	bucket uvarint | place uvarint
//	position uvarint                 of the message when it was first stored
//
// A timer-move record puts another timer in the place of one: the same payload
// at another time. It is a move to the new bucket; after the header:
//
//	40   8   due             Unix ms
//	48   8   position        of the message when it was first stored
//	56   4   bucket          the old one
//	60   4   place           in it
//
// The snapshot, buckets in order:
//
//	uvarint number of buckets, each
//	    uvarint bucket - previous bucket (the first: bucket)
//	    uvarint begin     the first place
//	    uvarint end       the one that is given next
//	    1       bit 0: some entries came by timer-move records
//	    settled:   uvarint places / 64 of which all before are settled,
//	               uvarint n, then n words of 8 bytes for what follows
//	    cancelled: uvarint n, then n words, from place 0 on; a subset of settled
//	    no last word is 0, and the first of settled is not all ones
//	uvarint the newest bucket that was let go of   missing in snapshots of
//	uvarint the highest place given in one, + 1    older builds: 0
const (
	bucketBits = 20
	bucketMs   = 1 << bucketBits
	windowBits = 16
	windowMs   = 1 << windowBits
	secondBits = 10 // a second has 1024 ms here

	dueFlags = 12 // the entry's flags from this bit on are the due time's

	firedHeaderLen = 48
	moveLen        = 64
	maxTimerQueue  = 1<<16 - 1
	maxPlace       = 1<<32 - 1

	bucketMixed = 1 << 0
)

var le = binary.LittleEndian

// Timer is a delayed message.
type Timer struct {
	Due       int64              // Unix ms
	Place     record.QueueOffset // in its bucket
	Position  record.Position    // of the payload's record
	Size      uint32             // of that record
	TagHash   uint32
	GroupHash uint32
	To        record.QueueKey // the queue it enters when due
	Copied    bool            // the record is a copy that retention made
	Moved     bool            // it was made by a timer-move record
}

func bucketOf(due int64) uint32 { return uint32(due >> bucketBits) }

func startOf(bucket uint32) int64 { return int64(bucket) << bucketBits }

func bucketKey(bucket uint32) record.QueueKey { return record.Key(record.TimerTopic, bucket) }

// KeyFor returns the queue that holds the entries of timers due at a time.
func KeyFor(due int64) record.QueueKey { return bucketKey(bucketOf(due)) }

// Key returns the queue that holds the timer's entry, at Place.
func (t *Timer) Key() record.QueueKey { return KeyFor(t.Due) }

// Entry returns the timer's entry.
func (t *Timer) Entry() consumequeue.Entry {
	e := consumequeue.Entry{
		Position: t.Position, Size: t.Size, TagHash: t.TagHash, GroupHash: t.GroupHash,
		StoreTime: int64(uint64(t.To.Topic())<<32 | uint64(t.To.Queue())<<16 | uint64(t.Due&(windowMs-1))),
		Flags:     consumequeue.Flags(t.Due>>windowBits) << dueFlags,
	}
	if t.Copied {
		e.Flags |= consumequeue.FlagCopied
	}
	if t.Moved {
		e.Flags |= consumequeue.FlagMoved
	}
	return e
}

// dueOf returns when an entry of a bucket is due.
func dueOf(bucket uint32, e *consumequeue.Entry) int64 {
	return startOf(bucket) | int64(e.Flags>>dueFlags)<<windowBits | e.StoreTime&(windowMs-1)
}

// toOf returns where the message of an entry goes.
func toOf(e *consumequeue.Entry) record.QueueKey {
	return record.Key(record.TopicID(uint64(e.StoreTime)>>32), uint32(e.StoreTime)>>16)
}

func timerOf(bucket uint32, place record.QueueOffset, e *consumequeue.Entry) Timer {
	return Timer{
		Due: dueOf(bucket, e), Place: place,
		Position: e.Position, Size: e.Size, TagHash: e.TagHash, GroupHash: e.GroupHash, To: toOf(e),
		Copied: e.Flags&consumequeue.FlagCopied != 0, Moved: e.Flags&consumequeue.FlagMoved != 0,
	}
}

// ParseDelayed reads the verified record of a delayed message at pos.
func ParseDelayed(pos record.Position, rec []byte) (Timer, error) {
	m, err := record.ParseMessage(rec)
	if err != nil {
		return Timer{}, err
	}
	t := Timer{Due: m.DueTime, Place: m.Offset, Position: pos, Size: uint32(len(rec)), To: m.Key()}
	err = m.Properties.Each(func(f record.Field, _, value []byte) bool {
		switch f {
		case record.FieldTag:
			t.TagHash = record.Hash32(value)
		case record.FieldGroup:
			t.GroupHash = record.Hash32(value)
		}
		return true
	})
	if err == nil && t.Place == record.NoOffset {
		return t, ErrOldLayout
	}
	if err == nil && (!validDue(t.Due) || t.Place < 0 || t.Place > maxPlace || t.To.Queue() > maxTimerQueue) {
		err = fmt.Errorf("%w: a message for queue %v due at %d, place %d", record.ErrMalformed, t.To, t.Due, t.Place)
	}
	return t, err
}

func validDue(due int64) bool { return due > 0 && due>>bucketBits <= 1<<32-1 }

// Fired is what a timer-fired record says.
type Fired struct {
	To     record.QueueKey
	First  record.QueueOffset // in To
	Stored int64              // Unix ms
	Bucket uint32
	Places []record.QueueOffset // in the bucket, in the order they enter To
	// Seconds are the due times, Unix ms / 1024, that the messages have.
	Seconds []int64
}

// place is a due timer.
type place struct {
	bucket uint32
	second uint16 // of the bucket
	at     uint32
	to     record.QueueKey
}

// appendFired appends the record that puts messages of one bucket into one queue.
func appendFired(dst []byte, due []place) []byte {
	dst, start := record.BeginMove(dst, record.KindTimerFired, due[0].to)
	dst = le.AppendUint32(dst, due[0].bucket)
	dst = le.AppendUint32(dst, uint32(len(due)))
	second, at := uint16(0), int64(0)
	for len(due) > 0 {
		n := 1
		for n < len(due) && due[n].second == due[0].second {
			n++
		}
		dst = binary.AppendUvarint(dst, uint64(due[0].second-second))
		dst = binary.AppendUvarint(dst, uint64(n))
		for _, d := range due[:n] {
			dst = binary.AppendVarint(dst, int64(d.at)-at)
			at = int64(d.at)
		}
		second, due = due[0].second, due[n:]
	}
	return record.EndCommand(dst, start)
}

// CountFired returns how many messages a timer-fired record moves: it is asked
// for before the record is verified.
func CountFired(rec []byte) int {
	if len(rec) < firedHeaderLen {
		return 0
	}
	return int(le.Uint32(rec[44:]))
}

// Parse reads a verified timer-fired record into f, whose memory it uses again.
func (f *Fired) Parse(rec []byte) error {
	data, stored, err := record.Move(rec)
	if err != nil {
		return err
	}
	if len(rec) < firedHeaderLen {
		return record.ErrTruncated
	}
	f.To, f.First, f.Stored = record.KeyOf(rec), record.OffsetOf(rec), stored
	f.Bucket, f.Places, f.Seconds = le.Uint32(data), f.Places[:0], f.Seconds[:0]
	count := CountFired(rec)
	d := record.NewDecoder(data[firedHeaderLen-40:])
	second, at := int64(f.Bucket)<<(bucketBits-secondBits), int64(0)
	for len(f.Places) < count {
		second += int64(d.Uvarint())
		n := d.Count(1)
		if d.Failed() || n == 0 || second>>(bucketBits-secondBits) != int64(f.Bucket) || n > count-len(f.Places) {
			return fmt.Errorf("%w: a timer-fired record", record.ErrMalformed)
		}
		f.Seconds = append(f.Seconds, second)
		for range n {
			at += d.Varint()
			f.Places = append(f.Places, record.QueueOffset(at))
		}
	}
	return d.Err()
}

// Due reports whether the record is about the bucket of a due time.
func (f *Fired) Due(due int64) bool { return f.Bucket == bucketOf(due) }

// SecondOf returns a due time as in Fired.Seconds.
func SecondOf(due int64) int64 { return due >> secondBits }

// Change is what a timer-cancel or timer-move record says.
type Change struct {
	Bucket   uint32
	Place    record.QueueOffset
	Position record.Position // of the message when it was first stored
	// Of a move: when it is due from now on, and its new place.
	Due      int64
	NewPlace record.QueueOffset
}

// AppendCancel appends the record that cancels a reserved timer, whose message
// was first stored at pos.
func AppendCancel(dst []byte, t *Timer, pos record.Position) []byte {
	dst, start := record.BeginCommand(dst, record.KindTimerCancel)
	dst = binary.AppendUvarint(dst, uint64(bucketOf(t.Due)))
	dst = binary.AppendUvarint(dst, uint64(t.Place))
	dst = binary.AppendUvarint(dst, uint64(pos))
	return record.EndCommand(dst, start)
}

// ParseCancel reads a verified timer-cancel record.
func ParseCancel(rec []byte) (Change, error) {
	d := record.NewDecoder(record.Command(rec))
	c := Change{Bucket: d.Uint32(), Place: record.QueueOffset(d.Uint32()), Position: record.Position(d.Uvarint())}
	return c, d.Err()
}

// AppendMove appends the record that makes a reserved timer, whose message was
// first stored at pos, due at another time.
func AppendMove(dst []byte, t *Timer, pos record.Position, due int64) []byte {
	dst, start := record.BeginMove(dst, record.KindTimerMove, KeyFor(due))
	dst = le.AppendUint64(dst, uint64(due))
	dst = le.AppendUint64(dst, uint64(pos))
	dst = le.AppendUint32(dst, bucketOf(t.Due))
	dst = le.AppendUint32(dst, uint32(t.Place))
	return record.EndCommand(dst, start)
}

// ParseMove reads a verified timer-move record.
func ParseMove(rec []byte) (Change, error) {
	data, _, err := record.Move(rec)
	if err != nil {
		return Change{}, err
	}
	if len(rec) != moveLen {
		return Change{}, fmt.Errorf("%w: a timer-move record of %d bytes", record.ErrMalformed, len(rec))
	}
	c := Change{
		Due: int64(le.Uint64(data)), Position: record.Position(le.Uint64(data[8:])),
		Bucket: le.Uint32(data[16:]), Place: record.QueueOffset(le.Uint32(data[20:])), NewPlace: record.OffsetOf(rec),
	}
	if !validDue(c.Due) || c.NewPlace < 0 || c.NewPlace > maxPlace || KeyFor(c.Due) != record.KeyOf(rec) {
		return c, fmt.Errorf("%w: a timer moved to %d, place %d of %v", record.ErrMalformed, c.Due, c.NewPlace, record.KeyOf(rec))
	}
	return c, nil
}

// ErrOldLayout is of timers that have no place: builds before commit 290621d gave none.
// There is no telling which of their records belong together, so they are not read.
var ErrOldLayout = errors.New("there are delayed messages in the layout of builds before commit 290621d, which this one cannot read: " +
	"let the build that wrote them deliver them, consume all messages, and start this one with an empty directory")

// CheckSnapshot returns ErrOldLayout for a snapshot whose buckets are of the layout
// before, which were minutes: the first minute of 2026 would be a bucket of the year 2948.
// Another layout must not be read as this one by chance.
func CheckSnapshot(b []byte) error {
	d := record.NewDecoder(b)
	if d.Count(6) > 0 && int64(d.Uint32()) >= firstMinute {
		return ErrOldLayout
	}
	return nil // Restore says what else is wrong with it
}

// firstMinute is a time before there was a build, in minutes since 1970.
const firstMinute = 1767225600 / 60

// AppendSnapshot appends the state. Equal states give equal bytes.
func (s *Scheduler) AppendSnapshot(dst []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	dst = binary.AppendUvarint(dst, uint64(len(s.order)))
	last := uint32(0)
	for _, n := range s.order {
		b := s.buckets[n]
		dst = binary.AppendUvarint(dst, uint64(n-last))
		dst = binary.AppendUvarint(dst, uint64(b.begin))
		dst = binary.AppendUvarint(dst, uint64(b.end))
		var flags byte
		if b.mixed {
			flags |= bucketMixed
		}
		dst = append(dst, flags)
		dst = binary.AppendUvarint(dst, uint64(b.settled.base/64))
		dst = b.cancelled.append(b.settled.rest.append(dst))
		last = n
	}
	return binary.AppendUvarint(binary.AppendUvarint(dst, uint64(s.gone.newest)), uint64(s.gone.end))
}

// Restore replaces the state by what AppendSnapshot wrote. The caller checks d.
func (s *Scheduler) Restore(d *record.Decoder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
	n := uint32(0)
	for count := d.Count(7); count > 0 && !d.Failed(); count-- {
		n += d.Uint32()
		b := &bucket{next: startOf(n), begin: record.QueueOffset(d.Uint32()), end: record.QueueOffset(d.Uint32())}
		b.mixed = d.Byte()&bucketMixed != 0
		b.settled.base = 64 * record.QueueOffset(d.Uint32())
		b.settled.rest, b.cancelled = readBits(d), readBits(d)
		b.pending = int64(b.end) - b.settled.count()
		if d.Failed() {
			return
		}
		s.insert(n, b)
		s.pending += b.pending
	}
	if d.Len() > 0 {
		s.gone = gone{d.Uint32(), record.QueueOffset(d.Uint32())}
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
