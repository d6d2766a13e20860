package load

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

var (
	errDrained = errors.New("nothing left")
	everything = &v2.FilterExpression{Type: v2.FilterType_TAG, Expression: "*"}
)

// refusalPause keeps callers from making an overload worse.
const refusalPause = 10 * time.Millisecond

type caller struct {
	*Load
	client   v2.MessagingServiceClient
	producer context.Context
	consumer context.Context
}

func (l *Load) caller(ctx context.Context, i int) *caller {
	i %= len(l.conns)
	return &caller{
		Load:     l,
		client:   v2.NewMessagingServiceClient(l.conns[i]),
		producer: metadata.NewOutgoingContext(ctx, l.header(v2.ClientType_PRODUCER, i)),
		consumer: metadata.NewOutgoingContext(ctx, l.header(v2.ClientType_SIMPLE_CONSUMER, i)),
	}
}

func (l *Load) topic() *v2.Resource {
	return &v2.Resource{Name: l.Topics[uint64(l.calls.Add(1))%uint64(len(l.Topics))]}
}

func (c *caller) send(batch int) (int64, error) { return c.sendBody(batch, c.body) }

// sendBody sends the same body batch times in one call. It returns 0 when the
// server refused for load.
func (c *caller) sendBody(batch int, body []byte) (int64, error) {
	topic := c.topic()
	messages := make([]*v2.Message, batch)
	for i := range messages {
		messages[i] = &v2.Message{
			Topic: topic,
			Body:  body,
			SystemProperties: &v2.SystemProperties{
				MessageId: "01BENCH00000000000000000000000000", MessageType: v2.MessageType_NORMAL,
				BodyEncoding: v2.Encoding_IDENTITY, BornHost: "bench",
			},
		}
	}
	ctx, cancel := context.WithTimeout(c.producer, requestTimeout)
	defer cancel()
	r, err := c.client.SendMessage(ctx, &v2.SendMessageRequest{Messages: messages})
	if err != nil {
		return 0, err
	}
	switch r.GetStatus().GetCode() {
	case v2.Code_OK:
		c.left.Add(int64(batch))
		return int64(batch), nil
	case v2.Code_TOO_MANY_REQUESTS:
		return 0, c.pause(ctx)
	}
	return 0, fmt.Errorf("send: %v", r.GetStatus())
}

func (c *caller) pause(ctx context.Context) error {
	c.refused.Add(1)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(refusalPause):
		return nil
	}
}

// receive takes up to w.Batch messages and acknowledges them, w.Acks in a call.
// The last message ends everybody's polls by calling drained: callers that wait
// for more would only measure the wait.
func (c *caller) receive(polls context.Context, drained func(), w Work) (int64, error) {
	if c.left.Load() <= 0 {
		return 0, errDrained
	}
	topic := c.topic()
	entries, err := c.poll(polls, topic, w.Batch, nil)
	if err != nil {
		if polls.Err() != nil {
			return 0, errDrained
		}
		return 0, err
	}
	if c.left.Add(-int64(len(entries))) <= 0 {
		drained()
	}
	return c.ack(topic, entries, w.Acks)
}

// poll takes up to batch messages. seen, when set, is given when each body was
// meant to be sent (see Rate).
func (c *caller) poll(ctx context.Context, topic *v2.Resource, batch int, seen func(intended time.Time)) ([]*v2.AckMessageEntry, error) {
	header, _ := metadata.FromOutgoingContext(c.consumer)
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(ctx, header), pollTimeout+requestTimeout)
	defer cancel()
	stream, err := c.client.ReceiveMessage(ctx, &v2.ReceiveMessageRequest{
		Group: &v2.Resource{Name: c.Group},
		MessageQueue: &v2.MessageQueue{Topic: topic, Id: -1, Permission: v2.Permission_READ_WRITE,
			Broker: &v2.Broker{Name: c.broker}},
		FilterExpression:   everything,
		BatchSize:          int32(batch),
		InvisibleDuration:  durationpb.New(time.Minute),
		LongPollingTimeout: durationpb.New(pollTimeout),
	})
	if err != nil {
		return nil, err
	}
	var entries []*v2.AckMessageEntry
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return entries, nil
		}
		if err != nil {
			return nil, err
		}
		if m := r.GetMessage(); m != nil {
			if seen != nil && len(m.GetBody()) >= 8 {
				seen(time.Unix(0, int64(binary.LittleEndian.Uint64(m.GetBody()))))
			} else if !bytes.Equal(m.GetBody(), c.body) {
				return nil, errors.New("receive: a body came back changed")
			}
			entries = append(entries, &v2.AckMessageEntry{
				MessageId: m.GetSystemProperties().GetMessageId(), ReceiptHandle: m.GetSystemProperties().GetReceiptHandle(),
			})
		}
		switch st := r.GetStatus(); st.GetCode() {
		case v2.Code_CODE_UNSPECIFIED, v2.Code_OK, v2.Code_MESSAGE_NOT_FOUND:
		case v2.Code_TOO_MANY_REQUESTS:
			if err := c.pause(ctx); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("receive: %v", st)
		}
	}
}

// ack acknowledges entries, at most acks in a call, and returns how many.
func (c *caller) ack(topic *v2.Resource, entries []*v2.AckMessageEntry, acks int) (int64, error) {
	for at := 0; at < len(entries); at += acks {
		ctx, cancel := context.WithTimeout(c.consumer, requestTimeout)
		r, err := c.client.AckMessage(ctx, &v2.AckMessageRequest{
			Group: &v2.Resource{Name: c.Group}, Topic: topic, Entries: entries[at:min(at+acks, len(entries))],
		})
		cancel()
		if err != nil {
			return int64(at), err
		}
		if r.GetStatus().GetCode() != v2.Code_OK {
			return int64(at), fmt.Errorf("ack: %v", r.GetStatus())
		}
	}
	return int64(len(entries)), nil
}
