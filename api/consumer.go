package api

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/gantry-mq/gantry/broker"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
	"github.com/gantry-mq/gantry/proto/wire"
)

// receiveMessage leases messages. Whatever happens, the stream holds exactly one
// status: without one Java and Go make up an error, Python drops the answer,
// and Rust does not survive a response without content.
func (m *messaging) receiveMessage(req *receiveRequest, stream grpc.ServerStream) error {
	d, err := m.receive(stream.Context(), req)
	if stream.Context().Err() != nil {
		if d != nil {
			m.broker.GiveBack(d, 0)
			d.Release()
		}
		return status.FromContextError(stream.Context().Err()).Err()
	}
	if err != nil {
		st := statusFor(m.log, err)
		m.refused(stream.Context(), v2.MessagingService_ReceiveMessage_FullMethodName, st)
		if err := sendStatus(stream, st); err != nil {
			return err
		}
		return sendDeliveryTime(stream)
	}
	defer d.Release()
	if err := m.sendDelivery(stream, d); err != nil {
		// From the first, not from where it broke: SDKs collect a stream to its
		// end before they look at it, so of a broken one they keep nothing.
		m.broker.GiveBack(d, 0)
		return err
	}
	return nil
}

func (m *messaging) receive(ctx context.Context, req *receiveRequest) (*broker.Delivery, error) {
	client := clientID(ctx)
	wait, err := m.wait(ctx, client, req.polling)
	if err != nil {
		return nil, err
	}
	filterType, err := filterTypeOf(req.filterType)
	if err != nil {
		return nil, err
	}
	r := broker.ReceiveRequest{
		ClientID:   client,
		From:       broker.Caller{Client: client, User: userOf(ctx)},
		Group:      req.group,
		Topic:      req.topic,
		Queue:      req.queue,
		FilterType: filterType,
		Filter:     req.filter,
		Batch:      min(max(1, int(req.batch)), broker.MaxReceiveBatch),
		Invisible:  req.invisible.duration(),
		AutoRenew:  req.autoRenew,
		Wait:       wait,
		AttemptID:  req.attempt,
		Stop:       m.draining.Done(), // a drain must not take the 20 s of a poll
	}
	m.broker.Sessions().Touch(r.ClientID) // who polls is alive
	if c := connOf(ctx); c != nil && r.AutoRenew {
		c.receives(receiver{client, r.Group})
	}
	return m.broker.Receive(ctx, r)
}

// The fields of a ReceiveMessageResponse and of a PullMessageResponse. Each
// response is one of them.
const (
	contentStatus  = 1
	contentMessage = 2
	contentTime    = 3 // of a ReceiveMessageResponse
	contentOffset  = 3 // of a PullMessageResponse
)

var okContent = func() fixed {
	return fixed{mem.SliceBuffer(appendStatus(nil, contentStatus, statusOK))}
}()

func (m *messaging) sendDelivery(stream grpc.ServerStream, d *broker.Delivery) error {
	if err := stream.SendMsg(okContent); err != nil {
		return err
	}
	if err := m.sendMessages(stream, d); err != nil {
		return err
	}
	if err := sendDeliveryTime(stream); err != nil {
		return err
	}
	return stream.Context().Err()
}

// sendMessages sends the messages of a receive or of a pull.
func (m *messaging) sendMessages(stream grpc.ServerStream, d *broker.Delivery) error {
	host := localAddr(stream.Context())
	for i := range d.Messages {
		leave, err := m.unpack(stream.Context(), &d.Messages[i])
		if err != nil {
			return rpcError(m.log, err)
		}
		r, err := deliver(&d.Messages[i], host)
		if err != nil {
			if leave != nil {
				leave()
			}
			return err
		}
		r.kept.leave = leave
		if err := stream.SendMsg(r); err != nil {
			return err
		}
	}
	return nil
}

// unpack is broker.Unpack for the client of a call, which loses its connection when it
// does not take the body while others wait.
func (m *messaging) unpack(ctx context.Context, d *broker.Delivered) (leave func(), err error) {
	if !d.Packed() {
		return nil, nil
	}
	return m.broker.Unpack(ctx, d, func() {
		m.log.Warn("a connection was ended: it did not take decompressed bodies, and others waited", "client", clientID(ctx), "remote", remoteAddr(ctx))
		endConn(ctx)
	})
}

func sendStatus(stream grpc.ServerStream, st *v2.Status) error {
	r := newReply()
	r.buf = appendStatus(r.buf, contentStatus, st)
	return stream.SendMsg(r)
}

func sendDeliveryTime(stream grpc.ServerStream) error {
	r := newReply()
	r.buf = appendTime(r.buf, contentTime, time.Now())
	return stream.SendMsg(r)
}

// ackMessage settles deliveries. The text of its status is the name of its code
// alone, because clients' tests search the exception's text for it.
func (m *messaging) ackMessage(ctx context.Context, req *ackRequest) *reply {
	errs, err := m.broker.Ack(ctx, req.group, req.topic, req.entries)
	r := newReply()
	if err != nil {
		st := statusFor(m.log, err)
		m.refused(ctx, v2.MessagingService_AckMessage_FullMethodName, st)
		r.buf = appendStatus(r.buf, 1, st)
		return r
	}
	var common agreed
	for i, e := range req.entries {
		st := statusOK
		if errs != nil {
			st = statusFor(m.log, errs[i])
		}
		common.add(st)
		var start int
		r.buf, start = wire.Begin(r.buf, 2)
		r.buf = wire.AppendString(r.buf, 1, e.MessageID)
		r.buf = wire.AppendString(r.buf, 2, e.Handle)
		r.buf = appendStatus(r.buf, 3, st)
		r.buf = wire.End(r.buf, start)
	}
	if common.failed != nil {
		m.refused(ctx, v2.MessagingService_AckMessage_FullMethodName, common.failed)
	}
	st := common.status()
	if st != statusOK {
		st = &v2.Status{Code: st.Code, Message: st.Code.String()}
	}
	r.buf = appendStatus(r.buf, 1, st)
	return r
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
