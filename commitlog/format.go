package commitlog

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// The directory holds segments, the manifest, spares (segments to be) and LOCK:
//
//	00000000000000000000.log   named by base position, so that names sort
//	MANIFEST
//	spare-1.tmp
//	quarantine/                whatever else was found; never removed by us
//
// All integers are little-endian, all checksums CRC-32C.
//
// # Segment
//
// A segment is a file of fixed size. A position is the base of a segment plus
// an offset in its file; the base of the next segment is base + size. So
// position 0 is a header and never a record.
//
//	off size
//	   0   8   magic "GNTRYSEG"
//	   8   4   version, 1
//	  12   4   crc of [16, 4096)
//	  16   8   cluster id   0 for now
//	  24   8   group id     0 for now
//	  32   8   base position
//	  40   8   base index   index of the first frame
//	  48   8   nonce        random: tells this life of the file from earlier ones
//	  56   8   size         of the file
//	  64   8   end time     Unix ns of the last frame before this segment, or 0
//	  72   4   chain        chain value of the last frame before, or 0
//	  76   -   0
//	4096       frames
//
// A file is given its .log name only after its header and all of the segment
// before it are durable. Therefore a bad header is always corruption, and only
// the last segment can have a torn tail.
//
// # Frame
//
// A frame is the unit of append and of checksum: one or more whole batches.
// Frames start on 8-byte boundaries and never span segments.
//
//	off size
//	 0   4   magic        0x4d514652 ^ low half of the nonce: what is left of the
//	                      file's earlier life never looks valid
//	 4   4   header crc   of [8, 64)
//	 8   8   index        1, 2, 3 ... without gaps
//	16   8   term         never decreases; 1 until there are elections
//	24   8   commit hint  an index that was committed when this was written
//	32   4   length       of the payload, a multiple of 8
//	36   4   payload crc
//	40   4   chain        crc of (index, term, payload crc) of all frames up to
//	                      this one, see nextChain
//	44   1   type         a FrameType, never 0: zeroes are not a frame
//	45   1   flags        low 3 bits: bytes of padding at the end of the payload, 0
//	                      for records, which pad themselves
//	46   2   extensions   0
//	48   8   time         Unix ns, never decreases
//	56   8   0
//	64   n   payload: records, each padded to 8
//
// A frame that leaves no room for another header after it is not placed there.
// The frame before the first that does not fit is followed by one of type
// segmentEnd, whose index repeats that of the frame before it.
//
// # Manifest
//
// Two slots of 4 KiB, written in turn; the valid one with the higher sequence
// number holds.
//
//	off size
//	 0   8   magic "GNTRYMAN"
//	 8   4   version, 1
//	12   4   crc of [16, 4096)
//	16   8   sequence number, from 1
//	24   8   checkpoint: position at which a frame ended that was durable
//	32   8   checkpoint: index of that frame
//	40   8   checkpoint: its time
//	48   4   checkpoint: its chain
//	52   4   0
//	56   8   checkpoint: position of that frame, 0 when it is not known
//	64   8   checkpoint: its term
//	72   -   0
const (
	segmentHeaderLen = 4096
	frameHeaderLen   = 64
	manifestSlotLen  = 4096
	manifestLen      = 2 * manifestSlotLen

	segmentMagic  = "GNTRYSEG"
	manifestMagic = "GNTRYMAN"
	frameMagic    = 0x4d51_4652
	version       = 1

	// maxPayload keeps a length in 31 bits.
	maxPayload = 1<<31 - 8
)

// FrameType says what a frame's payload is. All but FrameRecords are of a
// replicated log (see Options.Replicated) and for whoever orders it: to those who
// read records such a frame is empty.
type FrameType uint8

const (
	FrameRecords    FrameType = 1
	FrameElection   FrameType = 2 // a leader begins its term
	FrameBarrier    FrameType = 3
	FrameMembership FrameType = 4 // who the replicas are from here on
	segmentEnd      FrameType = 255
)

const padMask = record.Align - 1 // of the flags

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

const segmentSuffix = ".log"

func segmentName(base record.Position) string {
	return fmt.Sprintf("%020d%s", uint64(base), segmentSuffix)
}

// parseSegmentName is the exact inverse of segmentName.
func parseSegmentName(name string) (base record.Position, ok bool) {
	digits, found := strings.CutSuffix(name, segmentSuffix)
	n, err := strconv.ParseUint(digits, 10, 64)
	base = record.Position(n)
	return base, found && err == nil && segmentName(base) == name
}

type segmentHeader struct {
	Cluster, Group uint64
	Base           record.Position
	BaseIndex      uint64
	Nonce          uint64
	Size           int64
	PrevTime       int64 // Unix ns
	PrevChain      uint32
}

// seal writes what all three fixed-size blocks have in front.
func seal(b []byte, magic string) {
	copy(b, magic)
	le.PutUint32(b[8:], version)
	le.PutUint32(b[12:], record.CRC(b[16:]))
}

