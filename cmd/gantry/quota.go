package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

func newQuota() *cobra.Command {
	return parent("quota", "Bound how much may be sent and received", newQuotaSet(), newQuotaList(), newQuotaUnset())
}

func (c *client) quotas() gantryv1.QuotasClient { return gantryv1.NewQuotasClient(c.conn) }

// quotaView is a quota in JSON; 0 = no limit.
type quotaView struct {
	Kind            string `json:"kind"`
	Namespace       string `json:"namespace,omitempty"`
	Name            string `json:"name"`
	SendMessages    uint64 `json:"send_messages,omitempty"`
	SendBytes       uint64 `json:"send_bytes,omitempty"`
	ReceiveMessages uint64 `json:"receive_messages,omitempty"`
	ReceiveBytes    uint64 `json:"receive_bytes,omitempty"`
	InFlight        uint64 `json:"in_flight,omitempty"`
}

func viewQuota(q *gantryv1.Quota) quotaView {
	s, l := q.GetSubject(), q.GetLimits()
	return quotaView{
		Kind: quotaKinds[s.GetKind()-1], Namespace: s.GetNamespace(), Name: s.GetName(),
		SendMessages: l.GetSendMessages(), SendBytes: l.GetSendBytes(), ReceiveMessages: l.GetReceiveMessages(), ReceiveBytes: l.GetReceiveBytes(),
		InFlight: l.GetInFlight(),
	}
}

func printQuotas(cmd *cobra.Command, views []quotaView) error {
	limit := func(n uint64) string {
		if n == 0 {
			return "-"
		}
		return fmt.Sprint(n)
	}
	size := func(n uint64) string {
		if n == 0 {
			return "-"
		}
		return sizeText(n)
	}
	var rows [][]string
	for _, v := range views {
		name := v.Name
		if v.Kind == "topic" || v.Kind == "group" {
			name = qualified(v.Namespace, name)
		}
		if name == "" {
			name = "(default)"
		}
		rows = append(rows, []string{v.Kind, name, limit(v.SendMessages), size(v.SendBytes), limit(v.ReceiveMessages), size(v.ReceiveBytes), limit(v.InFlight)})
	}
	return printList(cmd.OutOrStdout(), "there are no quotas", []string{"OF", "NAME", "SEND/S", "SEND BYTES/S", "RECEIVE/S", "RECEIVE BYTES/S", "IN FLIGHT"}, rows)
}

// quotaKinds are those of gantryv1.QuotaKind, from 1.
var quotaKinds = []string{"topic", "group", "client", "user", "namespace"}

func quotaSubject(c *client, args []string) (*gantryv1.QuotaSubject, error) {
	kind := gantryv1.QuotaKind(slices.Index(quotaKinds, args[0]) + 1)
	s := &gantryv1.QuotaSubject{Kind: kind, Name: args[1]}
	switch kind {
	case 0:
		return nil, usageErrorf("%q has no quotas: want %s", args[0], strings.Join(quotaKinds, ", "))
	case gantryv1.QuotaKind_QUOTA_TOPIC, gantryv1.QuotaKind_QUOTA_GROUP:
		s.Namespace = c.namespace
	}
	return s, nil
}

// completeQuota completes the kind, and then what is of it.
func completeQuota(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	names := map[string]completeFunc{"topic": topicNames, "group": groupNames, "user": userNames}
	switch {
	case len(args) == 0:
		return quotaKinds, cobra.ShellCompDirectiveNoFileComp
	case len(args) == 1 && names[args[0]] != nil:
		return names[args[0]](cmd, args, word)
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

func newQuotaSet() *cobra.Command {
	var sendBytes, receiveBytes byteSize
	cmd := &cobra.Command{
		Use: "set KIND NAME", Short: "Set limits of a topic, group, client, user or namespace",
		Long: `Set limits of a topic, group, client (by its id), user or namespace; those that are not named
stay as they are, and 0 is none. They are in force at once, for open connections too.
NAME need not be there yet; '*' is each one of the kind, by itself, that has no quota of
its own (of topics and groups: in --namespace), and '' the namespace without a name.

A rate has a burst of one second. A batch is taken or refused whole: one that is larger than a
second's worth is taken when nothing was sent for a second, and the next ones wait for it.
What is beyond is refused with TOO_MANY_REQUESTS, which says which limit that is and when
to try again; gantry.v1 streams wait up to 3 s first. What is beyond when receiving is held back,
as if there were no messages. All limits that a call falls under count.`,
		Example: `  gantry quota set topic orders --send-messages 1000 --send-bytes 10MiB
  gantry quota set group billing --in-flight 500
  gantry quota set client '*' --send-messages 100
  gantry quota set namespace test --send-bytes 1MiB --receive-bytes 5MiB`,
		Args: cobra.ExactArgs(2), ValidArgsFunction: completeQuota,
	}
	flags := cmd.Flags()
	sendMessages := flags.Uint64("send-messages", 0, "`MESSAGES` a second that may be sent; not of groups")
	flags.Var(&sendBytes, "send-bytes", "`SIZE` of messages a second that may be sent, with their properties and a head of some 100 bytes")
	receiveMessages := flags.Uint64("receive-messages", 0, "`MESSAGES` a second that may be received, each delivery counted")
	flags.Var(&receiveBytes, "receive-bytes", "`SIZE` of messages a second that may be received")
	inFlight := flags.Uint64("in-flight", 0, "`MESSAGES` that a group may have received and not acknowledged, of all topics")
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		s, err := quotaSubject(c, args)
		if err != nil {
			return err
		}
		given := func(name string, v uint64) *uint64 {
			if !flags.Changed(name) {
				return nil
			}
			return &v
		}
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.quotas().Set(ctx, &gantryv1.SetQuotaRequest{Subject: s, Limits: &gantryv1.QuotaLimits{
			SendMessages: given("send-messages", *sendMessages), SendBytes: given("send-bytes", uint64(sendBytes)),
			ReceiveMessages: given("receive-messages", *receiveMessages), ReceiveBytes: given("receive-bytes", uint64(receiveBytes)),
			InFlight: given("in-flight", *inFlight),
		}})
		if err != nil {
			return c.explain(err)
		}
		return showQuota(cmd, c, r.GetQuota())
	})
}

func showQuota(cmd *cobra.Command, c *client, q *gantryv1.Quota) error {
	v := viewQuota(q)
	if c.json {
		return printJSON(cmd.OutOrStdout(), v)
	}
	return printQuotas(cmd, []quotaView{v})
}

func newQuotaList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List quotas", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions}
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.quotas().List(ctx, &gantryv1.ListQuotasRequest{})
		if err != nil {
			return c.explain(err)
		}
		views := []quotaView{}
		for _, q := range r.GetQuotas() {
			views = append(views, viewQuota(q))
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), views)
		}
		return printQuotas(cmd, views)
	})
}

func newQuotaUnset() *cobra.Command {
	cmd := &cobra.Command{
		Use: "unset KIND NAME", Short: "Take a quota away, with all its limits",
		Example: "  gantry quota unset topic orders",
		Args:    cobra.ExactArgs(2), ValidArgsFunction: completeQuota,
	}
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		s, err := quotaSubject(c, args)
		if err != nil {
			return err
		}
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.quotas().Unset(ctx, &gantryv1.UnsetQuotaRequest{Subject: s})
		if err != nil {
			return c.explain(err)
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), viewQuota(r.GetQuota()))
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "the quota of %s %q is gone\n", args[0], args[1])
		return err
	})
}
