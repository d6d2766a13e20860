package keyindex

import (
	"errors"
	"fmt"
	"io/fs"
	"math/bits"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile"
)

// segment is one file. A raw one becomes a sealed one by being replaced.
type segment struct {
	meta // of a raw segment: under Index.mu, all but the id
	file mmapfile.File
	refs int  // under Index.mu; one is the index's
	full bool // no entry is added any more

	damaged bool // under Index.mu: its file is not in the directory any more

	// Of a raw segment. An entry and its link do not change once count includes
	// them, so they are read without a lock.
	mapping mmapfile.Mapping
	raw     []byte
	heads   []uint32 // by the top bits of the hash: 1 + the newest entry; under Index.mu
	chain   []uint32 // by entry: 1 + the one before it
	shift   int
	summed  int // entries that crc covers

	fence []entry // of a sealed segment: the first entry of each block
}

func (s *segment) close() error {
	var err error
	if s.mapping != nil {
		err = s.mapping.Unmap()
	}
	return errors.Join(err, s.file.Close())
}

// newRaw maps the file of a raw segment.
func newRaw(m meta, f mmapfile.File) (*segment, error) {
	mapping, err := f.MapWritable()
	if err != nil {
		return nil, err
	}
	room := int(f.Size()) / entryLen
	width := max(1, bits.Len(uint(room-1))-1)
	return &segment{
		meta: m, file: f, refs: 1, mapping: mapping, raw: mapping.Bytes(),
		heads: make([]uint32, 1<<width), chain: make([]uint32, room), shift: 64 - width,
	}, nil
}

// add appends an entry. The segment is not full.
func (s *segment) add(e entry) {
	putEntry(s.raw[s.count*entryLen:], e)
	s.link(e.hash, s.count)
	if s.count == 0 {
		s.first = e.pos
	}
	s.last = e.pos
	s.count++
	s.full = s.count == len(s.chain)
}

func (s *segment) link(hash uint64, i int) {
	head := &s.heads[hash>>s.shift]
	s.chain[i] = *head
	*head = uint32(i + 1)
}

// sum brings the checksum of a raw segment up to date.
func (s *segment) sum() {
	if !s.sealed && s.summed < s.count {
		s.crc = extend(s.crc, s.raw[s.summed*entryLen:s.count*entryLen])
		s.summed = s.count
	}
}

// openSegment opens the file that a snapshot names.
func (x *Index) openSegment(m meta) (*segment, error) {
	f, err := x.fs.Open(x.path(m))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrMissing, err)
	}
	if err != nil {
		return nil, fmt.Errorf("keyindex: %w", err)
	}
	open := openRaw
	if m.sealed {
		open = openSealed
	}
	s, err := open(m, f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("keyindex: %s: %w", f.Name(), err)
	}
	return s, nil
}

func openRaw(m meta, f mmapfile.File) (*segment, error) {
	if n := f.Size() / entryLen; n < int64(m.count) || n > maxEntries {
		return nil, fmt.Errorf("%w: room for %d entries, not for %d", ErrMissing, n, m.count)
	}
	s, err := newRaw(m, f)
	if err != nil {
		return nil, err
	}
	used := s.raw[:m.count*entryLen]
	err = s.mapping.Populate(0, int64(len(used)))
	if err == nil && record.CRC(used) != m.crc {
		err = fmt.Errorf("%w: checksum mismatch", ErrMissing)
	}
	if err != nil {
		return nil, errors.Join(err, s.mapping.Unmap())
	}
	for i := range m.count {
		s.link(getEntry(used[i*entryLen:]).hash, i)
	}
	s.summed = m.count
	s.full = m.count == len(s.chain)
	return s, nil
}

func openSealed(m meta, f mmapfile.File) (*segment, error) {
	var head [sealedHeaderLen]byte
	if f.Size() != sealedSize(m.count) {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrMissing, f.Size(), sealedSize(m.count))
	}
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return nil, err
	}
	found, crc, err := parseSealedHeader(head[:])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMissing, err)
	}
	if found != m {
		return nil, fmt.Errorf("%w: it is another", ErrMissing)
	}
	n := blocksOf(m.count)
	b := make([]byte, n*entryLen)
	if _, err := f.ReadAt(b, int64(n+1)*blockLen); err != nil {
		return nil, err
	}
	if record.CRC(b) != crc {
		return nil, fmt.Errorf("%w: fence: checksum mismatch", ErrMissing)
	}
	s := &segment{meta: m, file: f, refs: 1, full: true, fence: make([]entry, n)}
	for i := range s.fence {
		s.fence[i] = getEntry(b[i*entryLen:])
	}
	return s, nil
}
