package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

var topicTypes = []string{"normal", "fifo", "delay", "transaction", "priority", "lite", "mixed"}

func newTopic() *cobra.Command {
	return parent("topic", "Create, list, describe and delete topics",
		newTopicCreate(), newTopicList(), newTopicDescribe(), newTopicDelete())
}

// topicView is a topic in JSON.
type topicView struct {
	Name      string      `json:"name"`
	Namespace string      `json:"namespace,omitempty"`
	Type      string      `json:"type"`
	Queues    uint32      `json:"queues"`
	Created   string      `json:"created"`
	LiteTTL   string      `json:"lite_ttl,omitempty"`
	Messages  *int64      `json:"messages,omitempty"`
	Offsets   []queueView `json:"offsets,omitempty"`
}

type queueView struct {
	Queue uint32 `json:"queue"`
	Min   int64  `json:"min"`
	Max   int64  `json:"max"`
}

func viewTopic(t *gantryv1.Topic) topicView {
	v := topicView{
		Name: t.GetName(), Namespace: t.GetNamespace(), Type: strings.ToLower(t.GetType().String()),
		Queues: t.GetQueues(), Created: stamp(t.GetCreated()),
	}
	if t.LiteTtl != nil {
		v.LiteTTL = t.LiteTtl.AsDuration().String()
	}
	return v
}

func stamp(t *timestamppb.Timestamp) string {
	if t == nil {
		return when(0)
	}
	return when(t.AsTime().UnixMilli())
}

func newTopicCreate() *cobra.Command {
	var kind string
	var queues uint32
	var liteTTL time.Duration
	cmd := &cobra.Command{
		Use:               "create NAME",
		Short:             "Create a topic",
		Example:           "  gantry topic create orders --type fifo --queues 16",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&kind, "type", "normal", "messages it accepts: "+strings.Join(topicTypes, ", "))
	cmd.Flags().Uint32Var(&queues, "queues", 0, "number of queues, 1 to 1024 (0: the server's default)")
	cmd.Flags().DurationVar(&liteTTL, "lite-ttl", 0, "delete lite topics below it that nobody has written to for so long, 15m to 720h (0: never)")
	cmd.RegisterFlagCompletionFunc("type", completeWords(topicTypes...))
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		number, ok := gantryv1.TopicType_value[strings.ToUpper(kind)]
		if !ok || number == 0 {
			return usageErrorf("--type %q: want one of %s", kind, strings.Join(topicTypes, ", "))
		}
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.management().CreateTopic(ctx, &gantryv1.CreateTopicRequest{
			Name: args[0], Namespace: c.namespace, Type: gantryv1.TopicType(number), Queues: queues,
			LiteTtl: durationpb.New(liteTTL),
		})
		if err != nil {
			return c.explain(err)
		}
		v := viewTopic(r.GetTopic())
		if c.json {
			return printJSON(cmd.OutOrStdout(), v)
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "topic %s created: %s, %s\n", clean(v.Name), v.Type, count(v.Queues, "queue"))
		return err
	})
}

func newTopicList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List topics", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions}
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.management().ListTopics(ctx, &gantryv1.ListTopicsRequest{Namespace: filterNamespace(cmd, c)})
		if err != nil {
			return c.explain(err)
		}
		views := make([]topicView, 0, len(r.GetTopics()))
		for _, t := range r.GetTopics() {
			views = append(views, viewTopic(t))
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), views)
		}
		rows := make([][]string, 0, len(views))
		for _, v := range views {
			rows = append(rows, []string{qualified(v.Namespace, v.Name), v.Type, fmt.Sprint(v.Queues), v.Created})
		}
		return printTable(cmd.OutOrStdout(), []string{"TOPIC", "TYPE", "QUEUES", "CREATED"}, rows)
	})
}

func newTopicDescribe() *cobra.Command {
	cmd := &cobra.Command{
		Use: "describe NAME", Short: "Show a topic and its queues",
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeTopics,
	}
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.management().DescribeTopic(ctx, &gantryv1.DescribeTopicRequest{Name: args[0], Namespace: c.namespace})
		if err != nil {
			return c.explain(err)
		}
		v := viewTopic(r.GetTopic())
		v.Messages = &r.Messages
		for _, q := range r.GetQueues() {
			v.Offsets = append(v.Offsets, queueView{q.GetQueue(), q.GetMinOffset(), q.GetMaxOffset()})
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), v)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "topic %s: %s, %s, %s, created %s\n\n",
			clean(qualified(v.Namespace, v.Name)), v.Type, count(v.Queues, "queue"), count(*v.Messages, "message"), v.Created)
		rows := make([][]string, 0, len(v.Offsets))
		for _, q := range v.Offsets {
			rows = append(rows, []string{fmt.Sprint(q.Queue), fmt.Sprint(q.Min), fmt.Sprint(q.Max), fmt.Sprint(q.Max - q.Min)})
		}
		return printTable(cmd.OutOrStdout(), []string{"QUEUE", "MIN", "MAX", "MESSAGES"}, rows)
	})
}

func newTopicDelete() *cobra.Command {
	cmd := &cobra.Command{
		Use: "delete NAME", Short: "Delete a topic with its messages and every group's place in it",
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeTopics,
	}
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		ctx, cancel := c.call(ctx)
		defer cancel()
		_, err := c.management().DeleteTopic(ctx, &gantryv1.DeleteTopicRequest{Name: args[0], Namespace: c.namespace})
		if err != nil {
			return c.explain(err)
		}
		return printDeleted(cmd, c, "topic", args[0])
	})
}

func printDeleted(cmd *cobra.Command, c *client, what, name string) error {
	if c.json {
		return printJSON(cmd.OutOrStdout(), map[string]string{"deleted": name, "namespace": c.namespace})
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s deleted\n", what, clean(qualified(c.namespace, name)))
	return err
}

// filterNamespace is --namespace for a list, where absent means all of them.
func filterNamespace(cmd *cobra.Command, c *client) *string {
	if !cmd.Flags().Changed("namespace") {
		return nil
	}
	return &c.namespace
}

func qualified(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "%" + name
}
