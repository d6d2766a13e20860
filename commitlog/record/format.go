package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
)

// A record is one entry of a frame's payload. Records start on 8-byte
// boundaries within the payload. All integers are little-endian.
//
// Every record begins with the same 16 bytes, the envelope:
//
//	off size
//	 0   4   size     whole record in bytes, alignment padding excluded
//	 4   4   crc      CRC-32C of bytes [8, head)
//	 8   1   kind     a Kind, never 0: preallocated zeroes are not a record
//	 9   1   version  layout version of this kind, 1
//	10   2   flags    Flag bits
//	12   4   head     bytes up to the body; equal to size when there is no body
//
// A command (every kind but the message kinds) continues with a body-less,
// kind-specific encoding and has head == size, so crc covers all of it.
//
// A move (KindTransactionEnd, KindTimerFired, KindDeadLetter, ...) is a command
// that puts an entry into a queue, or several that follow each other; it begins:
//
//	16   4   topic        of the queue the entry goes to
//	20   4   queue
//	24   8   queue offset given in log order when the record is appended
//	32   8   store time   likewise
//	40   n   kind-specific
//
// A message (KindMessage, KindHalf, KindDelayed, KindCopy) continues:
//
//	16   4   topic        TopicID
//	20   4   queue        queue number within the topic
//	24   8   queue offset given in log order when the record is appended; -1
//	                      of a half message, which is in no queue yet; of a
//	                      delayed one its place among those due at the same time
//	32   8   store time   Unix ms, given when the record is appended
//	40   8   born time    Unix ms, as the producer said
//	48   8   due time     Unix ms before which it must not be delivered; 0 = none
//	56   4   body crc     CRC-32C of the body
//	60   4   priority     meaningful with FlagPriority
//	64   n   properties   see AppendField
//	64+n m   body
//
// crc excludes the body on purpose: queue offset and store time are stamped by
// the single goroutine that orders the log, which must then touch only these
// few bytes, while the body's own crc was computed by the caller beforehand.
const (
	// Align is the alignment of records within a frame's payload, in bytes.
	Align = 8

	envelopeLen      = 16
	moveHeaderLen    = 40
	messageHeaderLen = 64
	version          = 1

	offCRC       = 4
	offKind      = 8
	offVersion   = 9
	offFlags     = 10
	offHead      = 12
	offTopic     = 16
	offQueue     = 20
	offOffset    = 24
	offStoreTime = 32
	offBornTime  = 40
	offDueTime   = 48
	offBodyCRC   = 56
	offPriority  = 60
)

// MaxBody bounds a body in bytes: as it is stored, and what comes out of one that
// its producer compressed.
const MaxBody = 4 << 20

