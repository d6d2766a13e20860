package consumequeue

import (
	"fmt"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// Put stores e as entry off of a queue. Readers see it when Put returns.
//
//   - off = max appends.
//   - off in [min, max) is replay: e replaces what is there, normally the same
//     bytes; or a change of its flags. A Read at the same moment finds the one or
//     the other.
//   - off < min is replay of what was dropped, and does nothing.
//   - off > max is a *GapError.
//   - A queue seen for the first time begins at off, whatever it is: the log may
//     have been trimmed before the index was rebuilt.
//
// ErrInvalid for an entry of size 0 or an offset not in [0, 2^62).
// mmapfile.ErrNoSpace on a full disk: nothing has changed then, and Put may be
// tried again.
func (s *Store) Put(key record.QueueKey, off record.QueueOffset, e Entry) error {
	if e.Size == 0 || off < 0 || off >= maxOffset {
		return fmt.Errorf("%w: queue %v offset %d size %d", ErrInvalid, key, off, e.Size)
	}
	s.writer.Lock()
	defer s.writer.Unlock()
	if s.failed != nil {
		return s.failed
	}
	q := s.shard(key).queues[key]
	if q == nil {
		q = &queue{key: key, low: e.Position}
		q.min.Store(int64(off))
		q.max.Store(int64(off))
		if err := s.push(q, off, &e); err != nil {
			return err
		}
		s.insert(q)
		return nil
	}
	switch end := record.QueueOffset(q.max.Load()); {
	case off == end:
		return s.push(q, off, &e)
	case off > end:
		return &GapError{Key: key, Offset: off, Max: end}
	case off < record.QueueOffset(q.min.Load()):
		return nil
	default:
		return s.replace(q, off, &e)
	}
}

// push appends to q, whose max is off.
func (s *Store) push(q *queue, off record.QueueOffset, e *Entry) error {
	exts := q.extents()
	if n := len(exts); n > 0 && off < exts[n-1].end() {
		x := &exts[n-1]
		if err := s.write(q.key, off, e, x.page, int64(off-x.base)); err != nil {
			return err
		}
		x.top = max(x.top, e.Position)
	} else {
		var order uint8
		top := e.Position
		if n > 0 {
			order = min(exts[n-1].order+1, orderLimit(s.pageBits))
			top = max(top, exts[n-1].top)
		} else {
			q.low = e.Position
		}
		r, err := s.alloc(order)
		if err != nil {
			return err
		}
		if err := s.write(q.key, off, e, r.page, 0); err != nil {
			s.arenaOf(r.page).live -= 1 << r.order
			s.giveBack(r) // no snapshot has seen it
			return err
		}
		q.publish(append(exts, extent{base: off, top: top, page: r.page, order: r.order}))
	}
	q.max.Store(int64(off) + 1)
	return nil
}

func (s *Store) replace(q *queue, off record.QueueOffset, e *Entry) error {
	exts := q.extents()
	x := find(exts, off)
	if err := s.write(q.key, off, e, x.page, int64(off-x.base)); err != nil {
		return err
	}
	if int64(off) == q.min.Load() {
		q.low = e.Position
	}
	for i := len(exts) - 1; i >= 0 && exts[i].base >= x.base; i-- {
		exts[i].top = max(exts[i].top, e.Position)
	}
	return nil
}

// write stores the entry in slot idx of the extent at page.
func (s *Store) write(key record.QueueKey, off record.QueueOffset, e *Entry, page uint32, idx int64) error {
	a := s.arenaOf(page)
	b, err := s.mapped.acquire(a)
	if err != nil {
		return err
	}
	defer s.mapped.release(a)
	s.buf.encode(key, off, e)
	// Without a look at what is there, even in a replay: on a new page that would
	// be one page fault for the look and another for the store.
	copy(b[s.at(page, idx):], s.buf[:entryLen])
	// After the store: a Flush that clears the mark in between has synced it.
	if !a.dirty.Load() {
		a.dirty.Store(true)
	}
	return nil
}
