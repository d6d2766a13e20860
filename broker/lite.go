package broker

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/broker/lite"
	"github.com/gantry-mq/gantry/broker/session"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// checkLiteName refuses what cannot be a lite topic's name: wire-contract 4.8.
func checkLiteName(name string) error {
	switch {
	case strings.TrimSpace(name) == "":
		return Errorf(IllegalLiteTopic, "the lite topic is blank")
	case len(name) > MaxLiteTopicLen:
		return Errorf(IllegalLiteTopic, "the lite topic has %d bytes, the limit is %d", len(name), MaxLiteTopicLen)
	case badName(name) || strings.ContainsAny(name, "%|"):
		return Errorf(IllegalLiteTopic, "the lite topic %q has characters outside [a-zA-Z0-9_-]", clip(name))
	}
	return nil
}

// queueExists reports whether a queue is there, of a topic that is. Only lite
// queues come and go by themselves.
func (b *Broker) queueExists(key record.QueueKey) bool {
	return key.Queue() < lite.FirstQueue || b.lites.Has(key)
}

// liteSend is the part of a Send that concerns lite topics: which queue each
// message goes to, and the records that make those that do not exist yet. They
// go into the log in one batch with the first message, so that there is never
// one without the other.
type liteSend struct {
	b      *Broker
	gated  bool
	made   map[liteName]uint32
	queues []uint32 // by message; 0 = not a lite message
}

type liteName struct {
	parent record.TopicID
	name   string
}

// beginLite resolves the lite topics of msgs. It must be ended.
func (b *Broker) beginLite(ctx context.Context, tp topic.Topic, msgs []Outgoing, batch *commitlog.Batch) (*liteSend, error) {
	if !slices.ContainsFunc(msgs, func(m Outgoing) bool { return m.LiteTopic != "" }) {
		return nil, nil
	}
	s := &liteSend{b: b, queues: make([]uint32, len(msgs))}
	if s.resolve(tp, msgs) {
		return s, nil
	}
	// Some are new. Until their records are applied only liteMade knows them, and
	// whoever uses it must submit after their maker: one sender at a time.
	select {
	case b.liteGate <- struct{}{}:
	case <-ctx.Done():
		return nil, Errorf(Unavailable, "the request ended before its turn: %w", ctx.Err())
	}
	s.gated, s.made = true, map[liteName]uint32{}
	b.liteMu.Lock()
	defer b.liteMu.Unlock()
	next := b.lites.Next(tp.ID)
	for key, q := range b.liteMade {
		if key.parent == tp.ID {
			next = max(next, q+1)
		}
	}
	for i := range msgs {
		if msgs[i].LiteTopic == "" {
			continue
		}
		key := liteName{tp.ID, strings.Clone(msgs[i].LiteTopic)} // it outlives the request
		q, ok := b.lites.Lookup(tp.ID, key.name)
		if !ok {
			q, ok = b.liteMade[key]
		}
		if !ok {
			q, ok = s.made[key]
		}
		if !ok {
			if b.lites.Count()+len(b.liteMade)+len(s.made) >= MaxLiteTopics {
				<-b.liteGate
				return nil, Errorf(LiteTopicQuota, "the broker has %d lite topics, the limit is %d", b.lites.Count(), MaxLiteTopics)
			}
			q = next
			next++
			s.made[key] = q
			batch.Add(lite.AppendPut(nil, tp.ID, q, key.name), nil)
		}
		s.queues[i] = q
	}
	return s, nil
}

// resolve fills in the queues of lite topics that exist and reports whether all do.
func (s *liteSend) resolve(tp topic.Topic, msgs []Outgoing) bool {
	for i := range msgs {
		if msgs[i].LiteTopic == "" {
			continue
		}
		q, ok := s.b.lites.Lookup(tp.ID, msgs[i].LiteTopic)
		if !ok {
			return false
		}
		s.queues[i] = q
	}
	return true
}

// end lets the next sender make lite topics. submitted says whether the records
// are in the log's order.
func (s *liteSend) end(submitted bool) {
	if s == nil || !s.gated {
		return
	}
	if submitted {
		s.b.liteMu.Lock()
		maps.Copy(s.b.liteMade, s.made)
		s.b.liteMu.Unlock()
	}
	<-s.b.liteGate
}

// applied forgets what this send made: the table knows it now.
func (s *liteSend) applied() {
	if s == nil || len(s.made) == 0 {
		return
	}
	s.b.liteMu.Lock()
	defer s.b.liteMu.Unlock()
	for key := range s.made {
		delete(s.b.liteMade, key)
	}
}

// LiteAction is what a client asks of its lite subscriptions.
type LiteAction int

const (
	LiteAdd LiteAction = iota
	LiteRemove
	LiteReplace
	LiteClear
)

// LiteOffset says where a new subscription begins.
type LiteOffset struct {
	Policy    LiteOffsetPolicy
	Value     int64 // an offset, a number of messages, or Unix ms
	Requested bool
}

// LiteOffsetPolicy is the meaning of a LiteOffset.
type LiteOffsetPolicy int

const (
	LiteKeep LiteOffsetPolicy = iota // where the group is
	LiteMin
	LiteMax
	LiteAt   // Value
	LiteTail // Value messages before where the group is
	LiteTime // the first message stored at Value or later
)

