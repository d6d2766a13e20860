package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gantry-mq/gantry/proto/gantryv1"
	"github.com/gantry-mq/gantry/proto/rocketmqv2"
)

func (c *client) observe() gantryv1.ObserveClient { return gantryv1.NewObserveClient(c.conn) }

func newClient() *cobra.Command {
	return parent("client", "See who is connected", newClientList(), newClientStack())
}

// connectedView is a client with what it does and holds, in JSON.
type connectedView struct {
	clientView
	Role          string             `json:"role"`
	Group         string             `json:"group,omitempty"`
	Publishing    []string           `json:"publishing,omitempty"`
	Subscriptions []subscriptionView `json:"subscriptions,omitempty"`
	InFlight      int64              `json:"in_flight"`
	Connected     string             `json:"connected"`
	Streaming     bool               `json:"streaming"`
	LastError     *clientErrorView   `json:"last_error,omitempty"`
}

type subscriptionView struct {
	Topic    string `json:"topic"`
	Filter   string `json:"filter,omitempty"`
	SQL      bool   `json:"sql,omitempty"`
	InFlight int64  `json:"in_flight"`
	Lag      int64  `json:"lag"`
}

type clientErrorView struct {
	Time    string `json:"time"`
	Method  string `json:"method"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

func viewConnected(c *gantryv1.ConnectedClient) connectedView {
	m := c.GetClient()
	v := connectedView{
		clientView: clientView{m.GetId(), m.GetLanguage(), m.GetVersion(), m.GetHost(), m.GetRemoteAddress(), stamp(m.GetLastSeen())},
		Role:       strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(c.GetRole().String(), "CLIENT_"), "_", " ")),
		InFlight:   c.GetInFlight(), Connected: stamp(c.GetConnected()), Streaming: c.GetStreaming(),
	}
	if c.GetGroup() != "" {
		v.Group = qualified(c.GetNamespace(), c.GetGroup())
	}
	for _, t := range c.GetPublishing() {
		v.Publishing = append(v.Publishing, qualified(t.GetNamespace(), t.GetName()))
	}
	for _, s := range c.GetSubscriptions() {
		v.Subscriptions = append(v.Subscriptions, subscriptionView{
			Topic: qualified(s.GetNamespace(), s.GetTopic()), Filter: s.GetFilter(), SQL: s.GetSql(), InFlight: s.GetInFlight(), Lag: s.GetLag(),
		})
	}
	if e := c.GetLastError(); e != nil {
		v.LastError = &clientErrorView{stamp(e.GetTime()), e.GetMethod(), e.GetCode(), e.GetMessage()}
	}
	return v
}

// topics are what it publishes to or subscribes to, in words.
func (v connectedView) topics() string {
	all := append([]string(nil), v.Publishing...)
	for _, s := range v.Subscriptions {
		if s.Filter != "" && s.Filter != "*" {
			all = append(all, s.Topic+" ["+s.Filter+"]")
		} else {
			all = append(all, s.Topic)
		}
	}
	return strings.Join(all, ", ")
}

func newClientList() *cobra.Command {
	var group string
	cmd := &cobra.Command{
		Use: "list", Short: "List the connected clients: what they are, hold, and were last refused",
		Example: "  gantry client list\n  gantry client list --group billing --json",
		Args:    cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&group, "group", "", "only members of this `GROUP`")
	cmd.RegisterFlagCompletionFunc("group", groupNames)
	return clientCommand(cmd, inEveryShard(func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.observe().Clients(ctx, &gantryv1.ClientsRequest{Group: group, Namespace: c.namespace})
		if err != nil {
			return c.explain(err)
		}
		views := make([]connectedView, 0, len(r.GetClients()))
		var rows [][]string
		for _, m := range r.GetClients() {
			v := viewConnected(m)
			views = append(views, v)
			failed := "-"
			if v.LastError != nil {
				failed = v.LastError.Code
			}
			seen := r.GetTime().AsTime().Sub(m.GetClient().GetLastSeen().AsTime())
			rows = append(rows, []string{v.ID, v.Role, strings.TrimSpace(v.Language + " " + v.Version), v.Remote, dash(v.Group), dash(v.topics()),
				fmt.Sprint(v.InFlight), seen.Round(time.Second).String(), failed})
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), views)
		}
		return printList(cmd.OutOrStdout(), "no client is connected",
			[]string{"CLIENT", "IS", "LANGUAGE", "ADDRESS", "GROUP", "TOPICS", "IN FLIGHT", "SEEN AGO", "LAST ERROR"}, rows)
	}))
}

func newClientStack() *cobra.Command {
	var group string
	cmd := &cobra.Command{
		Use: "stack CLIENT", Short: "Ask a connected client what its threads do",
		Long: `Ask a connected client of a group for the stack traces of its threads. Which of the
official clients answer, and with what, is up to them.`,
		Example: "  gantry client stack host@1@0@abc --group billing",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&group, "group", "", "the `GROUP` it is a member of (required)")
	cmd.MarkFlagRequired("group")
	cmd.RegisterFlagCompletionFunc("group", groupNames)
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := rocketmqv2.NewAdminClient(c.conn).PrintThreadStackTrace(ctx, &rocketmqv2.PrintThreadStackTraceRequest{ClientId: args[0], Group: c.resource(group)})
		if err := c.outcome(r.GetStatus(), err); err != nil {
			return err
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), map[string]string{"client": args[0], "stack": r.GetThreadStackTrace()})
		}
		for line := range strings.Lines(r.GetThreadStackTrace()) {
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), clean(strings.TrimRight(line, "\r\n"))); err != nil {
				return err
			}
		}
		return nil
	})
}
