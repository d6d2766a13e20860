package broker

import (
	"cmp"
	"context"
	"reflect"
	"slices"
	"time"

	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// changeTables runs change while no other change of the topic and group tables
// is under way: it may look at them, decide, and return the record to append.
// An empty record appends nothing.
func (b *Broker) changeTables(ctx context.Context, change func() ([]byte, error)) error {
	select {
	case b.tableOp <- struct{}{}:
	case <-ctx.Done():
		return Errorf(Unavailable, "the request ended before its turn: %w", ctx.Err())
	}
	defer func() { <-b.tableOp }()
	cmd, err := change()
	if err != nil || len(cmd) == 0 {
		return err
	}
	return b.commit(record1(cmd))
}

// CreateTopic makes a topic. Zero Type and Queues mean normal and
// DefaultQueues. It is usable when CreateTopic returns.
func (b *Broker) CreateTopic(ctx context.Context, tp topic.Topic) (topic.Topic, error) {
	if err := checkTopicName(tp.Name); err != nil {
		return topic.Topic{}, err
	}
	if err := completeTopic(&tp); err != nil {
		return topic.Topic{}, err
	}
	err := b.changeTables(ctx, func() ([]byte, error) {
		if _, ok := b.topics.Lookup(tp.Name); ok {
			return nil, Errorf(AlreadyExists, "the topic %q exists", tp.Name)
		}
		tp.ID = b.topics.NextID()
		tp.Created = b.now()
		return topic.AppendPut(nil, tp), nil
	})
	return tp, err
}

// completeTopic fills in defaults and checks limits.
func completeTopic(tp *topic.Topic) error {
	tp.Type = cmp.Or(tp.Type, topic.Normal)
	tp.Queues = cmp.Or(tp.Queues, DefaultQueues)
	if _, ok := topic.ParseType(tp.Type.String()); !ok {
		return Errorf(BadRequest, "the topic type %d is unknown", tp.Type)
	}
	if tp.Queues > MaxQueues {
		return Errorf(BadRequest, "%d queues, the limit is %d", tp.Queues, MaxQueues)
	}
	if tp.LiteTTL != 0 && (tp.LiteTTL < MinLiteTTL || tp.LiteTTL > MaxLiteTTL) {
		return Errorf(BadRequest, "the time of lite topics is %v, it must be 0 or %v to %v", tp.LiteTTL, MinLiteTTL, MaxLiteTTL)
	}
	if tp.RetainAge != 0 && tp.RetainAge < MinRetainAge {
		return Errorf(BadRequest, "the retention age is %v, it must be 0 or at least %v", tp.RetainAge, MinRetainAge)
	}
	if tp.RetainSize < 0 {
		return Errorf(BadRequest, "the retention size is %d bytes, it must be 0 or more", tp.RetainSize)
	}
	return completeDedup(&tp.Dedup)
}

func completeDedup(d *topic.Dedup) error {
	if *d == (topic.Dedup{}) {
		return nil
	}
	d.DedupKey = cmp.Or(d.DedupKey, topic.DedupByID)
	d.DedupMax = cmp.Or(d.DedupMax, DefaultDedupMax)
	switch {
	case d.DedupWindow < MinDedupWindow || d.DedupWindow > MaxDedupWindow:
		return Errorf(BadRequest, "the deduplication window is %v, it must be %v to %v, or 0 without a key or number", d.DedupWindow, MinDedupWindow, MaxDedupWindow)
	case !d.DedupKey.Valid() || len(d.DedupKey) > MaxDedupKeyLen:
		return Errorf(BadRequest, "the deduplication key is %q, it must be id, key or property:NAME", clip(string(d.DedupKey)))
	case d.DedupMax > MaxDedupMax:
		return Errorf(BadRequest, "%d messages to remember, the limit is %d", d.DedupMax, MaxDedupMax)
	}
	return nil
}

// TopicChange says what to change of a topic. What is nil stays.
type TopicChange struct {
	Queues      *uint32 // more than before: queues do not go
	LiteTTL     *time.Duration
	RetainAge   *time.Duration
	RetainSize  *int64
	DedupWindow *time.Duration // 0 ends it
	DedupKey    *topic.DedupKey
	DedupMax    *uint32
}

// UpdateTopic changes a topic, and returns it as it is from now on.
//
// Messages of one message group, or of one priority, that are sent after a change
// of the number of queues may go to another queue than those before, and may
// overtake them there.
func (b *Broker) UpdateTopic(ctx context.Context, name record.Resource, c TopicChange) (tp topic.Topic, err error) {
	err = b.changeTables(ctx, func() ([]byte, error) {
		old, err := b.Route(name)
		if err != nil {
			return nil, err
		}
		tp = old
		set(&tp.Queues, c.Queues)
		set(&tp.LiteTTL, c.LiteTTL)
		set(&tp.RetainAge, c.RetainAge)
		set(&tp.RetainSize, c.RetainSize)
		if set(&tp.DedupWindow, c.DedupWindow); tp.DedupWindow == 0 {
			tp.Dedup = topic.Dedup{}
		}
		set(&tp.DedupKey, c.DedupKey)
		set(&tp.DedupMax, c.DedupMax)
		switch {
		case tp.Queues < old.Queues:
			return nil, Errorf(BadRequest, "%d queues, the topic %q has %d: queues can be added, not taken away", tp.Queues, tp.Name, old.Queues)
		case tp.Queues > old.Queues && isDLQ(tp):
			return nil, Errorf(BadRequest, "the topic %q is that of dead letters, which has one queue", tp.Name)
		}
		if err := completeTopic(&tp); err != nil || tp == old {
			return nil, err
		}
		return topic.AppendPut(nil, tp), nil
	})
	return tp, err
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

// DeleteTopic deletes a topic with all that groups know of it. Its messages go
// with the segments they are in.
func (b *Broker) DeleteTopic(ctx context.Context, name record.Resource) error {
	return b.changeTables(ctx, func() ([]byte, error) {
		tp, err := b.Route(name)
		if err != nil {
			return nil, err
		}
		return topic.AppendDelete(nil, tp.ID), nil
	})
}

// Topics returns all topics in order of creation.
func (b *Broker) Topics() []topic.Topic { return b.topics.List() }

// Route returns a topic: IllegalTopic or TopicNotFound if there is none.
func (b *Broker) Route(name record.Resource) (topic.Topic, error) {
	if err := checkTopicName(name); err != nil {
		return topic.Topic{}, err
	}
	tp, ok := b.topics.Lookup(name)
	if !ok {
		return topic.Topic{}, topicNotFound(name)
	}
	return tp, nil
}

// Assignment returns the queues of a topic that a consumer of the group polls: -1,
// any queue, or each queue by itself when the group is ordered.
func (b *Broker) Assignment(tp topic.Topic, groupName record.Resource) ([]int32, error) {
	if err := checkGroupName(groupName); err != nil {
		return nil, err
	}
	if g, ok := b.groups.Lookup(groupName); !ok || !g.FIFO {
		return []int32{-1}, nil
	}
	queues := make([]int32, tp.Queues)
	for i := range queues {
		queues[i] = int32(i)
	}
	return queues, nil
}

// TopicStatus returns a topic with the bounds of its queues.
func (b *Broker) TopicStatus(name record.Resource) (TopicStatus, error) {
	tp, err := b.Route(name)
	if err != nil {
		return TopicStatus{}, err
	}
	return b.topicStatus(tp), nil
}

func (b *Broker) topicStatus(tp topic.Topic) TopicStatus {
	st := TopicStatus{Topic: tp}
	for q := range tp.Queues {
		low, high, _ := b.index.Bounds(record.Key(tp.ID, q))
		st.Queues = append(st.Queues, QueueStatus{Queue: q, Min: low, Max: high})
	}
	return st
}

// CreateGroup makes a group: AlreadyExists when there is one of that name.
func (b *Broker) CreateGroup(ctx context.Context, g group.Group) (group.Group, error) {
	if err := checkGroupName(g.Name); err != nil {
		return group.Group{}, err
	}
	if err := completeGroup(&g); err != nil {
		return group.Group{}, err
	}
	err := b.changeTables(ctx, func() ([]byte, error) {
		if _, ok := b.groups.Lookup(g.Name); ok {
			return nil, Errorf(AlreadyExists, "the group %q exists", g.Name)
		}
		g.ID, g.Created = b.groups.NextID(), b.now()
		return group.AppendPut(nil, g), nil
	})
	return g, err
}

// GroupChange is what to change of a group. What is nil stays as it is.
type GroupChange struct {
	MaxAttempts *int32
	Retry       *group.Retry
	Paused      *bool // it is handed nothing; what it holds it may settle
}

// UpdateGroup changes a group. A message that is already waiting for its next attempt
// keeps its time.
func (b *Broker) UpdateGroup(ctx context.Context, name record.Resource, c GroupChange) (g group.Group, err error) {
	err = b.changeTables(ctx, func() ([]byte, error) {
		old, ok := b.groups.Lookup(name)
		if !ok {
			return nil, groupNotFound(name)
		}
		g = old
		set(&g.MaxAttempts, c.MaxAttempts)
		set(&g.Retry, c.Retry)
		set(&g.Paused, c.Paused)
		if err := completeGroup(&g); err != nil || reflect.DeepEqual(g, old) {
			return nil, err
		}
		return group.AppendPut(nil, g), nil
	})
	return g, err
}

// completeGroup fills in defaults and checks limits.
func completeGroup(g *group.Group) error {
	if g.MaxAttempts == 0 {
		g.MaxAttempts = DefaultAttempts
	}
	if g.MaxAttempts < 1 || g.MaxAttempts > MaxAttemptsLimit {
		return Errorf(BadRequest, "max attempts is %d, it must be 1 to %d", g.MaxAttempts, MaxAttemptsLimit)
	}
	r := &g.Retry
	if len(r.Steps) == 0 && r.Initial == 0 {
		r.Steps = group.DefaultSteps()
	}
	if len(r.Steps) > MaxRetrySteps {
		return Errorf(BadRequest, "%d retry steps, the limit is %d", len(r.Steps), MaxRetrySteps)
	}
	for _, s := range r.Steps {
		if s < 0 || s > MaxInvisible {
			return Errorf(BadRequest, "a retry step is %v, it must be 0 to %v", s, MaxInvisible)
		}
	}
	if len(r.Steps) == 0 {
		if r.Max == 0 {
			r.Max = 2 * time.Hour
		}
		if r.Multiplier == 0 {
			r.Multiplier = 2
		}
		if r.Initial < 0 || r.Max < r.Initial || r.Max > MaxInvisible || !(r.Multiplier >= 1 && r.Multiplier <= 100) {
			return Errorf(BadRequest, "exponential retry from %v to %v times %v: want 0 <= initial <= max <= %v and a multiplier of 1 to 100", r.Initial, r.Max, r.Multiplier, MaxInvisible)
		}
	}
	switch {
	case g.Lite.Exclusive && g.Lite.Shared:
		return Errorf(BadRequest, "lite topics are either exclusive to one client or shared by all")
	case g.Lite.Quota > MaxLiteQuota:
		return Errorf(BadRequest, "the lite topics of one client are %d, the limit is %d", g.Lite.Quota, MaxLiteQuota)
	}
	if g.LiteTopic != "" {
		if err := checkTopicName(record.Resource{Namespace: g.Name.Namespace, Name: g.LiteTopic}); err != nil {
			return err
		}
	}
	return nil
}

// EnsureGroup returns the group, which comes into being here when it is named
// for the first time and the broker allows that.
func (b *Broker) EnsureGroup(ctx context.Context, name record.Resource) (group.Group, error) {
	if err := checkGroupName(name); err != nil {
		return group.Group{}, err
	}
	if g, ok := b.groups.Lookup(name); ok {
		return g, nil
	}
	if !b.opts.AutoCreateGroups {
		return group.Group{}, groupNotFound(name)
	}
	if b.opts.NewGroup != nil {
		return b.groupElsewhere(ctx, name)
	}
	g := group.Group{Name: name}
	if err := completeGroup(&g); err != nil {
		return group.Group{}, err
	}
	err := b.changeTables(ctx, func() ([]byte, error) {
		if old, ok := b.groups.Lookup(name); ok {
			g = old
			return nil, nil
		}
		g.ID, g.Created = b.groups.NextID(), b.now()
		return group.AppendPut(nil, g), nil
	})
	return g, err
}

func groupNotFound(name record.Resource) error {
	return Errorf(GroupNotFound, "the consumer group %q does not exist", clip(name.String()))
}

// DeleteGroup deletes a group with all its progress. Its dead letters stay.
func (b *Broker) DeleteGroup(ctx context.Context, name record.Resource) error {
	return b.changeTables(ctx, func() ([]byte, error) {
		g, ok := b.groups.Lookup(name)
		if !ok {
			return nil, groupNotFound(name)
		}
		return group.AppendDelete(nil, g.ID), nil
	})
}

// Groups returns all groups in order of creation.
func (b *Broker) Groups() []group.Group { return b.groups.List() }

// Group returns a group.
func (b *Broker) Group(name record.Resource) (group.Group, bool) { return b.groups.Lookup(name) }

// GroupStatus returns a group and how far it is in every queue it has touched.
func (b *Broker) GroupStatus(name record.Resource) (group.Group, []GroupQueueStatus, error) {
	g, ok := b.groups.Lookup(name)
	if !ok {
		return group.Group{}, nil, groupNotFound(name)
	}
	var out []GroupQueueStatus
	for _, s := range b.inflight.Subs() {
		if s.Key().Group != g.ID {
			continue
		}
		st, _ := b.subStatus(s)
		out = append(out, st...)
	}
	return g, out, nil
}

func (b *Broker) subStatus(s *inflight.Sub) (out []GroupQueueStatus, delivered uint64) {
	tp, ok := b.topics.ByID(s.Key().Topic)
	if !ok {
		return nil, 0
	}
	queues, delivered := s.Status(b.now())
	slices.SortFunc(queues, func(a, b inflight.QueueStatus) int { return cmp.Compare(a.Queue, b.Queue) })
	for _, q := range queues {
		_, high, _ := b.index.Bounds(record.Key(tp.ID, q.Queue))
		out = append(out, GroupQueueStatus{Topic: tp.Name, Queue: q.Queue, Cursor: q.Cursor, Max: high, InFlight: q.InFlight, Ready: q.Ready, Oldest: q.Oldest})
	}
	return out, delivered
}
