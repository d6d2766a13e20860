package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

func (c *client) groupOps() gantryv1.GroupOpsClient { return gantryv1.NewGroupOpsClient(c.conn) }

// blockedView is a blocked message group in JSON.
type blockedView struct {
	Key       string `json:"key"`
	LiteTopic string `json:"lite_topic,omitempty"`
	Topic     string `json:"topic"`
	Namespace string `json:"namespace,omitempty"`
	Queue     uint32 `json:"queue"`
	Offset    int64  `json:"offset"`
	ID        string `json:"id"`
	Attempt   int32  `json:"attempt"`
	Client    string `json:"client,omitempty"`
	Since     string `json:"since"`
	Until     string `json:"until"`
	Stored    string `json:"stored"`
	Behind    int64  `json:"behind"`
	More      bool   `json:"more,omitempty"`

	History []attemptView `json:"history,omitempty"`
}

func newGroupBlocked() *cobra.Command {
	var limit int32
	cmd := &cobra.Command{
		Use:   "blocked GROUP",
		Short: "Show which message groups wait for which message, and who holds it",
		Long: `Show the message groups of an ordered consumer group that wait for one of their
messages: it was handed out more than once, or others are behind it. UNTIL is when
it may be handed out again.

Free a message group with 'gantry group skip GROUP MESSAGE', MESSAGE as shown here.
'gantry message get', and --json here, tell each delivery that it had.`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeGroups,
	}
	cmd.Flags().Int32Var(&limit, "limit", 100, "show so many at most, most attempts first, up to 1000")
	return clientCommand(cmd, inEveryShard(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		if limit < 1 {
			return usageErrorf("--limit %d: want 1 to 1000", limit)
		}
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.groupOps().Blocked(ctx, &gantryv1.BlockedRequest{Group: args[0], Namespace: c.namespace, Limit: limit})
		if err != nil {
			return c.explain(err)
		}
		views := make([]blockedView, 0, len(r.GetKeys()))
		for _, k := range r.GetKeys() {
			views = append(views, blockedView{
				Key: k.GetKey(), LiteTopic: k.GetLiteTopic(), Topic: k.GetTopic(), Namespace: k.GetTopicNamespace(), Queue: k.GetQueue(),
				Offset: k.GetOffset(), ID: k.GetMessageId(), Attempt: k.GetAttempt(), Client: k.GetClient(),
				Since: stamp(k.GetSince()), Until: stamp(k.GetUntil()), Stored: stamp(k.GetStored()), Behind: k.GetBehind(), More: k.GetMore(),
				History: viewAttempts(k.GetHistory()),
			})
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), views)
		}
		rows := make([][]string, 0, len(views))
		for _, v := range views {
			rows = append(rows, []string{v.name(), fmt.Sprintf("%s/%d/%d", v.Topic, v.Queue, v.Offset), v.ID, fmt.Sprint(v.Attempt),
				dash(v.Client), v.Since, v.Until, v.waiting()})
		}
		return printList(cmd.OutOrStdout(), "nothing is blocked", []string{"KEY", "MESSAGE", "ID", "ATTEMPT", "CLIENT", "SINCE", "UNTIL", "BEHIND"}, rows)
	}))
}

func (v blockedView) name() string {
	if v.LiteTopic != "" {
		return "lite topic " + v.LiteTopic
	}
	return dash(v.Key)
}

func (v blockedView) waiting() string {
	if v.More {
		return fmt.Sprintf("%d or more", v.Behind)
	}
	return fmt.Sprint(v.Behind)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func newGroupSkip() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "skip GROUP TOPIC/QUEUE/OFFSET",
		Short: "Move a message to the group's dead letters, freeing what waits for it",
		Long: `Move a message that a consumer group has in flight or waiting for its next attempt
to the group's dead letters, whoever holds it. What waited for it can be received at
once. Other groups are not touched; 'gantry dlq redrive' brings it back.`,
		Example: "  gantry group skip billing orders/3/1207",
		Args:    cobra.ExactArgs(2), ValidArgsFunction: completeGroups,
	}
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		topic, queue, offset, ok := parsePlace(args[1])
		if !ok {
			return usageErrorf("%q: want TOPIC/QUEUE/OFFSET, as group blocked shows it", args[1])
		}
		ctx, cancel := c.call(ctx)
		defer cancel()
		_, err := c.groupOps().Skip(ctx, &gantryv1.SkipRequest{Group: args[0], Namespace: c.namespace, Topic: topic, Queue: queue, Offset: offset})
		if err != nil {
			return c.explain(err)
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), map[string]any{"skipped": args[1], "group": args[0], "namespace": c.namespace})
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "message %s is a dead letter of group %s now\n", clean(args[1]), clean(qualified(c.namespace, args[0])))
		return err
	})
}

