package client

import (
	"iter"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// Message is a message to send. Only Body is required.
type Message struct {
	Topic string // "" = the producer's
	Body  []byte // 1 byte to 4 MiB

	// ID, when "", is given by the broker at no cost. The topic's deduplication
	// window, if it has one, may go by it; so a message that has one, and no group, is
	// sent to the shard that it chooses.
	ID         string
	Tag        string
	Keys       []string
	Properties map[string]string

	// Group, when not "", keeps the messages of the group in order. Only topics
	// of type fifo or mixed take it.
	Group string
	// Priority, higher first. Only topics of type priority or mixed take it.
	Priority *int32
	// DeliverAt, when not zero, is before when the message is not delivered.
	// Only topics of type delay or mixed take it.
	DeliverAt time.Time
	// LiteTopic below the parent topic, made by its first message.
	LiteTopic string

	// TraceContext is a W3C traceparent.
	TraceContext string
}

// Result says where a message was stored.
type Result struct {
	Queue  uint32
	Offset int64 // in its queue; -1 when it is in none yet
	// RecallHandle takes a delayed message back, see [Producer.Recall].
	RecallHandle string
	// Duplicate says that the message was not stored, because the same one was within
	// the topic's deduplication window: all else here is about that one.
	Duplicate bool

	id            string // "" = by position
	store         uint64
	pos           record.Position
	transactionID string
}

// MessageID is the message's id: the producer's, or the one that the broker gave.
func (r Result) MessageID() string {
	if r.id != "" {
		return r.id
	}
	return record.PositionID(r.store, r.pos)
}

// pack appends the message to a pack of records, with body, packed as flags say, as
// its body.
func (m *Message) pack(b []byte, kind record.Kind, now int64, recover time.Duration, body []byte, flags record.Flags) []byte {
	b, start := record.BeginMessage(b)
	if m.ID != "" {
		b = record.AppendField(b, record.FieldMessageID, m.ID)
	}
	if m.Tag != "" {
		b = record.AppendField(b, record.FieldTag, m.Tag)
	}
	for _, k := range m.Keys {
		b = record.AppendField(b, record.FieldKey, k)
	}
	if m.Group != "" {
		b = record.AppendField(b, record.FieldGroup, m.Group)
	}
	if m.LiteTopic != "" {
		b = record.AppendField(b, record.FieldLiteTopic, m.LiteTopic)
	}
	if m.TraceContext != "" {
		b = record.AppendField(b, record.FieldTrace, m.TraceContext)
	}
	if recover > 0 {
		b = record.AppendField(b, record.FieldRecoverySec, seconds(recover))
	}
	if len(m.Properties) > 0 { // to begin with none costs as well
		for k, v := range m.Properties {
			b = record.AppendUser(b, k, v)
		}
	}
	r := record.Message{Kind: kind, Flags: flags, BornTime: now, Body: body}
	if m.Priority != nil {
		r.Flags |= record.FlagPriority
		r.Priority = *m.Priority
	}
	if !m.DeliverAt.IsZero() {
		r.DueTime = max(m.DeliverAt.UnixMilli(), 1)
	}
	return record.EndMessage(b, start, &r)
}

// size is about how much the message takes in a pack.
func (m *Message) size() int {
	n := 96 + len(m.Body) + len(m.ID) + len(m.Tag) + len(m.Group) + len(m.TraceContext) + len(m.LiteTopic)
	for _, k := range m.Keys {
		n += len(k) + 4
	}
	if len(m.Properties) > 0 {
		for k, v := range m.Properties {
			n += len(k) + len(v) + 8
		}
	}
	return n
}

// view is a received message, read in place.
type view struct {
	msg     record.Message
	store   uint64
	pos     record.Position
	topic   string
	queue   uint32
	offset  int64
	attempt uint32
	origin  *Origin
	packed  *packedBody // nil: the producer did not compress the body
}

// Origin says where a dead letter came from.
type Origin struct {
	Topic     string
	MessageID string
}

// Body is the message's body as its producer had it. One that was compressed is
// decompressed by the first call, into memory of its own, and is nil when it cannot
// be: then BodyErr says why. It must not be changed.
func (v *view) Body() []byte {
	if v.packed == nil {
		return v.msg.Body
	}
	body, _ := v.packed.read()
	return body
}

// BodyErr is why Body is nil: a producer's compressed body that does not decompress, or
// to more than 4 MiB. It decompresses the body, as Body does.
func (v *view) BodyErr() error {
	if v.packed == nil {
		return nil
	}
	_, err := v.packed.read()
	return err
}

// Compression is how the producer compressed the body: "gzip", "zstd", "lz4" or "s2",
// and "" when it did not.
func (v *view) Compression() string { return v.msg.Flags.PackingName() }

// StoredBody is the body as the broker keeps it: compressed, if the producer did that.
func (v *view) StoredBody() []byte { return v.msg.Body }

// ID is the message's id: the producer's, or the broker's.
func (v *view) ID() string { return v.msg.ID(v.store, v.pos) }

// Topic is the topic it was read from.
func (v *view) Topic() string { return v.topic }

// Queue is the number of its queue.
func (v *view) Queue() uint32 { return v.queue }

// Offset is its number in the queue.
func (v *view) Offset() int64 { return v.offset }

// Tag is the message's tag, "" = none.
func (v *view) Tag() string { return v.field(record.FieldTag) }

// Group is its message group, "" = none.
func (v *view) Group() string { return v.field(record.FieldGroup) }

// LiteTopic is the lite topic below Topic, "" = none.
func (v *view) LiteTopic() string { return v.field(record.FieldLiteTopic) }

// TraceContext is the W3C traceparent that came with it, "" = none.
func (v *view) TraceContext() string { return v.field(record.FieldTrace) }

func (v *view) field(f record.Field) string {
	b, _ := v.msg.Properties.Lookup(f)
	return string(b)
}

// Keys are its keys.
func (v *view) Keys() (keys []string) {
	v.msg.Properties.Each(func(f record.Field, _, value []byte) bool {
		if f == record.FieldKey {
			keys = append(keys, string(value))
		}
		return true
	})
	return keys
}

// Property returns a user property.
func (v *view) Property(key string) (value string, ok bool) {
	b, ok := v.msg.Properties.User(key)
	return string(b), ok
}

// Properties are the user properties, in the producer's order.
func (v *view) Properties() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		v.msg.Properties.Each(func(f record.Field, key, value []byte) bool {
			return f != record.FieldUser || yield(string(key), string(value))
		})
	}
}

// Priority is the message's priority, if it has one.
func (v *view) Priority() (int32, bool) {
	return v.msg.Priority, v.msg.Flags&record.FlagPriority != 0
}

// BornAt is when the producer made it, by the producer's clock.
func (v *view) BornAt() time.Time { return time.UnixMilli(v.msg.BornTime) }

// StoredAt is when the broker stored it.
func (v *view) StoredAt() time.Time { return time.UnixMilli(v.msg.StoreTime) }

// DeliverAt is the time before which it was not to be delivered; zero = none.
func (v *view) DeliverAt() time.Time {
	if v.msg.DueTime == 0 {
		return time.Time{}
	}
	return time.UnixMilli(v.msg.DueTime)
}

// Origin says where a dead letter came from; nil for all others.
func (v *view) Origin() *Origin { return v.origin }
