package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gantry-mq/gantry/broker/replica"
	"github.com/gantry-mq/gantry/proto/gantryv1"
)

func newCluster() *cobra.Command {
	return parent("cluster", "See the nodes of a cluster, hand the leadership over, add and remove nodes",
		newClusterStatus(), newClusterDigest(), newClusterTransfer(), newClusterAdd(), newClusterPromote(), newClusterRemove())
}

// nodeView is a node in JSON.
type nodeView struct {
	Shard     *int    `json:"shard,omitempty"` // of a cluster that has several
	Name      string  `json:"name"`
	ID        string  `json:"id"`
	Role      string  `json:"role"`
	Client    string  `json:"client"`
	Peer      string  `json:"peer"`
	Term      uint64  `json:"term,omitempty"`
	Last      uint64  `json:"last,omitempty"`
	Committed uint64  `json:"committed,omitempty"`
	Lag       uint64  `json:"lag"`
	Contact   *string `json:"contact,omitempty"`
	Error     string  `json:"error,omitempty"`
}

func viewNode(n *gantryv1.ClusterNode) nodeView {
	v := nodeView{
		Name: n.GetName(), ID: n.GetId(), Role: "follower", Client: n.GetClient(), Peer: n.GetPeer(),
		Term: n.GetTerm(), Last: n.GetLast(), Committed: n.GetCommitted(), Lag: n.GetLag(), Error: n.GetError(),
	}
	switch {
	case n.GetLeader():
		v.Role = "leader"
	case !n.GetVoter() && n.GetLag() == 0 && n.GetError() == "":
		v.Role = "learner"
	case !n.GetVoter():
		v.Role = "catching up"
	}
	if n.Contact != nil && !n.GetLeader() {
		ago := n.GetContact().AsDuration().Round(time.Millisecond).String()
		v.Contact = &ago
	}
	return v
}

func newClusterStatus() *cobra.Command {
	cmd := &cobra.Command{
		Use: "status", Short: "List the nodes and how far they are",
		Long: "List the nodes and how far they are, in each shard or the one that --shard names.",
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		views, rows := []nodeView{}, [][]string{}
		head := []string{"NODE", "ROLE", "CLIENTS", "NODES", "TERM", "ENTRIES", "HEARD LEADER", "STATE"}
		err := c.shards(ctx, cmd, func(c *client, shard, of int) error {
			nodes, err := c.nodes(ctx)
			if err != nil {
				return c.explain(err)
			}
			for _, n := range nodes {
				v := viewNode(n)
				state, heard := fmt.Sprintf("%d behind", v.Lag), "-"
				if v.Error != "" {
					state = "does not answer: " + v.Error
				}
				if v.Contact != nil {
					heard = *v.Contact + " ago"
				}
				row := []string{v.Name, v.Role, v.Client, v.Peer, fmt.Sprint(v.Term), fmt.Sprint(v.Last), heard, state}
				if of > 1 {
					v.Shard = &shard
					row = append([]string{fmt.Sprint(shard)}, row...)
				}
				views, rows = append(views, v), append(rows, row)
			}
			if of > 1 && head[0] != "SHARD" {
				head = append([]string{"SHARD"}, head...)
			}
			return nil
		})
		// One shard that does not answer does not hide the others.
		if len(rows) == 0 && err != nil {
			return err
		}
		if c.json {
			return errors.Join(printJSON(cmd.OutOrStdout(), views), err)
		}
		return errors.Join(printList(cmd.OutOrStdout(), "no nodes", head, rows), err)
	})
}

// digestView is what a node says of its state, in JSON.
type digestView struct {
	Node     string            `json:"node"`
	Position uint64            `json:"position"`
	Sums     map[string]string `json:"sums,omitempty"`
	Error    string            `json:"error,omitempty"`
}

