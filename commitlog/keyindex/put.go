package keyindex

import (
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile"
)

// Put adds the hashes of the record at pos. Positions ascend: one that is not
// above the last is there already, and is passed over. An error is final: the
// index may lack entries.
func (x *Index) Put(pos record.Position, hashes []uint64) error {
	x.mu.Lock()
	if x.failed != nil {
		defer x.mu.Unlock()
		return x.failed
	}
	if pos <= x.last {
		x.mu.Unlock()
		return nil
	}
	for _, h := range hashes {
		n := len(x.segments)
		if n == 0 || x.segments[n-1].full {
			x.mu.Unlock()
			if err := mmapfile.AwaitSpace(x.grow, x.noSpace); err != nil {
				return x.fail(err)
			}
			x.mu.Lock()
			if n = len(x.segments); n == 0 { // closed meanwhile
				defer x.mu.Unlock()
				return x.failed
			}
		}
		x.segments[n-1].add(entry{h, pos})
	}
	x.last = pos
	x.mu.Unlock()
	return nil
}

// grow makes the next segment.
func (x *Index) grow() error {
	x.mu.Lock()
	var waiting []*segment
	for _, s := range x.segments {
		if !s.sealed {
			waiting = append(waiting, s)
		}
	}
	if len(waiting) <= maxRaw {
		waiting = nil
	}
	for _, s := range waiting {
		s.refs++
	}
	id := x.next
	x.next++
	x.mu.Unlock()
	if waiting != nil {
		defer x.release(waiting...)
		x.checkpoint.Lock()
		err := x.seal(waiting[0])
		x.checkpoint.Unlock()
		if err != nil {
			return err
		}
	}
	m := meta{id: id}
	f, err := x.fs.Create(x.path(m), int64(x.entries)*entryLen)
	if err != nil {
		return err
	}
	s, err := newRaw(m, f)
	if err != nil {
		f.Close()
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		s.close()
		return ErrClosed
	}
	x.created = true
	x.segments = append(x.segments, s)
	return nil
}

// seal puts a sorted segment in the place of a full raw one. The caller holds
// the segment and checkpoint.
//
// The raw file is made durable first: a snapshot that is not persisted yet may
// name it, and its Flush will not see it any more.
func (x *Index) seal(s *segment) error {
	if !x.has(s) {
		return nil // sealed or dropped before the caller had its turn
	}
	if err := s.file.Datasync(); err != nil {
		return err
	}
	entries := make([]entry, s.count)
	for i := range entries {
		entries[i] = getEntry(s.raw[i*entryLen:])
	}
	slices.SortFunc(entries, entry.compare)
	m := meta{id: s.id, sealed: true, count: s.count, first: s.first, last: s.last}
	fence := make([]entry, blocksOf(len(entries)))
	f, err := x.fs.Create(x.path(m), sealedSize(len(entries)))
	if errors.Is(err, mmapfile.ErrNoSpace) {
		x.log.Warn("no room to sort a segment of the key index, it stays as it is for now", "file", s.file.Name(), "error", err)
		return nil
	}
	if err != nil {
		return err
	}
	if err = writeSealed(f, &m, entries, fence); err == nil {
		err = x.fs.SyncDir(x.dir)
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("seal %s: %w", s.file.Name(), err)
	}
	sorted := &segment{meta: m, file: f, refs: 1, full: true, fence: fence}
	x.mu.Lock()
	out := sorted
	if i := slices.Index(x.segments, s); i >= 0 {
		x.segments[i] = sorted
		out = s
	}
	x.obsolete = append(x.obsolete, x.path(out.meta))
	x.mu.Unlock()
	x.release(out)
	return nil
}

func (x *Index) has(s *segment) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Contains(x.segments, s)
}

// file is what writeSealed needs of one.
type file interface {
	WriteAt(p []byte, off int64) (int, error)
	Datasync() error
}

// writeSealed writes a sealed segment, and fills fence and m.crc.
func writeSealed(f file, m *meta, entries, fence []entry) error {
	buf := make([]byte, 64*blockLen)
	at := int64(blockLen)
	for done := 0; done < len(fence); {
		n := 0
		for ; n < 64 && done < len(fence); n++ {
			part := entries[done*blockEntries : min(len(entries), (done+1)*blockEntries)]
			fence[done] = part[0]
			sealBlock(buf[n*blockLen:], m.id, done, part)
			done++
		}
		if _, err := f.WriteAt(buf[:n*blockLen], at); err != nil {
			return err
		}
		at += int64(n) * blockLen
	}
	b := make([]byte, len(fence)*entryLen)
	for i, e := range fence {
		putEntry(b[i*entryLen:], e)
	}
	if _, err := f.WriteAt(b, at); err != nil {
		return err
	}
	head := appendSealedHeader(nil, *m, record.CRC(b))
	m.crc = record.CRC(head[:40])
	if _, err := f.WriteAt(head, 0); err != nil {
		return err
	}
	return f.Datasync()
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func extend(crc uint32, b []byte) uint32 { return crc32.Update(crc, castagnoli, b) }