// SyncLite changes a client's lite subscriptions below a parent topic.
func (b *Broker) SyncLite(ctx context.Context, client string, groupName, topicName record.Resource, action LiteAction, names []string, from LiteOffset) error {
	tp, err := b.Route(topicName)
	if err != nil {
		return err
	}
	if tp.Type != topic.Lite && tp.Type != topic.Mixed {
		return Errorf(TypeConflict, "the topic %q takes %v messages and has no lite topics", tp.Name, tp.Type)
	}
	g, err := b.EnsureGroup(ctx, groupName)
	if err != nil {
		return err
	}
	if g.LiteTopic != "" && g.LiteTopic != tp.Name.Name {
		return Errorf(PreconditionFailed, "the group %q is bound to topic %q", g.Name, g.LiteTopic)
	}
	for _, n := range names {
		if err := checkLiteName(n); err != nil {
			return err
		}
	}
	bind := lite.Bind{Client: client, Group: g.ID, Topic: tp.ID}
	now := time.Now()
	switch action {
	case LiteAdd:
		err = b.liteSubs.Change(bind, names, nil, false, now)
	case LiteRemove:
		err = b.liteSubs.Change(bind, nil, names, false, now)
	case LiteReplace:
		err = b.liteSubs.Change(bind, names, nil, true, now)
	case LiteClear:
		err = b.liteSubs.Change(bind, nil, nil, true, now)
	default:
		return Errorf(BadRequest, "the lite subscription action %d is unknown", action)
	}
	if errors.Is(err, lite.ErrQuota) {
		return Errorf(LiteSubscriptionQuota, "too many lite subscriptions: the limit is %d for a client, %d for all", lite.ClientQuota, lite.TotalQuota)
	}
	if err != nil {
		return err
	}
	if action == LiteAdd && from.Requested && from.Policy != LiteKeep {
		if err := b.startLite(g.ID, tp, names, from); err != nil {
			return err
		}
	}
	b.hub.WakeTopic(tp.ID) // what was subscribed to may have messages already
	return nil
}

// startLite moves a group to where a new subscription asks to begin.
func (b *Broker) startLite(g record.GroupID, tp topic.Topic, names []string, from LiteOffset) error {
	sub := inflight.SubKey{Group: g, Topic: tp.ID}
	batch := &commitlog.Batch{}
	for _, q := range b.lites.Resolve(nil, tp.ID, names) {
		key := record.Key(tp.ID, q)
		low, high, _ := b.index.Bounds(key)
		at := low
		switch from.Policy {
		case LiteMax:
			at = high
		case LiteAt:
			at = record.QueueOffset(from.Value)
		case LiteTail:
			s := b.inflight.Find(sub)
			if s == nil {
				continue
			}
			committed, ok := s.Committed(q)
			if !ok {
				continue // only back from where the group is, wire-contract 4.8
			}
			at = committed - record.QueueOffset(from.Value)
		case LiteTime:
			var err error
			if at, err = b.index.OffsetAt(key, from.Value); err != nil {
				return err
			}
		}
		batch.Add(inflight.AppendCursor(nil, sub, q, min(max(at, low), high)), nil)
	}
	if batch.Len() == 0 {
		return nil
	}
	return b.commit(batch)
}

// liteOrder is the queues that a client of a lite group receives from.
func (r *receiving) liteOrder() iter.Seq[uint32] {
	names, _ := r.b.liteSubs.Names(lite.Bind{Client: r.req.ClientID, Group: r.group.ID, Topic: r.topic.ID})
	return slices.Values(r.b.lites.Resolve(nil, r.topic.ID, names))
}

// isLite reports whether this receive takes lite topics: all do on a lite
// parent, and on a mixed one those whose clients have subscribed to some.
func (r *receiving) isLite() bool {
	if r.topic.Type != topic.Mixed {
		return r.topic.Type == topic.Lite
	}
	_, ok := r.b.liteSubs.Names(lite.Bind{Client: r.req.ClientID, Group: r.group.ID, Topic: r.topic.ID})
	return ok
}

// expireLite deletes lite topics that nobody has written to for their parent's
// time, with what groups know of them, and tells who had subscribed.
func (b *Broker) expireLite(now time.Time) {
	b.liteSubs.Expire(time.Now())
	for _, tp := range b.topics.List() {
		if tp.LiteTTL == 0 {
			continue
		}
		before := now.Add(-max(tp.LiteTTL, MinLiteTTL)).UnixMilli()
		for _, l := range b.lites.List(tp.ID) {
			if b.lastWrite(record.Key(tp.ID, l.Queue), now) >= before {
				continue
			}
			if err := b.commit(record1(lite.AppendDelete(nil, tp.ID, l.Queue))); err != nil {
				b.log.Warn("lite topic not deleted", "topic", tp.Name, "lite_topic", l.Name, "error", err)
				return
			}
			for _, had := range b.liteSubs.Remove(tp.ID, l.Name) {
				b.sessions.Send(had.Client, session.UnsubscribeLite{LiteTopic: l.Name})
			}
		}
	}
}

// lastWrite returns when a queue got its last message, now if that is not known.
func (b *Broker) lastWrite(key record.QueueKey, now time.Time) int64 {
	var e [1]consumequeue.Entry
	low, high, ok := b.index.Bounds(key)
	if !ok || low == high {
		return now.UnixMilli()
	}
	if n, err := b.index.Read(key, high-1, e[:]); err != nil || n == 0 {
		return now.UnixMilli()
	}
	return e[0].StoreTime
}