// unseal checks it: three questions, three answers.
func unseal(b []byte, magic string) error {
	if string(b[:8]) != magic {
		return fmt.Errorf("%w: header begins %q, want %q", ErrMagic, b[:8], magic)
	}
	if v := le.Uint32(b[8:]); v != version {
		return fmt.Errorf("%w: %d, want %d", ErrVersion, v, version)
	}
	if record.CRC(b[16:]) != le.Uint32(b[12:]) {
		return fmt.Errorf("%w: header", ErrChecksum)
	}
	return nil
}

func (h *segmentHeader) encode() []byte {
	b := make([]byte, segmentHeaderLen)
	le.PutUint64(b[16:], h.Cluster)
	le.PutUint64(b[24:], h.Group)
	le.PutUint64(b[32:], uint64(h.Base))
	le.PutUint64(b[40:], h.BaseIndex)
	le.PutUint64(b[48:], h.Nonce)
	le.PutUint64(b[56:], uint64(h.Size))
	le.PutUint64(b[64:], uint64(h.PrevTime))
	le.PutUint32(b[72:], h.PrevChain)
	seal(b, segmentMagic)
	return b
}

func decodeSegmentHeader(b []byte) (segmentHeader, error) {
	if len(b) < segmentHeaderLen {
		return segmentHeader{}, fmt.Errorf("%w: segment header of %d bytes", ErrMalformed, len(b))
	}
	b = b[:segmentHeaderLen]
	if err := unseal(b, segmentMagic); err != nil {
		return segmentHeader{}, err
	}
	h := segmentHeader{
		Cluster:   le.Uint64(b[16:]),
		Group:     le.Uint64(b[24:]),
		Base:      record.Position(le.Uint64(b[32:])),
		BaseIndex: le.Uint64(b[40:]),
		Nonce:     le.Uint64(b[48:]),
		Size:      int64(le.Uint64(b[56:])),
		PrevTime:  int64(le.Uint64(b[64:])),
		PrevChain: le.Uint32(b[72:]),
	}
	if h.Size < minSegmentSize || h.BaseIndex == 0 || uint64(h.Base)+uint64(h.Size) < uint64(h.Base) {
		return segmentHeader{}, fmt.Errorf("%w: segment header %+v", ErrMalformed, h)
	}
	return h, nil
}

type frameHeader struct {
	Index, Term uint64
	Hint        uint64
	Length      uint32
	PayloadCRC  uint32
	Chain       uint32
	Type        FrameType
	Flags       uint8
	Extensions  uint16
	Time        int64 // Unix ns
}

// size is the room the frame takes.
func (h *frameHeader) size() int64 { return frameHeaderLen + int64(h.Length) }

func magicOf(nonce uint64) uint32 { return frameMagic ^ uint32(nonce) }

// encode writes all of b[:frameHeaderLen].
func (h *frameHeader) encode(b []byte, nonce uint64) {
	b = b[:frameHeaderLen]
	le.PutUint32(b, magicOf(nonce))
	le.PutUint64(b[8:], h.Index)
	le.PutUint64(b[16:], h.Term)
	le.PutUint64(b[24:], h.Hint)
	le.PutUint32(b[32:], h.Length)
	le.PutUint32(b[36:], h.PayloadCRC)
	le.PutUint32(b[40:], h.Chain)
	b[44] = byte(h.Type)
	b[45] = h.Flags
	le.PutUint16(b[46:], h.Extensions)
	le.PutUint64(b[48:], uint64(h.Time))
	le.PutUint64(b[56:], 0)
	le.PutUint32(b[4:], record.CRC(b[8:]))
}

// decodeFrameHeader verifies the header at the start of b. room is what is left
// of the segment from there on: a length beyond it is refused before anybody
// allocates or reads by it.
func decodeFrameHeader(b []byte, nonce uint64, room int64) (frameHeader, error) {
	if len(b) < frameHeaderLen {
		return frameHeader{}, fmt.Errorf("%w: frame header of %d bytes", ErrMalformed, len(b))
	}
	b = b[:frameHeaderLen]
	if m := le.Uint32(b); m != magicOf(nonce) {
		return frameHeader{}, fmt.Errorf("%w: frame begins %#08x, want %#08x", ErrMagic, m, magicOf(nonce))
	}
	if record.CRC(b[8:]) != le.Uint32(b[4:]) {
		return frameHeader{}, fmt.Errorf("%w: frame header", ErrChecksum)
	}
	h := frameHeader{
		Index:      le.Uint64(b[8:]),
		Term:       le.Uint64(b[16:]),
		Hint:       le.Uint64(b[24:]),
		Length:     le.Uint32(b[32:]),
		PayloadCRC: le.Uint32(b[36:]),
		Chain:      le.Uint32(b[40:]),
		Type:       FrameType(b[44]),
		Flags:      b[45],
		Extensions: le.Uint16(b[46:]),
		Time:       int64(le.Uint64(b[48:])),
	}
	switch {
	case (h.Type < FrameRecords || h.Type > FrameMembership) && h.Type != segmentEnd:
		return frameHeader{}, fmt.Errorf("%w: frame type %d", ErrMalformed, h.Type)
	case h.Flags&^padMask != 0 || h.Extensions != 0 || le.Uint64(b[56:]) != 0:
		return frameHeader{}, fmt.Errorf("%w: frame uses a feature this build does not have", ErrVersion)
	case h.Length%record.Align != 0 || h.Length > maxPayload || h.size() > room:
		return frameHeader{}, fmt.Errorf("%w: frame payload of %d bytes in %d", ErrMalformed, h.Length, room)
	case h.Flags != 0 && (h.Type == FrameRecords || h.Type == segmentEnd) || uint32(h.Flags) > h.Length:
		return frameHeader{}, fmt.Errorf("%w: padding of %d bytes in %d of frame type %d", ErrMalformed, h.Flags, h.Length, h.Type)
	case h.Type == segmentEnd && h.Length != 0:
		return frameHeader{}, fmt.Errorf("%w: segment end with payload", ErrMalformed)
	}
	return h, nil
}

