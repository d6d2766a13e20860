package consumequeue

import (
	"errors"
	"slices"
	"sort"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// Delete forgets a queue.
func (s *Store) Delete(key record.QueueKey) {
	s.writer.Lock()
	defer s.writer.Unlock()
	if q := s.shard(key).queues[key]; q != nil {
		s.remove(q)
	}
}

// DeleteTopic forgets all queues of a topic. It looks at every queue of the
// store.
func (s *Store) DeleteTopic(topic record.TopicID) {
	s.writer.Lock()
	defer s.writer.Unlock()
	for i := range s.shards {
		for key, q := range s.shards[i].queues {
			if key.Topic() == topic {
				s.remove(q)
			}
		}
	}
}

func (s *Store) remove(q *queue) {
	sh := s.shard(q.key)
	sh.mu.Lock()
	delete(sh.queues, q.key)
	sh.mu.Unlock()
	s.sorted = nil
	q.max.Store(-1)
	s.free(q.extents())
}

// DropBefore raises the min of every queue to its first entry with a position of
// pos or later, or to its max if there is none, and frees what became empty.
//
// Entries are almost in order of position but not quite: a delayed message
// enters its queue late, with the position it was first written at. Hence an
// entry below pos may stay behind a later one, and its reader must expect that
// the record is gone; but no entry at or above pos is ever dropped.
//
// A queue whose first entry is at or above pos costs a comparison, one whose
// entries are all below costs no read; of any other, the entries that go are read
// as far as they share an extent with the first that stays. A corrupt entry stops
// its queue there and is reported (the errors are joined); the other queues go
// on. Put waits for one queue at a time, not for all.
func (s *Store) DropBefore(pos record.Position) error {
	s.writer.Lock()
	queues := s.inOrder()
	s.writer.Unlock()
	var errs []error
	for _, q := range queues {
		s.writer.Lock()
		if q.max.Load() >= 0 {
			if err := s.dropQueue(q, pos); err != nil {
				errs = append(errs, err)
			}
		}
		s.writer.Unlock()
	}
	return errors.Join(errs...)
}

func (s *Store) dropQueue(q *queue, pos record.Position) error {
	begin, end := q.min.Load(), q.max.Load()
	if begin == end || q.low >= pos {
		return nil
	}
	exts := q.extents()
	// top counts entries that were dropped before, so the first extent that reaches
	// pos may turn out not to: look on then.
	first := sort.Search(len(exts), func(i int) bool { return exts[i].top >= pos })
	for ; first < len(exts); first++ {
		off := max(record.QueueOffset(begin), exts[first].base)
		stop := min(record.QueueOffset(end), exts[first].end())
		low, off, err := s.firstFrom(q, exts, off, stop, pos)
		if err != nil || off < stop {
			s.trim(q, exts, first, low, off)
			return err
		}
	}
	q.min.Store(end)
	q.publish(nil)
	s.free(exts)
	return nil
}

// Trim raises the min of a queue to off, or to its max if that is lower, and frees
// what became empty. It leaves alone a queue that is not known or begins later. An
// error says that the entry at off could not be read; the queue begins there all
// the same.
func (s *Store) Trim(key record.QueueKey, off record.QueueOffset) error {
	s.writer.Lock()
	defer s.writer.Unlock()
	q := s.shard(key).queues[key]
	if q == nil || int64(off) <= q.min.Load() {
		return nil
	}
	exts := q.extents()
	if int64(off) >= q.max.Load() {
		q.min.Store(q.max.Load())
		q.publish(nil)
		s.free(exts)
		return nil
	}
	first := sort.Search(len(exts), func(i int) bool { return off < exts[i].end() })
	low, _, err := s.firstFrom(q, exts, off, off+1, 0)
	s.trim(q, exts, first, low, off) // with an error at low 0, which only costs DropBefore a look
	return err
}

// trim makes off, in extent first and at position low, the queue's min.
func (s *Store) trim(q *queue, exts []extent, first int, low record.Position, off record.QueueOffset) {
	q.low = low
	q.min.Store(int64(off))
	if first > 0 {
		q.publish(slices.Clone(exts[first:]))
		s.free(exts[:first])
	}
}

// firstFrom returns the first offset in [off, stop) whose entry is at pos or
// later, and where that is; stop if there is none. With an error it returns the
// offset it could not read, and 0.
func (s *Store) firstFrom(q *queue, exts []extent, off, stop record.QueueOffset, pos record.Position) (record.Position, record.QueueOffset, error) {
	batch := s.batch[:]
	for off < stop {
		n, err := s.readExtent(s.buf, q, exts, off, batch[:min(len(batch), int(stop-off))], false)
		for _, e := range batch[:n] {
			if e.Position >= pos {
				return e.Position, off, nil
			}
			off++
		}
		if err != nil {
			s.condemn(err)
			return 0, off, err
		}
	}
	return 0, stop, nil
}

// condemn takes the file of an arena with a damaged entry out of the directory, if that
// is what err says. What is in it is used on, entry by entry, as long as the store is
// open; the next Open misses it, so that the index is made again. Caller holds writer.
func (s *Store) condemn(err error) {
	var bad *CorruptError
	if !errors.As(err, &bad) {
		return
	}
	for _, a := range *s.table.Load() {
		if a == nil || a.file.Name() != bad.Arena || a.damaged {
			continue
		}
		a.damaged = true
		err := s.fs.Remove(bad.Arena)
		if err == nil {
			err = s.fs.SyncDir(s.dir)
		}
		if err != nil {
			s.log.Error("a damaged index arena stays in its directory: remove it before the next start", "arena", bad.Arena, "error", err)
		}
		s.damaged(bad)
	}
}

// inOrder returns the queues by key. The slice is not changed later, only
// replaced when a queue comes or goes. Caller holds writer.
func (s *Store) inOrder() []*queue {
	if s.sorted == nil {
		s.sorted = make([]*queue, 0, s.count())
		for i := range s.shards {
			for _, q := range s.shards[i].queues {
				s.sorted = append(s.sorted, q)
			}
		}
		slices.SortFunc(s.sorted, func(a, b *queue) int {
			if a.key < b.key {
				return -1
			}
			return 1
		})
	}
	return s.sorted
}

func (s *Store) count() (n int) {
	for i := range s.shards {
		n += len(s.shards[i].queues)
	}
	return n
}