// parsePlace reads TOPIC/QUEUE/OFFSET.
func parsePlace(s string) (topic string, queue uint32, offset int64, ok bool) {
	parts := strings.Split(s, "/")
	if len(parts) != 3 || parts[0] == "" {
		return "", 0, 0, false
	}
	q, err := strconv.ParseUint(parts[1], 10, 32)
	if err != nil {
		return "", 0, 0, false
	}
	offset, err = strconv.ParseInt(parts[2], 10, 64)
	return parts[0], uint32(q), offset, err == nil && offset >= 0
}

// resetView is what a reset does to one queue, in JSON.
type resetView struct {
	Queue    uint32 `json:"queue"`
	From     *int64 `json:"from,omitempty"`
	To       int64  `json:"to"`
	Max      int64  `json:"max"`
	InFlight int64  `json:"in_flight"`
	Ready    int64  `json:"ready"`
}

func newGroupReset() *cobra.Command {
	var (
		to     string
		queue  uint32
		dryRun bool
	)
	cmd := &cobra.Command{
		Use:   "reset GROUP TOPIC --to WHERE",
		Short: "Move a consumer group to another place in a topic",
		Long: `Move a consumer group to another place in a topic: messages from there on are
delivered to it as if for the first time, and those before are done. What it holds or
has waiting for another attempt is forgotten, and receipt handles are void; consumers
may stay connected.

WHERE is earliest (the first message still kept), latest (behind the last one), a
time (the first message stored then or later: 2h ago, 2026-01-31T10:00:00Z), or an
offset, which is taken for the nearer end of a queue that does not have it.`,
		Example: `  gantry group reset billing orders --to 2h --dry-run
  gantry group reset billing orders --to earliest`,
		Args: cobra.ExactArgs(2),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return topicNames(cmd, args, prefix)
			}
			return completeGroups(cmd, args, prefix)
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "`WHERE` to go on: earliest, latest, a time, or an offset (required)")
	cmd.Flags().Uint32Var(&queue, "queue", 0, "only this queue (default: all)")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only show what would change")
	cmd.RegisterFlagCompletionFunc("to", completeWords("earliest", "latest"))
	return clientCommand(cmd, inEveryShard(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		request := &gantryv1.ResetOffsetRequest{Group: args[0], Namespace: c.namespace, Topic: args[1], DryRun: dryRun}
		if err := resetWhere(request, to); err != nil {
			return err
		}
		if cmd.Flags().Changed("queue") {
			request.Queue = &queue
		}
		views, err := c.reset(ctx, request)
		if err != nil {
			return err
		}
		return printResets(cmd, c, views, dryRun)
	}))
}

func (c *client) reset(ctx context.Context, request *gantryv1.ResetOffsetRequest) ([]resetView, error) {
	ctx, cancel := c.call(ctx)
	defer cancel()
	r, err := c.groupOps().ResetOffset(ctx, request)
	if err != nil {
		return nil, c.explain(err)
	}
	views := make([]resetView, 0, len(r.GetQueues()))
	for _, q := range r.GetQueues() {
		views = append(views, resetView{q.GetQueue(), q.From, q.GetTo(), q.GetMaxOffset(), q.GetInFlight(), q.GetReady()})
	}
	return views, nil
}

func printResets(cmd *cobra.Command, c *client, views []resetView, dryRun bool) error {
	if c.json {
		return printJSON(cmd.OutOrStdout(), views)
	}
	rows := make([][]string, 0, len(views))
	for _, v := range views {
		from := "-"
		if v.From != nil {
			from = fmt.Sprint(*v.From)
		}
		rows = append(rows, []string{fmt.Sprint(v.Queue), from, fmt.Sprint(v.To), fmt.Sprint(v.Max), fmt.Sprint(v.InFlight), fmt.Sprint(v.Ready)})
	}
	err := printTable(cmd.OutOrStdout(), []string{"QUEUE", "FROM", "TO", "END", "IN FLIGHT", "WAITING"}, rows)
	if err == nil && dryRun {
		_, err = fmt.Fprintln(cmd.OutOrStdout(), "nothing was changed")
	}
	return err
}

func resetWhere(r *gantryv1.ResetOffsetRequest, to string) error {
	switch offset, err := strconv.ParseInt(to, 10, 64); {
	case to == "earliest":
		r.To = &gantryv1.ResetOffsetRequest_Earliest{Earliest: true}
	case to == "latest":
		r.To = &gantryv1.ResetOffsetRequest_Latest{Latest: true}
	case err == nil && offset >= 0:
		r.To = &gantryv1.ResetOffsetRequest_Offset{Offset: offset}
	default:
		t, ok := parseTime(to)
		if !ok {
			return usageErrorf("--to %q: want earliest, latest, a time, or an offset", to)
		}
		r.To = &gantryv1.ResetOffsetRequest_Timestamp{Timestamp: timestamppb.New(t)}
	}
	return nil
}
