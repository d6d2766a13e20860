package api

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/commitlog/record"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
	"github.com/gantry-mq/gantry/proto/wire"
)

// PullMessage reads by offset. The stream is a status, the messages, and where
// to go on, which also follows MESSAGE_NOT_FOUND and ILLEGAL_OFFSET.
func (m *messaging) PullMessage(req *v2.PullMessageRequest, stream grpc.ServerStreamingServer[v2.PullMessageResponse]) error {
	d, err := m.pull(stream.Context(), req)
	if d != nil {
		defer d.Release()
	}
	if gone := stream.Context().Err(); gone != nil {
		return status.FromContextError(gone).Err()
	}
	st := statusFor(m.log, err)
	m.refused(stream.Context(), v2.MessagingService_PullMessage_FullMethodName, st)
	if err := sendStatus(stream, st); err != nil {
		return err
	}
	if d == nil {
		return nil
	}
	if err := m.sendMessages(stream, d); err != nil {
		return err
	}
	r := newReply()
	r.buf = wire.AppendPresentInt(r.buf, contentOffset, int64(d.NextOffset))
	return stream.SendMsg(r)
}

func (m *messaging) pull(ctx context.Context, req *v2.PullMessageRequest) (*broker.Delivery, error) {
	var asked timespan
	if d := req.GetLongPollingTimeout(); d != nil {
		asked = timespan{set: true, seconds: d.Seconds, nanos: d.Nanos}
	}
	client := clientID(ctx)
	wait, err := m.wait(ctx, client, asked)
	if err != nil {
		return nil, err
	}
	filterType, err := filterTypeOf(req.GetFilterExpression().GetType())
	if err != nil {
		return nil, err
	}
	r := broker.PullRequest{
		From:       broker.Caller{Client: client, User: userOf(ctx)},
		Group:      resource(req.GetGroup()),
		Topic:      resource(req.GetMessageQueue().GetTopic()),
		Queue:      req.GetMessageQueue().GetId(),
		Offset:     record.QueueOffset(req.GetOffset()),
		Batch:      min(max(1, int(req.GetBatchSize())), broker.MaxReceiveBatch),
		FilterType: filterType,
		Filter:     req.GetFilterExpression().GetExpression(),
		Wait:       wait,
		Stop:       m.draining.Done(),
	}
	return m.broker.Pull(ctx, r)
}

func (m *messaging) UpdateOffset(ctx context.Context, req *v2.UpdateOffsetRequest) (*v2.UpdateOffsetResponse, error) {
	q := req.GetMessageQueue()
	err := m.broker.UpdateOffset(ctx, resource(req.GetGroup()), resource(q.GetTopic()), q.GetId(), record.QueueOffset(req.GetOffset()))
	return &v2.UpdateOffsetResponse{Status: statusFor(m.log, err)}, nil
}

func (m *messaging) GetOffset(_ context.Context, req *v2.GetOffsetRequest) (*v2.GetOffsetResponse, error) {
	q := req.GetMessageQueue()
	offset, err := m.broker.GetOffset(resource(req.GetGroup()), resource(q.GetTopic()), q.GetId())
	if err != nil {
		return &v2.GetOffsetResponse{Status: statusFor(m.log, err)}, nil
	}
	return &v2.GetOffsetResponse{Status: statusOK, Offset: int64(offset)}, nil
}

func (m *messaging) QueryOffset(_ context.Context, req *v2.QueryOffsetRequest) (*v2.QueryOffsetResponse, error) {
	offset, err := m.queryOffset(req)
	if err != nil {
		return &v2.QueryOffsetResponse{Status: statusFor(m.log, err)}, nil
	}
	return &v2.QueryOffsetResponse{Status: statusOK, Offset: int64(offset)}, nil
}

func (m *messaging) queryOffset(req *v2.QueryOffsetRequest) (record.QueueOffset, error) {
	var policy broker.OffsetPolicy
	switch p := req.GetQueryOffsetPolicy(); p {
	case v2.QueryOffsetPolicy_BEGINNING:
		policy = broker.OffsetBeginning
	case v2.QueryOffsetPolicy_END:
		policy = broker.OffsetEnd
	case v2.QueryOffsetPolicy_TIMESTAMP:
		if req.GetTimestamp() == nil {
			return 0, broker.Errorf(broker.BadRequest, "timestamp is required by the TIMESTAMP policy")
		}
		policy = broker.OffsetTimestamp
	default:
		return 0, broker.Errorf(broker.BadRequest, "query_offset_policy %d is unknown", p)
	}
	q := req.GetMessageQueue()
	return m.broker.QueryOffset(resource(q.GetTopic()), q.GetId(), policy, unixMilli(req.GetTimestamp()))
}
