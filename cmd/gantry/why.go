package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

// whyView explains one message in JSON.
type whyView struct {
	Topic    string         `json:"topic"`
	Message  storedView     `json:"message"`
	HeldBack string         `json:"held_back,omitempty"`
	Groups   []groupWhyView `json:"groups"`
}

type groupWhyView struct {
	Group    string `json:"group"`
	Standing string `json:"standing"`
	Text     string `json:"text"`
	Ahead    int64  `json:"ahead,omitempty"`
	Client   string `json:"client,omitempty"`
	Attempt  int32  `json:"attempt,omitempty"`
	Next     string `json:"next,omitempty"`
	Clients  int32  `json:"clients"`
}

func newWhy() *cobra.Command {
	var topic string
	cmd := &cobra.Command{
		Use: "why MESSAGE-ID", Short: "Say where a message is, who has it, what happened to it, and when it comes next",
		Long: `Say where a message is and what stands between it and each group that consumes its
topic: messages before it, a client that has it, the pause before its next attempt,
another message of its message group, a filter, or nothing any more. All topics are
looked through, unless --topic names one.`,
		Example: "  gantry why 0170C0035AC5673D2D5A0A5C1DF1390299",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&topic, "topic", "", "only look in this `TOPIC`")
	cmd.RegisterFlagCompletionFunc("topic", topicNames)
	return clientCommand(cmd, inSomeShard(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		ctx, cancel := c.call(ctx)
		defer cancel()
		req := &gantryv1.WhyRequest{MessageId: args[0], Topic: topic}
		if topic != "" {
			req.Namespace = c.namespace
		}
		r, err := c.observe().Why(ctx, req)
		if err != nil {
			return c.explain(err)
		}
		views := make([]whyView, 0, len(r.GetMessages()))
		for _, m := range r.GetMessages() {
			views = append(views, viewWhy(m))
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), views)
		}
		for i, v := range views {
			if i > 0 {
				fmt.Fprintln(cmd.OutOrStdout())
			}
			if err := printWhy(cmd, v); err != nil {
				return err
			}
		}
		return nil
	}))
}

func viewWhy(m *gantryv1.MessageWhy) whyView {
	v := whyView{Topic: qualified(m.GetNamespace(), m.GetTopic()), Message: viewStored(m.GetMessage()), HeldBack: m.GetHeldBack(), Groups: []groupWhyView{}}
	for _, g := range m.GetGroups() {
		one := groupWhyView{
			Group:    qualified(g.GetNamespace(), g.GetGroup()),
			Standing: strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(g.GetStanding().String(), "GROUP_"), "_", " ")),
			Text:     g.GetText(), Ahead: g.GetAhead(), Client: g.GetClient(), Attempt: g.GetAttempt(), Clients: g.GetClients(),
		}
		if g.GetNext() != nil {
			one.Next = stamp(g.GetNext())
		}
		v.Groups = append(v.Groups, one)
	}
	return v
}

func printWhy(cmd *cobra.Command, v whyView) error {
	out := cmd.OutOrStdout()
	where := "in no queue"
	if v.Message.Offset != nil {
		where = fmt.Sprintf("%s/%d/%d", v.Topic, v.Message.Queue, *v.Message.Offset)
	}
	fmt.Fprintf(out, "message %s of topic %s: %s, %s\n", clean(v.Message.ID), clean(v.Topic), v.Message.told(), clean(where))
	fmt.Fprintf(out, "  born %s, stored %s\n", v.Message.Born, v.Message.Stored)
	if v.HeldBack != "" {
		fmt.Fprintf(out, "  no group gets it now: %s\n", clean(v.HeldBack))
	}
	for _, p := range v.Message.Places {
		line := fmt.Sprintf("  %s %s", p.Time, p.where())
		if p.Reason != "" {
			line += ": " + p.Reason
		}
		fmt.Fprintln(out, clean(line))
	}
	for _, d := range v.Message.Deliveries {
		if len(d.History) > 0 {
			fmt.Fprintf(out, "\ndeliveries to group %s:\n", clean(d.Group))
			if err := printAttempts(out, d.History); err != nil {
				return err
			}
		}
	}
	fmt.Fprintln(out)
	var rows [][]string
	for _, g := range v.Groups {
		rows = append(rows, []string{g.Group, g.Standing, g.Text})
	}
	return printList(out, "no group has begun with this topic", []string{"GROUP", "IS", "WHY"}, rows)
}
