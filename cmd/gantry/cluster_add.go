package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

// addPoll is how often the cluster is asked about the node that is to come.
const addPoll = 200 * time.Millisecond

func newClusterAdd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "add NODE", Short: "Say how a node joins, and wait until it counts",
		Long: `Say how a node of that name joins, and wait until it has joined, counts for a
majority, and all others have heard so: only then add or replace the next one. A
learner counts when it is promoted. It changes nothing itself: it may be interrupted,
and called again.`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	wait := cmd.Flags().Duration("wait", 10*time.Minute, "give up after this time")
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		deadline := time.Now().Add(*wait)
		return c.shards(ctx, cmd, func(c *client, shard, of int) error {
			out := cmd.OutOrStdout()
			if of > 1 {
				fmt.Fprintf(out, "shard %d:\n", shard)
			}
			return c.arrives(ctx, out, args[0], *wait, deadline)
		})
	})
}

// arrives says how far a node is in one shard, until it is there.
func (c *client) arrives(ctx context.Context, out io.Writer, node string, wait time.Duration, deadline time.Time) error {
	a := arrival{node: node}
	for said := ""; ; {
		nodes, err := c.nodes(ctx)
		if err != nil && (said == "" || ctx.Err() != nil) { // later the leader may change
			return c.explain(err)
		}
		if err == nil {
			state, done := a.state(nodes)
			if state != said {
				fmt.Fprintln(out, clean(state))
				said = state
			}
			if done {
				return nil
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("given up after %v", wait)
		}
		select {
		case <-time.After(addPoll):
		case <-ctx.Done():
			return errors.New("interrupted")
		}
	}
}

// arrival is that of a node in a cluster.
type arrival struct {
	node  string
	entry uint64 // of the log, behind the one that lets it count; 0: not known yet
}

// state is how far it is, and whether that is all.
func (a *arrival) state(nodes []*gantryv1.ClusterNode) (string, bool) {
	var node, leader *gantryv1.ClusterNode
	for _, n := range nodes {
		if n.GetName() == a.node {
			node = n
		}
		if n.GetLeader() {
			leader = n
		}
	}
	switch {
	case node == nil:
		return fmt.Sprintf("waiting for: gantry serve --node %s --join %s, with an empty directory", a.node, leader.GetPeer()), false
	case node.GetError() != "":
		return fmt.Sprintf("%s does not answer: %s", a.node, node.GetError()), false
	case !node.GetVoter():
		return a.node + " has joined, and does not count yet", false
	case a.entry == 0:
		a.entry = leader.GetLast()
	}
	for _, n := range nodes {
		if a.entry == 0 || n.GetCommitted() < a.entry {
			return fmt.Sprintf("%s counts; waiting until %s has heard so", a.node, n.GetName()), false
		}
	}
	return a.node + " counts, and all nodes know", true
}

func newClusterPromote() *cobra.Command {
	cmd := &cobra.Command{
		Use: "promote NODE", Short: "Let a node count that joined with --learner",
		Long: `Let a node count for a majority that joined with --learner, in all shards. It is
refused while the node does not have all of the log.`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: nodeNames,
	}
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		err := c.shards(ctx, cmd, func(c *client, _, _ int) error {
			ctx, cancel := c.call(ctx)
			defer cancel()
			if _, err := c.cluster().Promote(ctx, &gantryv1.PromoteNodeRequest{Name: args[0]}); err != nil {
				return c.explain(err)
			}
			return nil
		})
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s counts\n", clean(args[0]))
		return nil
	})
}
