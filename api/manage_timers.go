package api

import (
	"cmp"
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/commitlog/record"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
)

func (m *management) ListTimers(ctx context.Context, req *gantryv1.ListTimersRequest) (*gantryv1.ListTimersResponse, error) {
	q := broker.TimerQuery{
		Topic: record.Resource{Namespace: req.GetNamespace(), Name: req.GetTopic()},
		Key:   req.GetKey(), MessageID: req.GetMessageId(), Limit: int(cmp.Or(req.GetLimit(), 100)),
	}
	if t := req.GetFrom(); t != nil {
		q.From = unixMilli(t)
	}
	if t := req.GetTo(); t != nil {
		q.To = max(1, unixMilli(t))
	}
	list, err := m.broker.Timers(ctx, q)
	if err != nil {
		return nil, rpcError(m.log, err)
	}
	resp := &gantryv1.ListTimersResponse{}
	for _, t := range list {
		resp.Timers = append(resp.Timers, &gantryv1.Timer{
			MessageId: t.MessageID, Handle: t.Handle, Tag: t.Tag, Keys: t.Keys, Queue: t.Queue, Bytes: int64(t.Bytes),
			Due:    timestamppb.New(time.UnixMilli(t.Due)),
			Born:   timestamppb.New(time.UnixMilli(t.Born)),
			Stored: timestamppb.New(time.UnixMilli(t.Stored)),
		})
	}
	return resp, nil
}

func (m *management) CancelTimer(ctx context.Context, req *gantryv1.CancelTimerRequest) (*gantryv1.CancelTimerResponse, error) {
	topic := record.Resource{Namespace: req.GetNamespace(), Name: req.GetTopic()}
	handle, err := m.timerHandle(ctx, topic, req.GetHandle(), req.GetMessageId())
	if err != nil {
		return nil, rpcError(m.log, err)
	}
	id, err := m.broker.Recall(ctx, topic, handle)
	if err != nil {
		return nil, rpcError(m.log, err)
	}
	return &gantryv1.CancelTimerResponse{MessageId: id}, nil
}

func (m *management) RescheduleTimer(ctx context.Context, req *gantryv1.RescheduleTimerRequest) (*gantryv1.RescheduleTimerResponse, error) {
	topic := record.Resource{Namespace: req.GetNamespace(), Name: req.GetTopic()}
	if req.GetDue() == nil {
		return nil, rpcError(m.log, broker.Errorf(broker.BadRequest, "the due time is missing"))
	}
	handle, err := m.timerHandle(ctx, topic, req.GetHandle(), req.GetMessageId())
	if err != nil {
		return nil, rpcError(m.log, err)
	}
	next, id, err := m.broker.Reschedule(ctx, topic, handle, unixMilli(req.GetDue()))
	if err != nil {
		return nil, rpcError(m.log, err)
	}
	return &gantryv1.RescheduleTimerResponse{MessageId: id, Handle: next}, nil
}

// timerHandle returns the handle of the message that a request names.
func (m *management) timerHandle(ctx context.Context, topic record.Resource, handle, messageID string) (string, error) {
	if handle != "" || messageID == "" {
		return handle, nil // an empty one is refused as one that is not ours
	}
	return m.broker.FindTimer(ctx, topic, messageID)
}
