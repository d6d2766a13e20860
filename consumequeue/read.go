package consumequeue

import (
	"errors"
	"sort"
	"sync"

	"github.com/gantry-mq/gantry/commitlog/record"
)

var buffers = sync.Pool{New: func() any { return new(sealed) }}

// Read copies the entries of a queue from offset from on into dst and returns
// how many it copied: fewer than len(dst) where the queue ends, 0 at its max. An
// unknown queue is an empty one with bounds 0, 0.
//
// A *RangeError, which is ErrOutOfRange, when from is below min or above max; a
// *CorruptError when the entry at from fails its check (a bad entry further on
// only ends the read before it). Any number of calls may run at once; they take
// no lock that Put holds over I/O, but for a second look at a bad entry.
func (s *Store) Read(key record.QueueKey, from record.QueueOffset, dst []Entry) (int, error) {
	return s.read(key, from, dst, false)
}

// ReadHot is Read for entries that were put or read not long ago, one here and
// one there: it saves the system call that makes sure they are in memory, and
// pays for those that are not with a page fault.
func (s *Store) ReadHot(key record.QueueKey, from record.QueueOffset, dst []Entry) (int, error) {
	return s.read(key, from, dst, true)
}

// ReadEach copies the entries at offs into dst, which is as long. They may be
// anywhere in the queue and were put or read not long ago, as for ReadHot: those
// far apart cost one cache miss each, many at a time. Errors as of Read, for the
// first one that cannot be read; an offset at max is out of range here.
func (s *Store) ReadEach(key record.QueueKey, offs []record.QueueOffset, dst []Entry) error {
	q := s.lookup(key)
	if q == nil {
		if len(offs) == 0 {
			return nil
		}
		return &RangeError{Key: key, Offset: offs[0]}
	}
	end := record.QueueOffset(q.max.Load()) // in this order: see queue
	exts := q.extents()
	begin := record.QueueOffset(q.min.Load())
	if end < 0 {
		return s.ReadEach(key, offs, dst) // deleted since lookup
	}
	lowest := record.QueueOffset(maxOffset)
	for _, off := range offs {
		if off < begin || off >= end {
			return &RangeError{Key: key, Offset: off, Min: begin, Max: end}
		}
		lowest = min(lowest, off)
	}
	buf := buffers.Get().(*sealed)
	defer buffers.Put(buf)
	var err error
	for at, n := 0, 0; at < len(offs); {
		n, err = s.readNear(buf, key, exts, offs[at:min(at+64, len(offs))], dst[at:])
		at += n
		if errors.Is(err, ErrCorrupt) { // half replaced at this moment, or really
			_, err = s.ReadHot(key, offs[at], dst[at:at+1])
			at++
		}
		if errors.Is(err, errGone) {
			break
		}
		if err != nil {
			return err
		}
	}
	if q.max.Load() < 0 {
		return s.ReadEach(key, offs, dst)
	}
	if begin = record.QueueOffset(q.min.Load()); lowest < begin {
		return &RangeError{Key: key, Offset: lowest, Min: begin, Max: end}
	}
	if err != nil {
		return ErrClosed // an arena leaves before its queues only in Close
	}
	return nil
}

// readNear reads entries as long as they are in one arena.
func (s *Store) readNear(buf *sealed, key record.QueueKey, exts []extent, offs []record.QueueOffset, dst []Entry) (n int, err error) {
	var at [64]int64
	first := find(exts, offs[0])
	a := s.arenaOf(first.page)
	if a == nil {
		return 0, errGone
	}
	b, err := s.mapped.acquire(a)
	if err != nil {
		return 0, err
	}
	defer s.mapped.release(a)
	// First where they are, and a byte of each: misses that do not wait for one
	// another.
	sum := byte(0)
	for n < len(offs) {
		x := find(exts, offs[n])
		if x.page>>s.pageBits != first.page>>s.pageBits {
			break
		}
		at[n] = s.at(x.page, int64(offs[n]-x.base))
		sum |= b[at[n]]
		n++
	}
	buf[0] = sum // or the compiler would leave the reads out
	for i := range n {
		if !buf.decode(key, offs[i], b[at[i]:at[i]+entryLen], &dst[i]) {
			return i, &CorruptError{Arena: a.file.Name(), At: at[i], Key: key, Offset: offs[i]}
		}
	}
	return n, nil
}

