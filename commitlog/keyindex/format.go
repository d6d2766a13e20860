package keyindex

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// On disk an index is a directory of segments: <id>.raw, or <id>.sealed when it is
// sorted. All integers are little-endian.
//
// Entry:
//
//	off size
//	 0   8   hash      of what: see hash.go
//	 8   8   position  of the record in the commit log
//
// A raw segment is entries, back to back, positions ascending, in a preallocated
// file. How many there are, and their checksum, is in the snapshot.
//
// A sealed segment is a page of 4 KiB with its header, then the blocks, of 4 KiB,
// then the fence: the first entry of each block. Its entries are in order of hash
// and, where that is equal, from the highest position down.
//
//	 0   8   magic   "GANTRYKX"
//	 8   4   version 1
//	12   4   id      the number in the file's name
//	16   4   count   of entries
//	20   4   fence   CRC-32C of the fence
//	24   8   first   lowest position
//	32   8   last    highest position
//	40   4   crc     CRC-32C of bytes [0, 40)
//
// Block:
//
//	   0 16n  entries, n = 255 but in the last block; the rest is zero
//	4080   4  n
//	4084   4  id     of the segment
//	4088   4  number of the block, from 0
//	4092   4  crc    CRC-32C of bytes [0, 4092)
//
// Snapshot (varints as in encoding/binary):
//
//	magic "GKXS" | version 1 (1 byte)
//	uvarint last: highest position put
//	uvarint id of the next segment
//	uvarint number of segments, the oldest first, each:
//	    uvarint id | 1 sealed | uvarint count | uvarint first | uvarint last
//	    crc 4    sealed: of the header; raw: CRC-32C of the entries
//	crc 4, CRC-32C of everything before
const (
	sealedMagic     = "GANTRYKX"
	sealedVersion   = 1
	sealedHeaderLen = 44
	snapshotMagic   = "GKXS"
	snapshotVersion = 1

	entryLen     = 16
	blockLen     = 4096
	blockEntries = 255
	blockFoot    = blockEntries * entryLen
	maxEntries   = 1 << 26
)

type entry struct {
	hash uint64
	pos  record.Position
}

// compare is the order of a sealed segment.
func (e entry) compare(o entry) int {
	switch {
	case e.hash < o.hash || e.hash == o.hash && e.pos > o.pos:
		return -1
	case e == o:
		return 0
	}
	return 1
}

var (
	// ErrSnapshot reports a snapshot that is damaged.
	ErrSnapshot = errors.New("keyindex: damaged snapshot")
	// ErrMissing reports that a file is not there, or not the one that the snapshot
	// names. The way out is to open with nil and to put everything again.
	ErrMissing = errors.New("keyindex: a segment is missing or damaged")
	// ErrClosed is what a closed index answers.
	ErrClosed = errors.New("keyindex: closed")
)

func blocksOf(count int) int { return (count + blockEntries - 1) / blockEntries }

func sealedSize(count int) int64 {
	n := int64(blocksOf(count))
	return blockLen + n*blockLen + n*entryLen
}

// meta says of a segment what the snapshot does.
type meta struct {
	id          uint32
	sealed      bool
	count       int
	first, last record.Position
	crc         uint32
}

func appendSealedHeader(dst []byte, m meta, fence uint32) []byte {
	start := len(dst)
	dst = append(dst, sealedMagic...)
	for _, v := range []uint32{sealedVersion, m.id, uint32(m.count), fence} {
		dst = binary.LittleEndian.AppendUint32(dst, v)
	}
	dst = binary.LittleEndian.AppendUint64(dst, uint64(m.first))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(m.last))
	return binary.LittleEndian.AppendUint32(dst, record.CRC(dst[start:]))
}

