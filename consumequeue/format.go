package consumequeue

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// On disk a store is a directory of arenas, <id>.arena, all of one size: a
// power of two, 64 MiB by default. An arena is cut into pages of 4 KiB. Page 0
// is its header; the others belong to extents, runs of 2^order pages that start
// at a multiple of their length. An extent belongs to one queue and holds the
// entries of consecutive queue offsets, back to back, so a page holds 128.
//
// Nothing in an arena says which extent belongs to whom: that is the snapshot,
// which the owner of the store keeps in its checkpoint. All integers are
// little-endian.
//
// Arena header:
//
//	off size
//	 0   8   magic   "GANTRYCQ"
//	 8   4   version 2
//	12   4   id      the number in the file's name
//	16   8   size    of the file in bytes
//	24   8   nonce   random, also in the snapshot: a file of the same name from
//	                 another life of the store is not this arena
//	32   8   floor   position in the log of the snapshot after which pages of the
//	                 arena were last freed to be used again, 0 = never: older
//	                 snapshots would find other queues' entries there
//	40   4   crc     CRC-32C of bytes [0, 40)
//
// Version 1 had no floor. Its arenas are taken for missing.
//
// Entry:
//
//	 0   8   position    of the record in the commit log
//	 8   4   size        of the record, in bytes, never 0: zeroes are no entry
//	12   2   flags
//	14   2   check       see below
//	16   4   tag hash    record.Hash32 of the tag, 0 = none
//	20   4   group hash  record.Hash32 of the message group, 0 = none
//	24   8   store time  Unix ms
//
// check is CRC-32C, folded to 16 bits by xor of its halves, over the entry with
// check = 0, then the queue key (8), then the queue offset (8). An entry read
// from the wrong place, or left over from an extent's previous owner, therefore
// fails like a damaged one.
//
// Snapshot (varints as in encoding/binary):
//
//	magic "GCQS" | version 1 (1 byte)
//	uvarint page bits: an arena has 2^bits pages
//	uvarint number of arenas, each in order of id:
//	    uvarint id - previous id (the first: id) | uvarint nonce
//	uvarint number of queues, each in order of key:
//	    uvarint key - previous key (the first: key)
//	    uvarint min | uvarint max - min
//	    uvarint low: position of the entry at min
//	    uvarint number of extents, 0 if and only if min = max; each:
//	        uvarint page << 4 | order; page counts over all arenas: id << bits | page
//	        uvarint top - previous top (the first: - low), modulo 2^64
//	    uvarint min - offset of the first entry of the first extent, if there is one
//	crc 4, CRC-32C of everything before
//
// Free space is not written: it is what no extent covers.
const (
	arenaMagic      = "GANTRYCQ"
	arenaVersion    = 2
	arenaHeaderLen  = 44
	snapshotMagic   = "GCQS"
	snapshotVersion = 1

	pageShift  = 12
	pageSize   = 1 << pageShift
	entryShift = 5
	entryLen   = 1 << entryShift
	slotShift  = pageShift - entryShift // entries per page, log2

	// maxOrder bounds an extent: 256 pages, 1 MiB, 32768 entries.
	maxOrder = 8

	// maxOffset keeps the arithmetic on offsets from overflowing.
	maxOffset = 1 << 62

	// Arenas have 16 pages (tests) to 2^18 (1 GiB). A page number takes 32 bits.
	minPageBits = 4
	maxPageBits = 18
	// maxArenas bounds the table that a snapshot can make Open allocate.
	maxArenas = 1 << 14
)

var le = binary.LittleEndian

// Flags of an [Entry].
type Flags uint16

const (
	// FlagIndirect marks an entry whose record is not the message but refers to it,
	// as a dead letter's does.
	FlagIndirect Flags = 1 << 0

	// FlagMoved marks an entry that entered its queue later than its message
	// entered the log: a committed half, a delayed message that came due. Its
	// position may be far below those of its neighbours.
	FlagMoved Flags = 1 << 1

	// FlagCopied marks an entry whose record is the copy that retention made of the
	// message when its segment had to go.
	FlagCopied Flags = 1 << 2

	// FlagDeleted marks an entry whose message an operator deleted: readers pass
	// over it.
	FlagDeleted Flags = 1 << 3

	// FlagRedriven and FlagDiscarded mark dead letters that an operator has done
	// with: put back into a topic, or given up.
	FlagRedriven  Flags = 1 << 8
	FlagDiscarded Flags = 1 << 9

	// Bits 12 to 15 are for package scheduler, in its own queues.
)

// Entry says where a message is and what a reader wants to know before it
// touches the log.
type Entry struct {
	Position  record.Position
	Size      uint32 // of the record at Position, in bytes, at least 1
	Flags     Flags
	TagHash   uint32 // record.Hash32 of the tag, 0 = none
	GroupHash uint32 // record.Hash32 of the message group, 0 = none
	StoreTime int64  // Unix ms
}

