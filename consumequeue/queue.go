package consumequeue

import (
	"sort"
	"sync"
	"sync/atomic"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// queue is one queue's index. Readers use it without a lock, which works because
// of the order in which the writer stores:
//
//   - to append: the entry's bytes, extents if there is a new one, then max;
//   - to drop: min, then extents;
//   - to delete: the queue leaves its shard, then max becomes negative.
//
// A reader loads max, then extents, then min: every offset in [min, max) is then
// covered by the extents it has. Pages are reused only after min was raised or
// max made negative, so a reader that looks at both again after it copied the
// entries knows whether the pages were still the queue's.
type queue struct {
	key      record.QueueKey
	min, max atomic.Int64 // offsets are in [min, max); max is -1 once deleted
	exts     atomic.Pointer[[]extent]

	// low is the position of the entry at min. It is what lets DropBefore skip,
	// without touching its pages, a queue that has nothing to drop. Owned by the
	// holder of Store.writer.
	low record.Position

	// What is before cold was there when the store was opened, and may be on the disk
	// alone. It does not change.
	cold record.QueueOffset
}

// extent is a run of 2^order pages that holds the entries from base on. The
// extents of a queue follow each other without gaps.
type extent struct {
	base record.QueueOffset
	// top is the highest position of all entries that ever were in the queue up to
	// the end of this extent, hence never lower than the extent's before. Owned by
	// the holder of Store.writer even where the extent is published: readers must
	// not copy an extent.
	top   record.Position
	page  uint32 // over all arenas: arena id << page bits | page
	order uint8
}

func (x *extent) entries() int64          { return 1 << (x.order + slotShift) }
func (x *extent) end() record.QueueOffset { return x.base + record.QueueOffset(x.entries()) }

func (q *queue) extents() []extent {
	if p := q.exts.Load(); p != nil {
		return *p
	}
	return nil
}

// publish replaces the extents. Only the writer calls it, and it never stores
// to an element that is published but for its top.
func (q *queue) publish(exts []extent) { q.exts.Store(&exts) }

// find returns the extent that holds off, which must be within the extents.
func find(exts []extent, off record.QueueOffset) *extent {
	if last := &exts[len(exts)-1]; off >= last.base {
		return last
	}
	return &exts[sort.Search(len(exts), func(i int) bool { return off < exts[i].end() })]
}

const shardBits = 6

// shard is a part of the table of queues. mu keeps readers from the writer;
// the writer itself reads without it, being the only one that writes.
type shard struct {
	mu     sync.RWMutex
	queues map[record.QueueKey]*queue
}

// shard spreads neighbouring queues, which are busy together, over the shards.
func (s *Store) shard(key record.QueueKey) *shard {
	return &s.shards[uint64(key)*0x9e3779b97f4a7c15>>(64-shardBits)]
}

// lookup is for readers.
func (s *Store) lookup(key record.QueueKey) *queue {
	sh := s.shard(key)
	sh.mu.RLock()
	q := sh.queues[key]
	sh.mu.RUnlock()
	return q
}

func (s *Store) insert(q *queue) {
	sh := s.shard(q.key)
	sh.mu.Lock()
	sh.queues[q.key] = q
	sh.mu.Unlock()
	s.sorted = nil
}
