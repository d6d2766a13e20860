package api

import (
	"context"
	"log/slog"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/commitlog/record"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
)

// messages is gantry.v1.Messages.
type messages struct {
	gantryv1.UnsafeMessagesServer // an RPC without a method must not compile

	broker *broker.Broker
	log    *slog.Logger
}

func (s *messages) Get(ctx context.Context, req *gantryv1.GetMessageRequest) (*gantryv1.GetMessageResponse, error) {
	topic := record.Resource{Namespace: req.GetNamespace(), Name: req.GetTopic()}
	resp := &gantryv1.GetMessageResponse{}
	read := func(f broker.FoundMessage, m *record.Message) error {
		resp.Message = wireFound(&f)
		var err error
		if resp.Body, resp.Unreadable, err = s.broker.PlainBody(ctx, m); err != nil {
			return err
		}
		resp.Compression = m.Flags.PackingName()
		return m.Properties.Each(func(f record.Field, key, value []byte) bool {
			switch f {
			case record.FieldUser:
				resp.Properties = append(resp.Properties, &gantryv1.MessageProperty{Key: string(key), Value: string(value)})
			case record.FieldGroup:
				resp.MessageGroup = string(value)
			case record.FieldLiteTopic:
				resp.LiteTopic = string(value)
			}
			return true
		})
	}
	var err error
	switch by := req.GetBy().(type) {
	case *gantryv1.GetMessageRequest_MessageId:
		err = s.broker.MessageByID(ctx, topic, by.MessageId, read)
	case *gantryv1.GetMessageRequest_Place:
		err = s.broker.MessageAt(topic, by.Place.GetQueue(), record.QueueOffset(by.Place.GetOffset()), read)
	default:
		err = broker.Errorf(broker.BadRequest, "neither a message id nor a queue and offset are given")
	}
	if err != nil {
		return nil, rpcError(s.log, err)
	}
	return resp, nil
}

func (s *messages) Query(ctx context.Context, req *gantryv1.QueryMessagesRequest) (*gantryv1.QueryMessagesResponse, error) {
	q := broker.MessageQuery{
		Topic: record.Resource{Namespace: req.GetNamespace(), Name: req.GetTopic()},
		ID:    req.GetMessageId(), Key: req.GetKey(), Limit: int(req.GetLimit()), Page: req.GetPage(),
	}
	if q.Limit == 0 {
		q.Limit = broker.MaxMessagePage
	}
	if req.GetFrom() != nil {
		q.From = max(1, unixMilli(req.GetFrom()))
	}
	if req.GetTo() != nil {
		q.To = max(1, unixMilli(req.GetTo()))
	}
	if req.GetGroup() != "" {
		q.Group = record.Resource{Namespace: req.GetNamespace(), Name: req.GetGroup()}
	}
	for _, want := range req.GetStates() {
		known := false
		for state, wire := range messageStates {
			if wire == want {
				q.States, known = append(q.States, state), true
			}
		}
		if !known {
			return nil, rpcError(s.log, broker.Errorf(broker.BadRequest, "the message state %d is unknown", want))
		}
	}
	page, next, err := s.broker.FindMessages(ctx, q)
	if err != nil {
		return nil, rpcError(s.log, err)
	}
	resp := &gantryv1.QueryMessagesResponse{Next: next}
	for i := range page {
		resp.Messages = append(resp.Messages, wireFound(&page[i]))
	}
	return resp, nil
}

// messageStates numbers the broker's states as the wire does.
var messageStates = map[broker.MessageState]gantryv1.MessageState{
	broker.MessageQueued:     gantryv1.MessageState_MESSAGE_QUEUED,
	broker.MessageDead:       gantryv1.MessageState_MESSAGE_DEAD_LETTER,
	broker.MessageHalf:       gantryv1.MessageState_MESSAGE_HALF,
	broker.MessageParked:     gantryv1.MessageState_MESSAGE_PARKED,
	broker.MessageRolledBack: gantryv1.MessageState_MESSAGE_ROLLED_BACK,
	broker.MessageDelayed:    gantryv1.MessageState_MESSAGE_DELAYED,
	broker.MessageRecalled:   gantryv1.MessageState_MESSAGE_RECALLED,
	broker.MessageGone:       gantryv1.MessageState_MESSAGE_GONE,
	broker.MessageDeleted:    gantryv1.MessageState_MESSAGE_DELETED,
	broker.MessageRetrying:   gantryv1.MessageState_MESSAGE_RETRYING,
}

// deliveryStates numbers the broker's states of deliveries as the wire does.
var deliveryStates = map[broker.DeliveryState]gantryv1.DeliveryState{
	broker.DeliveryLeased:  gantryv1.DeliveryState_DELIVERY_LEASED,
	broker.DeliveryWaiting: gantryv1.DeliveryState_DELIVERY_WAITING,
	broker.DeliveryReady:   gantryv1.DeliveryState_DELIVERY_READY,
	broker.DeliveryAside:   gantryv1.DeliveryState_DELIVERY_PUT_ASIDE,
}

func wireFound(f *broker.FoundMessage) *gantryv1.StoredMessage {
	w := &gantryv1.StoredMessage{
		MessageId: f.ID, Tag: f.Tag, Keys: f.Keys, State: messageStates[f.State], Queue: f.Queue,
		Stored: wireTime(f.Stored), Born: wireTime(f.Born), Due: wireTime(f.Due),
		BodySize: int64(f.BodySize), Position: uint64(f.Position),
	}
	if f.Offset != record.NoOffset {
		w.Offset = (*int64)(&f.Offset)
	}
	for _, p := range f.Places {
		w.Places = append(w.Places, &gantryv1.MessagePlace{
			Topic: p.Topic.Name, Namespace: p.Topic.Namespace, Queue: p.Queue, Offset: int64(p.Offset),
			Time: wireTime(p.Time), Dead: p.Dead, Reason: p.Reason, Settled: p.Settled,
		})
	}
	for _, d := range f.Deliveries {
		w.Deliveries = append(w.Deliveries, &gantryv1.MessageDelivery{
			Group: d.Group.Name, Namespace: d.Group.Namespace, State: deliveryStates[d.State], Attempt: d.Attempt, Client: d.Client,
			Until: wireTime(d.Until), History: wireAttempts(d.History),
		})
	}
	return w
}

// deliveryEnds numbers the ends of deliveries as the wire does.
var deliveryEnds = map[inflight.End]gantryv1.DeliveryEnd{
	inflight.EndNone:      gantryv1.DeliveryEnd_DELIVERY_OPEN,
	inflight.EndChanged:   gantryv1.DeliveryEnd_DELIVERY_CHANGED,
	inflight.EndSuspended: gantryv1.DeliveryEnd_DELIVERY_SUSPENDED,
	inflight.EndReleased:  gantryv1.DeliveryEnd_DELIVERY_RELEASED,
	inflight.EndForwarded: gantryv1.DeliveryEnd_DELIVERY_FORWARDED,
	inflight.EndSkipped:   gantryv1.DeliveryEnd_DELIVERY_SKIPPED,
	inflight.EndExpired:   gantryv1.DeliveryEnd_DELIVERY_EXPIRED,
}

func wireAttempts(list []inflight.Attempt) (w []*gantryv1.DeliveryAttempt) {
	for _, a := range list {
		w = append(w, &gantryv1.DeliveryAttempt{
			Number: a.Number, Client: a.Owner, Leased: wireTime(a.Leased), Changed: wireTime(a.Changed), Ended: wireTime(a.Ended), End: deliveryEnds[a.End],
		})
	}
	return w
}
