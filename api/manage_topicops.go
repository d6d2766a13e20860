package api

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
)

// topicOps is gantry.v1.TopicOps.
type topicOps struct {
	gantryv1.UnsafeTopicOpsServer // an RPC without a method must not compile

	broker *broker.Broker
	log    *slog.Logger
}

func (s *topicOps) Update(ctx context.Context, req *gantryv1.UpdateTopicRequest) (*gantryv1.UpdateTopicResponse, error) {
	tp, err := s.broker.UpdateTopic(ctx, record.Resource{Namespace: req.GetNamespace(), Name: req.GetName()}, broker.TopicChange{
		Queues:      req.Queues,
		LiteTTL:     changed(req.GetLiteTtl()),
		RetainAge:   changed(req.GetRetentionAge()),
		RetainSize:  req.RetentionSize,
		DedupWindow: changed(req.GetDedupWindow()),
		DedupKey:    (*topic.DedupKey)(req.DedupKey),
		DedupMax:    req.DedupMax,
	})
	if err != nil {
		return nil, rpcError(s.log, err)
	}
	return &gantryv1.UpdateTopicResponse{Topic: wireTopic(tp)}, nil
}

func (s *topicOps) Purge(ctx context.Context, req *gantryv1.PurgeTopicRequest) (*gantryv1.PurgeTopicResponse, error) {
	p := broker.PurgeRequest{DryRun: req.GetDryRun()}
	if req.GetBefore() != nil {
		p.Before = max(1, unixMilli(req.GetBefore()))
	}
	purged, err := s.broker.PurgeTopic(ctx, record.Resource{Namespace: req.GetNamespace(), Name: req.GetName()}, p)
	if err != nil {
		return nil, rpcError(s.log, err)
	}
	resp := &gantryv1.PurgeTopicResponse{Messages: purged.Messages, Delayed: purged.Delayed, Half: purged.Half}
	for _, q := range purged.Queues {
		resp.Queues = append(resp.Queues, &gantryv1.TopicQueue{Queue: q.Queue, MinOffset: int64(q.Min), MaxOffset: int64(q.Max)})
	}
	return resp, nil
}

func (s *topicOps) DeleteMessage(ctx context.Context, req *gantryv1.DeleteMessageRequest) (*gantryv1.DeleteMessageResponse, error) {
	topic := record.Resource{Namespace: req.GetNamespace(), Name: req.GetTopic()}
	d, err := s.broker.DeleteMessage(ctx, topic, req.GetMessageId())
	if err != nil {
		return nil, rpcError(s.log, err)
	}
	return &gantryv1.DeleteMessageResponse{Entries: int32(d.Entries), Delayed: int32(d.Delayed), Half: int32(d.Half)}, nil
}

// changed is nil for a duration that is unset.
func changed(d *durationpb.Duration) *time.Duration {
	if d == nil {
		return nil
	}
	v := d.AsDuration()
	return &v
}
