package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/proto/rocketmqv2"
)

const (
	// A request holds as many messages as are at hand, up to these. Each
	// request is one commit on the server.
	sendBatch      = 64
	sendBatchBytes = 1 << 20

	// listSent is how many results are worth a line each.
	listSent = 10
)

type sendFlags struct {
	tag        string
	keys       []string
	properties []string
	group      string
	delay      time.Duration
	priority   int32
	count      int
	stdin      bool
}

func newSend() *cobra.Command {
	f := &sendFlags{}
	cmd := &cobra.Command{
		Use:   "send TOPIC [BODY...]",
		Short: "Send messages to a topic",
		Long: `Send each BODY as one message, or each line of standard input with --stdin.

The command ends when every message is acknowledged; it stops at the first that
is refused.

On a mixed topic --group, --delay and --priority combine. The group decides about
the queue, and messages of one group are in order there, delayed ones from when
they are due; without a group the priority decides.`,
		Example: `  gantry send orders '{"id": 1}' --tag paid --key order-1 --property region=eu
  gantry send orders --stdin < lines.txt`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeTopics,
	}
	cmd.Flags().StringVar(&f.tag, "tag", "", "tag, which consumers filter by")
	cmd.Flags().StringArrayVar(&f.keys, "key", nil, "`KEY` to find the message by (repeatable)")
	cmd.Flags().StringArrayVar(&f.properties, "property", nil, "user property as `KEY=VALUE` (repeatable)")
	cmd.Flags().StringVar(&f.group, "group", "", "message group: messages of one `GROUP` stay in order (fifo and mixed topics)")
	cmd.Flags().DurationVar(&f.delay, "delay", 0, "deliver not before this much later (delay and mixed topics)")
	cmd.Flags().Int32Var(&f.priority, "priority", 0, "the higher the sooner (priority topics); on a mixed topic it only chooses the queue")
	cmd.Flags().IntVar(&f.count, "count", 1, "send every message this many times")
	cmd.Flags().BoolVar(&f.stdin, "stdin", false, "send each line of standard input")
	cmd.RegisterFlagCompletionFunc("group", cobra.NoFileCompletions)
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		bodies := args[1:]
		switch {
		case f.stdin && len(bodies) > 0:
			return usageErrorf("--stdin and BODY exclude each other")
		case !f.stdin && len(bodies) == 0:
			return usageErrorf("nothing to send: give a BODY, or --stdin")
		case f.delay < 0:
			return usageErrorf("--delay %v: want 0 or more", f.delay)
		case f.count < 1:
			return usageErrorf("--count %d: want at least 1", f.count)
		}
		template, err := f.message(c, args[0], cmd.Flags().Changed("priority"))
		if err != nil {
			return err
		}
		if _, err := c.route(ctx, args[0]); err != nil {
			return err
		}
		s := &sender{client: c, out: cmd.OutOrStdout(), topic: args[0], template: template}
		if f.stdin {
			err = s.lines(ctx, cmd.InOrStdin(), f.count)
		} else {
			err = s.bodies(ctx, bodies, f.count)
		}
		if err != nil && s.sent == 0 {
			return err
		}
		return errors.Join(err, s.summary())
	})
}

// message is what all messages of this command have in common.
func (f *sendFlags) message(c *client, topic string, hasPriority bool) (*rocketmqv2.Message, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	system := &rocketmqv2.SystemProperties{
		Keys:         f.keys,
		BornHost:     host,
		BodyEncoding: rocketmqv2.Encoding_IDENTITY,
		MessageType:  rocketmqv2.MessageType_NORMAL,
	}
	if f.tag != "" {
		system.Tag = &f.tag
	}
	if f.group != "" {
		system.MessageGroup = &f.group
		system.MessageType = rocketmqv2.MessageType_FIFO
	}
	if f.delay > 0 {
		system.DeliveryTimestamp = timestamppb.New(time.Now().Add(f.delay))
		system.MessageType = rocketmqv2.MessageType_DELAY
	}
	if hasPriority {
		system.Priority = &f.priority
		system.MessageType = rocketmqv2.MessageType_PRIORITY
	}
	user := make(map[string]string, len(f.properties))
	for _, p := range f.properties {
		key, value, ok := strings.Cut(p, "=")
		if !ok || key == "" {
			return nil, usageErrorf("--property %q: want KEY=VALUE", p)
		}
		user[key] = value
	}
	return &rocketmqv2.Message{Topic: c.resource(topic), UserProperties: user, SystemProperties: system}, nil
}

