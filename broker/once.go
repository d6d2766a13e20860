package broker

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"

	"github.com/gantry-mq/gantry/broker/dedup"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// sendOnce is store for a topic with a deduplication window: a message that was
// stored within it is answered with its first result. It is claimed before it is
// appended, and remembered when its record is applied; so of all that send the
// same message at one time, in one request or in several, one stores it, and the
// others wait for that one. now is the wall's time, Unix ms.
func (b *Broker) sendOnce(ctx context.Context, tp topic.Topic, from Caller, msgs []Outgoing, now int64) ([]Sent, error) {
	out := make([]Sent, len(msgs))
	keys := make([]dedup.Key, len(msgs))
	left := make([]int, len(msgs)) // of msgs, without an answer yet
	var identity []byte
	for i := range msgs {
		if identity = appendIdentity(identity[:0], tp.DedupKey, &msgs[i]); len(identity) > 0 {
			keys[i] = dedup.KeyOf(identity)
		}
		left[i] = i
	}
	for {
		claimed := make([]dedup.Key, len(left))
		for j, i := range left {
			claimed[j] = keys[i]
		}
		claim := b.dedup.Begin(tp.ID, claimed, b.now())
		err := b.storeClaimed(ctx, tp, from, claim, msgs, left, out, now)
		claim.End()
		if err != nil {
			return nil, err
		}
		var again []int
		for j, v := range claim.Verdicts {
			i := left[j]
			switch {
			case v.First != nil:
				if out[i], err = b.sentFirst(tp, &msgs[i], v.First, len(msgs) == 1); err != nil {
					return nil, err
				}
				b.counters.duplicates.Add(1)
			case v.Twin:
				out[i] = out[left[v.Index]]
				b.counters.duplicates.Add(1)
			case v.Busy != nil:
				again = append(again, i)
				select {
				case <-v.Busy:
				case <-ctx.Done():
					return nil, Errorf(Unavailable, "the same message is being stored for another request, which did not end in time: %w", ctx.Err())
				}
			}
		}
		if len(again) == 0 {
			return out, nil
		}
		left, now = again, b.clock.Wall().UnixMilli()
	}
}

// storeClaimed stores those of msgs[left] that the claim leaves to this sender.
func (b *Broker) storeClaimed(ctx context.Context, tp topic.Topic, from Caller, claim *dedup.Claim, msgs []Outgoing, left []int, out []Sent, now int64) error {
	var mine []Outgoing
	for j := range claim.Verdicts {
		if claim.Verdicts[j].Mine() {
			mine = append(mine, msgs[left[j]])
		}
	}
	if len(mine) == 0 {
		return nil
	}
	sent, err := b.store(ctx, tp, from, mine, now)
	if err != nil {
		return err
	}
	for j := range claim.Verdicts {
		if claim.Verdicts[j].Mine() {
			out[left[j]], sent = sent[0], sent[1:]
		}
	}
	return nil
}

// sentFirst answers a message that was stored before. single says that its
// request had no other.
func (b *Broker) sentFirst(tp topic.Topic, m *Outgoing, first *dedup.First, single bool) (Sent, error) {
	s := Sent{MessageID: m.ID, Offset: first.Offset}
	switch {
	case first.Due != 0:
		s.Offset = record.NoOffset
		if single {
			s.RecallHandle = b.handles.Load().sealRecall(recall{tp.ID, first.Due, first.Position, first.Offset})
		}
	case first.Offset == record.NoOffset:
		s.TransactionID = b.handles.Load().sealTransaction(tp.ID, first.Position)
	}
	id, err := b.firstID(tp, first)
	s.MessageID = cmp.Or(id, s.MessageID)
	return s, err
}

// firstID returns what a message that was stored before is called, "" when that is
// not known any more, or the same as the one that was sent again.
func (b *Broker) firstID(tp topic.Topic, first *dedup.First) (string, error) {
	if tp.DedupKey == topic.DedupByID {
		return "", nil
	}
	v, stored, err := b.viewMessage(first.Position)
	if errors.Is(err, errTrimmed) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer v.Release()
	return b.messageID(&stored, first.Position), nil
}

// A message is identified by, each with its length before it,
//
//	the topic's deduplication key | lite topic, if any | id, or all keys, or property
//
// and not at all when it has no key, or no such property, or an empty one.

// appendIdentity appends what identifies a message that is to be sent, nothing
// when nothing does.
func appendIdentity(dst []byte, by topic.DedupKey, m *Outgoing) []byte {
	dst = appendPart(appendPart(dst, string(by)), m.LiteTopic)
	n := len(dst)
	name, _ := by.Property()
	switch by {
	case topic.DedupByID:
		if m.ID != "" {
			dst = appendPart(dst, m.ID)
		}
	case topic.DedupByKey:
		for _, k := range m.Keys {
			dst = appendPart(dst, k)
		}
	default:
		for _, p := range m.User {
			if p.Key == name && p.Value != "" {
				dst = appendPart(dst, p.Value)
			}
		}
	}
	if len(dst) == n {
		return dst[:0]
	}
	return dst
}

// appendStoredIdentity is appendIdentity for the properties of a record.
func appendStoredIdentity(dst []byte, by topic.DedupKey, properties record.Properties) ([]byte, error) {
	lite, _ := properties.Lookup(record.FieldLiteTopic)
	dst = appendPart(appendPart(dst, string(by)), lite)
	n := len(dst)
	name, _ := by.Property()
	err := properties.Each(func(f record.Field, key, value []byte) bool {
		if f == record.FieldMessageID && by == topic.DedupByID ||
			f == record.FieldKey && by == topic.DedupByKey ||
			f == record.FieldUser && name != "" && string(key) == name && len(value) > 0 {
			dst = appendPart(dst, value)
		}
		return true
	})
	if err != nil || len(dst) == n {
		return dst[:0], err
	}
	return dst, nil
}

func appendPart[T string | []byte](dst []byte, part T) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(part))), part...)
}

// remember applies a message record with FlagDedup to what its topic remembers.
func (b *Broker) remember(pos record.Position, rec []byte) error {
	tp, ok := b.topics.ByID(record.KeyOf(rec).Topic())
	if !ok || tp.DedupWindow == 0 {
		return nil // deleted, or changed, since it was sent
	}
	m, err := record.ParseMessage(rec)
	if err != nil {
		return err
	}
	var scratch [128]byte
	identity, err := appendStoredIdentity(scratch[:0], tp.DedupKey, m.Properties)
	if err != nil || len(identity) == 0 {
		return err
	}
	b.dedup.Apply(tp.ID, dedup.KeyOf(identity), firstOf(pos, &m))
	return nil
}

// firstOf is what is remembered of a message.
func firstOf(pos record.Position, m *record.Message) dedup.First {
	first := dedup.First{Position: pos, Queue: m.Queue, Offset: m.Offset, Time: m.StoreTime}
	if m.Kind == record.KindDelayed {
		first.Due = m.DueTime
	}
	return first
}
