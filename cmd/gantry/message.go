package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

func newMessage() *cobra.Command {
	return parent("message", "Find messages by id, key, place and time, watch, resend and delete them", newMessageList(), newMessageQuery(), newMessageGet(),
		newMessageTail(), newMessageResend(), newMessageDelete())
}

// storedView is a message in JSON.
type storedView struct {
	ID       string      `json:"id"`
	State    string      `json:"state"`
	Queue    uint32      `json:"queue"`
	Offset   *int64      `json:"offset,omitempty"`
	Stored   string      `json:"stored"`
	Born     string      `json:"born"`
	Due      string      `json:"due,omitempty"`
	Tag      string      `json:"tag,omitempty"`
	Keys     []string    `json:"keys,omitempty"`
	Size     int64       `json:"size"`
	Position uint64      `json:"position"`
	Places   []placeView `json:"places,omitempty"`
	// Deliveries are the groups that have not settled it.
	Deliveries []deliveryView `json:"deliveries,omitempty"`
}

type deliveryView struct {
	Group   string        `json:"group"`
	State   string        `json:"state"`
	Attempt int32         `json:"attempt"`
	Client  string        `json:"client,omitempty"`
	Until   string        `json:"until,omitempty"`
	History []attemptView `json:"history,omitempty"`
}

type placeView struct {
	Topic   string `json:"topic"`
	Queue   uint32 `json:"queue"`
	Offset  int64  `json:"offset"`
	Time    string `json:"time"`
	Dead    bool   `json:"dead_letter"`
	Reason  string `json:"reason,omitempty"`
	Settled bool   `json:"settled,omitempty"`
}

// storedMessageView is a message with its body in JSON.
type storedMessageView struct {
	storedView
	Group      string            `json:"message_group,omitempty"`
	LiteTopic  string            `json:"lite_topic,omitempty"`
	Properties map[string]string `json:"properties,omitempty"`
	// How its producer compressed the body, and why it is shown as it was stored.
	Compression string `json:"compression,omitempty"`
	Unreadable  string `json:"unreadable,omitempty"`
	Body        text   `json:"body"`
}

func viewStored(m *gantryv1.StoredMessage) storedView {
	v := storedView{
		ID: m.GetMessageId(), State: strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(m.GetState().String(), "MESSAGE_"), "_", " ")),
		Queue: m.GetQueue(), Offset: m.Offset, Stored: stamp(m.GetStored()), Born: stamp(m.GetBorn()),
		Tag: m.GetTag(), Keys: m.GetKeys(), Size: m.GetBodySize(), Position: m.GetPosition(),
	}
	if m.GetDue() != nil {
		v.Due = stamp(m.GetDue())
	}
	for _, p := range m.GetPlaces() {
		v.Places = append(v.Places, placeView{
			Topic: qualified(p.GetNamespace(), p.GetTopic()), Queue: p.GetQueue(), Offset: p.GetOffset(),
			Time: stamp(p.GetTime()), Dead: p.GetDead(), Reason: p.GetReason(), Settled: p.GetSettled(),
		})
	}
	for _, d := range m.GetDeliveries() {
		view := deliveryView{
			Group: qualified(d.GetNamespace(), d.GetGroup()), State: strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(d.GetState().String(), "DELIVERY_"), "_", " ")),
			Attempt: d.GetAttempt(), Client: d.GetClient(), History: viewAttempts(d.GetHistory()),
		}
		if d.GetUntil() != nil {
			view.Until = stamp(d.GetUntil())
		}
		v.Deliveries = append(v.Deliveries, view)
	}
	return v
}

// told is a group's delivery in words.
func (d deliveryView) told() string {
	switch d.State {
	case "leased":
		return fmt.Sprintf("%s has it until %s, attempt %d", d.Group, d.Until, d.Attempt)
	case "waiting":
		return fmt.Sprintf("%s waits until %s after attempt %d", d.Group, d.Until, d.Attempt)
	case "ready":
		return fmt.Sprintf("ready for %s after attempt %d", d.Group, d.Attempt)
	}
	return "put aside for " + d.Group
}

// told is the state in words.
func (v storedView) told() string {
	if v.State == "delayed" {
		return "delayed until " + v.Due
	}
	return v.State
}

func (v storedView) offset() string {
	if v.Offset == nil {
		return "-"
	}
	return fmt.Sprint(*v.Offset)
}

// where is a place in words.
func (p placeView) where() string {
	s := fmt.Sprintf("%s/%d/%d", p.Topic, p.Queue, p.Offset)
	switch {
	case p.Dead && p.Settled:
		return "was a dead letter, " + s
	case p.Dead:
		return "dead letter " + s
	}
	return "redriven to " + s
}

func (c *client) messages() gantryv1.MessagesClient { return gantryv1.NewMessagesClient(c.conn) }

