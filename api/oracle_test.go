package api

import (
	"context"
	"crypto/sha1"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/commitlog/record"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// What is read and written on the wire format is held against these, which go
// through protobuf's objects.

// outgoingByProto reads one message of a send. It looks at nothing: every rule is the
// broker's. Its strings and body alias m.
func outgoingByProto(ctx context.Context, m *v2.Message) broker.Outgoing {
	p := m.GetSystemProperties()
	out := broker.Outgoing{
		Topic:       resource(m.GetTopic()),
		ID:          p.GetMessageId(),
		Body:        m.GetBody(),
		Tag:         p.GetTag(),
		Keys:        p.GetKeys(),
		Group:       p.GetMessageGroup(),
		HasGroup:    p != nil && p.MessageGroup != nil,
		BornHost:    p.GetBornHost(),
		Trace:       p.GetTraceContext(),
		HasPriority: p != nil && p.Priority != nil,
		Priority:    p.GetPriority(),
		LiteTopic:   p.GetLiteTopic(),
		Transaction: p.GetMessageType() == v2.MessageType_TRANSACTION,
	}
	if p.GetBodyEncoding() == v2.Encoding_GZIP {
		out.Packing = record.FlagGzip
	}
	if len(m.GetUserProperties()) > 0 {
		out.User = make([]broker.Property, 0, len(m.GetUserProperties()))
		for k, v := range m.GetUserProperties() {
			out.User = append(out.User, broker.Property{Key: k, Value: v})
		}
	}
	if out.BornHost == "" {
		out.BornHost = remoteAddr(ctx)
	}
	if t := p.GetBornTimestamp(); t.IsValid() {
		out.BornTime = max(0, unixMilli(t))
	}
	if t := p.GetDeliveryTimestamp(); t != nil {
		// Presence alone makes it a delay message: a time at or before 1970 is
		// one that is due now, not one without a time.
		out.DueTime = max(1, unixMilli(t))
	}
	d := p.GetOrphanedTransactionRecoveryDuration().AsDuration()
	out.RecoverySeconds = int64(d / time.Second)
	if d%time.Second > 0 {
		out.RecoverySeconds++
	}
	return out
}

// envelope is a v2.Message with all it points to, so that a delivery costs one
// allocation here and not a dozen.
type envelope struct {
	message          v2.Message
	topic            v2.Resource
	properties       v2.SystemProperties
	digest           v2.Digest
	born, store, due timestamppb.Timestamp
	offset           int64
	attempt          int32
	handle           string
}

// deliveredByProto makes the message a client receives. Its body aliases d's until the
// Delivery is released. storeHost is host:port of this server.
func deliveredByProto(d *broker.Delivered, storeHost string) (*v2.Message, error) {
	m := &d.Message
	e := &envelope{
		offset:  int64(d.Offset),
		attempt: max(1, d.Attempt), // SDKs index their back-off tables with attempt-1
		handle:  d.Handle,
	}
	setTime(&e.born, m.BornTime)
	setTime(&e.store, m.StoreTime)
	e.topic.ResourceNamespace, e.topic.Name = d.Topic.Namespace, d.Topic.Name
	p := &e.properties
	p.BodyDigest = &e.digest
	p.BodyEncoding = v2.Encoding_IDENTITY
	p.MessageType = v2.MessageType_NORMAL
	p.BornTimestamp = &e.born
	p.StoreTimestamp = &e.store
	p.StoreHost = storeHost
	p.QueueId = int32(d.Queue)
	p.QueueOffset = &e.offset
	p.DeliveryAttempt = &e.attempt
	if d.Handle != "" {
		p.ReceiptHandle = &e.handle
	}
	if m.Flags&record.FlagGzip != 0 {
		p.BodyEncoding = v2.Encoding_GZIP
	}
	if m.Flags&record.FlagPriority != 0 {
		p.Priority = &m.Priority
		p.MessageType = v2.MessageType_PRIORITY
	}
	if d.Origin != nil {
		p.DeadLetterQueue = &v2.DeadLetterQueue{Topic: d.Origin.Topic, MessageId: d.Origin.MessageID}
	}
	e.message.Topic = &e.topic
	e.message.SystemProperties = p
	e.message.Body = m.Body
	p.MessageId = d.ID

	var sum []byte
	err := m.Properties.Each(func(f record.Field, key, value []byte) bool {
		switch f {
		case record.FieldUser:
			if e.message.UserProperties == nil {
				e.message.UserProperties = make(map[string]string)
			}
			e.message.UserProperties[string(key)] = string(value)
		case record.FieldMessageID:
			p.MessageId = string(value)
		case record.FieldTag:
			p.Tag = ptr(string(value))
		case record.FieldKey:
			p.Keys = append(p.Keys, string(value))
		case record.FieldGroup:
			p.MessageGroup = ptr(string(value))
			p.MessageType = v2.MessageType_FIFO
		case record.FieldBornHost:
			p.BornHost = string(value)
		case record.FieldTrace:
			p.TraceContext = ptr(string(value))
		case record.FieldSHA1:
			sum = value
		case record.FieldLiteTopic:
			p.LiteTopic = ptr(string(value))
			p.MessageType = v2.MessageType_LITE
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	if len(sum) != sha1.Size {
		// Clients throw away a message whose digest is absent or wrong.
		computed := sha1.Sum(m.Body)
		sum = computed[:]
	}
	e.digest.Type = v2.DigestType_SHA1
	e.digest.Checksum = upperHex(sum)
	if m.DueTime != 0 {
		setTime(&e.due, m.DueTime)
		p.DeliveryTimestamp = &e.due
		p.MessageType = v2.MessageType_DELAY
	}
	return &e.message, nil
}

func setTime(t *timestamppb.Timestamp, unixMs int64) {
	at := time.UnixMilli(unixMs)
	t.Seconds, t.Nanos = at.Unix(), int32(at.Nanosecond())
}

func upperHex(b []byte) string {
	const digits = "0123456789ABCDEF"
	s := make([]byte, 0, 2*sha1.Size)
	for _, c := range b {
		s = append(s, digits[c>>4], digits[c&15])
	}
	return string(s)
}
