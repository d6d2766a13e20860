package api

import (
	"cmp"
	"context"
	"net"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/session"
	"github.com/gantry-mq/gantry/commitlog/record"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// adminLites bounds the lite topics that one answer tells apart.
const adminLites = 1000

// taken is one subscription of one connected consumer.
type taken struct {
	client session.Client
	session.Subscription
	consistent bool // all consumers of the group have it
}

// subscriptions are those of connected consumers to a topic, of a group, or both; at
// least one must be given.
func (a *admin) subscriptions(topic, group *v2.Resource) ([]taken, error) {
	if topic.GetName() == "" && group.GetName() == "" {
		return nil, broker.Errorf(broker.BadRequest, "neither a topic nor a group is given")
	}
	type shared struct {
		group record.Resource
		session.Subscription
	}
	members, having := map[record.Resource]int{}, map[shared]int{}
	clients := a.broker.Sessions().List()
	for _, c := range clients {
		members[c.Group]++
		for _, s := range c.Subscriptions {
			having[shared{c.Group, s}]++
		}
	}
	var all []taken
	for _, c := range clients {
		if c.Role == session.Producer || group.GetName() != "" && c.Group != resource(group) {
			continue
		}
		for _, s := range c.Subscriptions {
			if topic.GetName() == "" || s.Topic == resource(topic) {
				all = append(all, taken{c, s, having[shared{c.Group, s}] >= members[c.Group]})
			}
		}
	}
	return all, nil
}

// ListSubscription tells each group's subscriptions once: those of consumers that are
// connected, and the topics that a group has consumed before, whose filter nobody says
// at the moment.
func (a *admin) ListSubscription(_ context.Context, req *v2.ListSubscriptionRequest) (*v2.ListSubscriptionResponse, error) {
	online, err := a.subscriptions(req.GetTopic(), req.GetGroup())
	if err != nil {
		return &v2.ListSubscriptionResponse{Status: statusFor(a.log, err)}, nil
	}
	type pair struct{ group, topic record.Resource }
	type filtered struct {
		pair
		sql  bool
		text string
	}
	resp := &v2.ListSubscriptionResponse{Status: statusOK}
	told := map[filtered]*v2.SubscriptionInfo{}
	known := map[pair]bool{}
	for _, t := range online {
		p := pair{t.client.Group, t.Topic}
		known[p] = true
		f := filtered{p, t.SQL, t.Filter}
		if before := told[f]; before != nil {
			if at := timestamppb.New(t.client.LastSeen); at.AsTime().After(before.LastUpdateTimestamp.AsTime()) {
				before.LastUpdateTimestamp = at
			}
			continue
		}
		told[f] = t.info()
		resp.SubscriptionInfo = append(resp.SubscriptionInfo, told[f])
	}
	for _, s := range a.broker.Stats().Groups {
		if known[pair{s.Group, s.Topic}] || req.GetTopic().GetName() != "" && s.Topic != resource(req.GetTopic()) ||
			req.GetGroup().GetName() != "" && s.Group != resource(req.GetGroup()) {
			continue
		}
		model := v2.MessageModel_CLUSTERING
		if g, _ := a.broker.Group(s.Group); g.LiteTopic != "" {
			model = v2.MessageModel_LITE_SELECTIVE
		}
		resp.SubscriptionInfo = append(resp.SubscriptionInfo, &v2.SubscriptionInfo{
			Group: wireResource(s.Group), Topic: wireResource(s.Topic), MessageModel: model, SubscriptionConsistency: true,
		})
	}
	slices.SortStableFunc(resp.SubscriptionInfo, func(x, y *v2.SubscriptionInfo) int {
		return cmp.Or(compare(resource(x.Group), resource(y.Group)), compare(resource(x.Topic), resource(y.Topic)))
	})
	return resp, nil
}

func (a *admin) DescribeSubscription(_ context.Context, req *v2.DescribeSubscriptionRequest) (*v2.DescribeSubscriptionResponse, error) {
	online, err := a.subscriptions(req.GetTopic(), req.GetGroup())
	if err != nil {
		return &v2.DescribeSubscriptionResponse{Status: statusFor(a.log, err)}, nil
	}
	resp := &v2.DescribeSubscriptionResponse{Status: statusOK}
	for _, t := range online {
		resp.ClientSubscriptionInfo = append(resp.ClientSubscriptionInfo, &v2.DescribeSubscriptionResponse_ClientSubscriptionInfo{
			ClientInfo: clientInfo(&t.client), SubscriptionInfo: t.info(),
		})
	}
	return resp, nil
}

func (t *taken) info() *v2.SubscriptionInfo {
	return &v2.SubscriptionInfo{
		Group: wireResource(t.client.Group), Topic: wireResource(t.Topic), Expression: wireExpression(t.Subscription), Online: true,
		LastUpdateTimestamp: timestamppb.New(t.client.LastSeen), MessageModel: messageModel(&t.client), SubscriptionConsistency: t.consistent,
	}
}

func wireExpression(s session.Subscription) *v2.FilterExpression {
	e := &v2.FilterExpression{Type: v2.FilterType_TAG, Expression: s.Filter}
	if s.SQL {
		e.Type = v2.FilterType_SQL
	}
	return e
}

func messageModel(c *session.Client) v2.MessageModel {
	switch c.Role {
	case session.LitePushConsumer, session.LiteSimpleConsumer:
		return v2.MessageModel_LITE_SELECTIVE
	case session.Producer:
		return v2.MessageModel_MESSAGE_MODEL_UNSPECIFIED
	}
	return v2.MessageModel_CLUSTERING
}

func clientInfo(c *session.Client) *v2.ClientInfo {
	info := &v2.ClientInfo{ClientId: c.ID, Version: c.Version, Language: c.Language, Hostname: c.Host, EgressIp: c.Remote, MessageModel: messageModel(c)}
	if host, _, err := net.SplitHostPort(c.Remote); err == nil {
		info.EgressIp = host
	}
	return info
}

// DeleteSubscription is not there: what a group has consumed of a topic is its position
// in it, which goes with the group or the topic.
func (a *admin) DeleteSubscription(context.Context, *v2.DeleteSubscriptionRequest) (*v2.DeleteSubscriptionResponse, error) {
	return &v2.DeleteSubscriptionResponse{Status: &v2.Status{
		Code:    v2.Code_NOT_IMPLEMENTED,
		Message: "a subscription is its group's position in the topic: it ends with the group or the topic; ResetGroupOffset moves it",
	}}, nil
}

// DescribeGroupAccumulation tells what a group has not acknowledged, as a whole and of
// each topic. last_consume_timestamp is, as in the remoting protocol, when the newest
// message that it was handed was stored, not when it was handed it.
func (a *admin) DescribeGroupAccumulation(_ context.Context, req *v2.DescribeGroupAccumulationRequest) (*v2.DescribeGroupAccumulationResponse, error) {
	resp, err := a.accumulation(req)
	if err != nil {
		return &v2.DescribeGroupAccumulationResponse{Status: statusFor(a.log, err)}, nil
	}
	return resp, nil
}

func (a *admin) accumulation(req *v2.DescribeGroupAccumulationRequest) (*v2.DescribeGroupAccumulationResponse, error) {
	type accumulation = v2.DescribeGroupAccumulationResponse_GroupAccumulation
	queues, err := a.broker.Progress(resource(req.GetGroup()))
	if err != nil {
		return nil, err
	}
	resp := &v2.DescribeGroupAccumulationResponse{
		Status: statusOK, Accumulation: &accumulation{},
		TopicAccumulation: map[string]*accumulation{}, LiteTopicAccumulation: map[string]*accumulation{},
	}
	for _, t := range req.GetTopics() {
		if _, err := a.broker.Route(resource(t)); err != nil {
			return nil, err
		}
		resp.TopicAccumulation[resource(t).String()] = &accumulation{}
	}
	now := time.Now().UnixMilli()
	add := func(to *accumulation, q *broker.QueueProgress) {
		to.InflightMessages += int64(q.InFlight)
		to.ReadyMessages += int64(q.Max-q.Cursor) + int64(q.Ready)
		to.Accumulation = to.InflightMessages + to.ReadyMessages
		if waits := max(0, now-q.Next); q.Next > 0 && waits > to.GetDeliverDelayTime().AsDuration().Milliseconds() {
			to.DeliverDelayTime = durationpb.New(time.Duration(waits) * time.Millisecond)
		}
		to.LastConsumeTimestamp = max(to.LastConsumeTimestamp, q.Before)
	}
	at := func(of map[string]*accumulation, name string) *accumulation {
		if of[name] == nil {
			of[name] = &accumulation{}
		}
		return of[name]
	}
	for i := range queues {
		q := &queues[i]
		if len(req.GetTopics()) > 0 && !slices.ContainsFunc(req.GetTopics(), func(t *v2.Resource) bool { return resource(t) == q.Topic }) {
			continue
		}
		if req.LiteTopic != nil && q.LiteTopic != req.GetLiteTopic() {
			continue
		}
		add(resp.Accumulation, q)
		add(at(resp.TopicAccumulation, q.Topic.String()), q)
		if q.LiteTopic != "" && len(resp.LiteTopicAccumulation) < adminLites {
			add(at(resp.LiteTopicAccumulation, q.LiteTopic), q)
		}
	}
	return resp, nil
}

// QueryTimeSpan tells when the messages of each queue of a group were stored. A queue
// that the group is done with has no delay.
func (a *admin) QueryTimeSpan(_ context.Context, req *v2.QueryTimeSpanRequest) (*v2.QueryTimeSpanResponse, error) {
	queues, err := a.broker.Progress(resource(req.GetGroup()))
	if err != nil {
		return &v2.QueryTimeSpanResponse{Status: statusFor(a.log, err)}, nil
	}
	resp := &v2.QueryTimeSpanResponse{Status: statusOK}
	now := time.Now().UnixMilli()
	for _, q := range queues {
		if len(req.GetTopics()) > 0 && !slices.ContainsFunc(req.GetTopics(), func(t *v2.Resource) bool { return resource(t) == q.Topic }) {
			continue
		}
		span := &v2.QueryTimeSpanResponse_QueueTimeSpan{
			MessageQueue: a.wireQueue(q.Topic, q.Queue), MinTimestamp: q.First, MaxTimestamp: q.Last, ConsumeTimestamp: cmp.Or(q.Next, q.Last),
		}
		if q.Next > 0 {
			span.DelayTimeMs = max(0, now-q.Next)
		}
		resp.QueueTimeSpanList = append(resp.QueueTimeSpanList, span)
	}
	return resp, nil
}

func (a *admin) wireQueue(topic record.Resource, queue uint32) *v2.MessageQueue {
	return &v2.MessageQueue{
		Topic: wireResource(topic), Id: int32(queue), Permission: v2.Permission_READ_WRITE, Broker: &v2.Broker{Name: a.broker.Name()},
	}
}

// ListConsumerConnection lists the connected consumers of a group, those only that take
// a topic. Which lite topics one takes is not asked: a consumer that takes the parent
// is listed.
func (a *admin) ListConsumerConnection(_ context.Context, req *v2.ListConsumerConnectionRequest) (*v2.ListConsumerConnectionResponse, error) {
	group := resource(req.GetGroup())
	if _, ok := a.broker.Group(group); !ok {
		_, _, err := a.broker.GroupStatus(group)
		return &v2.ListConsumerConnectionResponse{Status: statusFor(a.log, err)}, nil
	}
	resp := &v2.ListConsumerConnectionResponse{Status: statusOK}
	for _, c := range a.broker.Sessions().ByGroup(group) {
		takes := func(s session.Subscription) bool { return s.Topic == resource(req.GetTopic()) }
		if req.GetTopic() == nil || slices.ContainsFunc(c.Subscriptions, takes) {
			resp.ClientInfo = append(resp.ClientInfo, clientInfo(&c))
		}
	}
	return resp, nil
}

// GetConsumerRunningInfo tells what the broker knows of a consumer: what it takes, its
// group's position in each queue, and what it holds. Clients of this contract do not
// report their own caches and rates.
func (a *admin) GetConsumerRunningInfo(_ context.Context, req *v2.GetConsumerRunningInfoRequest) (*v2.GetConsumerRunningInfoResponse, error) {
	group := resource(req.GetGroup())
	all := a.broker.Connected()
	i := slices.IndexFunc(all, func(c broker.ConnectedClient) bool {
		return c.ID == req.GetClientId() && c.Group == group && c.Role != session.Producer
	})
	if i < 0 {
		return &v2.GetConsumerRunningInfoResponse{Status: &v2.Status{
			Code: v2.Code_NOT_FOUND, Message: "no consumer of the group with this id is connected",
		}}, nil
	}
	c := &all[i]
	info := &v2.ConsumerRunningInfo{
		Properties: map[string]string{
			"PROP_CLIENT_VERSION": c.Version, "language": c.Language, "host": c.Host, "address": c.Remote,
			"connected": c.Connected.UTC().Format(time.RFC3339), "last_seen": c.LastSeen.UTC().Format(time.RFC3339),
		},
		Subscriptions: map[string]*v2.FilterExpression{},
	}
	for _, s := range c.Subscriptions {
		info.Subscriptions[s.Topic.String()] = wireExpression(s)
	}
	queues, err := a.broker.Progress(group)
	if err != nil {
		return &v2.GetConsumerRunningInfoResponse{Status: statusFor(a.log, err)}, nil
	}
	for _, q := range queues {
		info.MessageQueueTable = append(info.MessageQueueTable, &v2.MessageQueueItem{
			MessageQueue: a.wireQueue(q.Topic, q.Queue), ProcessQueueInfo: &v2.ProcessQueueInfo{CommitOffset: int64(q.Cursor)},
		})
	}
	return &v2.GetConsumerRunningInfoResponse{Status: statusOK, ConsumerRunningInfo: info}, nil
}

// ResetGroupOffset has a group go on at the first message stored at or after a time, in
// every queue; what it holds is void.
func (a *admin) ResetGroupOffset(ctx context.Context, req *v2.ResetGroupOffsetRequest) (*v2.ResetGroupOffsetResponse, error) {
	err := error(broker.Errorf(broker.BadRequest, "there is no reset_timestamp"))
	if req.GetResetTimestamp() != nil {
		_, err = a.broker.ResetOffset(ctx, resource(req.GetGroup()), resource(req.GetTopic()),
			broker.ResetRequest{Queue: -1, Policy: broker.OffsetTimestamp, Value: unixMilli(req.GetResetTimestamp())})
	}
	return &v2.ResetGroupOffsetResponse{Status: statusFor(a.log, err)}, nil
}
