package history

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gantry-mq/gantry/proto/rocketmqv2"
	"github.com/gantry-mq/gantry/test/history/check"
)

// consumer is one member of a consumer group. It belongs to one goroutine.
type consumer struct {
	client
	group check.Consumers
	drain *atomic.Bool // from now on: settle everything
}

// held is a delivery with what settles it.
type held struct {
	check.Delivery
	handle string
}

// run receives and settles until ctx ends. Before drain it fails now and then,
// as consumers do: it forgets messages, wants them again later, repeats receives.
func (c *consumer) run(ctx context.Context) {
	attempt := ""
	for n := 0; ctx.Err() == nil; n++ {
		if attempt == "" {
			attempt = fmt.Sprintf("%s-%d", c.name, n)
		}
		got, err := c.receive(ctx, attempt)
		switch {
		case err == nil && (c.drain.Load() || c.IntN(20) > 0):
			attempt = ""
		case err != nil && c.IntN(3) == 0: // else it asks again with the same id
			attempt = ""
		}
		if err != nil {
			c.pace(ctx.Done())
			continue // of a broken answer clients keep nothing
		}
		c.settle(ctx, got)
	}
}

func filter(g check.Consumers) string {
	if len(g.Tags) == 0 {
		return "*"
	}
	return strings.Join(g.Tags, "||")
}

// receive makes one call and records what comes, also when it then breaks off.
func (c *consumer) receive(ctx context.Context, attempt string) ([]held, error) {
	ctx, cancel := c.call(ctx)
	defer cancel()
	queue := int32(c.IntN(queues+1)) - 1
	if c.group.Topic == liteTopic {
		queue = -1
	}
	if c.group.Topic == liteTopic { // a server that was killed has forgotten it
		_, err := c.stub.SyncLiteSubscription(ctx, &rocketmqv2.SyncLiteSubscriptionRequest{
			Action: rocketmqv2.LiteSubscriptionAction_COMPLETE_ADD, Topic: &rocketmqv2.Resource{Name: liteTopic}, Group: &rocketmqv2.Resource{Name: c.group.Name}, LiteTopicSet: liteNames,
			OffsetOption: &rocketmqv2.OffsetOption{OffsetType: &rocketmqv2.OffsetOption_Policy_{Policy: rocketmqv2.OffsetOption_MIN}},
		})
		if err != nil {
			return nil, err
		}
	}
	begin := c.now()
	stream, err := c.stub.ReceiveMessage(ctx, &rocketmqv2.ReceiveMessageRequest{
		Group: &rocketmqv2.Resource{Name: c.group.Name},
		MessageQueue: &rocketmqv2.MessageQueue{
			Topic: &rocketmqv2.Resource{Name: c.group.Topic}, Id: queue, Permission: rocketmqv2.Permission_READ_WRITE,
		},
		FilterExpression:   &rocketmqv2.FilterExpression{Type: rocketmqv2.FilterType_TAG, Expression: filter(c.group)},
		BatchSize:          1 + int32(c.IntN(32)),
		InvisibleDuration:  durationpb.New(lease),
		LongPollingTimeout: durationpb.New(5 * time.Second),
		AttemptId:          &attempt,
	})
	if err != nil {
		return nil, err
	}
	var got []held
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return got, nil
		}
		if err != nil {
			return nil, err
		}
		if st := r.GetStatus(); st != nil && st.GetCode() != rocketmqv2.Code_OK && st.GetCode() != rocketmqv2.Code_MESSAGE_NOT_FOUND {
			return nil, fmt.Errorf("receive: %v", st)
		}
		m := r.GetMessage()
		if m == nil {
			continue
		}
		system := m.GetSystemProperties()
		d := check.Delivery{
			Consumers: c.group.Name, Slot: check.Slot{Topic: m.GetTopic().GetName(), Queue: system.GetQueueId(), Offset: system.GetQueueOffset()},
			ID: system.GetMessageId(), Group: system.GetMessageGroup() + system.GetLiteTopic(), Tag: system.GetTag(), Body: check.Sum(m.GetBody()),
			Attempt: system.GetDeliveryAttempt(), AttemptID: attempt, Begin: begin, End: c.now(),
		}
		c.AddDelivery(d)
		got = append(got, held{Delivery: d, handle: system.GetReceiptHandle()})
	}
}

