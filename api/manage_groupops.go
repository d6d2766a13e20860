package api

import (
	"context"
	"log/slog"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/commitlog/record"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
)

// groupOps is gantry.v1.GroupOps.
type groupOps struct {
	gantryv1.UnsafeGroupOpsServer // an RPC without a method must not compile

	broker *broker.Broker
	log    *slog.Logger
}

func (s *groupOps) Update(ctx context.Context, req *gantryv1.UpdateGroupRequest) (*gantryv1.UpdateGroupResponse, error) {
	c := broker.GroupChange{MaxAttempts: req.MaxAttempts, Paused: req.Paused}
	if req.MaxAttempts != nil && *req.MaxAttempts == 0 { // which a creation takes for the default
		return nil, rpcError(s.log, broker.Errorf(broker.BadRequest, "max attempts is 0, it must be 1 to %d", broker.MaxAttemptsLimit))
	}
	if req.GetRetry() != nil {
		retry, err := retryOf(req.GetSteps(), req.GetExponential())
		if err != nil {
			return nil, rpcError(s.log, err)
		}
		c.Retry = &retry
	}
	g, err := s.broker.UpdateGroup(ctx, record.Resource{Namespace: req.GetNamespace(), Name: req.GetName()}, c)
	if err != nil {
		return nil, rpcError(s.log, err)
	}
	return &gantryv1.UpdateGroupResponse{Group: wireGroup(g)}, nil
}

func (s *groupOps) Blocked(_ context.Context, req *gantryv1.BlockedRequest) (*gantryv1.BlockedResponse, error) {
	keys, err := s.broker.Blocked(groupOf(req), int(req.GetLimit()))
	if err != nil {
		return nil, rpcError(s.log, err)
	}
	resp := &gantryv1.BlockedResponse{}
	for _, k := range keys {
		resp.Keys = append(resp.Keys, &gantryv1.BlockedKey{
			Key: k.Key, LiteTopic: k.LiteTopic, Topic: k.Topic.Name, TopicNamespace: k.Topic.Namespace,
			Queue: k.Queue, Offset: int64(k.Offset), MessageId: k.MessageID, Attempt: k.Attempt, Stored: wireTime(k.Stored),
			Client: k.Owner, Since: wireTime(k.Since), Until: wireTime(k.Until), Behind: int64(k.Behind), More: k.More, History: wireAttempts(k.History),
		})
	}
	return resp, nil
}

func (s *groupOps) Skip(ctx context.Context, req *gantryv1.SkipRequest) (*gantryv1.SkipResponse, error) {
	topic := record.Resource{Namespace: req.GetNamespace(), Name: req.GetTopic()}
	if err := s.broker.Skip(ctx, groupOf(req), topic, req.GetQueue(), record.QueueOffset(req.GetOffset())); err != nil {
		return nil, rpcError(s.log, err)
	}
	return &gantryv1.SkipResponse{}, nil
}

func (s *groupOps) ResetOffset(ctx context.Context, req *gantryv1.ResetOffsetRequest) (*gantryv1.ResetOffsetResponse, error) {
	r := broker.ResetRequest{Queue: -1, DryRun: req.GetDryRun()}
	if req.Queue != nil {
		r.Queue = int32(min(req.GetQueue(), 1<<31-1))
	}
	switch to := req.GetTo().(type) {
	case *gantryv1.ResetOffsetRequest_Earliest:
		r.Policy = broker.OffsetBeginning
	case *gantryv1.ResetOffsetRequest_Latest:
		r.Policy = broker.OffsetEnd
	case *gantryv1.ResetOffsetRequest_Timestamp:
		r.Policy, r.Value = broker.OffsetTimestamp, unixMilli(to.Timestamp)
	case *gantryv1.ResetOffsetRequest_Offset:
		r.Policy, r.Value = broker.OffsetExact, to.Offset
	default:
		return nil, rpcError(s.log, broker.Errorf(broker.BadRequest, "the request does not say where the group goes on"))
	}
	topic := record.Resource{Namespace: req.GetNamespace(), Name: req.GetTopic()}
	queues, err := s.broker.ResetOffset(ctx, groupOf(req), topic, r)
	if err != nil {
		return nil, rpcError(s.log, err)
	}
	resp := &gantryv1.ResetOffsetResponse{}
	for _, q := range queues {
		w := &gantryv1.QueueReset{
			Queue: q.Queue, To: int64(q.To), MaxOffset: int64(q.Max), InFlight: int64(q.InFlight), Ready: int64(q.Ready),
		}
		if q.From != record.NoOffset {
			w.From = (*int64)(&q.From)
		}
		resp.Queues = append(resp.Queues, w)
	}
	return resp, nil
}

func (s *groupOps) Replay(req *gantryv1.ReplayRequest, stream gantryv1.GroupOps_ReplayServer) error {
	r := broker.ReplayRequest{Rate: int(req.GetRate()), DryRun: req.GetDryRun(), Resume: req.GetResume()}
	if req.GetFrom() != nil {
		r.From = max(1, unixMilli(req.GetFrom()))
	}
	if req.GetTo() != nil {
		r.To = max(1, unixMilli(req.GetTo()))
	}
	var err error
	if r.FilterType, r.Filter, err = oneFilter(req); err != nil {
		return rpcError(s.log, err)
	}
	topic := record.Resource{Namespace: req.GetNamespace(), Name: req.GetTopic()}
	p, err := s.broker.Replay(stream.Context(), groupOf(req), topic, r, func(p broker.ReplayProgress) error {
		return stream.Send(wireReplay(p))
	})
	if err != nil {
		return rpcError(s.log, err)
	}
	return stream.Send(wireReplay(p))
}

// oneFilter reads the filter of requests that have one of either language.
func oneFilter(req interface {
	GetTags() string
	GetSql() string
}) (broker.FilterType, string, error) {
	switch {
	case req.GetTags() != "" && req.GetSql() != "":
		return 0, "", broker.Errorf(broker.BadRequest, "a tag filter and an SQL filter are given: one of them")
	case req.GetSql() != "":
		return broker.FilterSQL, req.GetSql(), nil
	}
	return broker.FilterTag, req.GetTags(), nil
}

func (s *groupOps) CancelReplay(ctx context.Context, req *gantryv1.CancelReplayRequest) (*gantryv1.ReplayProgress, error) {
	topic := record.Resource{Namespace: req.GetNamespace(), Name: req.GetTopic()}
	p, err := s.broker.CancelReplay(ctx, groupOf(req), topic)
	if err != nil {
		return nil, rpcError(s.log, err)
	}
	return wireReplay(p), nil
}

func wireReplay(p broker.ReplayProgress) *gantryv1.ReplayProgress {
	return &gantryv1.ReplayProgress{Total: p.Total, Passed: p.Passed, Done: p.Done, Waiting: p.Waiting}
}