func (s *Store) read(key record.QueueKey, from record.QueueOffset, dst []Entry, hot bool) (int, error) {
	q := s.lookup(key)
	if q == nil {
		if from == 0 {
			return 0, nil
		}
		return 0, &RangeError{Key: key, Offset: from}
	}
	end := record.QueueOffset(q.max.Load()) // in this order: see queue
	exts := q.extents()
	begin := record.QueueOffset(q.min.Load())
	if end < 0 {
		return s.read(key, from, dst, hot) // deleted since lookup
	}
	if from < begin || from > end {
		return 0, &RangeError{Key: key, Offset: from, Min: begin, Max: max(begin, end)}
	}
	dst = dst[:min(len(dst), int(end-from))]
	buf := buffers.Get().(*sealed)
	n := 0
	var err error
	for n < len(dst) && err == nil {
		var got int
		got, err = s.readExtent(buf, q, exts, from+record.QueueOffset(n), dst[n:], hot)
		n += got
	}
	if n == 0 && errors.Is(err, ErrCorrupt) {
		// It may be half replaced at this moment: once more, with no Put under way.
		s.writer.Lock()
		if n, err = s.readExtent(buf, q, exts, from, dst, hot); n == 0 && q.max.Load() >= 0 && int64(from) >= q.min.Load() {
			s.condemn(err)
		}
		s.writer.Unlock()
	}
	buffers.Put(buf)

	// What was read counts only if the pages were still the queue's afterwards.
	if q.max.Load() < 0 {
		return s.read(key, from, dst, hot)
	}
	if begin = record.QueueOffset(q.min.Load()); from < begin {
		return 0, &RangeError{Key: key, Offset: from, Min: begin, Max: record.QueueOffset(q.max.Load())}
	}
	if n > 0 {
		return n, nil
	}
	if errors.Is(err, errGone) {
		return 0, ErrClosed // an arena leaves before its queues only in Close
	}
	return 0, err
}

// readExtent reads as much of dst as the extent of off holds.
func (s *Store) readExtent(buf *sealed, q *queue, exts []extent, off record.QueueOffset, dst []Entry, hot bool) (int, error) {
	x := find(exts, off)
	a := s.arenaOf(x.page)
	if a == nil {
		return 0, errGone
	}
	b, err := s.mapped.acquire(a)
	if err != nil {
		return 0, err
	}
	defer s.mapped.release(a)
	at := s.at(x.page, int64(off-x.base))
	dst = dst[:min(int64(len(dst)), int64(x.end()-off))]
	// What this process put into a queue's last extent is warm. Anything else may have
	// to come from the disk, which must neither hold up a scheduler thread nor fault.
	if !hot && (x != &exts[len(exts)-1] || off < q.cold) {
		if err := a.mapping.Populate(at, int64(len(dst))<<entryShift); err != nil {
			return 0, err
		}
	}
	for i := range dst {
		if !buf.decode(q.key, off+record.QueueOffset(i), b[at:at+entryLen], &dst[i]) {
			return i, &CorruptError{Arena: a.file.Name(), At: at, Key: q.key, Offset: off + record.QueueOffset(i)}
		}
		at += entryLen
	}
	return len(dst), nil
}

// Bounds returns the offsets of a queue's first entry and the one after its
// last. They are equal when it has none. ok is false for an unknown queue.
func (s *Store) Bounds(key record.QueueKey) (min, max record.QueueOffset, ok bool) {
	q := s.lookup(key)
	if q == nil {
		return 0, 0, false
	}
	min = record.QueueOffset(q.min.Load()) // before max, which only grows
	max = record.QueueOffset(q.max.Load())
	if max < 0 {
		return s.Bounds(key)
	}
	return min, max, true
}

// OffsetAt returns the first offset whose store time is unixMs or later: min
// when all are, max when none is, 0 for an unknown queue. It reads one entry for
// each halving of the queue, and relies on store times that do not decrease
// along it. Errors as of Read.
func (s *Store) OffsetAt(key record.QueueKey, unixMs int64) (record.QueueOffset, error) {
	for {
		lo, hi, _ := s.Bounds(key)
		var e [1]Entry
		var err error
		n := sort.Search(int(hi-lo), func(i int) bool {
			if err == nil {
				_, err = s.Read(key, lo+record.QueueOffset(i), e[:])
			}
			return e[0].StoreTime >= unixMs
		})
		if err == nil {
			return lo + record.QueueOffset(n), nil
		}
		if !errors.Is(err, ErrOutOfRange) { // else min has moved on meanwhile
			return 0, err
		}
	}
}
