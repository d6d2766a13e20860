package broker

import (
	"context"

	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/broker/lite"
	"github.com/gantry-mq/gantry/broker/longpoll"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// MaxLeaseBatch bounds the messages that one Next hands out under a lease.
const MaxLeaseBatch = 1024

// Subscription is a consumer of gantry.v1 that takes messages under leases: a
// Receive that goes on. It belongs to one goroutine, Settle to another.
type Subscription struct {
	b      *Broker
	req    ReceiveRequest
	lites  []string
	synced bool // the lite topics were named once
	lite   bool
	bind   lite.Bind
	topic  record.TopicID
	group  record.GroupID
	filter matcher
	sub    *inflight.Sub
	wait   *longpoll.Waiter // nil while paused
}

// Subscribe begins to consume. The client must be among the sessions, and with
// AutoRenew its leases end when it is no longer. Of the request, Queue, Batch,
// Wait and AttemptID mean nothing. Close it.
func (b *Broker) Subscribe(ctx context.Context, req ReceiveRequest, liteTopics []string) (*Subscription, error) {
	req.Queue = -1
	s := &Subscription{b: b, req: req, lites: liteTopics}
	if err := s.Touch(ctx); err != nil {
		return nil, err
	}
	r, err := b.newReceive(ctx, req)
	if err != nil {
		return nil, err
	}
	defer r.free()
	s.topic, s.group, s.filter, s.sub, s.lite, s.bind = r.topic.ID, r.group.ID, r.filter, r.sub, r.lite, r.bind
	return s, s.Resume()
}

// Touch says again which lite topics the consumer takes, as it must from time to
// time. Only the first time it takes them from another.
func (s *Subscription) Touch(ctx context.Context) error {
	if g, _ := s.b.groups.Lookup(s.req.Group); len(s.lites) == 0 && !g.Lite.Shared {
		return nil
	}
	action := LiteReplace
	if !s.synced && len(s.lites) > 0 {
		action = LiteAdd
	}
	err := s.b.SyncLite(ctx, s.req.ClientID, s.req.Group, s.req.Topic, action, s.lites, LiteOffset{})
	s.synced = s.synced || err == nil
	return err
}

// Next hands out what there is now: at most so many messages, and about as many
// bytes, but one message at least. Nil when there are none, a *quota.Excess while quotas
// hold it back. The leases are records in the log, and applied, before it returns.
func (s *Subscription) Next(ctx context.Context, bytes, messages int) ([]*Chunk, error) {
	tp, ok := s.b.topics.ByID(s.topic)
	if !ok {
		return nil, topicNotFound(s.req.Topic)
	}
	g, ok := s.b.groups.ByID(s.group)
	if !ok {
		return nil, groupNotFound(s.req.Group)
	}
	r := s.b.receiving(s.req, tp, g, s.filter, s.sub)
	defer r.free()
	r.lite, r.bind = s.lite, s.bind
	grant, short := r.grant(min(messages, MaxLeaseBatch), bytes)
	if short != nil {
		s.b.quotas.Throttle(short)
		return nil, short
	}
	taken := 0
	defer func() { grant.Done(taken, r.bytes) }() // before r is another's
	for {
		if err := r.gather(ctx); err != nil {
			s.b.hub.Wake(s.key()) // what this one was woken for may still be there
			return nil, err
		}
		if len(r.found) == 0 && r.more() {
			continue
		}
		break
	}
	if len(r.found) == 0 {
		return nil, nil
	}
	if r.full(r.req.Batch) || r.more() {
		s.b.hub.Wake(s.key())
	}
	taken = len(r.found)
	s.b.counters.deliveries.Add(uint64(taken))
	return r.chunks(), nil
}

// chunks is what was found, a chunk for each queue in turn. The views go over to
// them.
func (r *receiving) chunks() (out []*Chunk) {
	if r.topic.Type == topic.Priority {
		sortLevels(r.found)
	}
	for i := range r.found {
		f := &r.found[i]
		if len(out) == 0 || out[len(out)-1].Queue != f.held.Queue {
			_, high := r.bounds(f.held.Queue)
			out = append(out, &Chunk{Queue: f.held.Queue, End: high, LeaseEnd: f.held.Deadline})
		}
		out[len(out)-1].addLeased(r.b, f)
	}
	clear(r.found)
	r.found = r.found[:0]
	return out
}

// addLeased adds one message, to the last run if it goes on there.
func (c *Chunk) addLeased(b *Broker, f *found) {
	padded := record.Padded(len(f.loaded.view.Bytes()))
	c.held = append(c.held, f.held)
	c.Messages++
	c.Bytes += padded
	if n := len(c.Runs); n > 0 && f.loaded.origin == nil {
		run := &c.Runs[n-1]
		if run.Origin == nil && run.Attempt == f.held.Attempt && run.Offset+record.QueueOffset(run.Count) == f.held.Offset &&
			run.LeaseID+uint64(run.Count) == f.held.LeaseID && run.Position+record.Position(len(run.Records)) == f.loaded.pos {
			// The view of the run is one reference for all of it.
			run.Count++
			run.Records = run.Records[:len(run.Records)+padded]
			f.loaded.view.Release()
			return
		}
	}
	c.views = append(c.views, f.loaded.view)
	c.Runs = append(c.Runs, Run{
		Offset: f.held.Offset, Count: 1, Position: f.loaded.pos, Attempt: f.held.Attempt, LeaseID: f.held.LeaseID,
		Origin: f.loaded.origin, Records: f.loaded.view.Padded(),
	})
}

func (s *Subscription) key() longpoll.Key {
	k := longpoll.Key{Topic: s.topic, Group: s.group}
	if s.lite {
		k.Client = s.bind.Client
	}
	return k
}

// Woken tells that there may be something to hand out, nil while paused. Whoever
// received from it calls Requeue, and then Next until that has nothing.
func (s *Subscription) Woken() <-chan struct{} {
	if s.wait == nil {
		return nil
	}
	return s.wait.Woken()
}

// Requeue has the subscription told again.
func (s *Subscription) Requeue() { s.wait.Requeue() }

// Pause has other consumers told, not this one, until Resume.
func (s *Subscription) Pause() {
	if s.wait != nil {
		s.wait.Leave()
		s.wait = nil
		s.b.hub.Wake(s.key())
	}
}

// Resume ends a Pause. Look with Next afterwards.
func (s *Subscription) Resume() (err error) {
	if s.wait == nil {
		if s.wait, err = s.b.hub.Register(s.key()); err != nil {
			return Errorf(TooManyRequests, "too many consumers of group %q wait for topic %q: %w", s.req.Group, s.req.Topic, err)
		}
	}
	return nil
}

// Close ends the subscription.
func (s *Subscription) Close() { s.Pause() }

// GiveBack makes what chunks hold visible again after ReleaseDelay: they were not
// delivered. It does not wait.
func (s *Subscription) GiveBack(chunks []*Chunk) {
	var held []inflight.Held
	now := s.b.now()
	for _, c := range chunks {
		for _, h := range c.held {
			if h, err := s.sub.BeginMove(h.Queue, h.Offset, h.LeaseID, now); err == nil {
				held = append(held, h)
			}
		}
	}
	s.b.releaseHeld(s.sub, held, ReleaseDelay)
}
