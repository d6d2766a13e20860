package keyindex

import (
	"fmt"
	"path/filepath"
	"sort"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// Find calls f with the positions below before that were put under hash, from
// the newest to the oldest, each once, until f returns false. Most are of
// records that do have the hash's text; the caller makes sure. An error wraps
// ErrMissing when a segment is damaged.
func (x *Index) Find(hash uint64, before record.Position, f func(record.Position) bool) error {
	x.mu.Lock()
	if x.closed {
		x.mu.Unlock()
		return ErrClosed
	}
	segments := x.hold()
	heads := make([]uint32, len(segments))
	for i, s := range segments {
		if !s.sealed {
			heads[i] = s.heads[hash>>s.shift]
		}
	}
	x.mu.Unlock()
	defer x.release(segments...)
	seen := before
	visit := func(pos record.Position) bool {
		if pos >= seen {
			return true
		}
		seen = pos
		return f(pos)
	}
	var block []byte
	for i := len(segments) - 1; i >= 0; i-- {
		s := segments[i]
		if !s.sealed {
			if !s.walk(hash, heads[i], visit) {
				return nil
			}
			continue
		}
		if s.first >= before {
			continue
		}
		if block == nil {
			block = make([]byte, blockLen)
		}
		more, err := s.search(block, hash, before, visit)
		if err != nil {
			err = fmt.Errorf("%w: %s: %w", ErrMissing, s.file.Name(), err)
			x.condemn(s, err)
			return err
		}
		if !more {
			return nil
		}
	}
	return nil
}

// condemn takes the file of a damaged segment out of the directory: the next Open misses
// it, so that the index is made again.
func (x *Index) condemn(s *segment, why error) {
	x.mu.Lock()
	known := s.damaged
	s.damaged = true
	x.mu.Unlock()
	if known {
		return
	}
	name := s.file.Name()
	err := x.fs.Remove(name)
	if err == nil {
		err = x.fs.SyncDir(filepath.Dir(name))
	}
	if err != nil {
		x.log.Error("a damaged segment of the key index stays in its directory: remove it before the next start", "file", name, "error", err)
	}
	x.damaged(why)
}

// walk follows a chain of a raw segment. It is false when visit was.
func (s *segment) walk(hash uint64, at uint32, visit func(record.Position) bool) bool {
	for ; at != 0; at = s.chain[at-1] {
		if e := getEntry(s.raw[(at-1)*entryLen:]); e.hash == hash && !visit(e.pos) {
			return false
		}
	}
	return true
}

// search reads the blocks of a sealed segment that may have entries of hash
// below before. b is memory for one.
func (s *segment) search(b []byte, hash uint64, before record.Position, visit func(record.Position) bool) (more bool, err error) {
	if before == 0 {
		return true, nil
	}
	want := entry{hash, before - 1}
	block := max(0, sort.Search(len(s.fence), func(i int) bool { return s.fence[i].compare(want) > 0 })-1)
	for ; block < len(s.fence) && s.fence[block].hash <= hash; block++ {
		if _, err := s.file.ReadAt(b, int64(block+1)*blockLen); err != nil {
			return false, err
		}
		entries, err := checkBlock(b, s.id, block)
		if err != nil {
			return false, err
		}
		n := len(entries) / entryLen
		for i := sort.Search(n, func(i int) bool { return getEntry(entries[i*entryLen:]).compare(want) >= 0 }); i < n; i++ {
			e := getEntry(entries[i*entryLen:])
			if e.hash != hash {
				return true, nil
			}
			if !visit(e.pos) {
				return false, nil
			}
		}
	}
	return true, nil
}
