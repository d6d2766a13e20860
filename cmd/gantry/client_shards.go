package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

// commandFunc is what a command does with a connection.
type commandFunc func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error

// shards calls f for each shard of the cluster, or for the one that --shard names, and
// goes on after an error. When nobody says how many there are, f does what it would
// without shards: it says what is wrong better.
func (c *client) shards(ctx context.Context, cmd *cobra.Command, f func(c *client, shard, of int) error) error {
	of := c.countShards(ctx)
	if of <= 1 || cmd.Flags().Changed("shard") {
		return f(c, c.shard, of)
	}
	errs := make([]error, of)
	for shard := range of {
		flags := *c.clientFlags
		flags.shard = shard
		there, err := flags.connect()
		if err == nil {
			err = f(there, shard, of)
			there.close()
		}
		if u := new(usageError); errors.As(err, &u) {
			return err
		}
		errs[shard] = err
	}
	same := errs[0] != nil && !slices.ContainsFunc(errs, func(err error) bool { return err == nil || err.Error() != errs[0].Error() })
	if same {
		return errs[0]
	}
	for shard, err := range errs {
		if err != nil {
			errs[shard] = fmt.Errorf("shard %d: %w", shard, err)
		}
	}
	return errors.Join(errs...)
}

// countShards is how many there are, 0 when nobody says so.
func (c *client) countShards(ctx context.Context) int {
	ctx, cancel := c.call(ctx)
	defer cancel()
	info, err := gantryv1.NewManagementClient(c.conn).ServerInfo(ctx, &gantryv1.ServerInfoRequest{})
	if err != nil {
		return 0
	}
	return int(info.GetShards())
}

// ofOneShard says whether a command is about a place, or goes on with a list, which is one
// of the shard that --shard names, or of shard 0.
func ofOneShard(cmd *cobra.Command) bool {
	return slices.ContainsFunc([]string{"queue", "offset", "page", "after"}, cmd.Flags().Changed)
}

// inEveryShard does f in each shard of the cluster, or in the one that --shard names. As
// JSON that is one list, which says of each value where it is from.
func inEveryShard(f commandFunc) commandFunc {
	return func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		if ofOneShard(cmd) {
			return f(ctx, cmd, c, args)
		}
		out := cmd.OutOrStdout()
		defer cmd.SetOut(out)
		all := []json.RawMessage{}
		several := false
		err := c.shards(ctx, cmd, func(c *client, shard, of int) error {
			if of <= 1 || cmd.Flags().Changed("shard") {
				return f(ctx, cmd, c, args)
			}
			several = true
			if !c.json {
				gap := "\n"
				if shard == 0 {
					gap = ""
				}
				fmt.Fprintf(out, "%sshard %d:\n", gap, shard)
				return f(ctx, cmd, c, args)
			}
			var said bytes.Buffer
			cmd.SetOut(&said)
			err := f(ctx, cmd, c, args)
			values, bad := ofShard(shard, said.Bytes())
			all = append(all, values...)
			return errors.Join(err, bad)
		})
		if several && c.json {
			err = errors.Join(printJSON(out, all), err)
		}
		return err
	}
}

// ofShard are the values of a list, or a value alone, each with its shard.
func ofShard(shard int, said []byte) (values []json.RawMessage, err error) {
	if said = bytes.TrimSpace(said); len(said) == 0 {
		return nil, nil
	}
	if said[0] != '[' {
		values = []json.RawMessage{said}
	} else if err := json.Unmarshal(said, &values); err != nil {
		return nil, err
	}
	for i, v := range values {
		v = bytes.TrimSpace(v)
		if len(v) < 2 || v[0] != '{' {
			continue
		}
		comma := ","
		if len(bytes.TrimSpace(v[1:len(v)-1])) == 0 {
			comma = ""
		}
		values[i] = fmt.Appendf(nil, `{"shard":%d%s%s`, shard, comma, v[1:])
	}
	return values, nil
}

// inSomeShard does f in the first shard that has what it is about: where it succeeds.
func inSomeShard(f commandFunc) commandFunc {
	return func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		if ofOneShard(cmd) {
			return f(ctx, cmd, c, args)
		}
		done := false
		err := c.shards(ctx, cmd, func(c *client, _, _ int) error {
			if done {
				return nil
			}
			err := f(ctx, cmd, c, args)
			done = err == nil
			return err
		})
		if done {
			return nil
		}
		return err
	}
}
