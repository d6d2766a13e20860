package record

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Field identifies one entry of a message's properties section. Values are part
// of the disk format.
type Field uint8

const (
	FieldUser        Field = 0  // a user property: key and value
	FieldMessageID   Field = 1  // the producer's id
	FieldTag         Field = 2  // at most one
	FieldKey         Field = 3  // one entry per message key
	FieldGroup       Field = 4  // message group, for order
	FieldBornHost    Field = 5  //
	FieldTrace       Field = 6  // W3C trace context, opaque
	FieldSHA1        Field = 7  // 20 bytes, of the body as stored
	FieldLiteTopic   Field = 8  //
	FieldRecoverySec Field = 9  // decimal seconds before a half message is checked
	FieldOrigin      Field = 10 // of a copy: 8 bytes, the position of the first record with this payload
	maxField         Field = 10
)

// The properties section is a run of fields in any order, each
//
//	field 1 | [key length uvarint | key]  only for FieldUser
//	        | value length uvarint | value
//
// so that a filter can walk it in place, without building a map.

// AppendField appends a system field to a properties section.
func AppendField(dst []byte, f Field, value string) []byte {
	dst = append(dst, byte(f))
	return AppendString(dst, value)
}

// AppendUser appends a user property to a properties section.
func AppendUser(dst []byte, key, value string) []byte {
	dst = append(dst, byte(FieldUser))
	dst = AppendString(dst, key)
	return AppendString(dst, value)
}

// Properties is an encoded properties section.
type Properties []byte

// Each calls f for every field until f returns false. key is nil unless the
// field is FieldUser. It reports ErrMalformed for bytes that are not a section.
func (p Properties) Each(f func(field Field, key, value []byte) bool) error {
	for b := []byte(p); len(b) > 0; {
		field := Field(b[0])
		if field > maxField {
			return fmt.Errorf("%w: property field %d", ErrMalformed, field)
		}
		b = b[1:]
		var key, value []byte
		var ok bool
		if field == FieldUser {
			if key, b, ok = cut(b); !ok {
				return fmt.Errorf("%w: property key", ErrMalformed)
			}
		}
		if value, b, ok = cut(b); !ok {
			return fmt.Errorf("%w: property value", ErrMalformed)
		}
		if !f(field, key, value) {
			return nil
		}
	}
	return nil
}

func cut(b []byte) (value, rest []byte, ok bool) {
	// Nearly every length is one byte, and filters walk every message they see.
	if len(b) > 0 && int(b[0]) < min(len(b), 0x80) {
		end := 1 + int(b[0])
		return b[1:end:end], b[end:], true
	}
	n, w := binary.Uvarint(b)
	if w <= 0 || n > uint64(len(b)-w) {
		return nil, nil, false
	}
	end := w + int(n)
	return b[w:end:end], b[end:], true
}

// Lookup returns the first value of a system field, or nil, false.
func (p Properties) Lookup(want Field) (value []byte, found bool) {
	p.Each(func(f Field, _, v []byte) bool {
		if f == want {
			value, found = v, true
			return false
		}
		return true
	})
	return value, found
}

// User returns the value of the user property named key, or nil, false.
func (p Properties) User(key string) (value []byte, found bool) {
	p.Each(func(f Field, k, v []byte) bool {
		if f == FieldUser && string(k) == key {
			value, found = v, true
			return false
		}
		return true
	})
	return value, found
}

// Message is a message record taken apart. Its slices alias the record.
type Message struct {
	Kind       Kind
	Flags      Flags
	Topic      TopicID
	Queue      uint32
	Offset     QueueOffset
	StoreTime  int64 // Unix ms
	BornTime   int64 // Unix ms
	DueTime    int64 // Unix ms, 0 = none
	Priority   int32 // with FlagPriority
	Properties Properties
	Body       []byte

	bodyCRC uint32
}

// Key returns the queue the message belongs to.
func (m *Message) Key() QueueKey { return Key(m.Topic, m.Queue) }

// AppendHead appends everything of m's record but the body, which the caller
// hands to the log beside it so that it is not copied here. The head's checksum
// is sealed by Stamp.
func AppendHead(dst []byte, m *Message) []byte {
	dst, start := BeginMessage(dst)
	dst = append(dst, m.Properties...)
	b := dst[start:]
	putHead(b, m)
	le.PutUint32(b[offTopic:], uint32(m.Topic))
	le.PutUint32(b[offQueue:], m.Queue)
	Stamp(b, m.Offset, m.StoreTime)
	return dst
}

