package broker

import (
	"encoding/binary"

	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// A trim record says where queues of a topic begin from now on: what is before is
// gone for every group, although its bytes stay in the log until their segment
// goes. The topic's own retention writes it, and a purge.
//
//	topic uvarint | queues: count, each  queue uvarint | offset uvarint
type trim struct {
	Topic  record.TopicID
	Queues []inflight.Beginning
}

// trimBatch bounds the queues of one record.
const trimBatch = 1 << 16

func (t *trim) append(dst []byte) []byte {
	dst, start := record.BeginCommand(dst, record.KindTrim)
	dst = binary.AppendUvarint(dst, uint64(t.Topic))
	dst = binary.AppendUvarint(dst, uint64(len(t.Queues)))
	for _, q := range t.Queues {
		dst = binary.AppendUvarint(dst, uint64(q.Queue))
		dst = binary.AppendUvarint(dst, uint64(q.Offset))
	}
	return record.EndCommand(dst, start)
}

func parseTrim(data []byte) (trim, error) {
	d := record.NewDecoder(data)
	t := trim{Topic: record.TopicID(d.Uint32())}
	t.Queues = make([]inflight.Beginning, d.Count(2))
	for i := range t.Queues {
		t.Queues[i] = inflight.Beginning{Queue: d.Uint32(), Offset: record.QueueOffset(d.Uvarint())}
	}
	return t, d.Err()
}

// commitTrim appends what lets go of the beginning of queues, and waits until it
// is applied.
func (b *Broker) commitTrim(t trim) error {
	batch := &commitlog.Batch{}
	for rest := t.Queues; len(rest) > 0; {
		n := min(len(rest), trimBatch)
		part := trim{t.Topic, rest[:n]}
		batch.Add(part.append(nil), nil)
		rest = rest[n:]
	}
	if batch.Len() == 0 {
		return nil
	}
	return b.commit(batch)
}

func (b *Broker) applyTrim(data []byte) error {
	t, err := parseTrim(data)
	if err != nil {
		return err
	}
	b.indexTrim(t)
	b.inflight.Trim(t.Topic, t.Queues)
	b.wakes.topic(t.Topic) // what waited for a message that is gone may go on
	return nil
}

// indexTrim is the part of a trim record that a rebuild of the index repeats.
func (b *Broker) indexTrim(t trim) {
	for _, q := range t.Queues {
		key := record.Key(t.Topic, q.Queue)
		if err := b.index.Trim(key, q.Offset); err != nil {
			b.log.Error("a queue begins with an entry that cannot be read", "queue", key, "offset", q.Offset, "error", err)
		}
	}
}

// trim is indexTrim for entries that a rebuild of the index knows from relocate
// records only so far.
func (m relocations) trim(data []byte) error {
	t, err := parseTrim(data)
	for _, q := range t.Queues {
		for off := range m[record.Key(t.Topic, q.Queue)] {
			if off < q.Offset {
				delete(m[record.Key(t.Topic, q.Queue)], off)
			}
		}
	}
	return err
}