// nextChain links a frame to all frames before it: it is the CRC-32C of the
// index (8 bytes), term (8) and payload crc (4) of every frame up to this one,
// prev being that up to the one before. Byte by byte, because a slice handed to
// package crc32 would be an allocation for every frame.
func nextChain(prev uint32, index, term uint64, payloadCRC uint32) uint32 {
	crc := ^prev
	add := func(v uint64, n int) {
		for range n {
			crc = castagnoli[byte(crc)^byte(v)] ^ crc>>8
			v >>= 8
		}
	}
	add(index, 8)
	add(term, 8)
	add(uint64(payloadCRC), 4)
	return ^crc
}

// tail is where the log ends, seen from one of its watermarks: everything that
// the next frame must follow.
type tail struct {
	pos   record.Position // end of the last frame
	index uint64          // of the last frame; 0 before the first
	time  int64           // of the last frame, Unix ns
	chain uint32          // of the last frame, a segment end included
}

// follow checks that a frame with header h and payload may come after t, and
// moves t past it. A segment end moves only the chain.
func (t *tail) follow(h *frameHeader, payload []byte) error {
	if record.CRC(payload) != h.PayloadCRC {
		return fmt.Errorf("%w: payload of frame %d", ErrChecksum, h.Index)
	}
	next := t.index + 1
	if h.Type == segmentEnd {
		next = t.index
	}
	if h.Index != next {
		return fmt.Errorf("%w: frame index %d, want %d", ErrSequence, h.Index, next)
	}
	if chain := nextChain(t.chain, h.Index, h.Term, h.PayloadCRC); h.Chain != chain {
		return fmt.Errorf("%w: chain of frame %d is %#08x, want %#08x", ErrSequence, h.Index, h.Chain, chain)
	}
	if h.Time < t.time {
		return fmt.Errorf("%w: frame %d is older than the one before", ErrSequence, h.Index)
	}
	t.chain = h.Chain
	if h.Type != segmentEnd {
		t.pos += record.Position(h.size())
		t.index = h.Index
		t.time = h.Time
	}
	return nil
}

type manifest struct {
	Seq        uint64
	Checkpoint tail
	// Of the checkpoint's frame, kept by a replicated log only.
	Start record.Position
	Term  uint64
}

func (m *manifest) encode() []byte {
	b := make([]byte, manifestSlotLen)
	le.PutUint64(b[16:], m.Seq)
	le.PutUint64(b[24:], uint64(m.Checkpoint.pos))
	le.PutUint64(b[32:], m.Checkpoint.index)
	le.PutUint64(b[40:], uint64(m.Checkpoint.time))
	le.PutUint32(b[48:], m.Checkpoint.chain)
	le.PutUint64(b[56:], uint64(m.Start))
	le.PutUint64(b[64:], m.Term)
	seal(b, manifestMagic)
	return b
}

func decodeManifest(b []byte) (manifest, error) {
	if len(b) < manifestSlotLen {
		return manifest{}, fmt.Errorf("%w: manifest of %d bytes", ErrMalformed, len(b))
	}
	b = b[:manifestSlotLen]
	if err := unseal(b, manifestMagic); err != nil {
		return manifest{}, err
	}
	m := manifest{
		Seq: le.Uint64(b[16:]),
		Checkpoint: tail{
			pos:   record.Position(le.Uint64(b[24:])),
			index: le.Uint64(b[32:]),
			time:  int64(le.Uint64(b[40:])),
			chain: le.Uint32(b[48:]),
		},
		Start: record.Position(le.Uint64(b[56:])),
		Term:  le.Uint64(b[64:]),
	}
	if m.Seq == 0 {
		return manifest{}, fmt.Errorf("%w: manifest %+v", ErrMalformed, m)
	}
	return m, nil
}
