package keyindex

import (
	"encoding/binary"
	"math/bits"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// What a hash is of. Values are part of the disk format.
const (
	ofID   = 1
	ofKey  = 2
	ofMove = 3
	ofDue  = 4
)

// ID returns the hash of a message id in a topic.
func ID[T string | []byte](topic record.TopicID, id T) uint64 {
	return hash(ofID<<32|uint64(topic), id)
}

// Key returns the hash of a message key in a topic.
func Key[T string | []byte](topic record.TopicID, key T) uint64 {
	return hash(ofKey<<32|uint64(topic), key)
}

// Move returns the hash under which records are found that did something with
// the payload at pos.
func Move(pos record.Position) uint64 {
	return mix(mix(ofMove<<32|factor) ^ uint64(pos))
}

// Due returns the hash under which records are found that put delayed messages
// into a queue, by the second they were due in: see package scheduler.
func Due(to record.QueueKey, second int64) uint64 {
	return mix(mix(mix(ofDue<<32|factor)^uint64(to)) ^ uint64(second))
}

const factor = 0x9E3779B97F4A7C15 // 2^64 over the golden ratio, odd

// mix multiplies to 128 bits and folds them: each bit of x moves half of those
// of the result.
func mix(x uint64) uint64 {
	hi, lo := bits.Mul64(x^factor, 0xD6E8FEB86659FD93)
	return hi ^ lo
}

func hash[T string | []byte](space uint64, text T) uint64 {
	h := mix(space ^ uint64(len(text))<<40)
	for len(text) >= 8 {
		h = mix(h ^ le64(text))
		text = text[8:]
	}
	var tail uint64
	for i := len(text) - 1; i >= 0; i-- {
		tail = tail<<8 | uint64(text[i])
	}
	return mix(mix(h^tail) + space)
}

func le64[T string | []byte](b T) uint64 {
	_ = b[7]
	return uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 |
		uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
}

func putEntry(b []byte, e entry) {
	binary.LittleEndian.PutUint64(b, e.hash)
	binary.LittleEndian.PutUint64(b[8:], uint64(e.pos))
}

func getEntry(b []byte) entry {
	return entry{binary.LittleEndian.Uint64(b), record.Position(binary.LittleEndian.Uint64(b[8:]))}
}
