package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	gantry "github.com/gantry-mq/gantry/client"
	"github.com/gantry-mq/gantry/proto/gantryv1"
	"github.com/gantry-mq/gantry/proto/rocketmqv2"
)

func newMessageTail() *cobra.Command {
	var (
		from, filter, sql string
		count             int
		wait              time.Duration
	)
	cmd := &cobra.Command{
		Use: "tail TOPIC", Short: "Print messages of a topic as they come, for no group",
		Long: `Print the messages of a topic with their bodies as they come. It reads beside all
groups: nothing is leased, acknowledged or moved. Within a queue messages are in order.
It goes on until it is interrupted, or --count or --wait ends it.`,
		Example: "  gantry message tail orders\n  gantry message tail orders --from 10m --sql \"region = 'eu'\" --json\n  gantry message tail orders --from earliest --wait 1s",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completeTopics,
	}
	cmd.Flags().StringVar(&from, "from", "latest", "begin at the `TIME`: 2h (ago), 2026-01-31T10:00:00Z, earliest, or latest")
	cmd.Flags().StringVar(&filter, "filter", "", "only those with these tags: `'A || B'`")
	cmd.Flags().StringVar(&sql, "sql", "", "only those for which an SQL92 `EXPRESSION` over properties is true")
	cmd.Flags().IntVar(&count, "count", 0, "stop after this many messages (0: go on)")
	cmd.Flags().DurationVar(&wait, "wait", 0, "stop when none came for so long (0: go on)")
	cmd.MarkFlagsMutuallyExclusive("filter", "sql")
	cmd.RegisterFlagCompletionFunc("from", completeWords("earliest", "latest"))
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		if count < 0 || wait < 0 {
			return usageErrorf("--count and --wait: want 0 or more")
		}
		start := gantry.Latest
		switch at, ok := parseTime(from); {
		case from == "earliest":
			start = gantry.Earliest
		case ok:
			start = gantry.AtTime(at)
		case from != "latest":
			return usageErrorf("--from %q: want earliest, latest, or a time", from)
		}
		user, secret, err := c.caller.read()
		if err != nil {
			return err
		}
		conn, err := gantry.Dial(ctx, []string{c.at}, gantry.Options{User: user, Secret: secret, Namespace: c.namespace})
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		r, err := conn.NewReader(gantry.ReaderOptions{Topic: args[0], Tag: filter, SQL: sql, Start: start})
		if err != nil {
			return err
		}
		defer r.Close(ctx)
		for n := 0; count == 0 || n < count; n++ {
			next, cancel := ctx, context.CancelFunc(func() {})
			if wait > 0 {
				next, cancel = context.WithTimeout(ctx, wait)
			}
			m, err := r.Next(next)
			cancel()
			if err != nil && (ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded)) {
				return nil // ended by hand, or by --wait, which is how it ends
			}
			if err != nil {
				return err
			}
			if err := printMessage(cmd.OutOrStdout(), c.json, viewRead(m)); err != nil {
				return err
			}
		}
		return nil
	})
}

func viewRead(m *gantry.Record) messageView {
	shard, queue := gantry.ShardOf(m.Queue())
	v := messageView{
		Topic: m.Topic(), Shard: shard, Queue: int32(queue), Offset: m.Offset(), ID: m.ID(), Tag: m.Tag(), Keys: m.Keys(), Group: m.Group(),
		Properties: maps.Collect(m.Properties()), Born: stamp(timestamppb.New(m.BornAt())), Stored: stamp(timestamppb.New(m.StoredAt())), Body: m.Body(),
	}
	if m.BodyErr() != nil {
		v.Encoding, v.Body = m.Compression(), m.StoredBody()
	}
	return v
}

func newMessageResend() *cobra.Command {
	var topic, to string
	cmd := &cobra.Command{
		Use: "resend ID", Short: "Send a copy of a message as a new one",
		Long: `Send a copy of a message, with its tag, keys, properties, message group and body, as a
new message with an id of its own: every group gets it. It is due at once, and no
transaction. To deliver again what one group has done with, there is 'gantry group
replay', and for what it gave up 'gantry dlq redrive'; both copy nothing.`,
		Example: "  gantry message resend 0170C0035AC5673D2D5A0A5C1DF1390299 --topic orders --to orders-test",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&topic, "topic", "", "the `TOPIC` it was sent to (required)")
	cmd.Flags().StringVar(&to, "to", "", "send the copy to this `TOPIC` (default: the same)")
	cmd.MarkFlagRequired("topic")
	cmd.RegisterFlagCompletionFunc("topic", topicNames)
	cmd.RegisterFlagCompletionFunc("to", topicNames)
	return clientCommand(cmd, inSomeShard(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		if to == "" {
			to = topic
		}
		call, cancel := c.call(ctx)
		defer cancel()
		r, err := c.messages().Get(call, &gantryv1.GetMessageRequest{
			Topic: topic, Namespace: c.namespace, By: &gantryv1.GetMessageRequest_MessageId{MessageId: args[0]},
		})
		if err != nil {
			return c.explain(err)
		}
		f := sendFlags{tag: r.GetMessage().GetTag(), keys: r.GetMessage().GetKeys(), group: r.GetMessageGroup()}
		m, err := f.message(c, to, false)
		if err != nil {
			return err
		}
		for _, p := range r.GetProperties() {
			m.UserProperties[p.GetKey()] = p.GetValue()
		}
		if r.GetLiteTopic() != "" {
			m.SystemProperties.LiteTopic, m.SystemProperties.MessageType = &r.LiteTopic, rocketmqv2.MessageType_LITE
		}
		if r.GetUnreadable() != "" {
			return fmt.Errorf("%s is not sent again, its body is unreadable: %s", clean(args[0]), clean(r.GetUnreadable()))
		}
		s := &sender{client: c, out: cmd.OutOrStdout(), topic: to, template: m}
		if err := s.bodies(ctx, []string{string(r.GetBody())}, 1); err != nil {
			return fmt.Errorf("the copy of %s: %w", clean(args[0]), err)
		}
		return s.summary()
	}))
}
