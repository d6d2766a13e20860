package commitlog

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile"
)

// segment is one file of the log.
type segment struct {
	base  record.Position
	size  int64
	nonce uint64
	first uint64 // index of the first frame
	path  string
	file  mmapfile.File

	// refs counts who needs the open file: the segment list, and whoever syncs or
	// maps it right now. At zero the file is closed. Without it, a background sync
	// could hit the descriptor of a segment that retention has just closed and take
	// that for a failed disk.
	refs atomic.Int32

	// m is the current mapping, nil when there is none. mapMu serialises making and
	// giving up mappings; finding one takes no lock.
	m     atomic.Pointer[mapping]
	mapMu sync.Mutex
	gone  bool // no more mappings are made; needs mapMu
	// used says that the mapping was asked for since the mapper last looked.
	used atomic.Bool

	// endTime is the time of the last frame, Unix ns. Written once, before the next
	// segment enters the list, which publishes it; not meaningful for the last
	// segment.
	endTime int64

	// zeroed is the file offset below which no zeros may be written any more, see
	// prepare.go. zeroMu makes a write of zeros and a write of frames that starts
	// beyond it exclude each other; in the normal course the writer stays below
	// zeroed and does not take it.
	zeroed atomic.Int64
	zeroMu sync.Mutex

	// What Scrub knows: when the segment was begun or verified last, Unix ms, 0 = before
	// Open; that it was asked to look; and what it found.
	verified           atomic.Int64
	suspected, damaged atomic.Bool
}

func newSegment(file mmapfile.File, path string, h *segmentHeader) *segment {
	s := &segment{base: h.Base, size: h.Size, nonce: h.Nonce, first: h.BaseIndex, path: path, file: file}
	s.refs.Store(1)
	return s
}

// end is the base of the next segment.
func (s *segment) end() record.Position { return s.base + record.Position(s.size) }

// start is the position of the first frame.
func (s *segment) start() record.Position { return s.base + segmentHeaderLen }

// hold keeps the file open until drop. It fails when the segment is gone.
func (s *segment) hold() bool { return acquire(&s.refs) }

// drop reports whether it was the last to let go.
func (s *segment) drop() (last bool) {
	if last = s.refs.Add(-1) == 0; last {
		s.file.Close() // nothing depends on it: what mattered was synced before
	}
	return last
}

func acquire(refs *atomic.Int32) bool {
	for {
		n := refs.Load()
		if n == 0 {
			return false
		}
		if refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// mapping is a segment's bytes in memory, counted: one reference for the
// segment while it wants to stay mapped, one per view. It is unmapped when the
// last is gone and not before, whatever happens to the segment.
type mapping struct {
	mmapfile.Mapping
	refs  atomic.Int32
	owner *mapper
	warm  warm
}

func (m *mapping) release() {
	if m.refs.Add(-1) == 0 {
		m.owner.unmapped(m)
	}
}

// mapper bounds how much is mapped.
type mapper struct {
	limit int64
	bytes atomic.Int64 // mapped now, kept by views or by segments
	views atomic.Int64 // views not yet released

	mu     sync.Mutex // guards mapped and hand, held for no I/O
	mapped []*segment
	hand   int
}

// acquire returns the segment's mapping with a reference for the caller, making
// it if need be.
func (mp *mapper) acquire(s *segment) (*mapping, error) {
	if !s.used.Load() {
		s.used.Store(true)
	}
	if m := s.m.Load(); m != nil && acquire(&m.refs) {
		return m, nil
	}
	if !s.hold() {
		return nil, ErrOutOfRange // dropped by retention in the meantime
	}
	defer s.drop()
	s.mapMu.Lock()
	defer s.mapMu.Unlock()
	if s.gone {
		return nil, ErrOutOfRange
	}
	if m := s.m.Load(); m != nil && acquire(&m.refs) {
		return m, nil
	}
	raw, err := s.file.Map() // sets up address space, does not touch the disk
	if err != nil {
		return nil, err
	}
	m := &mapping{Mapping: raw, owner: mp}
	m.refs.Store(2)
	s.m.Store(m)
	mp.bytes.Add(s.size)
	mp.keep(s)
	return m, nil
}

// keep adds s to what is mapped and, above the limit, lets go of segments that
// were not used since the hand last passed them (the clock algorithm).
func (mp *mapper) keep(s *segment) {
	var victims []*segment
	mp.mu.Lock()
	mp.mapped = append(mp.mapped, s)
	total := int64(0)
	for _, t := range mp.mapped {
		total += t.size
	}
	for steps := 2 * len(mp.mapped); total > mp.limit && len(mp.mapped) > 1 && steps > 0; steps-- {
		mp.hand %= len(mp.mapped)
		t := mp.mapped[mp.hand]
		if t == s || t.used.Swap(false) {
			mp.hand++
			continue
		}
		mp.mapped = append(mp.mapped[:mp.hand], mp.mapped[mp.hand+1:]...)
		total -= t.size
		victims = append(victims, t)
	}
	mp.mu.Unlock()
	for _, t := range victims {
		mp.letGo(t)
	}
}

// unload takes all that is mapped out of memory.
func (mp *mapper) unload() error {
	mp.mu.Lock()
	mapped := slices.Clone(mp.mapped)
	mp.mu.Unlock()
	var errs []error
	for _, s := range mapped {
		if m := s.m.Load(); m != nil && acquire(&m.refs) {
			errs = append(errs, m.Unload())
			m.release()
		}
	}
	return errors.Join(errs...)
}

// forget is keep's opposite, for a segment that leaves the log. It reports
// whether no view holds its bytes any more.
func (mp *mapper) forget(s *segment) (free bool) {
	s.mapMu.Lock()
	s.gone = true
	free = mp.letGo(s)
	s.mapMu.Unlock()
	mp.mu.Lock()
	defer mp.mu.Unlock()
	for i, t := range mp.mapped {
		if t == s {
			mp.mapped = append(mp.mapped[:i], mp.mapped[i+1:]...)
			break
		}
	}
	return free
}

// letGo gives up the segment's own reference to its mapping.
func (mp *mapper) letGo(s *segment) (free bool) {
	m := s.m.Swap(nil)
	if m == nil {
		return true
	}
	last := m.refs.Add(-1) == 0
	if last {
		mp.unmapped(m)
	}
	return last
}

func (mp *mapper) unmapped(m *mapping) {
	mp.bytes.Add(-int64(len(m.Bytes())))
	m.Unmap() // fails only for an address that is not mapped
}