// sealed is an entry as its checksum sees it: the entry, its key, its offset. It
// lives in the heap for the sake of hash/crc32, which makes its argument escape.
type sealed [entryLen + 16]byte

func (b *sealed) check() uint16 {
	c := record.CRC(b[:])
	return uint16(c) ^ uint16(c>>16)
}

// encode fills b; b[:entryLen] is what goes to disk.
func (b *sealed) encode(key record.QueueKey, off record.QueueOffset, e *Entry) {
	le.PutUint64(b[0:], uint64(e.Position))
	le.PutUint32(b[8:], e.Size)
	le.PutUint16(b[12:], uint16(e.Flags))
	le.PutUint16(b[14:], 0)
	le.PutUint32(b[16:], e.TagHash)
	le.PutUint32(b[20:], e.GroupHash)
	le.PutUint64(b[24:], uint64(e.StoreTime))
	le.PutUint64(b[32:], uint64(key))
	le.PutUint64(b[40:], uint64(off))
	le.PutUint16(b[14:], b.check())
}

// decode reads the entry at the start of src, which must be entryLen long, and
// reports whether it is the entry of that queue and offset. src may change
// underfoot: it is copied before it is checked.
func (b *sealed) decode(key record.QueueKey, off record.QueueOffset, src []byte, e *Entry) bool {
	copy(b[:entryLen], src)
	check := le.Uint16(b[14:])
	le.PutUint16(b[14:], 0)
	le.PutUint64(b[32:], uint64(key))
	le.PutUint64(b[40:], uint64(off))
	if b.check() != check {
		return false
	}
	*e = Entry{
		Position:  record.Position(le.Uint64(b[0:])),
		Size:      le.Uint32(b[8:]),
		Flags:     Flags(le.Uint16(b[12:])),
		TagHash:   le.Uint32(b[16:]),
		GroupHash: le.Uint32(b[20:]),
		StoreTime: int64(le.Uint64(b[24:])),
	}
	return e.Size != 0
}

// arenaName is an arena's identity: as the snapshot lists it, as its header
// repeats it.
type arenaName struct {
	id    uint32
	nonce uint64
}

func encodeArenaHeader(b []byte, name arenaName, size int64, floor record.Position) {
	copy(b, arenaMagic)
	le.PutUint32(b[8:], arenaVersion)
	le.PutUint32(b[12:], name.id)
	le.PutUint64(b[16:], uint64(size))
	le.PutUint64(b[24:], name.nonce)
	le.PutUint64(b[32:], uint64(floor))
	le.PutUint32(b[40:], record.CRC(b[:40]))
}

// checkArenaHeader checks that a header is of the arena that a snapshot as of at
// names.
func checkArenaHeader(b []byte, name arenaName, size int64, at record.Position) error {
	switch {
	case len(b) < arenaHeaderLen || string(b[:8]) != arenaMagic:
		return errors.New("not an arena")
	case le.Uint32(b[8:]) != arenaVersion:
		return fmt.Errorf("version %d, this build reads %d", le.Uint32(b[8:]), arenaVersion)
	case le.Uint32(b[40:]) != record.CRC(b[:40]):
		return errors.New("header checksum mismatch")
	case le.Uint32(b[12:]) != name.id || le.Uint64(b[16:]) != uint64(size) || le.Uint64(b[24:]) != name.nonce:
		return errors.New("another arena than the snapshot names")
	case record.Position(le.Uint64(b[32:])) > at:
		return fmt.Errorf("pages were used again after a snapshot at %d, this one is at %d", le.Uint64(b[32:]), at)
	}
	return nil
}

// image is the content of a snapshot.
type image struct {
	pageBits uint
	arenas   []arenaName // by id
	queues   []*queue    // by key
}

func appendSnapshot(dst []byte, img *image) []byte {
	start := len(dst)
	dst = append(dst, snapshotMagic...)
	dst = append(dst, snapshotVersion)
	dst = binary.AppendUvarint(dst, uint64(img.pageBits))
	dst = binary.AppendUvarint(dst, uint64(len(img.arenas)))
	var id uint32
	for _, a := range img.arenas {
		dst = binary.AppendUvarint(dst, uint64(a.id-id))
		dst = binary.AppendUvarint(dst, a.nonce)
		id = a.id
	}
	dst = binary.AppendUvarint(dst, uint64(len(img.queues)))
	var key record.QueueKey
	for _, q := range img.queues {
		lo, hi, exts := q.min.Load(), q.max.Load(), q.extents()
		dst = binary.AppendUvarint(dst, uint64(q.key-key))
		dst = binary.AppendUvarint(dst, uint64(lo))
		dst = binary.AppendUvarint(dst, uint64(hi-lo))
		dst = binary.AppendUvarint(dst, uint64(q.low))
		dst = binary.AppendUvarint(dst, uint64(len(exts)))
		top := q.low
		for i := range exts {
			dst = binary.AppendUvarint(dst, uint64(exts[i].page)<<4|uint64(exts[i].order))
			dst = binary.AppendUvarint(dst, uint64(exts[i].top-top))
			top = exts[i].top
		}
		if len(exts) > 0 {
			dst = binary.AppendUvarint(dst, uint64(lo)-uint64(exts[0].base))
		}
		key = q.key
	}
	return le.AppendUint32(dst, record.CRC(dst[start:]))
}