// settle acknowledges most of got, one by one or together.
func (c *consumer) settle(ctx context.Context, got []held) {
	var done []held
	for _, h := range got {
		switch luck := c.IntN(100); {
		case !c.drain.Load() && c.group.Name == dyingGroup && luck >= 80:
			c.bury(ctx, h)
			continue
		case c.drain.Load() || luck >= 8:
		case luck < 2:
			continue // it comes again when its lease ends
		case !c.again(ctx, &h) || luck < 6:
			continue // it comes again when it said
		} // else it is acknowledged after all, with its new handle
		done = append(done, h)
	}
	together := c.IntN(2) == 0
	for len(done) > 0 {
		n := 1
		if together {
			n = len(done)
		}
		for !c.ack(ctx, done[:n]) && c.IntN(2) == 0 && ctx.Err() == nil {
			c.pace(ctx.Done())
		}
		done = done[n:]
	}
}

// again asks for a message in a moment, and takes over its new handle.
func (c *consumer) again(ctx context.Context, h *held) bool {
	ctx, cancel := c.call(ctx)
	defer cancel()
	after := time.Duration(c.IntN(3)) * 300 * time.Millisecond
	r, err := c.stub.ChangeInvisibleDuration(ctx, &rocketmqv2.ChangeInvisibleDurationRequest{
		Group: &rocketmqv2.Resource{Name: c.group.Name}, Topic: &rocketmqv2.Resource{Name: h.Topic},
		ReceiptHandle: h.handle, MessageId: h.ID, InvisibleDuration: durationpb.New(after),
	})
	h.handle = r.GetReceiptHandle()
	return err == nil && r.GetStatus().GetCode() == rocketmqv2.Code_OK
}

// bury gives a message up: it becomes a dead letter.
func (c *consumer) bury(ctx context.Context, h held) {
	ctx, cancel := c.call(ctx)
	defer cancel()
	a := check.Ack{Consumers: c.group.Name, Slot: h.Slot, Attempt: h.Attempt, ID: h.ID, Dead: true, Begin: c.now()}
	r, err := c.stub.ForwardMessageToDeadLetterQueue(ctx, &rocketmqv2.ForwardMessageToDeadLetterQueueRequest{
		Group: &rocketmqv2.Resource{Name: c.group.Name}, Topic: &rocketmqv2.Resource{Name: h.Topic},
		ReceiptHandle: h.handle, MessageId: h.ID, DeliveryAttempt: h.Attempt, MaxDeliveryAttempts: h.Attempt,
	})
	a.End = c.now()
	if err == nil && r.GetStatus().GetCode() == rocketmqv2.Code_INVALID_RECEIPT_HANDLE {
		return
	}
	a.OK = err == nil && r.GetStatus().GetCode() == rocketmqv2.Code_OK
	c.AddAcks(a)
}

// ack makes one call and records it, except what the server refused: that has
// settled nothing. It reports whether the outcome is known.
func (c *consumer) ack(ctx context.Context, done []held) (known bool) {
	req := &rocketmqv2.AckMessageRequest{Group: &rocketmqv2.Resource{Name: c.group.Name}, Topic: &rocketmqv2.Resource{Name: c.group.Topic}}
	for _, h := range done {
		req.Entries = append(req.Entries, &rocketmqv2.AckMessageEntry{MessageId: h.ID, ReceiptHandle: h.handle})
	}
	ctx, cancel := c.call(ctx)
	defer cancel()
	begin := c.now()
	r, err := c.stub.AckMessage(ctx, req)
	end := c.now()
	known = err == nil && len(r.GetEntries()) == len(done)
	for i, h := range done {
		a := check.Ack{Consumers: c.group.Name, Slot: h.Slot, Attempt: h.Attempt, Begin: begin, End: end}
		if known {
			code := r.GetEntries()[i].GetStatus().GetCode()
			if code == rocketmqv2.Code_INVALID_RECEIPT_HANDLE {
				continue
			}
			a.OK = code == rocketmqv2.Code_OK
		}
		c.AddAcks(a)
	}
	return known
}
