package consumequeue

import (
	"fmt"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile"
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
// On a full disk Options.NoSpace decides; if nobody waits for space,
// mmapfile.ErrNoSpace: nothing has changed then, and Put may be tried again.
func (s *Store) Put(key record.QueueKey, off record.QueueOffset, e Entry) error {
	return s.PutRun(key, off, []Entry{e})
}

// PutRun is Put for entries of one queue that follow each other, es[0] as entry
// off: for many it costs a fraction. Readers may see the first of them before it
// returns. After an error some may have been put, the first ones; a run that does
// not fit its queue is refused as a whole.
func (s *Store) PutRun(key record.QueueKey, off record.QueueOffset, es []Entry) error {
	for i := range es {
		if es[i].Size == 0 {
			return fmt.Errorf("%w: queue %v offset %d size 0", ErrInvalid, key, off+record.QueueOffset(i))
		}
	}
	if off < 0 || off > maxOffset-record.QueueOffset(len(es)) {
		return fmt.Errorf("%w: queue %v offset %d", ErrInvalid, key, off)
	}
	return mmapfile.AwaitSpace(func() error { return s.putRun(key, off, es) }, s.noSpace)
}

func (s *Store) putRun(key record.QueueKey, off record.QueueOffset, es []Entry) error {
	s.writer.Lock()
	defer s.writer.Unlock()
	if s.failed != nil || len(es) == 0 {
		return s.failed
	}
	q := s.shard(key).queues[key]
	if q == nil {
		q = &queue{key: key, low: es[0].Position}
		q.min.Store(int64(off))
		q.max.Store(int64(off))
		err := s.push(q, off, es)
		if q.max.Load() > int64(off) {
			s.insert(q)
		}
		return err
	}
	end := record.QueueOffset(q.max.Load())
	if off > end {
		return &GapError{Key: key, Offset: off, Max: end}
	}
	for ; off < end && len(es) > 0; off, es = off+1, es[1:] {
		if off < record.QueueOffset(q.min.Load()) {
			continue
		}
		if err := s.replace(q, off, &es[0]); err != nil {
			return err
		}
	}
	return s.push(q, off, es)
}

// push appends to q, whose max is off.
func (s *Store) push(q *queue, off record.QueueOffset, es []Entry) error {
	for len(es) > 0 {
		exts := q.extents()
		n := len(exts)
		fresh := n == 0 || off == exts[n-1].end()
		if fresh {
			x, err := s.next(q, off, es[0].Position)
			if err != nil {
				return err
			}
			exts = append(exts, x)
			n++
		}
		x := &exts[n-1]
		part := es[:min(int64(len(es)), int64(x.end()-off))]
		if err := s.write(q.key, off, part, x.page, int64(off-x.base)); err != nil {
			if fresh {
				s.arenaOf(x.page).live -= 1 << x.order
				s.giveBack(run{x.page, x.order}) // no snapshot has seen it
			}
			return err
		}
		for i := range part {
			x.top = max(x.top, part[i].Position)
		}
		if fresh {
			q.publish(exts)
		}
		off, es = off+record.QueueOffset(len(part)), es[len(part):]
		q.max.Store(int64(off))
	}
	return nil
}

// next makes the extent after the last of q.
func (s *Store) next(q *queue, off record.QueueOffset, pos record.Position) (extent, error) {
	exts := q.extents()
	x := extent{base: off, top: pos}
	if n := len(exts); n > 0 {
		x.order = min(exts[n-1].order+1, orderLimit(s.pageBits))
		x.top = exts[n-1].top
	} else {
		q.low = pos
	}
	r, err := s.alloc(x.order)
	x.page, x.order = r.page, r.order
	return x, err
}

func (s *Store) replace(q *queue, off record.QueueOffset, e *Entry) error {
	exts := q.extents()
	x := find(exts, off)
	if err := s.write(q.key, off, []Entry{*e}, x.page, int64(off-x.base)); err != nil {
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

// write stores entries in the extent at page, from slot idx on.
func (s *Store) write(key record.QueueKey, off record.QueueOffset, es []Entry, page uint32, idx int64) error {
	a := s.arenaOf(page)
	b, err := s.mapped.acquire(a)
	if err != nil {
		return err
	}
	defer s.mapped.release(a)
	b = b[s.at(page, idx):]
	for i := range es {
		s.buf.encode(key, off+record.QueueOffset(i), &es[i])
		// Without a look at what is there, even in a replay: on a new page that would
		// be one page fault for the look and another for the store.
		copy(b[i<<entryShift:], s.buf[:entryLen])
	}
	// After the store: a Flush that clears the mark in between has synced it.
	if !a.dirty.Load() {
		a.dirty.Store(true)
	}
	return nil
}
