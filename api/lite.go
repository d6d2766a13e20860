package api

import (
	"context"

	"github.com/gantry-mq/gantry/broker"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// SyncLiteSubscription changes which lite topics of a parent a client takes.
// Clients repeat the whole set every 30 s.
func (m *messaging) SyncLiteSubscription(ctx context.Context, req *v2.SyncLiteSubscriptionRequest) (*v2.SyncLiteSubscriptionResponse, error) {
	err := m.syncLite(ctx, req)
	return &v2.SyncLiteSubscriptionResponse{Status: statusFor(m.log, err)}, nil
}

func (m *messaging) syncLite(ctx context.Context, req *v2.SyncLiteSubscriptionRequest) error {
	var action broker.LiteAction
	switch req.GetAction() {
	case v2.LiteSubscriptionAction_PARTIAL_ADD:
		action = broker.LiteAdd
	case v2.LiteSubscriptionAction_PARTIAL_REMOVE:
		action = broker.LiteRemove
	case v2.LiteSubscriptionAction_COMPLETE_ADD:
		action = broker.LiteReplace
	case v2.LiteSubscriptionAction_COMPLETE_REMOVE:
		action = broker.LiteClear
	default:
		return broker.Errorf(broker.BadRequest, "the lite subscription action %d is unknown", req.GetAction())
	}
	from, err := liteOffset(req.GetOffsetOption())
	if err != nil {
		return err
	}
	return m.broker.SyncLite(ctx, clientID(ctx), resource(req.GetGroup()), resource(req.GetTopic()), action, req.GetLiteTopicSet(), from)
}

func liteOffset(o *v2.OffsetOption) (broker.LiteOffset, error) {
	from := broker.LiteOffset{Requested: o != nil}
	switch t := o.GetOffsetType().(type) {
	case nil:
	case *v2.OffsetOption_Policy_:
		switch t.Policy {
		case v2.OffsetOption_LAST:
			from.Policy = broker.LiteKeep
		case v2.OffsetOption_MIN:
			from.Policy = broker.LiteMin
		case v2.OffsetOption_MAX:
			from.Policy = broker.LiteMax
		default:
			return from, broker.Errorf(broker.BadRequest, "the offset policy %d is unknown", t.Policy)
		}
	case *v2.OffsetOption_Offset:
		from.Policy, from.Value = broker.LiteAt, t.Offset
	case *v2.OffsetOption_TailN:
		from.Policy, from.Value = broker.LiteTail, t.TailN
	case *v2.OffsetOption_Timestamp:
		from.Policy, from.Value = broker.LiteTime, t.Timestamp
	}
	if from.Value < 0 {
		return from, broker.Errorf(broker.IllegalOffset, "the offset option %d is negative", from.Value)
	}
	return from, nil
}
