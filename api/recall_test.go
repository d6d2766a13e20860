package api

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/broker/topic"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

func TestRecallTellsWhetherTheMessageWasPending(t *testing.T) {
	f := start(t, Options{})
	f.topic("d", topic.Delay, 1)
	f.topic("n", topic.Normal, 1)
	message := func(id string) *v2.Message {
		return &v2.Message{
			Topic: &v2.Resource{Name: "d"}, Body: []byte("x"),
			SystemProperties: &v2.SystemProperties{MessageId: id, MessageType: v2.MessageType_DELAY, DeliveryTimestamp: timestamppb.New(time.Now().Add(time.Hour))},
		}
	}
	send := func(ms ...*v2.Message) []*v2.SendResultEntry {
		t.Helper()
		resp, err := f.SendMessage(as("producer"), &v2.SendMessageRequest{Messages: ms})
		if err != nil || resp.GetStatus().GetCode() != v2.Code_OK {
			t.Fatal(resp, err)
		}
		return resp.GetEntries()
	}
	recall := func(topic, handle string, code v2.Code) string {
		t.Helper()
		resp, err := f.RecallMessage(as("producer"), &v2.RecallMessageRequest{Topic: &v2.Resource{Name: topic}, RecallHandle: handle})
		if err != nil || resp.GetStatus().GetCode() != code {
			t.Errorf("recall: %v, %v; want %v", resp, err, code)
		}
		return resp.GetMessageId()
	}
	one := send(message("m1"))[0].GetRecallHandle()
	if two := send(message("m2"), message("m3")); two[0].GetRecallHandle() != "" || two[1].GetRecallHandle() != "" {
		t.Errorf("messages of a batch have recall handles: %v", two)
	}
	recall("n", one, v2.Code_MESSAGE_PROPERTY_CONFLICT_WITH_TYPE)
	recall("absent", one, v2.Code_TOPIC_NOT_FOUND)
	recall("a b", one, v2.Code_ILLEGAL_TOPIC)
	recall("d", "x"+one[1:], v2.Code_BAD_REQUEST)
	if id := recall("d", one, v2.Code_OK); id != "m1" {
		t.Errorf("recalled %q", id)
	}
	recall("d", one, v2.Code_BAD_REQUEST)
}
