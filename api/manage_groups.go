package api

import (
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/access"
	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/commitlog/record"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
)

// CreateGroup refuses a name that is taken: a policy that silently replaced
// another one would be found out by its retries.
func (m *management) CreateGroup(ctx context.Context, req *gantryv1.CreateGroupRequest) (*gantryv1.CreateGroupResponse, error) {
	g := group.Group{
		Name:        record.Resource{Namespace: req.GetNamespace(), Name: req.GetName()},
		FIFO:        req.GetFifo(),
		MaxAttempts: req.GetMaxAttempts(),
		LiteTopic:   req.GetLiteTopic(),
	}
	if o := req.GetLite(); o != nil {
		g.Lite = group.Lite{Exclusive: o.GetExclusive(), Shared: o.GetShared(), Quota: o.GetQuota(), ResetTaken: o.GetResetTaken(), ResetLeft: o.GetResetLeft()}
	}
	var err error
	if g.Retry, err = retryOf(req.GetSteps(), req.GetExponential()); err != nil {
		return nil, rpcError(m.log, err)
	}
	if g, err = m.broker.CreateGroup(ctx, g); err != nil {
		return nil, rpcError(m.log, err)
	}
	return &gantryv1.CreateGroupResponse{Group: wireGroup(g)}, nil
}

// retryOf reads a retry policy, zero when it is left to the broker. What was
// given but is zero is refused here: the broker would take it for the default.
func retryOf(steps *gantryv1.RetrySteps, e *gantryv1.ExponentialRetry) (group.Retry, error) {
	var r group.Retry
	switch {
	case e != nil:
		r = group.Retry{Initial: e.GetInitial().AsDuration(), Max: e.GetMax().AsDuration(), Multiplier: e.GetMultiplier()}
		if r.Initial <= 0 || r.Max < r.Initial || !(r.Multiplier >= 1) {
			return r, broker.Errorf(broker.BadRequest, "exponential retry from %v to %v times %v: want 0 < initial <= max and a multiplier of at least 1",
				r.Initial, r.Max, r.Multiplier)
		}
	case steps != nil:
		for i, d := range steps.GetSteps() {
			if d.AsDuration() <= 0 {
				return r, broker.Errorf(broker.BadRequest, "retry step %d is %v, it must be positive", i, d.AsDuration())
			}
			r.Steps = append(r.Steps, d.AsDuration())
		}
		if len(r.Steps) == 0 {
			return r, broker.Errorf(broker.BadRequest, "no retry step, it must be 1 to %d", broker.MaxRetrySteps)
		}
	}
	return r, nil
}

func (m *management) DeleteGroup(ctx context.Context, req *gantryv1.DeleteGroupRequest) (*gantryv1.DeleteGroupResponse, error) {
	name := record.Resource{Namespace: req.GetNamespace(), Name: req.GetName()}
	if err := m.broker.DeleteGroup(ctx, name); err != nil {
		return nil, rpcError(m.log, err)
	}
	return &gantryv1.DeleteGroupResponse{}, nil
}

func (m *management) DescribeGroup(_ context.Context, req *gantryv1.DescribeGroupRequest) (*gantryv1.DescribeGroupResponse, error) {
	name := record.Resource{Namespace: req.GetNamespace(), Name: req.GetName()}
	g, queues, err := m.broker.GroupStatus(name)
	if err != nil {
		return nil, rpcError(m.log, err)
	}
	resp := &gantryv1.DescribeGroupResponse{Group: wireGroup(g), Topics: groupTopics(queues)}
	for _, c := range m.broker.Sessions().ByGroup(name) {
		resp.Clients = append(resp.Clients, wireClient(&c))
	}
	return resp, nil
}

// groupTopics gathers queues by topic, with sums.
func groupTopics(queues []broker.GroupQueueStatus) []*gantryv1.GroupTopic {
	slices.SortFunc(queues, func(a, b broker.GroupQueueStatus) int {
		if c := compare(a.Topic, b.Topic); c != 0 {
			return c
		}
		return int(a.Queue) - int(b.Queue)
	})
	var topics []*gantryv1.GroupTopic
	for _, q := range queues {
		last := len(topics) - 1
		if last < 0 || topics[last].Name != q.Topic.Name || topics[last].Namespace != q.Topic.Namespace {
			topics = append(topics, &gantryv1.GroupTopic{Name: q.Topic.Name, Namespace: q.Topic.Namespace})
			last++
		}
		lag := int64(q.Max-q.Cursor) + int64(q.Ready)
		t := topics[last]
		t.Lag += lag
		t.InFlight += int64(q.InFlight)
		t.Queues = append(t.Queues, &gantryv1.GroupQueue{
			Queue:     q.Queue,
			Cursor:    int64(q.Cursor),
			MaxOffset: int64(q.Max),
			Lag:       lag,
			InFlight:  int64(q.InFlight),
			Ready:     int64(q.Ready),
		})
	}
	return topics
}

func (m *management) ListGroups(ctx context.Context, req *gantryv1.ListGroupsRequest) (*gantryv1.ListGroupsResponse, error) {
	groups := m.broker.Groups()
	slices.SortFunc(groups, func(a, b group.Group) int { return compare(a.Name, b.Name) })
	resp := &gantryv1.ListGroupsResponse{}
	for _, g := range groups {
		if (req.Namespace == nil || *req.Namespace == g.Name.Namespace) && mayList(ctx, access.Group, g.Name) {
			resp.Groups = append(resp.Groups, wireGroup(g))
		}
	}
	return resp, nil
}

func wireGroup(g group.Group) *gantryv1.Group {
	w := &gantryv1.Group{
		Name:        g.Name.Name,
		Namespace:   g.Name.Namespace,
		Fifo:        g.FIFO,
		MaxAttempts: g.MaxAttempts,
		LiteTopic:   g.LiteTopic,
		Paused:      g.Paused,
		Created:     timestamppb.New(time.UnixMilli(g.Created)),
	}
	if l := g.Lite; l != (group.Lite{}) {
		w.Lite = &gantryv1.LiteOptions{Exclusive: l.Exclusive, Shared: l.Shared, Quota: l.Quota, ResetTaken: l.ResetTaken, ResetLeft: l.ResetLeft}
	}
	if len(g.Retry.Steps) == 0 {
		w.Retry = &gantryv1.Group_Exponential{Exponential: &gantryv1.ExponentialRetry{
			Initial:    durationpb.New(g.Retry.Initial),
			Max:        durationpb.New(g.Retry.Max),
			Multiplier: g.Retry.Multiplier,
		}}
		return w
	}
	steps := &gantryv1.RetrySteps{}
	for _, d := range g.Retry.Steps {
		steps.Steps = append(steps.Steps, durationpb.New(d))
	}
	w.Retry = &gantryv1.Group_Steps{Steps: steps}
	return w
}
