package api

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/broker/topic"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
)

func TestMessageStatesAreAllOnTheWire(t *testing.T) {
	for s := broker.MessageQueued; s <= broker.MessageRetrying; s++ {
		w := strings.TrimPrefix(messageStates[s].String(), "MESSAGE_")
		if strings.ToLower(strings.ReplaceAll(w, "_", " ")) != s.String() {
			t.Errorf("%v is %s on the wire", s, w)
		}
	}
	if len(gantryv1.MessageState_name) != len(messageStates)+1 {
		t.Error("a state of the wire is not one of the broker")
	}
}

func TestDeliveryStatesAreAllOnTheWire(t *testing.T) {
	for s := broker.DeliveryLeased; s <= broker.DeliveryAside; s++ {
		w := strings.TrimPrefix(deliveryStates[s].String(), "DELIVERY_")
		if strings.ToLower(strings.ReplaceAll(w, "_", " ")) != s.String() {
			t.Errorf("%v is %s on the wire", s, w)
		}
	}
	if len(gantryv1.DeliveryState_name) != len(deliveryStates)+1 {
		t.Error("a state of the wire is not one of the broker")
	}
}

func TestDeliveryEndsAreAllOnTheWire(t *testing.T) {
	for e := inflight.EndNone; e <= inflight.EndExpired; e++ {
		if w := strings.ToLower(strings.TrimPrefix(deliveryEnds[e].String(), "DELIVERY_")); w != e.String() {
			t.Errorf("%v is %s on the wire", e, w)
		}
	}
	if len(gantryv1.DeliveryEnd_name) != len(deliveryEnds)+1 {
		t.Error("an end of the wire is not one of the broker")
	}
}

func TestMessagesAreQueriedInPagesAndRead(t *testing.T) {
	f := start(t, Options{})
	f.topic("T", topic.Normal, 2)
	for _, id := range []string{"a", "b", "c"} {
		f.send("T", id, "body "+id)
	}
	c := gantryv1.NewMessagesClient(f.dial())
	ctx := t.Context()
	var got []string
	req := &gantryv1.QueryMessagesRequest{Topic: "T", Limit: 2}
	for pages := 0; pages == 0 || req.Page != ""; pages++ {
		r, err := c.Query(ctx, req)
		if err != nil || len(r.GetMessages()) > 2 {
			t.Fatal(r, err)
		}
		for _, m := range r.GetMessages() {
			got = append(got, m.GetMessageId())
		}
		req.Page = r.GetNext()
	}
	if slices.Sort(got); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Error(got)
	}
	r, err := c.Get(ctx, &gantryv1.GetMessageRequest{Topic: "T", By: &gantryv1.GetMessageRequest_MessageId{MessageId: "b"}})
	if err != nil || string(r.GetBody()) != "body b" || r.GetMessage().GetState() != gantryv1.MessageState_MESSAGE_QUEUED || r.GetMessage().Offset == nil {
		t.Fatal(r, err)
	}
	again, err := c.Get(ctx, &gantryv1.GetMessageRequest{Topic: "T", By: &gantryv1.GetMessageRequest_Place{
		Place: &gantryv1.QueueOffset{Queue: r.GetMessage().GetQueue(), Offset: r.GetMessage().GetOffset()},
	}})
	if err != nil || again.GetMessage().GetPosition() != r.GetMessage().GetPosition() {
		t.Error(again, err)
	}
	for want, call := range map[codes.Code]func() error{
		codes.NotFound: func() error {
			_, err := c.Get(ctx, &gantryv1.GetMessageRequest{Topic: "T", By: &gantryv1.GetMessageRequest_MessageId{MessageId: "d"}})
			return err
		},
		codes.InvalidArgument: func() error {
			_, err := c.Get(ctx, &gantryv1.GetMessageRequest{Topic: "T"})
			return err
		},
	} {
		if err := call(); status.Code(err) != want {
			t.Errorf("%v, want %v", err, want)
		}
	}
}
