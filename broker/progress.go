package broker

import (
	"github.com/gantry-mq/gantry/commitlog/record"
)

// QueueProgress is how far a group is in one queue, in time. Times are Unix ms of when
// messages entered the queue, 0 = there is no such message.
type QueueProgress struct {
	GroupQueueStatus
	LiteTopic   string // "" = it is none
	First, Last int64  // of all that are in the queue
	Next        int64  // of the first that the group was not handed yet
	Before      int64  // of the last that it was handed, or passed
}

// Progress returns how far a group is in every queue it has touched. Queues that are
// gone are left out.
func (b *Broker) Progress(groupName record.Resource) ([]QueueProgress, error) {
	_, queues, err := b.GroupStatus(groupName)
	if err != nil {
		return nil, err
	}
	out := make([]QueueProgress, 0, len(queues))
	for _, q := range queues {
		tp, ok := b.topics.Lookup(q.Topic)
		if !ok {
			continue
		}
		key := record.Key(tp.ID, q.Queue)
		p := QueueProgress{GroupQueueStatus: q}
		if q.Queue >= record.FirstLiteQueue {
			if p.LiteTopic = b.lites.Name(key); p.LiteTopic == "" {
				continue
			}
		}
		low, high, _ := b.index.Bounds(key)
		for _, at := range []struct {
			offset record.QueueOffset
			time   *int64
		}{{low, &p.First}, {high - 1, &p.Last}, {max(low, q.Cursor), &p.Next}, {q.Cursor - 1, &p.Before}} {
			if at.offset < low || at.offset >= high {
				continue
			}
			e, ok, err := b.entryAt(key, at.offset)
			if err != nil {
				return nil, b.indexError(tp, q.Queue, at.offset, err)
			}
			if ok { // retention may pass by
				*at.time = e.StoreTime
			}
		}
		out = append(out, p)
	}
	return out, nil
}
