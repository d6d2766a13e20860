package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// demoClient is one client of the tour, with an id of its own.
type demoClient struct{ *client }

func (d *demo) client(name string) (*demoClient, error) {
	c, err := (&clientFlags{server: d.server}).connect()
	if err != nil {
		return nil, err
	}
	c.id = name
	return &demoClient{c}, nil
}

func (c *demoClient) send(ctx context.Context, m *rocketmqv2.Message) (*rocketmqv2.SendResultEntry, error) {
	m.SystemProperties.MessageId = messageID()
	m.SystemProperties.BornTimestamp = timestamppb.Now()
	ctx, cancel := c.call(ctx)
	defer cancel()
	r, err := c.messaging().SendMessage(ctx, &rocketmqv2.SendMessageRequest{Messages: []*rocketmqv2.Message{m}})
	if err := c.outcome(r.GetStatus(), err); err != nil {
		return nil, err
	}
	return r.GetEntries()[0], nil
}

func (c *demoClient) decide(ctx context.Context, topic, messageID, transaction string, decision rocketmqv2.TransactionResolution, source rocketmqv2.TransactionSource) error {
	ctx, cancel := c.call(ctx)
	defer cancel()
	r, err := c.messaging().EndTransaction(ctx, &rocketmqv2.EndTransactionRequest{
		Topic: c.resource(topic), MessageId: messageID, TransactionId: transaction, Resolution: decision, Source: source,
	})
	return c.outcome(r.GetStatus(), err)
}

func (c *demoClient) recall(ctx context.Context, topic, handle string) error {
	ctx, cancel := c.call(ctx)
	defer cancel()
	r, err := c.messaging().RecallMessage(ctx, &rocketmqv2.RecallMessageRequest{Topic: c.resource(topic), RecallHandle: handle})
	return c.outcome(r.GetStatus(), err)
}

// answerChecks registers the client as a producer of the topic, and answers the
// broker's questions about transactions until ctx ends.
func (c *demoClient) answerChecks(ctx context.Context, topic string, answer func(*rocketmqv2.RecoverOrphanedTransactionCommand) error) error {
	stream, err := c.messaging().Telemetry(c.header(ctx))
	if err != nil {
		return c.explain(err)
	}
	producer := rocketmqv2.ClientType_PRODUCER
	err = stream.Send(&rocketmqv2.TelemetryCommand{Command: &rocketmqv2.TelemetryCommand_Settings{Settings: &rocketmqv2.Settings{
		ClientType: &producer, UserAgent: &rocketmqv2.UA{Language: rocketmqv2.Language_GOLANG},
		PubSub: &rocketmqv2.Settings_Publishing{Publishing: &rocketmqv2.Publishing{Topics: []*rocketmqv2.Resource{c.resource(topic)}}},
	}}})
	for err == nil {
		var cmd *rocketmqv2.TelemetryCommand
		if cmd, err = stream.Recv(); err != nil {
			break
		}
		if check := cmd.GetRecoverOrphanedTransactionCommand(); check != nil {
			err = answer(check)
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// consumer hands messages of a topic to a function, one after the other.
type consumer struct {
	*receiver
	retry  time.Duration                                // after a failure
	handle func(*rocketmqv2.Message) (ok bool, _ error) // ok: acknowledge
}

func (c *demoClient) consumer(ctx context.Context, group, topic, sql string, retry time.Duration, handle func(*rocketmqv2.Message) (bool, error)) (*consumer, error) {
	queues, err := c.route(ctx, topic)
	if err != nil {
		return nil, err
	}
	flags := &receiveFlags{group: group, filter: "*", sql: sql, invisible: 30 * time.Second, wait: maxPoll}
	r := &receiver{client: c.client, receiveFlags: flags, topic: topic, queue: queues[0]}
	r.queue.Id = -1 // any
	return &consumer{r, retry, handle}, nil
}

// run consumes until ctx ends.
func (c *consumer) run(ctx context.Context) error {
	for ctx.Err() == nil {
		// One at a time: who works on one parcel should not have another in hand.
		messages, err := c.poll(ctx, 1, maxPoll)
		for _, m := range messages {
			ok, handleErr := c.handle(m)
			settle := c.comeAgain
			if ok {
				settle = c.ack
			}
			if err = errors.Join(err, handleErr); err == nil {
				err = settle(context.WithoutCancel(ctx), m) // also what ends the story is settled
			}
		}
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("group %s: %w", c.group, err)
		}
	}
	return nil
}

// comeAgain gives a message back, to be delivered once more in a while.
func (c *consumer) comeAgain(ctx context.Context, m *rocketmqv2.Message) error {
	ctx, cancel := c.call(ctx)
	defer cancel()
	r, err := c.messaging().ChangeInvisibleDuration(ctx, &rocketmqv2.ChangeInvisibleDurationRequest{
		Group: c.resource(c.group), Topic: c.resource(c.topic), MessageId: m.GetSystemProperties().GetMessageId(),
		ReceiptHandle: m.GetSystemProperties().GetReceiptHandle(), InvisibleDuration: durationpb.New(c.retry),
	})
	return c.outcome(r.GetStatus(), err)
}

// seen is what was seen so far. Deliveries are at least once, so each counts once.
type seen struct {
	mu   sync.Mutex
	seen []string
	more chan struct{} // closed and made anew with each
}

// add notes an entry and says whether it is new.
func (t *seen) add(s string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if slices.Contains(t.seen, s) {
		return false
	}
	t.seen = append(t.seen, s)
	if t.more != nil {
		close(t.more)
		t.more = nil
	}
	return true
}

// wait returns when all of want were seen, and nothing else; in any order.
func (t *seen) wait(ctx context.Context, want ...string) error {
	slices.Sort(want)
	for {
		t.mu.Lock()
		seen := slices.Sorted(slices.Values(t.seen))
		if t.more == nil {
			t.more = make(chan struct{})
		}
		more := t.more
		t.mu.Unlock()
		switch {
		case slices.Equal(seen, want):
			return nil
		case len(seen) >= len(want):
			return fmt.Errorf("saw %q, want %q", seen, want)
		}
		select {
		case <-more:
		case <-ctx.Done():
			return fmt.Errorf("saw %q, want %q: %w", seen, want, context.Cause(ctx))
		}
	}
}

// together runs the clients of a part of the tour until its story is over. The
// failure of a client ends the story.
func together(ctx context.Context, story func(context.Context) error, clients ...func(context.Context) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	var running sync.WaitGroup
	for _, c := range clients {
		running.Go(func() {
			if err := c(ctx); err != nil {
				stop(err)
			}
		})
	}
	err := story(ctx)
	stop(nil)
	running.Wait()
	if cause := context.Cause(ctx); err == nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return err
}
