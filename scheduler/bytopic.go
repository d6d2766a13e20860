package scheduler

import (
	"slices"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// ByTopic returns how many timers of each topic are pending. The first call after Restore
// reads the entries of all that are, which a restart does not; from then on they are counted
// as they come and go.
func (s *Scheduler) ByTopic() (map[record.TopicID]int64, error) {
	s.counting.Lock()
	defer s.counting.Unlock()
	var mem scanMemory
	for _, n := range s.list() {
		for {
			known, err := s.countBucket(n, &mem)
			if err != nil {
				return nil, err
			}
			if known {
				break
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[record.TopicID]int64{}
	for _, b := range s.buckets {
		for id, n := range b.byTopic {
			all[id] += n
		}
	}
	return all, nil
}

// countBucket counts what was pending in a bucket when it began, and what came and went
// since, which byTopic has meanwhile. It reports false when an entry that was pending then is
// gone: the caller tries again.
func (s *Scheduler) countBucket(n uint32, mem *scanMemory) (known bool, err error) {
	s.mu.Lock()
	b := s.buckets[n]
	if b == nil || b.byTopic != nil {
		s.mu.Unlock()
		return true, nil
	}
	end, then := b.end, settled{b.settled.base, slices.Clone(b.settled.rest)}
	b.byTopic = map[record.TopicID]int64{}
	s.mu.Unlock()
	defer func() {
		if !known {
			s.uncount(n)
		}
	}()
	found := map[record.TopicID]int64{}
	for at := then.nextClear(b.begin); at < end; at = then.nextClear(at) {
		got, err := s.read(n, b, at, mem.entries[:min(readBatch, int64(end-at))])
		if got == 0 || err != nil {
			return false, err
		}
		for i := range got {
			if !then.has(at + record.QueueOffset(i)) {
				found[toOf(&mem.entries[i]).Topic()]++
			}
		}
		at += record.QueueOffset(got)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// It was not known whose timer was cancelled meanwhile, or the bucket is another.
	if s.buckets[n] != b || b.byTopic == nil {
		return false, nil
	}
	for id, n := range found {
		b.count(id, n)
	}
	return true, nil
}

// uncount makes ByTopic read a bucket.
func (s *Scheduler) uncount(n uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.buckets[n]; b != nil {
		b.byTopic = nil
	}
}