// sender gathers messages into requests and reports what became of them.
type sender struct {
	*client
	out      io.Writer
	topic    string
	template *rocketmqv2.Message

	pending []*rocketmqv2.Message
	bytes   int
	sent    int
}

func (s *sender) bodies(ctx context.Context, bodies []string, count int) error {
	for range count {
		for _, b := range bodies {
			if err := s.add(ctx, []byte(b)); err != nil {
				return err
			}
		}
	}
	return s.flush(ctx)
}

// lines sends each line of in. It fills a request only with lines that are
// there already, so that one line of `tail -f` is sent at once.
func (s *sender) lines(ctx context.Context, in io.Reader, count int) error {
	r := bufio.NewReaderSize(in, 64<<10)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		last := err != nil
		line = trimBreak(line)
		if len(line) > 0 || !last {
			for range count {
				if err := s.add(ctx, line); err != nil {
					return err
				}
			}
		}
		if last || r.Buffered() == 0 {
			if err := s.flush(ctx); err != nil || last {
				return err
			}
		}
	}
}

func trimBreak(line []byte) []byte {
	n := len(line)
	if n > 0 && line[n-1] == '\n' {
		n--
		if n > 0 && line[n-1] == '\r' {
			n--
		}
	}
	return line[:n]
}

func (s *sender) add(ctx context.Context, body []byte) error {
	if len(s.pending) == sendBatch || len(s.pending) > 0 && s.bytes+len(body) > sendBatchBytes {
		if err := s.flush(ctx); err != nil {
			return err
		}
	}
	m := proto.CloneOf(s.template)
	m.Body = body
	m.SystemProperties.MessageId = messageID()
	m.SystemProperties.BornTimestamp = timestamppb.Now()
	s.pending = append(s.pending, m)
	s.bytes += len(body)
	return nil
}

// messageID makes an id of the length and alphabet that clients use; nothing
// reads meaning from it, it only has to be unlike all others.
func messageID() string {
	var b [16]byte
	rand.Read(b[:])
	return fmt.Sprintf("01%X", b)
}

// sentView is one result in JSON.
type sentView struct {
	ID            string `json:"id"`
	Offset        int64  `json:"offset"`
	TransactionID string `json:"transaction_id,omitempty"`
	RecallHandle  string `json:"recall_handle,omitempty"`
}

func (s *sender) flush(ctx context.Context) error {
	if len(s.pending) == 0 {
		return nil
	}
	batch := s.pending
	s.pending, s.bytes = nil, 0
	ctx, cancel := s.call(ctx)
	defer cancel()
	r, err := s.messaging().SendMessage(ctx, &rocketmqv2.SendMessageRequest{Messages: batch})
	if err != nil {
		return s.explain(err)
	}
	if len(r.GetEntries()) == 0 {
		return s.outcome(r.GetStatus(), nil)
	}
	// The entries say it more exactly than the status of the whole does.
	for _, e := range r.GetEntries() {
		if err := s.outcome(e.GetStatus(), nil); err != nil {
			return err
		}
		s.sent++
		v := sentView{e.GetMessageId(), e.GetOffset(), e.GetTransactionId(), e.GetRecallHandle()}
		if s.json {
			err = printJSON(s.out, v)
		} else if s.sent <= listSent {
			where := fmt.Sprintf("offset %d", v.Offset)
			if v.Offset < 0 {
				where = "waits for its time" // in no queue until it is due
			}
			_, err = fmt.Fprintf(s.out, "%s %s\n", clean(v.ID), where)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *sender) summary() error {
	if s.json {
		return nil
	}
	_, err := fmt.Fprintf(s.out, "sent %s to %s\n", count(s.sent, "message"), clean(s.topic))
	return err
}
