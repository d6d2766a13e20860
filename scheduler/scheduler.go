package scheduler

import (
	"slices"
	"sync"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// Index is where the entries are; a *consumequeue.Store is one. Put and Delete
// are called by the goroutine that applies the log.
type Index interface {
	Put(key record.QueueKey, off record.QueueOffset, e consumequeue.Entry) error
	Read(key record.QueueKey, from record.QueueOffset, dst []consumequeue.Entry) (int, error)
	// ReadHot is Read for single entries that are in memory already, most likely.
	ReadHot(key record.QueueKey, from record.QueueOffset, dst []consumequeue.Entry) (int, error)
	Bounds(key record.QueueKey) (min, max record.QueueOffset, ok bool)
	Delete(key record.QueueKey)
}

// Scheduler holds all timers.
type Scheduler struct {
	index Index
	clock func() time.Time

	// The applying goroutine's.
	sweepAt int64 // record time, Unix ms, at which the next minute is past
	scratch [readBatch]consumequeue.Entry

	mu      sync.Mutex
	buckets map[uint32]*bucket
	minutes []uint32 // keys of buckets, in order
	pending int64
	loaded  []*wheel
	spare   *wheel
	wakeAt  int64 // when Run wakes by itself; 0 while it is awake
	kick    chan struct{}
}

// New returns a scheduler without timers, that fires by the given wall clock.
func New(index Index, wall func() time.Time) *Scheduler {
	return &Scheduler{index: index, clock: wall, buckets: map[uint32]*bucket{}, kick: make(chan struct{}, 1)}
}

// Reset forgets everything, for a replay from the beginning.
func (s *Scheduler) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
}

func (s *Scheduler) clear() {
	s.buckets, s.minutes, s.pending, s.loaded, s.sweepAt = map[uint32]*bucket{}, nil, 0, nil, 0
}

// insert adds a bucket. Caller holds mu.
func (s *Scheduler) insert(minute uint32, b *bucket) {
	s.buckets[minute] = b
	i, _ := slices.BinarySearch(s.minutes, minute)
	s.minutes = slices.Insert(s.minutes, i, minute)
}

// Stats is the scheduler at one moment.
type Stats struct {
	Pending int64 // timers that are neither fired nor cancelled
	Minutes int   // in which some are or were, the past excluded
}

// Stats returns the present figures.
func (s *Scheduler) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{Pending: s.pending, Minutes: len(s.minutes)}
}
