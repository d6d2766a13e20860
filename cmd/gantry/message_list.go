package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

// pageFlags say which part of a list is wanted.
type pageFlags struct {
	from, to, page string
	limit          int
}

func (f *pageFlags) add(cmd *cobra.Command, what string) {
	cmd.Flags().StringVar(&f.from, "from", "", "only those "+what+" at this `TIME` or later: 2h (ago), 2026-01-31, or 2026-01-31T10:00:00Z")
	cmd.Flags().StringVar(&f.to, "to", "", "only those before this `TIME`")
	cmd.Flags().IntVar(&f.limit, "limit", 100, "list so many at most (0: all)")
	cmd.Flags().StringVar(&f.page, "page", "", "go on at this `PAGE`, as the list before said")
}

func (f *pageFlags) fill(req *gantryv1.QueryMessagesRequest) (err error) {
	if f.limit < 0 {
		return usageErrorf("--limit %d: want 0 or more", f.limit)
	}
	req.Page = f.page
	if req.From, err = timeFlag("from", f.from); err == nil {
		req.To, err = timeFlag("to", f.to)
	}
	return err
}

func newMessageQuery() *cobra.Command {
	var (
		id, key string
		pages   pageFlags
	)
	cmd := &cobra.Command{
		Use: "query TOPIC", Short: "Find messages of a topic by id or key",
		Long: `Find all messages of a topic that the log still has by their id or one of their
keys, the newest first, in whatever state: queued, retrying, dead, delayed, undecided,
rolled back, recalled, or in no queue any more.`,
		Example: "  gantry message query orders --key order-17",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completeTopics,
	}
	cmd.Flags().StringVar(&id, "id", "", "those with this id")
	cmd.Flags().StringVar(&key, "key", "", "those with this key")
	pages.add(cmd, "stored")
	cmd.MarkFlagsOneRequired("id", "key")
	cmd.MarkFlagsMutuallyExclusive("id", "key")
	return clientCommand(cmd, inEveryShard(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		req := &gantryv1.QueryMessagesRequest{Topic: args[0], Namespace: c.namespace, MessageId: id, Key: key}
		if err := pages.fill(req); err != nil {
			return err
		}
		return c.listMessages(ctx, cmd, req, pages.limit)
	}))
}

// listable are the states that message list takes.
var listable = map[string][]gantryv1.MessageState{
	"queued":   {gantryv1.MessageState_MESSAGE_QUEUED},
	"retrying": {gantryv1.MessageState_MESSAGE_RETRYING},
	"dead":     {gantryv1.MessageState_MESSAGE_DEAD_LETTER},
	"half":     {gantryv1.MessageState_MESSAGE_HALF, gantryv1.MessageState_MESSAGE_PARKED},
	"parked":   {gantryv1.MessageState_MESSAGE_PARKED},
}

const listableNames = "queued, retrying, dead, half, parked"

func newMessageList() *cobra.Command {
	var (
		states []string
		group  string
		pages  pageFlags
	)
	cmd := &cobra.Command{
		Use: "list TOPIC", Short: "List messages of a topic by time and state",
		Long: `List messages of a topic with their state: those in its queues by when they came
there, then the undecided ones.

A message is queued; or retrying, when a group was handed it and has not acknowledged
it, so that it is leased or waits for its next attempt; or dead, when a group has
given it up; half or parked, when nobody has decided on its transaction.
The last column says what each group does with it.`,
		Example: `  gantry message list orders --from 2h --to 1h --limit 20
  gantry message list orders --state retrying,dead --group billing`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeTopics,
	}
	cmd.Flags().StringSliceVar(&states, "state", nil, "only those in these `STATES`: "+listableNames)
	cmd.Flags().StringVar(&group, "group", "", "only what this `GROUP` has retrying or dead")
	pages.add(cmd, "that came")
	cmd.RegisterFlagCompletionFunc("state", completeWords(strings.Split(listableNames, ", ")...))
	cmd.RegisterFlagCompletionFunc("group", completeGroups)
	return clientCommand(cmd, inEveryShard(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		req := &gantryv1.QueryMessagesRequest{Topic: args[0], Namespace: c.namespace, Group: group}
		for _, s := range states {
			if listable[s] == nil {
				return usageErrorf("--state %q: want some of %s", s, listableNames)
			}
			req.States = append(req.States, listable[s]...)
		}
		if err := pages.fill(req); err != nil {
			return err
		}
		return c.listMessages(ctx, cmd, req, pages.limit)
	}))
}

// messagesView is a part of a list in JSON.
type messagesView struct {
	Messages []storedView `json:"messages"`
	Next     string       `json:"next,omitempty"`
}

func (c *client) listMessages(ctx context.Context, cmd *cobra.Command, req *gantryv1.QueryMessagesRequest, limit int) error {
	v, err := c.queryMessages(ctx, req, limit)
	if err != nil {
		return err
	}
	if c.json {
		return printJSON(cmd.OutOrStdout(), v)
	}
	rows := make([][]string, 0, len(v.Messages))
	for _, m := range v.Messages {
		var notes []string
		for _, d := range m.Deliveries {
			notes = append(notes, d.told())
		}
		for _, p := range m.Places {
			notes = append(notes, p.where())
		}
		rows = append(rows, []string{m.Stored, fmt.Sprint(m.Queue), m.offset(), m.ID, m.Tag, strings.Join(m.Keys, ","),
			fmt.Sprint(m.Size), m.told(), strings.Join(notes, "; ")})
	}
	header := []string{"STORED", "QUEUE", "OFFSET", "ID", "TAG", "KEYS", "SIZE", "STATE", "GROUPS AND PLACES"}
	if err := printList(cmd.OutOrStdout(), "no message", header, rows); err != nil {
		return err
	}
	if v.Next != "" {
		_, err = fmt.Fprintf(cmd.ErrOrStderr(), "there may be more: go on with --page %s\n", clean(v.Next))
	}
	return err
}

// queryMessages asks for pages until there are limit messages, or no more.
func (c *client) queryMessages(ctx context.Context, req *gantryv1.QueryMessagesRequest, limit int) (v messagesView, err error) {
	v.Messages = []storedView{}
	for {
		req.Limit = 0
		if limit > 0 {
			req.Limit = int32(min(limit-len(v.Messages), 1000))
		}
		call, cancel := c.call(ctx)
		r, err := c.messages().Query(call, req)
		cancel()
		if err != nil {
			return v, c.explain(err)
		}
		for _, m := range r.GetMessages() {
			v.Messages = append(v.Messages, viewStored(m))
		}
		if req.Page = r.GetNext(); req.Page == "" || limit > 0 && len(v.Messages) >= limit {
			v.Next = req.Page
			return v, nil
		}
	}
}
