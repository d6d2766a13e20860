package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

// retrySteps is what --retry-steps gives.
func retrySteps(steps []time.Duration) *gantryv1.RetrySteps {
	list := &gantryv1.RetrySteps{}
	for _, s := range steps {
		list.Steps = append(list.Steps, durationpb.New(s))
	}
	return list
}

func newGroupUpdate() *cobra.Command {
	var (
		attempts int32
		steps    []time.Duration
	)
	cmd := &cobra.Command{
		Use: "update NAME", Short: "Change how often and when a group's messages are tried again",
		Long: `Change what is given, leave the rest. A message that is already waiting for its next
attempt keeps its time. Whether a group is ordered cannot be changed.`,
		Example: "  gantry group update billing --max-attempts 5 --retry-steps 1s,5s,1m",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completeGroups,
	}
	cmd.Flags().Int32Var(&attempts, "max-attempts", 0, "deliveries before a message is a dead letter, 1 to 1000")
	cmd.Flags().DurationSliceVar(&steps, "retry-steps", nil, "pause before each further attempt, as `1s,5s,1m`; the last repeats")
	cmd.MarkFlagsOneRequired("max-attempts", "retry-steps")
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		req := &gantryv1.UpdateGroupRequest{}
		if cmd.Flags().Changed("max-attempts") {
			req.MaxAttempts = &attempts
		}
		if cmd.Flags().Changed("retry-steps") {
			req.Retry = &gantryv1.UpdateGroupRequest_Steps{Steps: retrySteps(steps)}
		}
		return c.updateGroup(ctx, cmd, args[0], req, "updated")
	})
}

func newGroupPause() *cobra.Command {
	return pauseCommand(true, "paused", &cobra.Command{
		Use: "pause NAME", Short: "Hand a group nothing, until it is resumed",
		Long: `Hand a consumer group nothing, until it is resumed, also over restarts. Its consumers
stay connected and wait, as if there were no messages; what they hold they may settle.
Messages stay for the group as long as retention keeps them. Readers by offset go on.`,
	})
}

func newGroupResume() *cobra.Command {
	return pauseCommand(false, "resumed", &cobra.Command{
		Use: "resume NAME", Short: "Hand a paused group its messages again",
	})
}

func pauseCommand(paused bool, done string, cmd *cobra.Command) *cobra.Command {
	cmd.Args, cmd.ValidArgsFunction = cobra.ExactArgs(1), completeGroups
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		return c.updateGroup(ctx, cmd, args[0], &gantryv1.UpdateGroupRequest{Paused: &paused}, done)
	})
}

func (c *client) updateGroup(ctx context.Context, cmd *cobra.Command, name string, req *gantryv1.UpdateGroupRequest, done string) error {
	req.Name, req.Namespace = name, c.namespace
	ctx, cancel := c.call(ctx)
	defer cancel()
	r, err := c.groupOps().Update(ctx, req)
	if err != nil {
		return c.explain(err)
	}
	v := viewGroup(r.GetGroup())
	if c.json {
		return printJSON(cmd.OutOrStdout(), v)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "group %s %s: %s\n", clean(qualified(v.Namespace, v.Name)), done, v.sentence())
	return err
}

// sentence is the group's settings in words.
func (v groupView) sentence() string {
	s := fmt.Sprintf("%s, up to %s, retry after %s", order(v.FIFO), count(v.MaxAttempts, "attempt"), clean(v.Retry))
	if v.Paused {
		s += ", paused"
	}
	return s
}

func newGroupClone() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use: "clone FROM TO TOPIC", Short: "Move a group to where another one is in a topic",
		Long: `Move the group TO to where the group FROM is in a topic, queue by queue: it goes on at
the first message that FROM was not handed. What FROM holds, or has waiting for
another attempt, stays FROM's. What TO held is forgotten. Queues that FROM has not
begun with are left alone. TO must exist.`,
		Example: "  gantry group clone billing billing-v2 orders --dry-run",
		Args:    cobra.ExactArgs(3), ValidArgsFunction: completeGroups,
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only show what would change")
	return clientCommand(cmd, inEveryShard(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		from, to, topic := args[0], args[1], args[2]
		call, cancel := c.call(ctx)
		defer cancel()
		r, err := c.management().DescribeGroup(call, &gantryv1.DescribeGroupRequest{Name: from, Namespace: c.namespace})
		if err != nil {
			return c.explain(err)
		}
		views := []resetView{}
		for _, t := range r.GetTopics() {
			if t.GetName() != topic || t.GetNamespace() != c.namespace {
				continue
			}
			for _, q := range t.GetQueues() {
				r, err := c.reset(ctx, &gantryv1.ResetOffsetRequest{
					Group: to, Namespace: c.namespace, Topic: topic, Queue: &q.Queue, DryRun: dryRun,
					To: &gantryv1.ResetOffsetRequest_Offset{Offset: q.GetCursor()},
				})
				if err != nil {
					return fmt.Errorf("queue %d: %w", q.GetQueue(), err)
				}
				views = append(views, r...)
			}
		}
		if len(views) == 0 {
			return fmt.Errorf("group %s has not begun with topic %s", clean(from), clean(topic))
		}
		return printResets(cmd, c, views, dryRun)
	}))
}