// MaxSize bounds one record: the largest body, the largest properties,
// and room for what the broker adds. Decoders refuse more before they allocate.
const MaxSize = 8 << 20

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CRC is CRC-32C, the checksum of every format of this project.
func CRC(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// Position is a byte position in the commit log.
type Position uint64

// QueueOffset numbers the messages of one queue from 0, without gaps.
type QueueOffset int64

// NoOffset is the queue offset of a message that is in no queue.
const NoOffset QueueOffset = -1

// TopicID names a topic in records and indexes. IDs are given by the log in
// order of creation and are never reused, so a topic that was deleted and made
// again is another topic.
type TopicID uint32

// TimerTopic is the topic of the queues that hold the index entries of delayed
// messages until they are due: see package scheduler. It is no topic: no topic is
// ever given its id.
const TimerTopic TopicID = 1<<32 - 1

// GroupID names a consumer group in records, in the same way.
type GroupID uint32

// QueueKey is a topic's queue in one word: TopicID in the high half, queue
// number in the low half.
type QueueKey uint64

// Key returns the QueueKey of queue number queue of topic.
func Key(topic TopicID, queue uint32) QueueKey {
	return QueueKey(topic)<<32 | QueueKey(queue)
}

// FirstLiteQueue is the number of the first queue of a lite topic; below it are a
// topic's own queues.
const FirstLiteQueue = 1 << 20

func (k QueueKey) Topic() TopicID { return TopicID(k >> 32) }
func (k QueueKey) Queue() uint32  { return uint32(k) }
func (k QueueKey) Lite() bool     { return k.Queue() >= FirstLiteQueue }
func (k QueueKey) String() string { return fmt.Sprintf("%d/%d", k.Topic(), k.Queue()) }

// Kind says what a record does when it is applied. Values are part of the disk
// format: never renumber, never reuse.
type Kind uint8

const (
	KindInvalid Kind = 0

	// Message kinds: they carry a payload.
	KindMessage Kind = 1 // enters its queue at once
	KindHalf    Kind = 2 // transactional, enters its queue when committed
	KindDelayed Kind = 3 // enters its queue when due
	KindCopy    Kind = 4 // nothing by itself: keeps a payload whose segment is going

	// Moves: they put an existing payload into a queue, by position.
	KindTransactionEnd Kind = 8
	KindTimerFired     Kind = 9
	KindDeadLetter     Kind = 10
	KindRedrive        Kind = 11 // a dead letter goes back to a topic

	// Tables.
	KindTopicPut    Kind = 16
	KindTopicDelete Kind = 17
	KindGroupPut    Kind = 18
	KindGroupDelete Kind = 19

	// Consumption.
	KindLease        Kind = 24
	KindAck          Kind = 25
	KindExtend       Kind = 26
	KindOffsetCommit Kind = 27
	KindCursor       Kind = 28

	// Identity of the store: the first record of a log.
	KindIdentity Kind = 32

	// Dead letters that an operator has done with.
	KindDiscard Kind = 36

	// Half messages: what happens to them besides their commit, which is a move.
	KindTransactionRollback Kind = 40
	KindTransactionCheck    Kind = 41
	KindTransactionMove     Kind = 42 // its payload has been copied forward

	// Lite topics.
	KindLitePut    Kind = 52
	KindLiteDelete Kind = 53

	// Delayed messages: what happens to them besides coming due. A timer-move is a
	// move, among the queues of TimerTopic.
	KindTimerCancel Kind = 44
	KindTimerMove   Kind = 45

	// Retention: entries that name a copy from now on, and a dead-letter record that
	// does. The latter has the layout of a move but puts nothing anywhere.
	KindRelocate       Kind = 48
	KindDeadLetterCopy Kind = 49

	// Topics: the beginning of queues is gone, by retention or a purge; single
	// messages were deleted.
	KindTrim   Kind = 56
	KindDelete Kind = 57
	// Of a replicated log: where it begins for all.
	KindLogBegin Kind = 58

	// Replays: messages that a group has done with go to it again.
	KindReopen      Kind = 64 // these ones
	KindReplayBegin Kind = 65
	KindReplayStep  Kind = 66 // how far it is
	KindReplayEnd   Kind = 67
	// Producers: which batch the messages that follow were.
	KindProducerMark Kind = 68
	// All replicas take a digest of their state.
	KindDigest Kind = 72

	// Who may do what.
	KindUserPut      Kind = 80
	KindUserDelete   Kind = 81
	KindPolicyPut    Kind = 82
	KindPolicyDelete Kind = 83
	// How much.
	KindQuotaPut    Kind = 84
	KindQuotaDelete Kind = 85
)

var kindNames = map[Kind]string{
	KindMessage: "message", KindHalf: "half", KindDelayed: "delayed",
	KindTransactionEnd: "transaction-end", KindTimerFired: "timer-fired", KindDeadLetter: "dead-letter",
	KindRedrive: "redrive", KindDiscard: "discard",
	KindTopicPut: "topic-put", KindTopicDelete: "topic-delete",
	KindGroupPut: "group-put", KindGroupDelete: "group-delete",
	KindLease: "lease", KindAck: "ack", KindExtend: "extend",
	KindOffsetCommit: "offset-commit", KindCursor: "cursor", KindIdentity: "identity",
	KindLitePut: "lite-put", KindLiteDelete: "lite-delete",
	KindTransactionRollback: "transaction-rollback", KindTransactionCheck: "transaction-check",
	KindTransactionMove: "transaction-move",
	KindTimerCancel:     "timer-cancel", KindTimerMove: "timer-move", KindCopy: "copy", KindRelocate: "relocate",
	KindDeadLetterCopy: "dead-letter-copy", KindTrim: "trim", KindDelete: "delete", KindLogBegin: "log-begin",
	KindReopen: "reopen", KindReplayBegin: "replay-begin", KindReplayStep: "replay-step", KindReplayEnd: "replay-end",
	KindProducerMark: "producer-mark",
	KindUserPut:      "user-put", KindUserDelete: "user-delete", KindPolicyPut: "policy-put", KindPolicyDelete: "policy-delete",
	KindQuotaPut: "quota-put", KindQuotaDelete: "quota-delete",
	KindDigest: "digest",
}

func (k Kind) String() string {
	if s, ok := kindNames[k]; ok {
		return s
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// IsMessage reports whether records of this kind have the message layout.
func (k Kind) IsMessage() bool { return k >= KindMessage && k <= KindCopy }

// IsMove reports whether records of this kind put an existing payload into a queue.
func (k Kind) IsMove() bool {
	return k >= KindTransactionEnd && k < KindTopicPut || k == KindTimerMove
}

// Placed reports whether records of this kind take a queue offset when they are
// appended, and so must be stamped.
func (k Kind) Placed() bool { return k == KindMessage || k == KindDelayed || k.IsMove() }

// Flags of a record's envelope.
type Flags uint16

const (
	FlagGzip     Flags = 1 << 0 // the producer compressed the body with gzip
	FlagPriority Flags = 1 << 1 // the priority field was given
	FlagFIFO     Flags = 1 << 2 // a message group was given
	FlagDelayed  Flags = 1 << 3 // of a copy: the message was a KindDelayed
	FlagDedup    Flags = 1 << 6 // to be remembered, so that the same one sent again is not stored

	// Or with one of these.
	FlagZstd Flags = 1 << 8
	FlagLZ4  Flags = 1 << 9
	FlagS2   Flags = 1 << 10

	// FlagsPacked are those that say how a body was compressed. At most one is set.
	FlagsPacked = FlagGzip | FlagZstd | FlagLZ4 | FlagS2
)

// Packing returns how the producer compressed the body: one of FlagsPacked, or 0
// when it did not. More than one is refused when it is sent, and returned as it is.
func (f Flags) Packing() Flags { return f & FlagsPacked }

// PackingName returns "gzip", "zstd", "lz4" or "s2", and "" for a body that its
// producer did not compress.
func (f Flags) PackingName() string {
	switch f.Packing() {
	case 0:
		return ""
	case FlagGzip:
		return "gzip"
	case FlagZstd:
		return "zstd"
	case FlagLZ4:
		return "lz4"
	case FlagS2:
		return "s2"
	}
	return "several"
}

// Decoding failures. They say what was found, the caller says where.
var (
	ErrTruncated = errors.New("record: cut short")
	ErrMalformed = errors.New("record: malformed")
	ErrChecksum  = errors.New("record: checksum mismatch")
)

var le = binary.LittleEndian

// Size returns the size of the record at the start of b without padding, and
// its kind, after checking that both are possible and that b holds all of it.
func Size(b []byte) (size int, kind Kind, err error) {
	if len(b) < envelopeLen {
		return 0, 0, ErrTruncated
	}
	n := le.Uint32(b)
	if n < envelopeLen || n > MaxSize {
		return 0, 0, fmt.Errorf("%w: size %d", ErrMalformed, n)
	}
	if uint64(n) > uint64(len(b)) {
		return 0, 0, ErrTruncated
	}
	head := le.Uint32(b[offHead:])
	if head < envelopeLen || head > n {
		return 0, 0, fmt.Errorf("%w: head %d of %d", ErrMalformed, head, n)
	}
	kind = Kind(b[offKind])
	if kind == KindInvalid {
		return 0, 0, fmt.Errorf("%w: kind 0", ErrMalformed)
	}
	return int(n), kind, nil
}

// Padded rounds a record's size up to the alignment of the next record.
func Padded(size int) int { return (size + Align - 1) &^ (Align - 1) }

// Verify checks the record's head, not its body: after it returns nil every
// field of the head can be trusted. [Message.VerifyBody] checks the body.
func Verify(b []byte) error {
	if _, _, err := Size(b); err != nil {
		return err
	}
	if b[offVersion] != version {
		return fmt.Errorf("%w: version %d, this build reads %d", ErrMalformed, b[offVersion], version)
	}
	head := int(le.Uint32(b[offHead:]))
	if CRC(b[8:head]) != le.Uint32(b[offCRC:]) {
		return ErrChecksum
	}
	return nil
}

// Walk calls f for each record of a frame's payload, in order, with the
// record's position. It stops at the first error, its own or f's.
func Walk(payload []byte, base Position, f func(pos Position, rec []byte, kind Kind) error) error {
	for off := 0; off < len(payload); {
		size, kind, err := Size(payload[off:])
		if err != nil {
			return err
		}
		if err := f(base+Position(off), payload[off:off+size], kind); err != nil {
			return err
		}
		off += Padded(size)
	}
	return nil
}

// BeginCommand starts the encoding of a command in dst. The caller appends the
// command's own bytes and then calls EndCommand with the value of start.
func BeginCommand(dst []byte, kind Kind) (b []byte, start int) {
	start = len(dst)
	dst = append(dst, make([]byte, envelopeLen)...)
	dst[start+offKind] = byte(kind)
	dst[start+offVersion] = version
	return dst, start
}

// BeginMove starts the encoding of a move to queue key. It ends with EndCommand;
// Stamp gives it its offset and seals it again.
func BeginMove(dst []byte, kind Kind, key QueueKey) (b []byte, start int) {
	dst, start = BeginCommand(dst, kind)
	dst = append(dst, make([]byte, moveHeaderLen-envelopeLen)...)
	le.PutUint32(dst[start+offTopic:], uint32(key.Topic()))
	le.PutUint32(dst[start+offQueue:], key.Queue())
	return dst, start
}

// Move returns the kind-specific bytes of a verified move, and when it was stored.
func Move(rec []byte) (data []byte, storeTime int64, err error) {
	if len(rec) < moveHeaderLen {
		return nil, 0, ErrTruncated
	}
	return rec[moveHeaderLen:], int64(le.Uint64(rec[offStoreTime:])), nil
}

// EndCommand completes the command begun at start: sizes and checksum.
func EndCommand(b []byte, start int) []byte {
	n := len(b) - start
	le.PutUint32(b[start:], uint32(n))
	le.PutUint32(b[start+offHead:], uint32(n))
	le.PutUint32(b[start+offCRC:], CRC(b[start+8:]))
	return b
}

// Command returns the kind-specific bytes of a verified command.
func Command(rec []byte) []byte { return rec[envelopeLen:] }

// Stamp gives the message or move whose head is in head its queue offset and
// store time, and seals the head's checksum. It is called by the goroutine that
// orders the log.
func Stamp(head []byte, offset QueueOffset, storeTime int64) {
	le.PutUint64(head[offOffset:], uint64(offset))
	le.PutUint64(head[offStoreTime:], uint64(storeTime))
	le.PutUint32(head[offCRC:], CRC(head[8:le.Uint32(head[offHead:])]))
}

// KeyOf returns the queue that the message or move rec is destined for.
func KeyOf(rec []byte) QueueKey {
	return Key(TopicID(le.Uint32(rec[offTopic:])), le.Uint32(rec[offQueue:]))
}

// FlagsOf returns the flags of the record that starts at rec.
func FlagsOf(rec []byte) Flags { return Flags(le.Uint16(rec[offFlags:])) }

// KindOf returns the kind of the record that starts at rec.
func KindOf(rec []byte) Kind { return Kind(rec[offKind]) }

// SizeOf returns the size of the record that starts at rec, without padding.
func SizeOf(rec []byte) int { return int(le.Uint32(rec)) }

// BodyLen returns the length of a record's body, 0 for commands.
func BodyLen(rec []byte) int { return int(le.Uint32(rec) - le.Uint32(rec[offHead:])) }

// OffsetOf returns the stamped queue offset of a message head.
func OffsetOf(head []byte) QueueOffset { return QueueOffset(le.Uint64(head[offOffset:])) }

// DueTimeOf returns the due time of a message head.
func DueTimeOf(head []byte) int64 { return int64(le.Uint64(head[offDueTime:])) }

// StoreTimeOf returns the stamped store time of a message or move.
func StoreTimeOf(head []byte) int64 { return int64(le.Uint64(head[offStoreTime:])) }

// Uvarint helpers for command payloads.

// AppendBytes appends b with its length before it.
func AppendBytes(dst []byte, b []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

// AppendString appends s with its length before it.
func AppendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// Decoder reads what the Append functions wrote. The first failure sticks: the
// caller reads all it wants and checks Err once. It never allocates by a length
// it read.
type Decoder struct {
	b   []byte
	err error
}

func NewDecoder(b []byte) *Decoder { return &Decoder{b: b} }

func (d *Decoder) fail() {
	if d.err == nil {
		d.err = ErrTruncated
	}
	d.b = nil
}

// Err returns the first failure, or ErrMalformed if bytes are left over.
func (d *Decoder) Err() error {
	if d.err == nil && len(d.b) != 0 {
		return fmt.Errorf("%w: %d bytes left over", ErrMalformed, len(d.b))
	}
	return d.err
}

// Failed reports whether a read failed, for loops over a count that was read.
func (d *Decoder) Failed() bool { return d.err != nil }

// Len returns the number of bytes not read yet.
func (d *Decoder) Len() int { return len(d.b) }

func (d *Decoder) Uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *Decoder) Varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

// Uint32 reads a uvarint that must fit 32 bits.
func (d *Decoder) Uint32() uint32 {
	v := d.Uvarint()
	if v > math.MaxUint32 {
		d.fail()
		return 0
	}
	return uint32(v)
}

// Uint64 reads eight bytes.
func (d *Decoder) Uint64() uint64 {
	if len(d.b) < 8 {
		d.fail()
		return 0
	}
	v := le.Uint64(d.b)
	d.b = d.b[8:]
	return v
}

func (d *Decoder) Byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

// Bytes reads a length and that many bytes, aliasing the input.
func (d *Decoder) Bytes() []byte {
	n := d.Uvarint()
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *Decoder) String() string { return string(d.Bytes()) }

// Count reads the number of elements that follow, each at least min bytes
// long, and fails when the input cannot hold them.
func (d *Decoder) Count(min int) int {
	n := d.Uvarint()
	if n > uint64(len(d.b)/max(min, 1)) {
		d.fail()
		return 0
	}
	return int(n)
}
