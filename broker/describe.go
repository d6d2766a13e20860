package broker

import (
	"errors"

	"github.com/gantry-mq/gantry/broker/dedup"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// TopicDescription is a topic with what it takes some reading to know.
type TopicDescription struct {
	TopicStatus
	// Bytes of the records of all messages in queues. Of a topic with many messages
	// it is an estimate from a part of them.
	Bytes      int64
	Estimated  bool
	Remembered dedup.Status // by its deduplication
}

// DescribeTopic returns a topic as it stands.
func (b *Broker) DescribeTopic(name record.Resource) (TopicDescription, error) {
	tp, err := b.Route(name)
	if err != nil {
		return TopicDescription{}, err
	}
	d := TopicDescription{TopicStatus: b.topicStatus(tp), Remembered: b.dedup.Status(tp.ID)}
	d.Bytes, d.Estimated, err = b.topicBytes(tp, sizedEntries)
	return d, err
}

// sizedEntries is how many index entries a description reads, some 10 ms worth; of
// topics with more it reads as many, evenly spread.
const sizedEntries = 256 << 10

// TopicBytes estimates the size of every topic from as many index entries, of all
// of them together, as one description reads; of each it reads 128 if it has them.
func (b *Broker) TopicBytes() (map[record.TopicID]TopicSize, error) {
	topics := b.topics.List()
	sizes := make(map[record.TopicID]TopicSize, len(topics))
	for _, tp := range topics {
		bytes, estimated, err := b.topicBytes(tp, sizedEntries/int64(len(topics)))
		if err != nil {
			return nil, err
		}
		sizes[tp.ID] = TopicSize{bytes, estimated}
	}
	return sizes, nil
}

// TopicSize is the bytes of a topic's records.
type TopicSize struct {
	Bytes     int64
	Estimated bool
}

func (b *Broker) topicBytes(tp topic.Topic, budget int64) (bytes int64, estimated bool, err error) {
	queues := b.allQueues(tp)
	total := int64(0)
	for _, q := range queues {
		low, high, _ := b.index.Bounds(record.Key(tp.ID, q))
		total += int64(high - low)
	}
	var e [128]consumequeue.Entry
	budget = max(budget, int64(len(e)))
	step := max(1, (total+budget-1)/budget) // of that many pages one is read
	var seen int64
	page := int64(0)
	for _, q := range queues {
		key := record.Key(tp.ID, q)
		low, high, _ := b.index.Bounds(key)
		for at := low; at < high; at += record.QueueOffset(len(e)) {
			if page++; page%step != 0 {
				continue
			}
			n, err := b.index.Read(key, at, e[:min(int64(len(e)), int64(high-at))])
			if errors.Is(err, consumequeue.ErrOutOfRange) {
				continue // retention passes by
			}
			if err != nil {
				return 0, false, b.indexError(tp, q, at, err)
			}
			for i := range n {
				bytes += int64(e[i].Size)
			}
			seen += int64(n)
		}
	}
	if step > 1 && seen > 0 {
		bytes = int64(float64(bytes) / float64(seen) * float64(total))
	}
	return bytes, step > 1, nil
}
