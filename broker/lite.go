package broker

import (
	"cmp"
	"context"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/broker/lite"
	"github.com/gantry-mq/gantry/broker/longpoll"
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
func (b *Broker) queueExists(key record.QueueKey) bool { return !key.Lite() || b.lites.Has(key) }

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
	b.liteFence.RLock()
	if s.resolve(tp, msgs) {
		return s, nil
	}
	b.liteFence.RUnlock()
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

// resolve fills in the queues of lite topics that exist, and are to stay, and
// reports whether all do.
func (s *liteSend) resolve(tp topic.Topic, msgs []Outgoing) bool {
	for i := range msgs {
		if msgs[i].LiteTopic == "" {
			continue
		}
		q, ok := s.b.lites.Lookup(tp.ID, msgs[i].LiteTopic)
		if !ok || s.b.liteGoing[record.Key(tp.ID, q)] {
			return false
		}
		s.queues[i] = q
	}
	return true
}

// end lets the next sender make lite topics. submitted says whether the records
// are in the log's order.
func (s *liteSend) end(submitted bool) {
	if s == nil {
		return
	}
	if !s.gated {
		s.b.liteFence.RUnlock()
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
	for key, q := range s.made {
		if s.b.liteMade[key] == q { // else it was deleted and made again meanwhile
			delete(s.b.liteMade, key)
		}
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
	if client == "" {
		return Errorf(BadRequest, "the client has no id")
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
	if g.Lite.Shared {
		if action == LiteAdd {
			return Errorf(PreconditionFailed, "the group %q has all lite topics of %q: its clients subscribe to none by name", g.Name, tp.Name)
		}
		b.liteSubs.Share(g.ID, tp.ID, b.lites.Names(tp.ID), time.Now())
		b.hub.Wake(longpoll.Key{Topic: tp.ID, Group: g.ID})
		return nil
	}
	change := lite.Change{Exclusive: g.Lite.Exclusive, Quota: cmp.Or(int(g.Lite.Quota), DefaultLiteQuota)}
	switch action {
	case LiteAdd:
		change.Add = names
	case LiteRemove:
		change.Remove = names
	case LiteReplace:
		change.Add, change.Replace = names, true
	case LiteClear:
		change.Replace = true
	default:
		return Errorf(BadRequest, "the lite subscription action %d is unknown", action)
	}
	if action == LiteAdd && from.Requested && from.Policy != LiteKeep {
		// First, or what is before it could be handed out.
		if err := b.startLite(g.ID, tp, names, from); err != nil {
			return err
		}
	}
	bind := lite.Bind{Client: client, Group: g.ID, Topic: tp.ID}
	lost, err := b.liteSubs.Change(bind, change, time.Now())
	if err != nil {
		return Errorf(LiteSubscriptionQuota, "too many lite subscriptions: the limit is %d for a client, %d for all: %w", change.Quota, MaxLiteSubscriptions, err)
	}
	b.tellLost(lost)
	var again []string
	switch {
	case action == LiteAdd && g.Lite.ResetTaken:
		for _, l := range lost {
			again = append(again, l.Name)
		}
	case action == LiteRemove && g.Lite.ResetLeft:
		again = names
	}
	if len(again) > 0 {
		if err := b.startLite(g.ID, tp, again, LiteOffset{Policy: LiteMin}); err != nil {
			return err
		}
	}
	b.hub.Wake(longpoll.Key{Topic: tp.ID, Group: g.ID, Client: client}) // there may be messages already
	return nil
}

// tellLost tells clients which lite topics they do not have any more. One that
// cannot be told now says at its next sync, within 30 s, that it has them, and is
// told then.
func (b *Broker) tellLost(lost []lite.Lost) {
	for _, l := range lost {
		if err := b.sessions.Send(l.Client, session.UnsubscribeLite{LiteTopic: l.Name}); err != nil {
			b.log.Info("a client was not told that it lost a lite topic", "client", l.Client, "lite_topic", l.Name, "error", err)
		}
	}
}

// startLite moves a group to where a new subscription asks to begin.
func (b *Broker) startLite(g record.GroupID, tp topic.Topic, names []string, from LiteOffset) error {
	sub := inflight.SubKey{Group: g, Topic: tp.ID}
	batch := &commitlog.Batch{}
	for _, name := range names {
		q, ok := b.lites.Lookup(tp.ID, name)
		if !ok {
			continue // it will begin at its first message
		}
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

// findLite says whether this receive takes lite topics, and whose: all do on a
// lite parent, and on a mixed one those whose clients have subscribed to some.
func (r *receiving) findLite() {
	r.bind = lite.Bind{Client: r.req.ClientID, Group: r.group.ID, Topic: r.topic.ID}
	if r.group.Lite.Shared {
		r.bind.Client = ""
	}
	r.lite = r.topic.Type == topic.Lite || r.topic.Type == topic.Mixed && r.b.liteSubs.Known(r.bind)
}

// hinted is the lite queues that may have something for this receive. Who takes
// one from it looks, and says so again when there is more.
func (r *receiving) hinted() iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		for {
			name, ok := r.b.liteSubs.Next(r.bind)
			if !ok {
				return
			}
			if q, ok := r.b.lites.Lookup(r.topic.ID, name); ok && !yield(q) {
				return
			}
		}
	}
}

// hintAgain hints at what this receive planned to take and left.
func (r *receiving) hintAgain(now int64) {
	looked := func(yield func(uint32) bool) {
		for _, l := range r.plan {
			if !yield(l.Queue) {
				return
			}
		}
	}
	for _, l := range r.sub.PlanLite(looked, r.bounds, len(r.plan), now) {
		r.b.wakeLite(r.b.hintLite(nil, record.Key(r.topic.ID, l.Queue), r.group.ID))
	}
}

// liteFreed is told by the dispatcher's apply that the next message of a lite
// queue is up.
func (b *Broker) liteFreed(key inflight.SubKey, queue uint32) {
	b.wakes.lites = b.hintLite(b.wakes.lites, record.Key(key.Topic, queue), key.Group)
}

// hintLite hints at a lite queue that may have something, for a group, 0 = for all,
// and appends to told who is to be woken for it.
func (b *Broker) hintLite(told []lite.Bind, key record.QueueKey, group record.GroupID) []lite.Bind {
	name := b.lites.Name(key)
	if name == "" {
		return told
	}
	return b.liteSubs.Hint(told, key.Topic(), name, group)
}

// wakeLite wakes who waits for lite topics that were hinted at.
func (b *Broker) wakeLite(told []lite.Bind) {
	for _, bind := range told {
		b.hub.Wake(longpoll.Key{Topic: bind.Topic, Group: bind.Group, Client: bind.Client})
	}
}

// expireLite deletes lite topics that nobody has written to for their parent's
// time.
func (b *Broker) expireLite(now time.Time) {
	for _, tp := range b.topics.List() {
		if tp.LiteTTL == 0 {
			continue
		}
		before := now.Add(-max(tp.LiteTTL, MinLiteTTL)).UnixMilli()
		_, unknown := b.lites.Idle(tp.ID, before)
		for _, l := range unknown {
			key := record.Key(tp.ID, l.Queue)
			b.lites.Wrote(key, b.lastWrite(key, now))
		}
		idle, _ := b.lites.Idle(tp.ID, before)
		for part := range slices.Chunk(idle, liteDeleteBatch) {
			if err := b.deleteLite(tp, part); err != nil {
				b.log.Warn("lite topics not deleted", "topic", tp.Name, "error", err)
				return
			}
		}
	}
}

// liteDeleteBatch is how many lite topics are deleted in one record batch.
const liteDeleteBatch = 1000

// deleteLite deletes lite topics with what groups know of them, unless they are
// written to meanwhile, and tells who had subscribed. A message whose sender has
// looked its lite topic up is submitted before the delete, which is then void;
// the next sender waits, and makes the lite topic again.
func (b *Broker) deleteLite(tp topic.Topic, list []lite.Topic) error {
	select {
	case b.liteGate <- struct{}{}:
		defer func() { <-b.liteGate }()
	case <-b.ctx.Done():
		return b.ctx.Err()
	}
	batch := &commitlog.Batch{}
	going := map[record.QueueKey]bool{}
	for _, l := range list {
		key := record.Key(tp.ID, l.Queue)
		going[key] = true
		batch.Add(lite.AppendDelete(nil, key, b.nextOffset(key)), nil)
	}
	// The table knows them, or did: a maker that has not been told so yet must not
	// lead a sender into what is deleted.
	b.liteMu.Lock()
	for _, l := range list {
		delete(b.liteMade, liteName{tp.ID, l.Name})
	}
	b.liteMu.Unlock()
	b.liteFence.Lock()
	b.liteGoing = going
	err := b.append.Submit(batch)
	b.liteFence.Unlock()
	if err == nil {
		err = b.await(batch)
	}
	b.liteFence.Lock()
	b.liteGoing = nil
	b.liteFence.Unlock()
	if err != nil {
		return err
	}
	for _, l := range list {
		if b.lites.Has(record.Key(tp.ID, l.Queue)) {
			continue
		}
		for _, had := range b.liteSubs.Remove(tp.ID, l.Name) {
			b.tellLost([]lite.Lost{{Bind: had, Name: l.Name}})
		}
	}
	return nil
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
