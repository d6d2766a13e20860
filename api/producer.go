package api

import (
	"context"

	"github.com/gantry-mq/gantry/broker"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// SendMessage stores messages. SDKs disagree on where they look: Java reads the
// entries and counts them, Go and C++ read the status above them. So both are
// always there and always agree.
func (m *messaging) SendMessage(ctx context.Context, req *v2.SendMessageRequest) (*v2.SendMessageResponse, error) {
	messages := make([]broker.Outgoing, len(req.GetMessages()))
	for i, msg := range req.GetMessages() {
		messages[i] = outgoing(ctx, msg)
	}
	sent, err := m.broker.Send(ctx, messages)
	resp := &v2.SendMessageResponse{Entries: make([]*v2.SendResultEntry, len(messages))}
	if err != nil {
		resp.Status = statusFor(m.log, err)
		for i := range resp.Entries {
			resp.Entries[i] = &v2.SendResultEntry{Status: resp.Status}
		}
		return resp, nil
	}
	statuses := make([]*v2.Status, len(sent))
	for i := range sent {
		statuses[i] = statusFor(m.log, sent[i].Err)
		resp.Entries[i] = &v2.SendResultEntry{Status: statuses[i]}
		if sent[i].Err == nil {
			resp.Entries[i].MessageId = sent[i].MessageID
			resp.Entries[i].TransactionId = sent[i].TransactionID
			resp.Entries[i].Offset = int64(sent[i].Offset)
			resp.Entries[i].RecallHandle = sent[i].RecallHandle
		}
	}
	resp.Status = common(statuses)
	return resp, nil
}

// RecallMessage cancels a delayed message. OK means that it was pending and will
// not be delivered; the reference answers OK to a recall that came too late.
func (m *messaging) RecallMessage(ctx context.Context, req *v2.RecallMessageRequest) (*v2.RecallMessageResponse, error) {
	id, err := m.broker.Recall(ctx, resource(req.GetTopic()), req.GetRecallHandle())
	return &v2.RecallMessageResponse{Status: statusFor(m.log, err), MessageId: id}, nil
}
