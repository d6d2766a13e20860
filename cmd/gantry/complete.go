package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

// completeTimeout is short because a person is waiting with a finger on Tab: no
// names are better than a shell that hangs.
const completeTimeout = time.Second

type completeFunc = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// completeTopics completes the first argument with the names of topics.
func completeTopics(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return topicNames(cmd, args, prefix)
}

// completeGroups completes the first argument with the names of groups.
func completeGroups(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return groupNames(cmd, args, prefix)
}

var topicNames = completeFrom(func(ctx context.Context, c *client) (names []string, err error) {
	r, err := c.management().ListTopics(ctx, &gantryv1.ListTopicsRequest{Namespace: &c.namespace})
	for _, t := range r.GetTopics() {
		names = append(names, t.GetName())
	}
	return names, err
})

var groupNames = completeFrom(func(ctx context.Context, c *client) (names []string, err error) {
	r, err := c.management().ListGroups(ctx, &gantryv1.ListGroupsRequest{Namespace: &c.namespace})
	for _, g := range r.GetGroups() {
		names = append(names, g.GetName())
	}
	return names, err
})

var nodeNames = completeFrom(func(ctx context.Context, c *client) (names []string, err error) {
	r, err := c.cluster().Describe(ctx, &gantryv1.DescribeClusterRequest{})
	for _, n := range r.GetNodes() {
		names = append(names, n.GetName())
	}
	return names, err
})

// completeFrom asks the broker that --server names. The shell filters by prefix.
func completeFrom(list func(context.Context, *client) ([]string, error)) completeFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		var f clientFlags
		f.server, _ = cmd.Flags().GetString("server")
		f.shard, _ = cmd.Flags().GetInt("shard")
		f.namespace, _ = cmd.Flags().GetString("namespace")
		f.caller.user, _ = cmd.Flags().GetString("as") // where there is another --user
		if f.caller.user == "" && cmd.Flags().Lookup("as") == nil {
			f.caller.user, _ = cmd.Flags().GetString("user")
		}
		f.caller.file, _ = cmd.Flags().GetString("secret-file")
		c, err := f.connect()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		defer c.close()
		ctx, cancel := context.WithTimeout(context.Background(), completeTimeout)
		defer cancel()
		names, err := list(ctx, c)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeWords completes a flag with fixed words.
func completeWords(words ...string) completeFunc {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}
