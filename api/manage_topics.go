package api

import (
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/access"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
)

func (m *management) CreateTopic(ctx context.Context, req *gantryv1.CreateTopicRequest) (*gantryv1.CreateTopicResponse, error) {
	if _, known := gantryv1.TopicType_name[int32(req.GetType())]; !known {
		return nil, rpcError(m.log, broker.Errorf(broker.BadRequest, "the topic type %d is unknown", req.GetType()))
	}
	created, err := m.broker.CreateTopic(ctx, topic.Topic{
		Name:   record.Resource{Namespace: req.GetNamespace(), Name: req.GetName()},
		Type:   topic.Type(req.GetType()), // numbered alike
		Queues: req.GetQueues(),

		LiteTTL:   req.GetLiteTtl().AsDuration(),
		Retention: topic.Retention{RetainAge: req.GetRetentionAge().AsDuration(), RetainSize: req.GetRetentionSize()},
		Dedup: topic.Dedup{
			DedupWindow: req.GetDedupWindow().AsDuration(), DedupKey: topic.DedupKey(req.GetDedupKey()), DedupMax: req.GetDedupMax(),
		},
	})
	if err != nil {
		return nil, rpcError(m.log, err)
	}
	return &gantryv1.CreateTopicResponse{Topic: wireTopic(created)}, nil
}

func (m *management) DeleteTopic(ctx context.Context, req *gantryv1.DeleteTopicRequest) (*gantryv1.DeleteTopicResponse, error) {
	name := record.Resource{Namespace: req.GetNamespace(), Name: req.GetName()}
	if err := m.broker.DeleteTopic(ctx, name); err != nil {
		return nil, rpcError(m.log, err)
	}
	return &gantryv1.DeleteTopicResponse{}, nil
}

func (m *management) DescribeTopic(_ context.Context, req *gantryv1.DescribeTopicRequest) (*gantryv1.DescribeTopicResponse, error) {
	s, err := m.broker.DescribeTopic(record.Resource{Namespace: req.GetNamespace(), Name: req.GetName()})
	if err != nil {
		return nil, rpcError(m.log, err)
	}
	resp := &gantryv1.DescribeTopicResponse{
		Topic: wireTopic(s.Topic), Bytes: s.Bytes, BytesEstimated: s.Estimated,
		DedupRemembered: int64(s.Remembered.Count), DedupSince: wireTime(s.Remembered.Oldest),
	}
	for _, q := range s.Queues {
		resp.Queues = append(resp.Queues, &gantryv1.TopicQueue{
			Queue: q.Queue, MinOffset: int64(q.Min), MaxOffset: int64(q.Max),
		})
		resp.Messages += int64(q.Max - q.Min)
	}
	slices.SortFunc(resp.Queues, func(a, b *gantryv1.TopicQueue) int { return int(a.Queue) - int(b.Queue) })
	return resp, nil
}

func (m *management) ListTopics(ctx context.Context, req *gantryv1.ListTopicsRequest) (*gantryv1.ListTopicsResponse, error) {
	topics := m.broker.Topics()
	slices.SortFunc(topics, func(a, b topic.Topic) int { return compare(a.Name, b.Name) })
	resp := &gantryv1.ListTopicsResponse{}
	for _, t := range topics {
		if (req.Namespace == nil || *req.Namespace == t.Name.Namespace) && mayList(ctx, access.Topic, t.Name) {
			resp.Topics = append(resp.Topics, wireTopic(t))
		}
	}
	return resp, nil
}

func wireTopic(t topic.Topic) *gantryv1.Topic {
	return &gantryv1.Topic{
		Name:      t.Name.Name,
		Namespace: t.Name.Namespace,
		Type:      gantryv1.TopicType(t.Type),
		Queues:    t.Queues,
		Created:   timestamppb.New(time.UnixMilli(t.Created)),
		LiteTtl:   wireDuration(t.LiteTTL),

		RetentionAge:  wireDuration(t.RetainAge),
		RetentionSize: t.RetainSize,
		DedupWindow:   wireDuration(t.DedupWindow),
		DedupKey:      string(t.DedupKey),
		DedupMax:      t.DedupMax,
	}
}

// wireDuration is unset for 0.
func wireDuration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}
