package api

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/broker/topic"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// pull collects a pull's stream: a status, messages, and where to go on.
func (f *fixture) pull(offset int64, filter string) (status *v2.Status, messages []*v2.Message, next int64) {
	f.t.Helper()
	stream, err := f.PullMessage(as("c"), &v2.PullMessageRequest{
		Group: &v2.Resource{Name: "g"}, MessageQueue: &v2.MessageQueue{Topic: &v2.Resource{Name: "t"}},
		Offset: offset, BatchSize: 2, LongPollingTimeout: durationpb.New(5 * time.Second),
		FilterExpression: &v2.FilterExpression{Type: v2.FilterType_TAG, Expression: filter},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	next = -1
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return status, messages, next
		}
		if err != nil || next >= 0 {
			f.t.Fatalf("%v, %v after next offset %d", resp, err, next)
		}
		switch c := resp.Content.(type) {
		case *v2.PullMessageResponse_Status:
			status = c.Status
		case *v2.PullMessageResponse_Message:
			messages = append(messages, c.Message)
		case *v2.PullMessageResponse_NextOffset:
			next = c.NextOffset
		}
	}
}

func TestPullReadsByOffset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startInBubble(t)
		f.topic("t", topic.Normal, 1)
		for i := range 3 {
			f.send("t", fmt.Sprint("id", i), fmt.Sprint(i))
		}
		synctest.Wait() // indexed: a send is answered before it is
		for _, c := range []struct {
			offset int64
			filter string
			code   v2.Code
			bodies []string
			next   int64
		}{
			{0, "*", v2.Code_OK, []string{"0", "1"}, 2},
			{0, "*", v2.Code_OK, []string{"0", "1"}, 2}, // nothing is leased
			{2, "*", v2.Code_OK, []string{"2"}, 3},
			{3, "*", v2.Code_MESSAGE_NOT_FOUND, nil, 3},
			{0, "none", v2.Code_MESSAGE_NOT_FOUND, nil, 3},
			{99, "*", v2.Code_ILLEGAL_OFFSET, nil, 3},
		} {
			status, got, next := f.pull(c.offset, c.filter)
			if status.GetCode() != c.code || !slices.Equal(bodies(got), c.bodies) || next != c.next {
				t.Errorf("from %d, %q: %v, %v, next %d; want %v, %v, next %d",
					c.offset, c.filter, status, bodies(got), next, c.code, c.bodies, c.next)
			}
			for _, m := range got {
				if m.SystemProperties.ReceiptHandle != nil || m.SystemProperties.GetDeliveryAttempt() != 1 {
					t.Errorf("pulled: %v", m.SystemProperties)
				}
			}
		}
	})
}

func TestOffsetsOfAGroupAndOfAQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startInBubble(t)
		f.topic("t", topic.Normal, 1)
		before := time.Now().Add(-time.Minute)
		for i := range 3 {
			f.send("t", fmt.Sprint("id", i), "x")
		}
		synctest.Wait() // indexed: a send is answered before it is
		q := &v2.MessageQueue{Topic: &v2.Resource{Name: "t"}}
		group := &v2.Resource{Name: "g"}
		if resp, err := f.UpdateOffset(as("c"), &v2.UpdateOffsetRequest{Group: group, MessageQueue: q, Offset: 2}); err != nil || resp.Status.Code != v2.Code_OK {
			t.Fatalf("%v, %v", resp, err)
		}
		if resp, err := f.GetOffset(as("c"), &v2.GetOffsetRequest{Group: group, MessageQueue: q}); err != nil || resp.Status.Code != v2.Code_OK || resp.Offset != 2 {
			t.Errorf("%v, %v", resp, err)
		}
		for _, c := range []struct {
			policy v2.QueryOffsetPolicy
			at     *timestamppb.Timestamp
			want   int64
		}{
			{v2.QueryOffsetPolicy_BEGINNING, nil, 0},
			{v2.QueryOffsetPolicy_END, nil, 3},
			{v2.QueryOffsetPolicy_TIMESTAMP, timestamppb.New(before), 0},
			{v2.QueryOffsetPolicy_TIMESTAMP, timestamppb.New(time.Now().Add(time.Hour)), 3},
		} {
			resp, err := f.QueryOffset(as("c"), &v2.QueryOffsetRequest{MessageQueue: q, QueryOffsetPolicy: c.policy, Timestamp: c.at})
			if err != nil || resp.Status.Code != v2.Code_OK || resp.Offset != c.want {
				t.Errorf("%v %v: %v, %v, want %d", c.policy, c.at, resp, err, c.want)
			}
		}
	})
}
