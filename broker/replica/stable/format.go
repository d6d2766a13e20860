package stable

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// The file is two slots of 4 KiB with the same content, all of the store's keys
// and values. All integers are little-endian.
//
//	off size
//	 0   8   magic "GNTRYSTB"
//	 8   4   version, 1
//	12   4   CRC-32C of [16, 4096)
//	16   8   sequence number, from 1
//	24   2   number of keys
//	26   -   the keys in ascending order, each
//	           2  length of the key
//	           2  length of the value
//	              key, value
//	     -   0
const (
	slotMagic   = "GNTRYSTB"
	slotVersion = 1
	slotLen     = 4096
	slotHeader  = 26
	fileLen     = 2 * slotLen
)

var (
	// ErrTooLarge reports a Set after which the keys and values would not fit into a
	// slot. Nothing was written.
	ErrTooLarge = errors.New("stable: a slot has 4070 bytes, of which each key takes 4 more than its name and value")
	// ErrCorrupt reports a file that no crash can leave behind.
	ErrCorrupt = errors.New("stable: corrupt")
)

var le = binary.LittleEndian

// slot is what a slot says.
type slot struct {
	seq    uint64
	values map[string][]byte
}

func (s slot) encode() ([]byte, error) {
	b := make([]byte, slotHeader, slotLen)
	copy(b, slotMagic)
	le.PutUint32(b[8:], slotVersion)
	le.PutUint64(b[16:], s.seq)
	le.PutUint16(b[24:], uint16(len(s.values)))
	for _, key := range slices.Sorted(maps.Keys(s.values)) {
		value := s.values[key]
		if 4+len(key)+len(value) > slotLen-len(b) {
			return nil, ErrTooLarge
		}
		b = le.AppendUint16(b, uint16(len(key)))
		b = le.AppendUint16(b, uint16(len(value)))
		b = append(append(b, key...), value...)
	}
	b = b[:slotLen]
	sum(b)
	return b, nil
}

func sum(b []byte) { le.PutUint32(b[12:], record.CRC(b[16:])) }

// decode is the exact inverse of encode. The values are copies.
func decode(b []byte) (slot, error) {
	switch {
	case len(b) != slotLen:
		return slot{}, fmt.Errorf("%d bytes, want %d", len(b), slotLen)
	case string(b[:8]) != slotMagic:
		return slot{}, fmt.Errorf("begins %q, want %q", b[:8], slotMagic)
	case le.Uint32(b[8:]) != slotVersion:
		return slot{}, fmt.Errorf("version %d, want %d", le.Uint32(b[8:]), slotVersion)
	case record.CRC(b[16:]) != le.Uint32(b[12:]):
		return slot{}, errors.New("checksum does not match")
	}
	s := slot{seq: le.Uint64(b[16:]), values: map[string][]byte{}}
	rest := b[slotHeader:]
	last := ""
	for i := range le.Uint16(b[24:]) {
		if len(rest) < 4 {
			return slot{}, errors.New("a key is cut off")
		}
		k, v := int(le.Uint16(rest)), int(le.Uint16(rest[2:]))
		rest = rest[4:]
		if k+v > len(rest) {
			return slot{}, errors.New("a value is cut off")
		}
		key := string(rest[:k])
		if i > 0 && key <= last {
			return slot{}, errors.New("keys are not in order")
		}
		s.values[key] = append([]byte{}, rest[k:k+v]...)
		rest, last = rest[k+v:], key
	}
	for _, c := range rest {
		if c != 0 {
			return slot{}, errors.New("something follows the last key")
		}
	}
	if s.seq == 0 {
		return slot{}, errors.New("sequence number 0")
	}
	return s, nil
}
