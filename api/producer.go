package api

import (
	"context"

	"github.com/gantry-mq/gantry/broker"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
	"github.com/gantry-mq/gantry/proto/wire"
)

// sendMessage stores messages. SDKs disagree on where they look: Java reads the
// entries and counts them, Go and C++ read the status above them. So both are
// always there and always agree.
func (m *messaging) sendMessage(ctx context.Context, req *sendRequest) *reply {
	if c := connOf(ctx); c != nil { // there is none by HTTP
		c.sends.Add(1)
		defer c.sends.Add(-1)
		if !c.sender.Load() {
			c.sender.Store(true)
		}
	}
	req.fillHosts(ctx)
	var from broker.Caller
	if m.broker.Quotas().Active() {
		from = broker.Caller{Client: clientID(ctx), User: userOf(ctx)}
	}
	sent, err := m.broker.SendFrom(ctx, from, req.messages)
	r := newReply()
	if err != nil {
		st := statusFor(m.log, err)
		m.refused(ctx, v2.MessagingService_SendMessage_FullMethodName, st)
		r.buf = appendStatus(r.buf, 1, st)
		for range req.messages {
			var start int
			r.buf, start = wire.Begin(r.buf, 2)
			r.buf = wire.End(appendStatus(r.buf, 1, st), start)
		}
		return r
	}
	var common agreed
	for i := range sent {
		st := statusFor(m.log, sent[i].Err)
		common.add(st)
		var start int
		r.buf, start = wire.Begin(r.buf, 2)
		r.buf = appendStatus(r.buf, 1, st)
		if sent[i].Err == nil {
			r.buf = wire.AppendString(r.buf, 2, sent[i].MessageID)
			r.buf = wire.AppendString(r.buf, 3, sent[i].TransactionID)
			r.buf = wire.AppendInt(r.buf, 4, int64(sent[i].Offset))
			r.buf = wire.AppendString(r.buf, 5, sent[i].RecallHandle)
		}
		r.buf = wire.End(r.buf, start)
	}
	if common.failed != nil {
		m.refused(ctx, v2.MessagingService_SendMessage_FullMethodName, common.failed)
	}
	r.buf = appendStatus(r.buf, 1, common.status())
	return r
}

// RecallMessage cancels a delayed message. OK means that it was pending and will
// not be delivered; the reference answers OK to a recall that came too late.
func (m *messaging) RecallMessage(ctx context.Context, req *v2.RecallMessageRequest) (*v2.RecallMessageResponse, error) {
	id, err := m.cancel()(ctx, resource(req.GetTopic()), req.GetRecallHandle())
	return &v2.RecallMessageResponse{Status: statusFor(m.log, err), MessageId: id}, nil
}