func newMessageGet() *cobra.Command {
	var (
		id     string
		queue  uint32
		offset int64
	)
	cmd := &cobra.Command{
		Use: "get TOPIC", Short: "Show one message: state, properties and body",
		Example: "  gantry message get orders --id 0170C0035AC5673D2D5A0A5C1DF1390299\n  gantry message get orders --queue 3 --offset 1200",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completeTopics,
	}
	cmd.Flags().StringVar(&id, "id", "", "the newest message with this id")
	cmd.Flags().Uint32Var(&queue, "queue", 0, "the message in this queue")
	cmd.Flags().Int64Var(&offset, "offset", 0, "at this offset")
	cmd.MarkFlagsOneRequired("id", "offset")
	cmd.MarkFlagsMutuallyExclusive("id", "offset")
	cmd.MarkFlagsRequiredTogether("queue", "offset")
	return clientCommand(cmd, inSomeShard(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		req := &gantryv1.GetMessageRequest{
			Topic: args[0], Namespace: c.namespace,
			By: &gantryv1.GetMessageRequest_Place{Place: &gantryv1.QueueOffset{Queue: queue, Offset: offset}},
		}
		if cmd.Flags().Changed("id") {
			req.By = &gantryv1.GetMessageRequest_MessageId{MessageId: id}
		}
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.messages().Get(ctx, req)
		if err != nil {
			return c.explain(err)
		}
		v := storedMessageView{
			storedView: viewStored(r.GetMessage()), Group: r.GetMessageGroup(), LiteTopic: r.GetLiteTopic(), Body: r.GetBody(),
		}
		v.Compression, v.Unreadable = r.GetCompression(), r.GetUnreadable()
		v.Properties = properties(r.GetProperties())
		if c.json {
			return printJSON(cmd.OutOrStdout(), v)
		}
		return printStored(cmd, v, r.GetProperties())
	}))
}

func printStored(cmd *cobra.Command, v storedMessageView, properties []*gantryv1.MessageProperty) error {
	out := cmd.OutOrStdout()
	rows := [][]string{{"id", v.ID}, {"state", v.told()}, {"queue", fmt.Sprint(v.Queue)}, {"offset", v.offset()}}
	for _, p := range v.Places {
		place := []string{"place", p.where() + " at " + p.Time}
		if p.Reason != "" {
			place[1] += ": " + p.Reason
		}
		rows = append(rows, place)
	}
	for _, d := range v.Deliveries {
		rows = append(rows, []string{"delivery", d.told()})
	}
	for _, f := range [][]string{
		{"stored", v.Stored}, {"born", v.Born}, {"due", v.Due}, {"tag", v.Tag}, {"keys", strings.Join(v.Keys, ", ")},
		{"message group", v.Group}, {"lite topic", v.LiteTopic}, {"compression", v.Compression}, {"unreadable", v.Unreadable},
	} {
		if f[1] != "" {
			rows = append(rows, f)
		}
	}
	for _, p := range properties {
		rows = append(rows, []string{"property " + p.GetKey(), p.GetValue()})
	}
	if err := printTable(out, []string{"FIELD", "VALUE"}, rows); err != nil {
		return err
	}
	for _, d := range v.Deliveries {
		if len(d.History) == 0 {
			continue
		}
		fmt.Fprintf(out, "\ndeliveries to group %s:\n", clean(d.Group))
		if err := printAttempts(out, d.History); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(out, "\nbody, %d bytes:\n%s\n", len(v.Body), clean(string(v.Body)))
	return err
}

func newMessageDelete() *cobra.Command {
	var topic string
	cmd := &cobra.Command{
		Use: "delete ID", Short: "Make a message one that is never delivered again",
		Long: `Make a message one that is never delivered again, whatever its state: in its queue,
held by a consumer, waiting for another attempt, delayed, undecided or dead. Of
several messages with one id, all are deleted. A consumer that has it at this
moment keeps it; its bytes stay in the log until their file goes. It cannot be
undone.`,
		Example: "  gantry message delete 0170C0035AC5673D2D5A0A5C1DF1390299 --topic orders",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&topic, "topic", "", "the `TOPIC` it was sent to")
	cmd.MarkFlagRequired("topic")
	cmd.RegisterFlagCompletionFunc("topic", topicNames)
	return clientCommand(cmd, inSomeShard(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.topicOps().DeleteMessage(ctx, &gantryv1.DeleteMessageRequest{Topic: topic, Namespace: c.namespace, MessageId: args[0]})
		if err != nil {
			return c.explain(err)
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), map[string]any{
				"deleted": args[0], "entries": r.GetEntries(), "delayed": r.GetDelayed(), "half": r.GetHalf(),
			})
		}
		var where []string
		for _, w := range []struct {
			n    int32
			what string
		}{{r.GetEntries(), "in queues"}, {r.GetDelayed(), "delayed"}, {r.GetHalf(), "undecided"}} {
			if w.n > 0 {
				where = append(where, fmt.Sprintf("%d %s", w.n, w.what))
			}
		}
		if len(where) == 0 {
			where = []string{"it was gone already"}
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "message %s deleted (%s)\n", clean(args[0]), strings.Join(where, ", "))
		return err
	}))
}
