package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

func newTimer() *cobra.Command {
	return parent("timer", "List, cancel and reschedule delayed messages that are not due yet",
		newTimerList(), newTimerCancel(), newTimerReschedule())
}

// timerView is a delayed message in JSON.
type timerView struct {
	MessageID string   `json:"message_id"`
	Due       string   `json:"due"`
	Queue     uint32   `json:"queue"`
	Tag       string   `json:"tag,omitempty"`
	Keys      []string `json:"keys,omitempty"`
	Born      string   `json:"born"`
	Stored    string   `json:"stored"`
	Bytes     int64    `json:"bytes"`
	Handle    string   `json:"handle"`
}

func newTimerList() *cobra.Command {
	var key, id, from, to string
	var limit int32
	cmd := &cobra.Command{
		Use: "list TOPIC", Short: "List pending delayed messages, the soonest first",
		Example: "  gantry timer list payments --key order-17\n  gantry timer list payments --from 2026-12-24 --limit 1000",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completeTopics,
	}
	cmd.Flags().StringVar(&key, "key", "", "only messages with this `KEY`")
	cmd.Flags().StringVar(&id, "message-id", "", "only the message with this `ID`")
	cmd.Flags().StringVar(&from, "from", "", "only those due at this `TIME` (RFC 3339, a date, or how far ahead, as 2h or 7d) or later")
	cmd.Flags().StringVar(&to, "to", "", "only those due before this `TIME`")
	cmd.Flags().Int32Var(&limit, "limit", 100, "how many, up to 1000")
	return clientCommand(cmd, inEveryShard(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		if limit < 1 || limit > 1000 {
			return usageErrorf("--limit %d: want 1 to 1000", limit)
		}
		req := &gantryv1.ListTimersRequest{Topic: args[0], Namespace: c.namespace, Key: key, MessageId: id, Limit: limit}
		for _, f := range []struct {
			flag, value string
			to          **timestamppb.Timestamp
		}{{"--from", from, &req.From}, {"--to", to, &req.To}} {
			if f.value == "" {
				continue
			}
			at, ok := parseDue(f.value)
			if !ok {
				return usageErrorf("%s %q: want a time like 2026-12-24T18:00:00Z, a date, or how far ahead, as 2h or 7d", f.flag, f.value)
			}
			*f.to = timestamppb.New(at)
		}
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.management().ListTimers(ctx, req)
		if err != nil {
			return c.explain(err)
		}
		views := make([]timerView, 0, len(r.GetTimers()))
		rows := make([][]string, 0, len(r.GetTimers()))
		for _, t := range r.GetTimers() {
			v := timerView{
				MessageID: t.GetMessageId(), Due: stamp(t.GetDue()), Queue: t.GetQueue(), Tag: t.GetTag(), Keys: t.GetKeys(),
				Born: stamp(t.GetBorn()), Stored: stamp(t.GetStored()), Bytes: t.GetBytes(), Handle: t.GetHandle(),
			}
			views = append(views, v)
			rows = append(rows, []string{v.MessageID, v.Due, v.Tag, strings.Join(v.Keys, ", "), v.Stored, fmt.Sprint(v.Bytes)})
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), views)
		}
		if err := printList(cmd.OutOrStdout(), "no pending message", []string{"MESSAGE", "DUE", "TAG", "KEYS", "STORED", "BYTES"}, rows); err != nil {
			return err
		}
		if n := len(views); n == int(limit) {
			_, err = fmt.Fprintf(cmd.ErrOrStderr(), "there may be more: go on with --from %s\n", views[n-1].Due)
		}
		return err
	}))
}

// parseDue reads a time: RFC 3339, a date (UTC), or a duration from now.
func parseDue(s string) (time.Time, bool) {
	if d, ok := parseSpan(s); ok {
		return time.Now().Add(d), true
	}
	return parseDate(s)
}

const timerArgs = "ID is a message id, which is looked for among all pending messages of the topic, or with --handle the handle that the send returned."

func newTimerCancel() *cobra.Command {
	var handle bool
	cmd := &cobra.Command{
		Use: "cancel TOPIC ID", Short: "Cancel a pending delayed message: it is never delivered", Long: timerArgs,
		Args: cobra.ExactArgs(2), ValidArgsFunction: completeTopics,
	}
	cmd.Flags().BoolVar(&handle, "handle", false, "ID is a recall handle")
	return clientCommand(cmd, inSomeShard(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		req := &gantryv1.CancelTimerRequest{Topic: args[0], Namespace: c.namespace}
		if handle {
			req.Which = &gantryv1.CancelTimerRequest_Handle{Handle: args[1]}
		} else {
			req.Which = &gantryv1.CancelTimerRequest_MessageId{MessageId: args[1]}
		}
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.management().CancelTimer(ctx, req)
		if err != nil {
			return c.explain(err)
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), map[string]string{"cancelled": r.GetMessageId()})
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "message %s cancelled\n", clean(r.GetMessageId()))
		return err
	}))
}

func newTimerReschedule() *cobra.Command {
	var handle bool
	var at string
	cmd := &cobra.Command{
		Use: "reschedule TOPIC ID", Short: "Make a pending delayed message due at another time", Long: timerArgs,
		Example: "  gantry timer reschedule payments 01AB --at 30m\n  gantry timer reschedule payments 01AB --at 2026-12-24T18:00:00Z",
		Args:    cobra.ExactArgs(2), ValidArgsFunction: completeTopics,
	}
	cmd.Flags().BoolVar(&handle, "handle", false, "ID is a recall handle")
	cmd.Flags().StringVar(&at, "at", "", "deliver at this `TIME` (RFC 3339, a date, or how far ahead, as 2h or 7d; 0s is at once)")
	cmd.MarkFlagRequired("at")
	return clientCommand(cmd, inSomeShard(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		due, ok := parseDue(at)
		if !ok {
			return usageErrorf("--at %q: want a time like 2026-12-24T18:00:00Z, a date, or how far ahead, as 2h or 7d", at)
		}
		req := &gantryv1.RescheduleTimerRequest{Topic: args[0], Namespace: c.namespace, Due: timestamppb.New(due)}
		if handle {
			req.Which = &gantryv1.RescheduleTimerRequest_Handle{Handle: args[1]}
		} else {
			req.Which = &gantryv1.RescheduleTimerRequest_MessageId{MessageId: args[1]}
		}
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.management().RescheduleTimer(ctx, req)
		if err != nil {
			return c.explain(err)
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), map[string]string{"message_id": r.GetMessageId(), "due": stamp(req.Due), "handle": r.GetHandle()})
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "message %s is due at %s\nits handle is now %s\n", clean(r.GetMessageId()), stamp(req.Due), clean(r.GetHandle()))
		return err
	}))
}
