package scheduler

import (
	"slices"
	"sync"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
	"github.com/gantry-mq/gantry/internal/tally"
)

// Index is where the entries are; a *consumequeue.Store is one. Put and Delete
// are called by the goroutine that applies the log.
type Index interface {
	Put(key record.QueueKey, off record.QueueOffset, e consumequeue.Entry) error
	Read(key record.QueueKey, from record.QueueOffset, dst []consumequeue.Entry) (int, error)
	// ReadEach reads the entries at some offsets, which are in memory most likely.
	ReadEach(key record.QueueKey, offs []record.QueueOffset, dst []consumequeue.Entry) error
	Delete(key record.QueueKey)
}

// Scheduler holds all timers.
type Scheduler struct {
	index Index
	wall  func() time.Time

	sweepAt int64 // the applying goroutine's: record time, Unix ms, at which the next bucket is past

	mu      sync.Mutex
	buckets map[uint32]*bucket
	order   []uint32 // keys of buckets
	pending int64
	gone    gone
	wheels  []*wheel // the earliest first
	spare   *wheel
	seen    int64 // the wall's newest time, Unix ms
	wakeAt  int64 // when Run wakes by itself; 0 while it is awake
	kick    chan struct{}
	moves   int // timers that were moved in the life of the process

	lateness tally.Histogram // ms

	counting sync.Mutex // held by ByTopic, before mu
}

// gone is what is remembered of buckets that were let go of, so that a place is
// given once, whatever the wall's clock does: bucket and place name a timer, in
// records that a rebuild of the index reads long after. A bucket is let go of when
// the records' time has passed it, and those times never go back; so a bucket after
// the newest of them is new, and any other goes on where the longest of them ended.
type gone struct {
	newest uint32
	end    record.QueueOffset // no place of a bucket that is gone is this or higher
}

// New returns a scheduler without timers that fires by the clock wall.
func New(index Index, wall func() time.Time) *Scheduler {
	return &Scheduler{index: index, wall: wall, buckets: map[uint32]*bucket{}, kick: make(chan struct{}, 1)}
}

// clear forgets everything. Caller holds mu.
func (s *Scheduler) clear() {
	s.buckets, s.order, s.pending, s.gone, s.wheels, s.sweepAt = map[uint32]*bucket{}, nil, 0, gone{}, nil, 0
}

// insert adds a bucket. Caller holds mu.
func (s *Scheduler) insert(n uint32, b *bucket) {
	s.buckets[n] = b
	i, _ := slices.BinarySearch(s.order, n)
	s.order = slices.Insert(s.order, i, n)
}

// Next returns the place that the next timer of a bucket gets, by what is applied.
func (s *Scheduler) Next(key record.QueueKey) record.QueueOffset {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := key.Queue()
	if b := s.buckets[n]; b != nil {
		return b.end
	}
	if n <= s.gone.newest {
		return s.gone.end
	}
	return 0
}

// Has reports whether a bucket is there.
func (s *Scheduler) Has(key record.QueueKey) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buckets[key.Queue()] != nil
}

// FirstPending returns the first place of a bucket that is neither fired nor
// cancelled, or where the next timer goes.
func (s *Scheduler) FirstPending(key record.QueueKey) record.QueueOffset {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.buckets[key.Queue()]; b != nil {
		return min(b.settled.nextClear(b.begin), b.end)
	}
	return 0
}

// Stats is the scheduler at one moment.
type Stats struct {
	Pending  int64        // timers that are neither fired nor cancelled
	Lateness tally.Counts // ms from the due time to the move into the queue, which is then written and synced
	Buckets  int          // of 17 minutes in which some are or were, the past excluded
}

// Stats returns the present figures.
func (s *Scheduler) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{Pending: s.pending, Buckets: len(s.order), Lateness: s.lateness.Read()}
}
