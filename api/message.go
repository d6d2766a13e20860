package api

import (
	"context"
	"crypto/sha1"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/commitlog/record"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
	"github.com/gantry-mq/gantry/proto/wire"
)

// deliver encodes the response that carries d's message. A large body is not
// copied: it goes out from the log's mapping, and the reply holds a view of its
// own until it has. storeHost is host:port of this server.
func deliver(d *broker.Delivered, storeHost string) (*reply, error) {
	r := newReply()
	b, err := appendHead(append(r.buf, make([]byte, replyRoom)...), d, storeHost)
	if err != nil {
		r.free()
		return nil, err
	}
	size := len(b) - replyRoom + len(d.Message.Body)
	switch {
	case len(d.Message.Body) < sliceBody:
		b = append(b, d.Message.Body...)
	case d.Unpacked:
		r.kept.body = d.Message.Body
	default:
		r.kept.view = d.Hold()
		r.kept.body = d.Message.Body
	}
	r.start = replyRoom - 1 - protowire.SizeVarint(uint64(size))
	protowire.AppendVarint(protowire.AppendTag(b[:r.start], contentMessage, protowire.BytesType), uint64(size))
	r.buf = b
	return r, nil
}

// unpacked is delivered for a client, which may not know how the body is compressed.
func unpacked(ctx context.Context, b *broker.Broker, d *broker.Delivered, storeHost string) (*v2.Message, error) {
	leave, err := b.Unpack(ctx, d, func() {})
	if err != nil {
		return nil, err
	}
	if leave != nil {
		defer leave()
	}
	return delivered(d, storeHost)
}

// delivered is d's message as an object, for the calls that have one in
// something larger.
func delivered(d *broker.Delivered, storeHost string) (*v2.Message, error) {
	b, err := appendHead(nil, d, storeHost)
	if err != nil {
		return nil, err
	}
	m := new(v2.Message)
	return m, proto.Unmarshal(append(b, d.Message.Body...), m)
}

// appendHead appends d's Message up to its body, whose tag and length end it.
func appendHead(b []byte, d *broker.Delivered, storeHost string) ([]byte, error) {
	m := &d.Message
	b, start := wire.Begin(b, 1)
	b = wire.AppendString(b, 1, d.Topic.Namespace)
	b = wire.AppendString(b, 2, d.Topic.Name)
	b = wire.End(b, start)

	b, start = wire.Begin(b, 3)
	b, user, err := appendSystem(b, d, storeHost)
	if err != nil {
		return nil, err
	}
	b = wire.End(b, start)
	if user {
		b = appendUser(b, m.Properties)
	}
	b = protowire.AppendTag(b, 4, protowire.BytesType)
	return protowire.AppendVarint(b, uint64(len(m.Body))), nil
}

// appendSystem appends the fields of d's SystemProperties, and reports whether
// there are user properties besides.
func appendSystem(b []byte, d *broker.Delivered, storeHost string) (_ []byte, user bool, err error) {
	m := &d.Message
	messageType := v2.MessageType_NORMAL
	encoding := v2.Encoding_IDENTITY
	if m.Flags&record.FlagGzip != 0 {
		encoding = v2.Encoding_GZIP
	}
	if m.Flags&record.FlagPriority != 0 {
		messageType = v2.MessageType_PRIORITY
		b = wire.AppendPresentInt(b, 22, int64(m.Priority))
	}
	b = wire.AppendString(b, 3, d.ID)
	var sum []byte
	err = m.Properties.Each(func(f record.Field, _, value []byte) bool {
		switch f {
		case record.FieldUser:
			user = true
		case record.FieldTag:
			b = wire.AppendBytes(b, 1, value)
		case record.FieldKey:
			b = wire.AppendBytes(b, 2, value)
		case record.FieldMessageID:
			b = wire.AppendString(b, 3, value)
		case record.FieldBornHost:
			b = wire.AppendString(b, 8, value)
		case record.FieldGroup:
			b = wire.AppendBytes(b, 17, value)
			messageType = v2.MessageType_FIFO
		case record.FieldTrace:
			b = wire.AppendBytes(b, 18, value)
		case record.FieldLiteTopic:
			b = wire.AppendBytes(b, 21, value)
			messageType = v2.MessageType_LITE
		case record.FieldSHA1:
			sum = value
		}
		return true
	})
	if err != nil {
		return nil, false, err
	}
	if len(sum) != sha1.Size || d.Unpacked {
		// Clients throw away a message whose digest is absent or wrong.
		computed := sha1.Sum(m.Body)
		sum = computed[:]
	}
	b = appendDigest(b, sum)
	if m.DueTime != 0 {
		b = appendTime(b, 11, time.UnixMilli(m.DueTime))
		messageType = v2.MessageType_DELAY
	}
	b = wire.AppendInt(b, 5, int64(encoding))
	b = wire.AppendInt(b, 6, int64(messageType))
	b = appendTime(b, 7, time.UnixMilli(m.BornTime))
	b = appendTime(b, 9, time.UnixMilli(m.StoreTime))
	b = wire.AppendString(b, 10, storeHost)
	if d.Handle != "" {
		b = wire.AppendBytes(b, 12, d.Handle)
	}
	b = wire.AppendInt(b, 13, int64(int32(d.Queue)))
	b = wire.AppendPresentInt(b, 14, int64(d.Offset))
	b = wire.AppendPresentInt(b, 16, int64(max(1, d.Attempt))) // SDKs index their back-off tables with attempt-1
	if d.Origin != nil {
		var start int
		b, start = wire.Begin(b, 20)
		b = wire.AppendString(b, 1, d.Origin.Topic)
		b = wire.AppendString(b, 2, d.Origin.MessageID)
		b = wire.End(b, start)
	}
	return b, user, nil
}

// appendUser appends the entries of the map of user properties.
func appendUser(b []byte, p record.Properties) []byte {
	p.Each(func(f record.Field, key, value []byte) bool {
		if f == record.FieldUser {
			var start int
			b, start = wire.Begin(b, 2)
			b = wire.AppendBytes(b, 1, key)
			b = wire.AppendBytes(b, 2, value)
			b = wire.End(b, start)
		}
		return true
	})
	return b
}

// appendDigest appends a Digest, SHA-1 as upper-case hex.
func appendDigest(b, sum []byte) []byte {
	const digits = "0123456789ABCDEF"
	b, start := wire.Begin(b, 4)
	b = wire.AppendInt(b, 1, int64(v2.DigestType_SHA1))
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	b = append(b, 2*sha1.Size)
	for _, c := range sum {
		b = append(b, digits[c>>4], digits[c&15])
	}
	return wire.End(b, start)
}

// appendTime appends a Timestamp.
func appendTime(b []byte, field wire.Number, t time.Time) []byte {
	b, start := wire.Begin(b, field)
	b = wire.AppendInt(b, 1, t.Unix())
	b = wire.AppendInt(b, 2, int64(t.Nanosecond()))
	return wire.End(b, start)
}
