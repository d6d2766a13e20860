package consumequeue

import (
	"iter"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// Ends returns the queues of a snapshot with the offset that each gives next.
// A rebuild needs them: a queue whose messages have all been dropped from the
// log leaves nothing to replay, but must not number from 0 again.
func Ends(snapshot []byte) (iter.Seq2[record.QueueKey, record.QueueOffset], error) {
	img, err := decodeSnapshot(snapshot)
	if err != nil {
		return nil, err
	}
	return func(yield func(record.QueueKey, record.QueueOffset) bool) {
		for _, q := range img.queues {
			if !yield(q.key, record.QueueOffset(q.max.Load())) {
				return
			}
		}
	}, nil
}

// Reserve makes a queue that is not known an empty one whose next offset is
// end. One that is known, or an end of 0, is left alone.
func (s *Store) Reserve(key record.QueueKey, end record.QueueOffset) {
	s.writer.Lock()
	defer s.writer.Unlock()
	if end == 0 || s.shard(key).queues[key] != nil {
		return
	}
	q := &queue{key: key}
	q.min.Store(int64(end))
	q.max.Store(int64(end))
	s.insert(q)
}
