package record

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// A pack is message records one after the other, each padded with zeros to Align:
// a piece of a frame's payload as it is on disk. Clients of gantry.v1 send packs
// and receive them. In a pack that is sent, what only the broker knows is zero:
// topic, queue, queue offset, store time and the head's checksum.

// BeginMessage starts the encoding of a message at the end of a pack. The caller
// appends the properties (AppendField, AppendUser) and then calls EndMessage with
// the value of start.
func BeginMessage(pack []byte) (b []byte, start int) {
	start = len(pack)
	var head [messageHeaderLen]byte
	return append(pack, head[:]...), start
}

// EndMessage completes the message begun at start: head, body and padding. Of m
// it takes Kind, Flags, BornTime, DueTime, Priority and Body.
func EndMessage(b []byte, start int, m *Message) []byte {
	putHead(b[start:], m)
	b = append(b, m.Body...)
	return append(b, zeroPad[:Padded(len(b)-start)-(len(b)-start)]...)
}

var zeroPad [Align]byte

// AppendMessage appends m as a record of a pack, stamped with what m says.
func AppendMessage(pack []byte, m *Message) []byte {
	pack, start := BeginMessage(pack)
	pack = EndMessage(append(pack, m.Properties...), start, m)
	Place(pack[start:], m)
	Stamp(pack[start:], m.Offset, m.StoreTime)
	return pack
}

// CutMessage returns the first message record of a pack, and what follows its
// padding, after checking that it has the shape of a message of this version.
// It looks at no checksum and not into the properties.
func CutMessage(pack []byte) (rec, rest []byte, err error) {
	var m Message
	return m.Cut(pack)
}

// Cut is CutMessage and ParseMessage in one, for who reads whole packs.
func (m *Message) Cut(pack []byte) (rec, rest []byte, err error) {
	size, kind, err := Size(pack)
	if err != nil {
		return nil, nil, err
	}
	head := int(le.Uint32(pack[offHead:]))
	switch {
	case !kind.IsMessage():
		return nil, nil, fmt.Errorf("%w: %v is not a message", ErrMalformed, kind)
	case pack[offVersion] != version:
		return nil, nil, fmt.Errorf("%w: version %d, this build reads %d", ErrMalformed, pack[offVersion], version)
	case head < messageHeaderLen:
		return nil, nil, fmt.Errorf("%w: message head %d", ErrMalformed, head)
	case Padded(size) > len(pack):
		return nil, nil, fmt.Errorf("%w: padding", ErrTruncated)
	}
	rec = pack[:size:size]
	m.parse(rec, kind, head)
	return rec, pack[Padded(size):], nil
}

// Open is Cut for who was sent the pack: it verifies the record, head and body, and
// returns how many bytes it takes with its padding.
func (m *Message) Open(pack []byte) (padded int, err error) {
	rec, rest, err := m.Cut(pack)
	switch {
	case err != nil:
		return 0, err
	case CRC(rec[8:messageHeaderLen+len(m.Properties)]) != le.Uint32(rec[offCRC:]):
		return 0, fmt.Errorf("%w: head", ErrChecksum)
	}
	return len(pack) - len(rest), m.VerifyBody()
}

// Place gives a record that CutMessage returned what m says of its Kind, Flags,
// Topic, Queue and BornTime. It leaves the checksum to Stamp.
func Place(rec []byte, m *Message) {
	rec[offKind] = byte(m.Kind)
	le.PutUint16(rec[offFlags:], uint16(m.Flags))
	le.PutUint32(rec[offTopic:], uint32(m.Topic))
	le.PutUint32(rec[offQueue:], m.Queue)
	le.PutUint64(rec[offBornTime:], uint64(m.BornTime))
}

// SetQueue is Place for the queue alone.
func SetQueue(rec []byte, queue uint32) { le.PutUint32(rec[offQueue:], queue) }

// positionID begins the ids that PositionID makes. Clients' own begin with 00 or
// 01.
const positionID = "02"

// PositionID is the id of a message that came without one: "02", then the store's
// id and the position of the first record with its payload, each as 16 upper-case
// hexadecimal digits. It has the length that SDKs expect.
func PositionID(store uint64, pos Position) string {
	var n [16]byte
	binary.BigEndian.PutUint64(n[:], store)
	binary.BigEndian.PutUint64(n[8:], uint64(pos))
	var b [len(positionID) + 2*len(n)]byte
	copy(b[:], positionID)
	const digits = "0123456789ABCDEF"
	for i, c := range n {
		b[len(positionID)+2*i] = digits[c>>4]
		b[len(positionID)+2*i+1] = digits[c&15]
	}
	return string(b[:])
}

// ParsePositionID reads what PositionID made.
func ParsePositionID(id string) (store uint64, pos Position, ok bool) {
	rest, ok := strings.CutPrefix(id, positionID)
	if !ok || len(rest) != 32 {
		return 0, 0, false
	}
	b, err := hex.DecodeString(rest)
	if err != nil {
		return 0, 0, false
	}
	store, pos = binary.BigEndian.Uint64(b), Position(binary.BigEndian.Uint64(b[8:]))
	return store, pos, PositionID(store, pos) == id
}

// ID returns the id of the message whose record is at pos.
func (m *Message) ID(store uint64, pos Position) string {
	if id, ok := m.Properties.Lookup(FieldMessageID); ok {
		return string(id)
	}
	if origin, ok := m.Properties.Lookup(FieldOrigin); ok && len(origin) == 8 {
		pos = Position(le.Uint64(origin))
	}
	return PositionID(store, pos)
}
