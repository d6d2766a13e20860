package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gantry-mq/gantry/proto/rocketmqv2"
)

const (
	receiveBatch = 32 // the contract's largest

	// The contract clamps the wait of one poll to this range.
	minPoll = 5 * time.Second
	maxPoll = 20 * time.Second

	// pollGrace is for the answer of a poll that waited to its end.
	pollGrace = 5 * time.Second

	// showBody is how much of a body a line shows; --json has all of it.
	showBody = 1024
)

type receiveFlags struct {
	group     string
	filter    string
	sql       string
	count     int
	wait      time.Duration
	invisible time.Duration
	noAck     bool
}

func newReceive() *cobra.Command {
	f := &receiveFlags{}
	cmd := &cobra.Command{
		Use:   "receive TOPIC --group GROUP",
		Short: "Receive messages for a consumer group and acknowledge them",
		Long: `Receive messages for a consumer group, print them, and acknowledge each once it is
printed. The group comes into being at its first receive, and starts at the
oldest message of a topic that has lost none yet.

The command fails when fewer than --count messages arrive; with --count 0 it takes
all there are and ends, successfully, when none came for --wait.`,
		Example: `  gantry receive orders --group billing --count 0
  gantry receive orders --group audit --filter 'paid || refunded' --json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeTopics,
	}
	cmd.Flags().StringVar(&f.group, "group", "", "consumer group (required)")
	cmd.Flags().StringVar(&f.filter, "filter", "*", "tag expression: `'A || B'`, or * for all")
	cmd.Flags().StringVar(&f.sql, "sql", "", "filter by an SQL92 `EXPRESSION` over properties instead, like \"price > 10 AND region = 'eu'\"")
	cmd.Flags().IntVar(&f.count, "count", 1, "stop after this many messages (0: when no more come)")
	cmd.Flags().DurationVar(&f.wait, "wait", minPoll, "how long to wait for a next message")
	cmd.Flags().DurationVar(&f.invisible, "invisible", 30*time.Second, "how long a message is kept from others before it is delivered again, 10s to 12h")
	cmd.Flags().BoolVar(&f.noAck, "no-ack", false, "do not acknowledge: the messages are delivered again")
	cmd.RegisterFlagCompletionFunc("group", groupNames)
	cmd.RegisterFlagCompletionFunc("filter", cobra.NoFileCompletions)
	cmd.RegisterFlagCompletionFunc("sql", cobra.NoFileCompletions)
	cmd.MarkFlagsMutuallyExclusive("filter", "sql")
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		switch {
		case f.group == "":
			return usageErrorf("--group is required: messages are received for a consumer group")
		case f.count < 0:
			return usageErrorf("--count %d: want 0 or more", f.count)
		case f.wait <= 0:
			return usageErrorf("--wait %v: want a positive duration", f.wait)
		}
		queues, err := c.route(ctx, args[0])
		if err != nil {
			return err
		}
		r := &receiver{client: c, receiveFlags: f, out: cmd.OutOrStdout(), topic: args[0], queue: queues[0]}
		r.queue.Id = -1 // any queue of that broker
		return r.run(ctx)
	})
}

func (f *receiveFlags) expression() *rocketmqv2.FilterExpression {
	if f.sql != "" {
		return &rocketmqv2.FilterExpression{Type: rocketmqv2.FilterType_SQL, Expression: f.sql}
	}
	return &rocketmqv2.FilterExpression{Type: rocketmqv2.FilterType_TAG, Expression: f.filter}
}

type receiver struct {
	*client
	*receiveFlags
	out   io.Writer
	topic string
	queue *rocketmqv2.MessageQueue
}

func (r *receiver) run(ctx context.Context) error {
	got := 0
	for r.count == 0 || got < r.count {
		want := receiveBatch
		if r.count > 0 {
			want = min(want, r.count-got)
		}
		n, err := r.next(ctx, want)
		got += n
		switch {
		case err != nil && r.count == 0 && ctx.Err() != nil:
			return nil // ended by hand, which is how such a command ends
		case err != nil:
			return err
		case n == 0 && r.count == 0:
			return nil
		case n == 0:
			return fmt.Errorf("received %d of %d: no message for %v", got, r.count, r.wait)
		}
	}
	return nil
}

// next polls until messages come or the wait is over, handles them, and returns
// how many there were.
func (r *receiver) next(ctx context.Context, want int) (int, error) {
	for until := time.Now().Add(r.wait); ; {
		left := time.Until(until)
		if left <= 0 {
			return 0, nil
		}
		messages, err := r.poll(ctx, want, left)
		for i, m := range messages {
			if err := r.handle(ctx, m); err != nil {
				return i, err
			}
		}
		if err != nil || len(messages) > 0 {
			return len(messages), err
		}
	}
}

// poll is one ReceiveMessage. It returns the messages that arrived even when the
// call failed after them.
func (r *receiver) poll(ctx context.Context, want int, left time.Duration) (messages []*rocketmqv2.Message, err error) {
	wait := min(max(left, minPoll), maxPoll)
	call, cancel := context.WithTimeout(r.header(ctx), wait+pollGrace)
	defer cancel()
	// A wait below the contract's minimum is cut short from here. The broker
	// gives messages back that it was handing out at that moment.
	if left < wait {
		short := time.AfterFunc(left, cancel)
		defer short.Stop()
	}
	stream, err := r.messaging().ReceiveMessage(call, &rocketmqv2.ReceiveMessageRequest{
		Group:              r.resource(r.group),
		MessageQueue:       r.queue,
		FilterExpression:   r.expression(),
		BatchSize:          int32(want),
		InvisibleDuration:  durationpb.New(r.invisible),
		LongPollingTimeout: durationpb.New(wait),
	})
	var status *rocketmqv2.Status
	for err == nil {
		var response *rocketmqv2.ReceiveMessageResponse
		if response, err = stream.Recv(); err != nil {
			break
		}
		if m := response.GetMessage(); m != nil {
			messages = append(messages, m)
		}
		if s := response.GetStatus(); s != nil {
			status = s
		}
	}
	switch {
	case errors.Is(err, io.EOF):
		err = nil
	case ctx.Err() == nil && call.Err() == context.Canceled:
		return messages, nil // our own short wait
	}
	if status.GetCode() == rocketmqv2.Code_MESSAGE_NOT_FOUND {
		return nil, nil
	}
	return messages, r.outcome(status, err)
}

// handle prints a message and then acknowledges it: what was never shown comes
// back.
func (r *receiver) handle(ctx context.Context, m *rocketmqv2.Message) error {
	if err := printMessage(r.out, r.json, viewMessage(m)); err != nil {
		return err
	}
	if r.noAck {
		return nil
	}
	return r.ack(ctx, m)
}

func (r *receiver) ack(ctx context.Context, m *rocketmqv2.Message) error {
	p := m.GetSystemProperties()
	call, cancel := r.call(ctx)
	defer cancel()
	response, err := r.messaging().AckMessage(call, &rocketmqv2.AckMessageRequest{
		Group: r.resource(r.group),
		Topic: r.resource(r.topic),
		Entries: []*rocketmqv2.AckMessageEntry{
			{MessageId: p.GetMessageId(), ReceiptHandle: p.GetReceiptHandle()},
		},
	})
	if err := r.outcome(response.GetStatus(), err); err != nil {
		return fmt.Errorf("acknowledging %s: %w", p.GetMessageId(), err)
	}
	return nil
}

// messageView is a message in JSON.
type messageView struct {
	Topic      string            `json:"topic"`
	Shard      uint32            `json:"shard,omitempty"`
	Queue      int32             `json:"queue"`
	Offset     int64             `json:"offset"`
	ID         string            `json:"id"`
	Attempt    int32             `json:"attempt,omitempty"`
	Tag        string            `json:"tag,omitempty"`
	Keys       []string          `json:"keys,omitempty"`
	Group      string            `json:"group,omitempty"`
	Properties map[string]string `json:"properties,omitempty"`
	Encoding   string            `json:"encoding,omitempty"`
	Born       string            `json:"born"`
	Stored     string            `json:"stored"`
	Handle     string            `json:"receipt_handle,omitempty"`
	Body       text              `json:"body"`
}

func viewMessage(m *rocketmqv2.Message) messageView {
	p := m.GetSystemProperties()
	v := messageView{
		Topic: m.GetTopic().GetName(), Queue: p.GetQueueId(), Offset: p.GetQueueOffset(), ID: p.GetMessageId(),
		Attempt: p.GetDeliveryAttempt(), Tag: p.GetTag(), Keys: p.GetKeys(), Group: p.GetMessageGroup(),
		Properties: m.GetUserProperties(), Born: stamp(p.GetBornTimestamp()), Stored: stamp(p.GetStoreTimestamp()),
		Handle: p.GetReceiptHandle(), Body: m.GetBody(),
	}
	if p.GetBodyEncoding() == rocketmqv2.Encoding_GZIP {
		v.Encoding = "gzip"
	}
	return v
}

// printMessage writes one line: where the message is, what it carries, the body last.
func printMessage(out io.Writer, asJSON bool, v messageView) error {
	if asJSON {
		return printJSON(out, v)
	}
	words := []string{fmt.Sprintf("%s/%d/%d", v.Topic, v.Queue, v.Offset)}
	if v.Shard > 0 {
		words = append(words, fmt.Sprint("shard=", v.Shard))
	}
	add := func(name, value string) {
		if value != "" {
			words = append(words, name+"="+value)
		}
	}
	if v.Attempt > 1 {
		add("attempt", fmt.Sprint(v.Attempt))
	}
	add("tag", v.Tag)
	add("key", strings.Join(v.Keys, ","))
	add("group", v.Group)
	for _, k := range slices.Sorted(maps.Keys(v.Properties)) {
		add(k, v.Properties[k])
	}
	add("encoding", v.Encoding)
	body := string(v.Body)
	if len(body) > showBody {
		body = fmt.Sprintf("%s... (%d bytes)", body[:showBody], len(body))
	}
	_, err := fmt.Fprintf(out, "%s  %s\n", clean(strings.Join(words, " ")), clean(body))
	return err
}
