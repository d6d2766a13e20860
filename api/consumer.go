package api

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/broker"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

type receiveStream = grpc.ServerStreamingServer[v2.ReceiveMessageResponse]

// ReceiveMessage leases messages. Whatever happens, the stream holds exactly one
// status: without one Java and Go make up an error, Python drops the answer,
// and Rust does not survive a response without content.
func (m *messaging) ReceiveMessage(req *v2.ReceiveMessageRequest, stream receiveStream) error {
	d, err := m.receive(stream.Context(), req)
	if stream.Context().Err() != nil {
		if d != nil {
			m.broker.GiveBack(d, 0)
			d.Release()
		}
		return status.FromContextError(stream.Context().Err()).Err()
	}
	if err != nil {
		if err := sendStatus(stream, statusFor(m.log, err)); err != nil {
			return err
		}
		return sendDeliveryTime(stream)
	}
	defer d.Release()
	if err := sendDelivery(stream, d); err != nil {
		// From the first, not from where it broke: SDKs collect a stream to its
		// end before they look at it, so of a broken one they keep nothing.
		m.broker.GiveBack(d, 0)
		return err
	}
	return nil
}

func (m *messaging) receive(ctx context.Context, req *v2.ReceiveMessageRequest) (*broker.Delivery, error) {
	wait, err := m.wait(ctx, req.GetLongPollingTimeout())
	if err != nil {
		return nil, err
	}
	filterType, filter, err := filterOf(req.GetFilterExpression())
	if err != nil {
		return nil, err
	}
	r := broker.ReceiveRequest{
		ClientID:   clientID(ctx),
		Group:      resource(req.GetGroup()),
		Topic:      resource(req.GetMessageQueue().GetTopic()),
		Queue:      req.GetMessageQueue().GetId(),
		FilterType: filterType,
		Filter:     filter,
		Batch:      min(max(1, int(req.GetBatchSize())), broker.MaxReceiveBatch),
		Invisible:  req.GetInvisibleDuration().AsDuration(),
		AutoRenew:  req.GetAutoRenew(),
		Wait:       wait,
		AttemptID:  req.GetAttemptId(),
	}
	m.broker.Sessions().Touch(r.ClientID) // who polls is alive
	return m.poll(ctx, func(ctx context.Context) (*broker.Delivery, error) { return m.broker.Receive(ctx, r) })
}

func sendDelivery(stream receiveStream, d *broker.Delivery) error {
	if err := sendStatus(stream, statusOK); err != nil {
		return err
	}
	host := localAddr(stream.Context())
	for i := range d.Messages {
		msg, err := delivered(&d.Messages[i], host)
		if err != nil {
			return err
		}
		if err := stream.Send(&v2.ReceiveMessageResponse{Content: &v2.ReceiveMessageResponse_Message{Message: msg}}); err != nil {
			return err
		}
	}
	if err := sendDeliveryTime(stream); err != nil {
		return err
	}
	return stream.Context().Err()
}

func sendStatus(stream receiveStream, st *v2.Status) error {
	return stream.Send(&v2.ReceiveMessageResponse{Content: &v2.ReceiveMessageResponse_Status{Status: st}})
}

func sendDeliveryTime(stream receiveStream) error {
	return stream.Send(&v2.ReceiveMessageResponse{
		Content: &v2.ReceiveMessageResponse_DeliveryTimestamp{DeliveryTimestamp: timestamppb.Now()},
	})
}

// AckMessage settles deliveries. The text of its status is the name of its code
// alone, because clients' tests search the exception's text for it.
func (m *messaging) AckMessage(ctx context.Context, req *v2.AckMessageRequest) (*v2.AckMessageResponse, error) {
	entries := make([]broker.AckEntry, len(req.GetEntries()))
	for i, e := range req.GetEntries() {
		entries[i] = broker.AckEntry{MessageID: e.GetMessageId(), Handle: e.GetReceiptHandle()}
	}
	errs, err := m.broker.Ack(ctx, resource(req.GetGroup()), resource(req.GetTopic()), entries)
	if err != nil {
		return &v2.AckMessageResponse{Status: statusFor(m.log, err)}, nil
	}
	resp := &v2.AckMessageResponse{Entries: make([]*v2.AckMessageResultEntry, len(entries))}
	statuses := make([]*v2.Status, len(entries))
	for i, e := range entries {
		statuses[i] = statusFor(m.log, errs[i])
		resp.Entries[i] = &v2.AckMessageResultEntry{MessageId: e.MessageID, ReceiptHandle: e.Handle, Status: statuses[i]}
	}
	code := common(statuses).Code
	resp.Status = &v2.Status{Code: code, Message: code.String()}
	return resp, nil
}

// ChangeInvisibleDuration answers a failure with the handle it was given: the
// Python client goes on with whatever handle comes back.
func (m *messaging) ChangeInvisibleDuration(ctx context.Context, req *v2.ChangeInvisibleDurationRequest) (*v2.ChangeInvisibleDurationResponse, error) {
	handle, err := m.broker.ChangeInvisible(ctx, resource(req.GetGroup()), resource(req.GetTopic()),
		req.GetReceiptHandle(), req.GetInvisibleDuration().AsDuration(), req.GetSuspend())
	if err != nil {
		handle = req.GetReceiptHandle()
	}
	return &v2.ChangeInvisibleDurationResponse{Status: statusFor(m.log, err), ReceiptHandle: handle}, nil
}

func (m *messaging) ForwardMessageToDeadLetterQueue(ctx context.Context, req *v2.ForwardMessageToDeadLetterQueueRequest) (*v2.ForwardMessageToDeadLetterQueueResponse, error) {
	err := m.broker.ForwardToDeadLetter(ctx, resource(req.GetGroup()), resource(req.GetTopic()), req.GetReceiptHandle(),
		req.GetDeliveryAttempt(), req.GetMaxDeliveryAttempts())
	return &v2.ForwardMessageToDeadLetterQueueResponse{Status: statusFor(m.log, err)}, nil
}
