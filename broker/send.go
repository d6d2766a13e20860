package broker

import (
	"context"
	"crypto/sha1"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// Send stores messages of one topic, all in one commit, and answers when they
// are as durable as the broker's mode says, and can be received. An error refuses all of them;
// otherwise each has its own outcome.
func (b *Broker) Send(ctx context.Context, msgs []Outgoing) ([]Sent, error) {
	return b.SendFrom(ctx, Caller{}, msgs)
}

// SendFrom is Send for somebody who may have quotas. When there are none, it need not be
// said for whom.
func (b *Broker) SendFrom(ctx context.Context, from Caller, msgs []Outgoing) ([]Sent, error) {
	if len(msgs) == 0 {
		return nil, Errorf(Corrupted, "no message was sent")
	}
	if len(msgs) > MaxSendBatch {
		return nil, Errorf(Corrupted, "%d messages in one request, the limit is %d", len(msgs), MaxSendBatch)
	}
	name := msgs[0].Topic
	if err := checkTopicName(name); err != nil {
		return nil, err
	}
	size := 0
	for i := range msgs {
		size += len(msgs[i].Body) + headBound(&msgs[i])
	}
	pass, err := b.admit(size)
	if err != nil {
		return nil, err
	}
	defer b.gate.Leave(pass)
	now := b.clock.Wall().UnixMilli()
	for i := range msgs {
		if msgs[i].Topic != name {
			return nil, Errorf(Corrupted, "message %d is for topic %q, the first one for %q", i, clip(msgs[i].Topic.String()), clip(name.String()))
		}
		if err := checkMessage(&msgs[i], now, b.opts.MaxDelay); err != nil {
			return nil, err
		}
	}
	tp, ok := b.topics.Lookup(name)
	if !ok {
		return nil, topicNotFound(name)
	}
	for i := range msgs {
		if err := checkType(&msgs[i], &tp); err != nil {
			return nil, err
		}
	}
	if tp.DedupWindow > 0 {
		return b.sendOnce(ctx, tp, from, msgs, now)
	}
	return b.store(ctx, tp, from, msgs, now)
}

// store appends messages that were checked, and waits until they are applied.
func (b *Broker) store(ctx context.Context, tp topic.Topic, from Caller, msgs []Outgoing, now int64) ([]Sent, error) {
	began := b.tracer.begin()
	s := sends.Get().(*sendState)
	lite, err := b.beginLite(ctx, tp, msgs, &s.batch)
	if err != nil {
		s.free()
		return nil, err
	}
	first := s.batch.Len() // records of new lite topics come before the messages
	size := s.encode(tp, msgs, now, lite)
	if err = b.throttleSend(&tp, from, len(msgs), size); err == nil {
		err = b.refusedAppend(b.append.Submit(&s.batch))
	}
	lite.end(err == nil)
	if err != nil {
		s.free()
		return nil, err
	}
	// Not the client's context: the bodies must stay put until the log has them.
	if err := b.await(&s.batch); err != nil {
		return nil, err // s is not reused: the log may still hold it
	}
	lite.applied()
	out := make([]Sent, len(msgs))
	for i := range out {
		at := record.OffsetOf(s.batch.Head(first + i))
		out[i] = Sent{MessageID: msgs[i].ID, Offset: at}
		if record.KindOf(s.batch.Head(first+i)) == record.KindDelayed {
			out[i].Offset = record.NoOffset
			if len(msgs) == 1 {
				out[i].RecallHandle = b.handles.Load().sealRecall(recall{tp.ID, msgs[i].DueTime, s.batch.Position(first + i), at})
			}
		}
		if msgs[i].Transaction {
			out[i].TransactionID = b.handles.Load().sealTransaction(tp.ID, s.batch.Position(first+i))
		}
	}
	s.free()
	b.counters.sends.Add(uint64(len(msgs)))
	b.tracer.stored(began, msgs)
	return out, nil
}

func topicNotFound(name record.Resource) error {
	return Errorf(TopicNotFound, "the topic %q does not exist", clip(name.String()))
}

// checkType holds a message's kind against the topic's type (wire-contract 4.2).
func checkType(m *Outgoing, tp *topic.Topic) error {
	kind := topic.Normal
	switch {
	case m.Transaction:
		kind = topic.Transaction
	case m.DueTime != 0:
		kind = topic.Delay
	case m.HasGroup:
		kind = topic.FIFO
	case m.HasPriority:
		kind = topic.Priority
	case m.LiteTopic != "":
		kind = topic.Lite
	}
	if kind != tp.Type && tp.Type != topic.Mixed && !isDLQ(*tp) {
		return Errorf(TypeConflict, "the message is of type %v, the topic %q takes %v", kind, tp.Name, tp.Type)
	}
	switch {
	case m.LiteTopic != "" && tp.Type != topic.Lite && tp.Type != topic.Mixed:
		return Errorf(TypeConflict, "the message is for a lite topic, the topic %q has none", tp.Name)
	case kind == topic.Transaction && (m.DueTime != 0 || m.LiteTopic != ""):
		return Errorf(TypeConflict, "a transactional message has no delivery time and no lite topic")
	case kind == topic.Delay && m.LiteTopic != "":
		return Errorf(TypeConflict, "a message with a delivery time has no lite topic")
	case m.LiteTopic != "":
		return checkLiteName(m.LiteTopic)
	}
	return nil
}

func isDLQ(tp topic.Topic) bool { return IsDLQ(tp.Name.Name) }

// IsDLQ reports whether a topic of that name is for a group's dead letters.
func IsDLQ(name string) bool { return len(name) > len(DLQPrefix) && name[:len(DLQPrefix)] == DLQPrefix }

// sendState is the scratch memory of one Send.
type sendState struct {
	batch commitlog.Batch
	heads []byte
	props []byte
}

var sends = sync.Pool{New: func() any { return new(sendState) }}

func (s *sendState) free() {
	s.batch.Reset()
	s.heads = s.heads[:0]
	if cap(s.heads) <= 64<<10 {
		sends.Put(s)
	}
}

// robin spreads messages without a message group over queues.
var robin atomic.Uint32

// encode fills the batch, and returns the size of the messages' records. Heads share one
// buffer that is made large enough first, because the batch aliases it.
func (s *sendState) encode(tp topic.Topic, msgs []Outgoing, now int64, lite *liteSend) (size int) {
	for i := range msgs {
		size += headBound(&msgs[i])
	}
	if cap(s.heads) < size {
		s.heads = make([]byte, 0, size)
	}
	spread := robin.Add(1) % tp.Queues
	size = 0
	for i := range msgs {
		m := &msgs[i]
		rec := record.Message{
			Topic: tp.ID, Offset: record.NoOffset,
			BornTime: m.BornTime, DueTime: m.DueTime, Priority: m.Priority, Body: m.Body,
		}
		if rec.BornTime <= 0 {
			rec.BornTime = now
		}
		rec.Kind, rec.Flags, rec.Queue = placeMessage(m, &tp, now, spread)
		if m.LiteTopic != "" {
			rec.Queue = lite.queues[i]
		}
		s.props = appendProperties(s.props[:0], m)
		rec.Properties = s.props
		at := len(s.heads)
		s.heads = record.AppendHead(s.heads, &rec)
		s.batch.Add(s.heads[at:len(s.heads):len(s.heads)], m.Body)
		size += len(s.heads) - at + len(m.Body)
	}
	return size
}

// placeMessage says what becomes of a message that was checked. It goes to the
// queue spread unless a rule gives it one; that of its lite topic is the caller's
// to know.
func placeMessage(m *Outgoing, tp *topic.Topic, now int64, spread uint32) (kind record.Kind, flags record.Flags, queue uint32) {
	kind, queue = record.KindMessage, spread
	switch {
	case m.Transaction:
		kind = record.KindHalf
	case m.DueTime > now:
		kind = record.KindDelayed
	}
	flags = m.Packing
	if tp.DedupWindow > 0 {
		flags |= record.FlagDedup
	}
	if m.HasPriority {
		flags |= record.FlagPriority
		queue = uint32(min(max(int64(m.Priority), 0), int64(tp.Queues)-1))
	}
	if m.HasGroup {
		flags |= record.FlagFIFO
		queue = record.Hash32(m.Group) % tp.Queues
	}
	return kind, flags, queue
}

// headBound is at least as large as the encoded head of m.
func headBound(m *Outgoing) int {
	n := 256 + len(m.ID) + len(m.Tag) + len(m.Group) + len(m.BornHost) + len(m.Trace) + len(m.LiteTopic)
	for _, k := range m.Keys {
		n += len(k) + 8
	}
	for _, p := range m.User {
		n += len(p.Key) + len(p.Value) + 16
	}
	return n
}

func appendProperties(dst []byte, m *Outgoing) []byte {
	dst = record.AppendField(dst, record.FieldMessageID, m.ID)
	if m.Tag != "" {
		dst = record.AppendField(dst, record.FieldTag, m.Tag)
	}
	for _, k := range m.Keys {
		dst = record.AppendField(dst, record.FieldKey, k)
	}
	if m.HasGroup {
		dst = record.AppendField(dst, record.FieldGroup, m.Group)
	}
	for _, p := range m.User {
		dst = record.AppendUser(dst, p.Key, p.Value)
	}
	if m.BornHost != "" {
		dst = record.AppendField(dst, record.FieldBornHost, m.BornHost)
	}
	if m.Trace != "" {
		dst = record.AppendField(dst, record.FieldTrace, m.Trace)
	}
	if m.LiteTopic != "" {
		dst = record.AppendField(dst, record.FieldLiteTopic, m.LiteTopic)
	}
	if m.RecoverySeconds > 0 {
		dst = record.AppendField(dst, record.FieldRecoverySec, strconv.FormatInt(m.RecoverySeconds, 10))
	}
	// Computed once: every delivery of every group carries it.
	sum := sha1.Sum(m.Body)
	dst = append(dst, byte(record.FieldSHA1))
	return record.AppendBytes(dst, sum[:])
}