func parseSealedHeader(b []byte) (m meta, fence uint32, err error) {
	if len(b) < sealedHeaderLen || string(b[:8]) != sealedMagic {
		return meta{}, 0, errors.New("no header of a sealed segment")
	}
	crc := binary.LittleEndian.Uint32(b[40:])
	if record.CRC(b[:40]) != crc {
		return meta{}, 0, errors.New("header: checksum mismatch")
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != sealedVersion {
		return meta{}, 0, fmt.Errorf("version %d, this build reads %d", v, sealedVersion)
	}
	m = meta{
		id: binary.LittleEndian.Uint32(b[12:]), sealed: true, count: int(binary.LittleEndian.Uint32(b[16:])),
		first: record.Position(binary.LittleEndian.Uint64(b[24:])), last: record.Position(binary.LittleEndian.Uint64(b[32:])), crc: crc,
	}
	if m.count < 1 || m.count > maxEntries || m.first > m.last {
		return meta{}, 0, errors.New("header: impossible values")
	}
	return m, binary.LittleEndian.Uint32(b[20:]), nil
}

// sealBlock fills b, a block, with entries.
func sealBlock(b []byte, id uint32, number int, entries []entry) {
	clear(b[:blockLen])
	for i, e := range entries {
		putEntry(b[i*entryLen:], e)
	}
	binary.LittleEndian.PutUint32(b[blockFoot:], uint32(len(entries)))
	binary.LittleEndian.PutUint32(b[blockFoot+4:], id)
	binary.LittleEndian.PutUint32(b[blockFoot+8:], uint32(number))
	binary.LittleEndian.PutUint32(b[blockFoot+12:], record.CRC(b[:blockLen-4]))
}

// checkBlock returns the entries of a block, encoded.
func checkBlock(b []byte, id uint32, number int) ([]byte, error) {
	n := binary.LittleEndian.Uint32(b[blockFoot:])
	switch {
	case record.CRC(b[:blockLen-4]) != binary.LittleEndian.Uint32(b[blockLen-4:]):
		return nil, fmt.Errorf("block %d: checksum mismatch", number)
	case binary.LittleEndian.Uint32(b[blockFoot+4:]) != id || binary.LittleEndian.Uint32(b[blockFoot+8:]) != uint32(number) || n < 1 || n > blockEntries:
		return nil, fmt.Errorf("block %d is another", number)
	}
	return b[:n*entryLen], nil
}

// image is what a snapshot says.
type image struct {
	last     record.Position
	next     uint32
	segments []meta
}

func appendSnapshot(dst []byte, img *image) []byte {
	start := len(dst)
	dst = append(append(dst, snapshotMagic...), snapshotVersion)
	dst = binary.AppendUvarint(dst, uint64(img.last))
	dst = binary.AppendUvarint(dst, uint64(img.next))
	dst = binary.AppendUvarint(dst, uint64(len(img.segments)))
	for _, m := range img.segments {
		dst = binary.AppendUvarint(dst, uint64(m.id))
		sealed := byte(0)
		if m.sealed {
			sealed = 1
		}
		dst = append(dst, sealed)
		dst = binary.AppendUvarint(dst, uint64(m.count))
		dst = binary.AppendUvarint(dst, uint64(m.first))
		dst = binary.AppendUvarint(dst, uint64(m.last))
		dst = binary.LittleEndian.AppendUint32(dst, m.crc)
	}
	return binary.LittleEndian.AppendUint32(dst, record.CRC(dst[start:]))
}

func parseSnapshot(b []byte) (*image, error) {
	head := len(snapshotMagic) + 1
	if len(b) < head+4 || string(b[:head-1]) != snapshotMagic {
		return nil, ErrSnapshot
	}
	body := b[:len(b)-4]
	if record.CRC(body) != binary.LittleEndian.Uint32(b[len(b)-4:]) {
		return nil, fmt.Errorf("%w: checksum mismatch", ErrSnapshot)
	}
	if v := b[head-1]; v != snapshotVersion {
		return nil, fmt.Errorf("%w: version %d, this build reads %d", ErrSnapshot, v, snapshotVersion)
	}
	d := record.NewDecoder(body[head:])
	img := &image{last: record.Position(d.Uvarint()), next: d.Uint32()}
	var at record.Position
	var id uint32
	for n := d.Count(9); n > 0 && !d.Failed(); n-- {
		m := meta{id: d.Uint32()}
		flag := d.Byte()
		m.sealed = flag == 1
		count := d.Uvarint()
		m.first, m.last = record.Position(d.Uvarint()), record.Position(d.Uvarint())
		for i := range 4 {
			m.crc |= uint32(d.Byte()) << (8 * i)
		}
		if d.Failed() {
			break
		}
		if flag > 1 || count < 1 || count > maxEntries || m.first > m.last || m.first < at || m.last > img.last || m.id >= img.next || m.id < id {
			return nil, fmt.Errorf("%w: segment %d", ErrSnapshot, m.id)
		}
		m.count = int(count)
		at, id = m.last, m.id+1
		img.segments = append(img.segments, m)
	}
	if err := d.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	return img, nil
}
