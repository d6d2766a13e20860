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
//
// Its settings were added later, and are left out where all are zero:
//
//	retention age varint (ns) | retention size uvarint (bytes)
//	| dedup window varint (ns) | dedup key string | dedup max uvarint
//
// In a record they follow the topic; in a snapshot they follow all topics, as
// count, each  id uvarint | settings.
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

func appendSettings(dst []byte, tp Topic) []byte {
	dst = binary.AppendVarint(dst, int64(tp.RetainAge))
	dst = appendUvarint(dst, uint64(tp.RetainSize))
	dst = binary.AppendVarint(dst, int64(tp.DedupWindow))
	dst = record.AppendString(dst, string(tp.DedupKey))
	return appendUvarint(dst, uint64(tp.DedupMax))
}

func readSettings(d *record.Decoder, tp *Topic) {
	tp.RetainAge = time.Duration(d.Varint())
	tp.RetainSize = int64(d.Uvarint())
	tp.DedupWindow = time.Duration(d.Varint())
	tp.DedupKey = DedupKey(d.String())
	tp.DedupMax = d.Uint32()
}

func (tp Topic) hasSettings() bool { return tp.Retention != Retention{} || tp.Dedup != Dedup{} }

func appendUvarint(dst []byte, v uint64) []byte { return binary.AppendUvarint(dst, v) }

// AppendPut encodes the record that creates tp, or replaces the one with its id.
func AppendPut(dst []byte, tp Topic) []byte {
	dst, start := record.BeginCommand(dst, record.KindTopicPut)
	dst = appendTopic(dst, tp)
	if tp.hasSettings() {
		dst = appendSettings(dst, tp)
	}
	return record.EndCommand(dst, start)
}

// ParsePut reads the data of a topic-put record.
func ParsePut(data []byte) (Topic, error) {
	d := record.NewDecoder(data)
	tp := readTopic(d)
	if d.Len() > 0 {
		readSettings(d, &tp)
	}
	return tp, d.Err()
}

// AppendDelete encodes the record that deletes a topic.
func AppendDelete(dst []byte, id record.TopicID) []byte {
	dst, start := record.BeginCommand(dst, record.KindTopicDelete)
	return record.EndCommand(appendUvarint(dst, uint64(id)), start)
}