// decodeSnapshot checks everything a snapshot says except what needs the files:
// that the arenas exist, and that no two extents overlap.
func decodeSnapshot(b []byte) (*image, error) {
	const head = len(snapshotMagic) + 1
	switch {
	case len(b) < head+4 || string(b[:4]) != snapshotMagic:
		return nil, fmt.Errorf("%w: no magic", ErrSnapshot)
	case b[4] != snapshotVersion:
		return nil, fmt.Errorf("%w: version %d, this build reads %d", ErrSnapshot, b[4], snapshotVersion)
	case le.Uint32(b[len(b)-4:]) != record.CRC(b[:len(b)-4]):
		return nil, fmt.Errorf("%w: checksum mismatch", ErrSnapshot)
	}
	img, err := decodeBody(record.NewDecoder(b[head : len(b)-4]))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	return img, nil
}

func decodeBody(d *record.Decoder) (*image, error) {
	img := &image{pageBits: uint(d.Uvarint())}
	if !d.Failed() && (img.pageBits < minPageBits || img.pageBits > maxPageBits) {
		return nil, fmt.Errorf("page bits %d", img.pageBits)
	}
	n := d.Count(2)
	img.arenas = make([]arenaName, 0, n)
	var listed [maxArenas / 64]uint64
	var id uint64
	for i := range n {
		delta := d.Uvarint()
		if delta >= maxArenas || (i > 0 && delta == 0) || id+delta >= maxArenas {
			return nil, fmt.Errorf("arena %d: id not in order", i)
		}
		id += delta
		listed[id/64] |= 1 << (id % 64)
		img.arenas = append(img.arenas, arenaName{uint32(id), d.Uvarint()})
	}

	n = d.Count(5)
	img.queues = make([]*queue, 0, n)
	var key record.QueueKey
	for i := range n {
		delta := record.QueueKey(d.Uvarint())
		if i > 0 && key+delta <= key {
			return nil, fmt.Errorf("queue %v: key not in order", key+delta)
		}
		key += delta
		q, err := decodeQueue(d, key, img.pageBits, &listed)
		if err != nil {
			return nil, fmt.Errorf("queue %v: %w", key, err)
		}
		if d.Failed() {
			break
		}
		img.queues = append(img.queues, q)
	}
	return img, d.Err()
}

func decodeQueue(d *record.Decoder, key record.QueueKey, pageBits uint, listed *[maxArenas / 64]uint64) (*queue, error) {
	lo, count := d.Uvarint(), d.Uvarint()
	if lo > maxOffset || count > maxOffset-lo {
		return nil, errors.New("impossible offset")
	}
	q := &queue{key: key, low: record.Position(d.Uvarint())}
	q.min.Store(int64(lo))
	q.max.Store(int64(lo + count))
	n := d.Count(2)
	if d.Failed() {
		return q, nil
	}
	if (n == 0) != (count == 0) {
		return nil, fmt.Errorf("%d extents for %d entries", n, count)
	}
	if n == 0 {
		return q, nil
	}
	exts := make([]extent, n)
	var entries uint64 // that the extents before i can hold; 2^15 each at most: cannot overflow
	var last uint64    // the same without the last one
	top := q.low
	for i := range exts {
		v := d.Uvarint()
		page, order := v>>4, uint8(v&15)
		arena := page >> pageBits
		switch {
		case d.Failed():
			return q, nil
		case order > orderLimit(pageBits):
			return nil, fmt.Errorf("extent of order %d", order)
		case arena >= maxArenas || listed[arena/64]&(1<<(arena%64)) == 0:
			return nil, fmt.Errorf("extent in arena %d, which is not listed", arena)
		case page&(1<<order-1) != 0 || page&(1<<pageBits-1) == 0:
			return nil, fmt.Errorf("extent of order %d at page %d", order, page)
		}
		top += record.Position(d.Uvarint())
		exts[i] = extent{base: record.QueueOffset(entries), top: top, page: uint32(page), order: order}
		last, entries = entries, entries+1<<(order+slotShift)
	}
	skip := d.Uvarint()
	if d.Failed() {
		return q, nil
	}
	if skip > lo || skip >= uint64(exts[0].entries()) || skip+count > entries || skip+count <= last {
		return nil, errors.New("extents do not match the bounds")
	}
	for i := range exts {
		exts[i].base += record.QueueOffset(lo - skip)
	}
	q.publish(exts)
	return q, nil
}
