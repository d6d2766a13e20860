package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

func newMessage() *cobra.Command {
	return parent("message", "Find messages by id, key, place and time", newMessageGet(), newMessageQuery())
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
	Encoding   string            `json:"encoding,omitempty"`
	Body       text              `json:"body"`
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
	return v
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
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
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
		if r.GetGzip() {
			v.Encoding = "gzip"
		}
		v.Properties = properties(r.GetProperties())
		if c.json {
			return printJSON(cmd.OutOrStdout(), v)
		}
		return printStored(cmd, v, r.GetProperties())
	})
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
	for _, f := range [][]string{
		{"stored", v.Stored}, {"born", v.Born}, {"due", v.Due}, {"tag", v.Tag}, {"keys", strings.Join(v.Keys, ", ")},
		{"message group", v.Group}, {"lite topic", v.LiteTopic}, {"encoding", v.Encoding},
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
	_, err := fmt.Fprintf(out, "\nbody, %d bytes:\n%s\n", v.Size, clean(string(v.Body)))
	return err
}

func newMessageQuery() *cobra.Command {
	var (
		id, key, from, to, page string
		limit                   int
	)
	cmd := &cobra.Command{
		Use: "query TOPIC", Short: "List messages of a topic by id, key and time",
		Long: `With --id or --key: all that the log still has, the newest first, also those that
are delayed, undecided, rolled back or recalled. Without: those in the topic's
queues, the oldest first.`,
		Example: "  gantry message query orders --key order-17\n  gantry message query orders --from 2h --to 1h --limit 20",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completeTopics,
	}
	cmd.Flags().StringVar(&id, "id", "", "only those with this id")
	cmd.Flags().StringVar(&key, "key", "", "only those with this key")
	cmd.Flags().StringVar(&from, "from", "", "only those stored at this `TIME` or later: 2h (ago), 2026-01-31, or 2026-01-31T10:00:00Z")
	cmd.Flags().StringVar(&to, "to", "", "only those stored before this `TIME`")
	cmd.Flags().IntVar(&limit, "limit", 100, "list so many at most (0: all)")
	cmd.Flags().StringVar(&page, "page", "", "go on at this `PAGE`, as the list before said")
	cmd.MarkFlagsMutuallyExclusive("id", "key")
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		if limit < 0 {
			return usageErrorf("--limit %d: want 0 or more", limit)
		}
		req := &gantryv1.QueryMessagesRequest{Topic: args[0], Namespace: c.namespace, MessageId: id, Key: key, Page: page}
		var err error
		if req.From, err = timeFlag("from", from); err != nil {
			return err
		}
		if req.To, err = timeFlag("to", to); err != nil {
			return err
		}
		views, next, err := c.queryMessages(ctx, req, limit)
		if err != nil {
			return err
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), views)
		}
		rows := make([][]string, 0, len(views))
		for _, v := range views {
			var places []string
			for _, p := range v.Places {
				places = append(places, p.where())
			}
			rows = append(rows, []string{v.Stored, fmt.Sprint(v.Queue), v.offset(), v.ID, v.Tag, strings.Join(v.Keys, ","),
				fmt.Sprint(v.Size), v.told(), strings.Join(places, "; ")})
		}
		header := []string{"STORED", "QUEUE", "OFFSET", "ID", "TAG", "KEYS", "SIZE", "STATE", "PLACES"}
		if err := printTable(cmd.OutOrStdout(), header, rows); err != nil {
			return err
		}
		if next != "" {
			_, err = fmt.Fprintf(cmd.ErrOrStderr(), "there may be more: go on with --page %s\n", clean(next))
		}
		return err
	})
}

// queryMessages asks for pages until there are limit messages, or no more.
func (c *client) queryMessages(ctx context.Context, req *gantryv1.QueryMessagesRequest, limit int) (views []storedView, next string, err error) {
	views = []storedView{}
	for {
		req.Limit = 0
		if limit > 0 {
			req.Limit = int32(min(limit-len(views), 1000))
		}
		call, cancel := c.call(ctx)
		r, err := c.messages().Query(call, req)
		cancel()
		if err != nil {
			return nil, "", c.explain(err)
		}
		for _, m := range r.GetMessages() {
			views = append(views, viewStored(m))
		}
		if req.Page = r.GetNext(); req.Page == "" || limit > 0 && len(views) >= limit {
			return views, req.Page, nil
		}
	}
}
