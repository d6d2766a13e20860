package topic

import (
	"encoding/binary"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// A topic, in topic-put records and in snapshots:
//
//	id uvarint | namespace string | name string | type 1 | queues uvarint | created varint (Unix ms)
func appendTopic(dst []byte, tp Topic) []byte {
	dst = appendUvarint(dst, uint64(tp.ID))
	dst = record.AppendResource(dst, tp.Name)
	dst = append(dst, byte(tp.Type))
	dst = appendUvarint(dst, uint64(tp.Queues))
	return binary.AppendVarint(dst, tp.Created)
}

func readTopic(d *record.Decoder) Topic {
	return Topic{
		ID:      record.TopicID(d.Uint32()),
		Name:    d.Resource(),
		Type:    Type(d.Byte()),
		Queues:  d.Uint32(),
		Created: d.Varint(),
	}
}

func appendUvarint(dst []byte, v uint64) []byte { return binary.AppendUvarint(dst, v) }