// putHead fills in b, a head with its properties, what the sender of m knows.
func putHead(b []byte, m *Message) {
	le.PutUint32(b, uint32(len(b)+len(m.Body)))
	b[offKind] = byte(m.Kind)
	b[offVersion] = version
	le.PutUint16(b[offFlags:], uint16(m.Flags))
	le.PutUint32(b[offHead:], uint32(len(b)))
	le.PutUint64(b[offBornTime:], uint64(m.BornTime))
	le.PutUint64(b[offDueTime:], uint64(m.DueTime))
	le.PutUint32(b[offBodyCRC:], CRC(m.Body))
	le.PutUint32(b[offPriority:], uint32(m.Priority))
}

// ParseMessage reads a message record whose head has been verified. It checks
// the shape again, not the checksums.
func ParseMessage(rec []byte) (Message, error) {
	size, kind, err := Size(rec)
	if err != nil {
		return Message{}, err
	}
	if !kind.IsMessage() {
		return Message{}, fmt.Errorf("%w: %v is not a message", ErrMalformed, kind)
	}
	head := int(le.Uint32(rec[offHead:]))
	if head < messageHeaderLen {
		return Message{}, fmt.Errorf("%w: message head %d", ErrMalformed, head)
	}
	var m Message
	m.parse(rec[:size:size], kind, head)
	return m, nil
}

// parse reads a record whose shape was checked, and which is all of rec.
func (m *Message) parse(rec []byte, kind Kind, head int) {
	h := rec[:messageHeaderLen]
	m.Kind = kind
	m.Flags = Flags(le.Uint16(h[offFlags:]))
	m.Topic = TopicID(le.Uint32(h[offTopic:]))
	m.Queue = le.Uint32(h[offQueue:])
	m.Offset = QueueOffset(le.Uint64(h[offOffset:]))
	m.StoreTime = int64(le.Uint64(h[offStoreTime:]))
	m.BornTime = int64(le.Uint64(h[offBornTime:]))
	m.DueTime = int64(le.Uint64(h[offDueTime:]))
	m.Priority = int32(le.Uint32(h[offPriority:]))
	m.Properties = rec[messageHeaderLen:head:head]
	m.Body = rec[head:]
	m.bodyCRC = le.Uint32(h[offBodyCRC:])
}

// SameButBody reports whether a sender says the same of m and o except for their
// bodies and when they were made.
func (m *Message) SameButBody(o *Message) bool {
	return m.Kind == o.Kind && m.Flags == o.Flags && m.DueTime == o.DueTime && m.Priority == o.Priority &&
		bytes.Equal(m.Properties, o.Properties)
}

// TagOf returns the tag of a message record of which nothing is verified, nil when
// it has none. false is a record that has not the shape of a message.
func TagOf(rec []byte) (tag []byte, ok bool) {
	if len(rec) < messageHeaderLen || !KindOf(rec).IsMessage() {
		return nil, false
	}
	head := le.Uint32(rec[offHead:])
	if head < messageHeaderLen || uint64(head) > uint64(len(rec)) {
		return nil, false
	}
	for b := rec[messageHeaderLen:head]; len(b) > 0; {
		field := Field(b[0])
		if field > maxField {
			return nil, false
		}
		b = b[1:]
		if field == FieldUser {
			if _, b, ok = cut(b); !ok {
				return nil, false
			}
		}
		var value []byte
		if value, b, ok = cut(b); !ok {
			return nil, false
		}
		if field == FieldTag {
			return value, true
		}
	}
	return nil, true
}

// VerifyBody checks the body against its checksum.
func (m *Message) VerifyBody() error {
	if CRC(m.Body) != m.bodyCRC {
		return fmt.Errorf("%w: body", ErrChecksum)
	}
	return nil
}

// Hash32 is the 32-bit hash that index entries hold of tags and message groups
// (FNV-1a). 0 is reserved for "none", so no string hashes to it.
func Hash32[T string | []byte](s T) uint32 {
	h := uint32(2166136261)
	for i := 0; i < len(s); i++ {
		h = (h ^ uint32(s[i])) * 16777619
	}
	if h == 0 {
		h = 1
	}
	return h
}
