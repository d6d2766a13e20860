package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

// replayView is how far a replay is, in JSON.
type replayView struct {
	Total    int64 `json:"total"`
	Passed   int64 `json:"passed"`
	Replayed int64 `json:"replayed"`
	DryRun   bool  `json:"dry_run"`
}

func newGroupReplay() *cobra.Command {
	var (
		topic, from, to, tags, sql string
		rate                       int32
		dryRun, resume, cancel     bool
	)
	cmd := &cobra.Command{
		Use:   "replay GROUP --topic TOPIC --from TIME",
		Short: "Deliver a time range of a topic to one consumer group again",
		Long: `Deliver the messages that came into a topic in a time range to one consumer group
again, as if for the first time. No other group sees them, and nothing is copied.
From there they are like others: acknowledged, tried again, dead letters in the end.
They go before new messages, so choose a --rate that leaves the consumers time for
those. What the group has in its hands or has not come to is left alone: it comes
anyway. What the consumers' own filter does not want is left out.

When the command is interrupted, or the broker is restarted meanwhile, run it again,
or run it with --resume: it goes on where it was. It also waits while the group has
enough to do, so it ends only when consumers are at work.`,
		Example: `  gantry group replay billing --topic orders --from 2h --to 1h --dry-run
  gantry group replay billing --topic orders --from 2026-01-31T10:00:00Z --to 2026-01-31T11:00:00Z --sql 'price > 100' --rate 500
  gantry group replay billing --topic orders --resume`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeGroups,
	}
	cmd.Flags().StringVar(&topic, "topic", "", "the `TOPIC` (required)")
	cmd.Flags().StringVar(&from, "from", "", "messages that came at this `TIME` or later: 2h (ago), 2026-01-31, or 2026-01-31T10:00:00Z")
	cmd.Flags().StringVar(&to, "to", "", "and before this `TIME` (default: until now)")
	cmd.Flags().StringVar(&tags, "filter", "", "only those with these tags: `'A || B'`")
	cmd.Flags().StringVar(&sql, "sql", "", "only those that an SQL92 `EXPRESSION` over properties takes")
	cmd.Flags().Int32Var(&rate, "rate", 0, "at most so many a second (0: as fast as the group takes them)")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only count")
	cmd.Flags().BoolVar(&resume, "resume", false, "go on with the replay that is not finished, whatever its range")
	cmd.Flags().BoolVar(&cancel, "cancel", false, "forget the replay that is not finished")
	cmd.MarkFlagRequired("topic")
	cmd.MarkFlagsOneRequired("from", "resume", "cancel")
	cmd.MarkFlagsMutuallyExclusive("from", "resume", "cancel")
	cmd.MarkFlagsMutuallyExclusive("filter", "sql")
	for _, other := range []string{"to", "filter", "sql", "dry-run"} {
		cmd.MarkFlagsMutuallyExclusive(other, "resume")
		cmd.MarkFlagsMutuallyExclusive(other, "cancel")
	}
	cmd.RegisterFlagCompletionFunc("topic", topicNames)
	return clientCommand(cmd, inEveryShard(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		if cancel {
			return c.cancelReplay(ctx, cmd, args[0], topic)
		}
		if rate < 0 {
			return usageErrorf("--rate %d: want 0 or more", rate)
		}
		req := &gantryv1.ReplayRequest{
			Group: args[0], Namespace: c.namespace, Topic: topic, Tags: tags, Sql: sql, Rate: rate, DryRun: dryRun, Resume: resume,
		}
		var err error
		if req.From, err = timeFlag("from", from); err != nil {
			return err
		}
		if req.To, err = timeFlag("to", to); err != nil {
			return err
		}
		return c.replay(ctx, cmd, req)
	}))
}

// replay follows a replay to its end. On a terminal it shows how far it is.
func (c *client) replay(ctx context.Context, cmd *cobra.Command, req *gantryv1.ReplayRequest) error {
	stream, err := c.groupOps().Replay(c.header(ctx), req)
	if err != nil {
		return c.explain(err)
	}
	bar := progressBar{to: cmd.ErrOrStderr(), on: !c.json && isTerminal(cmd.ErrOrStderr())}
	last := &gantryv1.ReplayProgress{}
	waited := false
	for {
		p, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			bar.end()
			if last.GetTotal() == 0 {
				return c.explain(err)
			}
			return fmt.Errorf("%w; %d of %d messages were looked at and %d replayed: run the command with --resume to go on",
				c.explain(err), last.GetPassed(), last.GetTotal(), last.GetDone())
		}
		last = p
		what := fmt.Sprintf("looked at, %d replayed", p.GetDone())
		if p.GetWaiting() {
			what += "; waiting for the group's consumers"
		}
		bar.show(what, p.GetPassed(), p.GetTotal())
		if p.GetWaiting() && !waited && !bar.on {
			waited = true
			fmt.Fprintf(cmd.ErrOrStderr(), "%s; waiting for the group's consumers\n", count(p.GetDone(), "message")+" replayed")
		}
	}
	bar.end()
	if c.json {
		return printJSON(cmd.OutOrStdout(), replayView{last.GetTotal(), last.GetPassed(), last.GetDone(), req.GetDryRun()})
	}
	told := "replayed"
	if req.GetDryRun() {
		told = "would be replayed"
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s of %d in the range %s to group %s\n", count(last.GetDone(), "message"), last.GetTotal(), told, clean(qualified(c.namespace, req.GetGroup())))
	return err
}

func (c *client) cancelReplay(ctx context.Context, cmd *cobra.Command, group, topic string) error {
	ctx, cancel := c.call(ctx)
	defer cancel()
	p, err := c.groupOps().CancelReplay(ctx, &gantryv1.CancelReplayRequest{Group: group, Namespace: c.namespace, Topic: topic})
	if err != nil {
		return c.explain(err)
	}
	if c.json {
		return printJSON(cmd.OutOrStdout(), replayView{Total: p.GetTotal(), Passed: p.GetPassed(), Replayed: p.GetDone()})
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "replay cancelled: %s of %d were replayed\n", count(p.GetDone(), "message"), p.GetTotal())
	return err
}
