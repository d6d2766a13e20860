package topic

import (
	"encoding/binary"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// A topic, in topic-put records and in snapshots:
//
//	id uvarint | namespace string | name string | type 1 | queues uvarint | created varint (Unix ms)
//	| lite TTL varint (ns)
func appendTopic(dst []byte, tp Topic) []byte {
	dst = appendUvarint(dst, uint64(tp.ID))
	dst = record.AppendResource(dst, tp.Name)
	dst = append(dst, byte(tp.Type))
	dst = appendUvarint(dst, uint64(tp.Queues))
	dst = binary.AppendVarint(dst, tp.Created)
	return binary.AppendVarint(dst, int64(tp.LiteTTL))
}

func readTopic(d *record.Decoder) Topic {
	return Topic{
		ID:      record.TopicID(d.Uint32()),
		Name:    d.Resource(),
		Type:    Type(d.Byte()),
		Queues:  d.Uint32(),
		Created: d.Varint(),
		LiteTTL: time.Duration(d.Varint()),
	}
}

func appendUvarint(dst []byte, v uint64) []byte { return binary.AppendUvarint(dst, v) }

// AppendPut encodes the record that creates tp, or replaces the one with its id.
func AppendPut(dst []byte, tp Topic) []byte {
	dst, start := record.BeginCommand(dst, record.KindTopicPut)
	return record.EndCommand(appendTopic(dst, tp), start)
}

// AppendDelete encodes the record that deletes a topic.
func AppendDelete(dst []byte, id record.TopicID) []byte {
	dst, start := record.BeginCommand(dst, record.KindTopicDelete)
	return record.EndCommand(appendUvarint(dst, uint64(id)), start)
}