func newClusterDigest() *cobra.Command {
	cmd := &cobra.Command{
		Use: "digest", Short: "Compare the state of all nodes",
		Long: `Compare the state of all nodes: topics, groups, leases, timers and so on, each as of
the same place in the log, in each shard or the one that --shard names. It fails when
nodes differ, which nodes that work never do, or when one does not answer. The state
is summed while nothing else is applied: with hundreds of MiB of it, clients wait for
a moment.`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	return clientCommand(cmd, inEveryShard(func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.cluster().Digest(ctx, &gantryv1.DigestClusterRequest{})
		if err != nil {
			return c.explain(err)
		}
		views, rows := []digestView{}, [][]string{}
		head := []string{"STATE", "BYTES"}
		var silent, differ []string
		var first *gantryv1.NodeDigest
		for _, n := range r.GetNodes() {
			v := digestView{Node: n.GetName(), Position: r.GetPosition(), Error: n.GetError(), Sums: map[string]string{}}
			for _, s := range n.GetSections() {
				v.Sums[s.GetName()] = s.GetSum()
			}
			views, head = append(views, v), append(head, n.GetName())
			if n.GetError() != "" {
				silent = append(silent, clean(n.GetName()+": "+n.GetError()))
			} else if first == nil {
				first = n
			}
		}
		for _, s := range first.GetSections() {
			row, same := []string{s.GetName(), fmt.Sprint(s.GetSize())}, true
			for _, v := range views {
				sum, ok := v.Sums[s.GetName()]
				same = same && (sum == s.GetSum() || v.Error != "")
				if !ok {
					sum = "-"
				}
				row = append(row, sum[:min(len(sum), 12)])
			}
			if !same {
				differ = append(differ, s.GetName())
			}
			rows = append(rows, row)
		}
		if c.json {
			err = printJSON(cmd.OutOrStdout(), views)
		} else {
			err = printList(cmd.OutOrStdout(), "no nodes", head, rows)
		}
		switch {
		case err != nil:
			return err
		case len(differ) > 0:
			return fmt.Errorf("nodes differ at position %d of the log, in: %s", r.GetPosition(), clean(strings.Join(differ, ", ")))
		case len(silent) > 0:
			return fmt.Errorf("not all nodes say what their state is: %s", strings.Join(silent, "; "))
		}
		return nil
	}))
}

func newClusterTransfer() *cobra.Command {
	cmd := &cobra.Command{
		Use: "transfer [NODE]", Short: "Hand the leadership to a node, or to the one that is furthest",
		Long: `Hand the leadership to a node, or to the one that is furthest. With several shards
it is that of shard 0, or the one that --shard names; after five minutes the leaders
are spread over the nodes again.`,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: nodeNames,
	}
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		to := ""
		if len(args) > 0 {
			to = args[0]
		}
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		before, err := c.leader(ctx)
		if err != nil {
			return c.explain(err)
		}
		// The connection ends with the leadership, so the answer may be lost.
		_, err = c.cluster().Transfer(c.header(ctx), &gantryv1.TransferLeadershipRequest{Name: to})
		if err != nil && status.Code(err) != codes.Unavailable {
			return c.explain(err)
		}
		for {
			now, err := c.leader(ctx)
			switch {
			case err == nil && (now == to || to == "" && now != before):
				fmt.Fprintf(cmd.OutOrStdout(), "%s leads\n", clean(now))
				return nil
			case ctx.Err() != nil:
				return fmt.Errorf("the leadership was not handed over in time; %s led", clean(before))
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
}

func newClusterRemove() *cobra.Command {
	cmd := &cobra.Command{
		Use: "remove NODE", Short: "Take a node out of the cluster, for good",
		Long: `Take a node out of the cluster, out of all its shards, for good. It stops when it
hears of it. With an empty data directory it may join again, under the same name. It
may be called again after a failure.`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: nodeNames,
	}
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		removed := false
		var absent error
		err := c.shards(ctx, cmd, func(c *client, _, _ int) error {
			ctx, cancel := c.call(ctx)
			defer cancel()
			_, err := c.cluster().Remove(ctx, &gantryv1.RemoveNodeRequest{Name: args[0]})
			switch {
			case err == nil:
				removed = true
			case strings.Contains(err.Error(), replica.ErrNoMember.Error()): // of this shard
				absent = c.explain(err)
			default:
				return c.explain(err)
			}
			return nil
		})
		if err == nil && !removed {
			err = absent
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s is no node of the cluster any more\n", clean(args[0]))
		return nil
	})
}

func (c *client) cluster() gantryv1.ClusterClient { return gantryv1.NewClusterClient(c.conn) }

func (c *client) nodes(ctx context.Context) ([]*gantryv1.ClusterNode, error) {
	ctx, cancel := c.call(ctx)
	defer cancel()
	r, err := c.cluster().Describe(ctx, &gantryv1.DescribeClusterRequest{})
	return r.GetNodes(), err
}

// leader returns the name of the node that leads.
func (c *client) leader(ctx context.Context) (string, error) {
	nodes, err := c.nodes(ctx)
	for _, n := range nodes {
		if n.GetLeader() {
			return n.GetName(), nil
		}
	}
	return "", err
}
