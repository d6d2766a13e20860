package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

func newDLQ() *cobra.Command {
	cmd := parent("dlq", "List, show, redrive, discard and export dead letters",
		newDLQList(), newDLQShow(), newDLQRedrive(), newDLQDiscard(), newDLQExport())
	cmd.Long = `Dead letters are messages that a consumer group gave up: their attempts were
exhausted, or a consumer or an operator moved them away. Attempts are counted when
the group receives: while it does not, messages wait, also those without an attempt
left. Dead letters stay in the topic %DLQ%GROUP, which any consumer may read like
another topic, and are named here by their offset in it.`
	return cmd
}

func (c *client) deadLetters() gantryv1.DeadLettersClient {
	return gantryv1.NewDeadLettersClient(c.conn)
}

// deadView is a dead letter in JSON.
type deadView struct {
	Offset     int64    `json:"offset"`
	ID         string   `json:"id"`
	Topic      string   `json:"topic,omitempty"`
	Queue      *uint32  `json:"queue,omitempty"`
	TopicAt    *int64   `json:"topic_offset,omitempty"`
	Tag        string   `json:"tag,omitempty"`
	Keys       []string `json:"keys,omitempty"`
	Attempts   int32    `json:"attempts"`
	Reason     string   `json:"reason"`
	Died       string   `json:"died"`
	Size       int64    `json:"size"`
	State      string   `json:"state"`
	LastClient string   `json:"last_client,omitempty"`
	LeaseEnd   string   `json:"last_lease_end,omitempty"`
}

// deadMessageView is a dead letter with its message in JSON.
type deadMessageView struct {
	deadView
	Group      string            `json:"group,omitempty"`
	LiteTopic  string            `json:"lite_topic,omitempty"`
	Properties map[string]string `json:"properties,omitempty"`
	// How its producer compressed the body, and why it is shown as it was stored.
	Compression string        `json:"compression,omitempty"`
	Unreadable  string        `json:"unreadable,omitempty"`
	Born        string        `json:"born"`
	Stored      string        `json:"stored"`
	History     []attemptView `json:"history,omitempty"`
	Body        text          `json:"body"`
}

func viewDead(d *gantryv1.DeadLetter) deadView {
	v := deadView{
		Offset: d.GetOffset(), ID: d.GetMessageId(), Tag: d.GetTag(), Keys: d.GetKeys(), Attempts: d.GetAttempts(),
		Reason: d.GetReason(), Died: stamp(d.GetDied()), Size: d.GetBodySize(), LastClient: d.GetLastClient(),
		State: strings.ToLower(strings.TrimPrefix(d.GetState().String(), "DEAD_LETTER_")),
	}
	if o := d.GetOrigin(); o != nil {
		v.Topic, v.Queue, v.TopicAt = qualified(o.GetNamespace(), o.GetTopic()), &o.Queue, &o.Offset
	}
	if d.GetLastLeaseEnd() != nil {
		v.LeaseEnd = stamp(d.GetLastLeaseEnd())
	}
	return v
}

// from is the place the dead letter was consumed from.
func (v deadView) from() string {
	if v.Queue == nil {
		return "-"
	}
	return fmt.Sprintf("%s/%d/%d", v.Topic, *v.Queue, *v.TopicAt)
}

func viewDeadMessage(m *gantryv1.DeadLetterMessage) deadMessageView {
	v := deadMessageView{
		deadView: viewDead(m.GetDeadLetter()), Group: m.GetMessageGroup(), LiteTopic: m.GetLiteTopic(),
		Born: stamp(m.GetBorn()), Stored: stamp(m.GetStored()), History: viewAttempts(m.GetHistory()), Body: m.GetBody(),
	}
	v.Compression, v.Unreadable = m.GetCompression(), m.GetUnreadable()
	v.Properties = properties(m.GetProperties())
	return v
}

// deadFlags select dead letters.
type deadFlags struct {
	reason, topic, id string
	since, until      string
	offsets           []int64
	settled           bool
	all               bool
}

func (f *deadFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.reason, "reason", "", "only those whose reason contains this")
	cmd.Flags().StringVar(&f.topic, "topic", "", "only those consumed from this topic")
	cmd.Flags().StringVar(&f.id, "id", "", "only the message with this id")
	cmd.Flags().StringVar(&f.since, "since", "", "only those that died at this `TIME` or later: 2h or 7d (ago), 2026-01-31, or 2026-01-31T10:00:00Z")
	cmd.Flags().StringVar(&f.until, "until", "", "only those that died before this `TIME`")
	cmd.Flags().Int64SliceVar(&f.offsets, "offset", nil, "only those with these `OFFSETS`, as 3,7")
	cmd.RegisterFlagCompletionFunc("topic", topicNames)
	cmd.RegisterFlagCompletionFunc("reason", completeWords("attempts exhausted", "forwarded by the consumer", "skipped by an operator"))
}

// addSettled is for commands that only look.
func (f *deadFlags) addSettled(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.settled, "settled", false, "also those that were redriven or discarded")
}

// addAll is for commands that change what they select.
func (f *deadFlags) addAll(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.all, "all", false, "all of the group, when no other flag selects some")
}

func (f *deadFlags) filter() (*gantryv1.DeadLetterFilter, error) {
	w := &gantryv1.DeadLetterFilter{Reason: f.reason, Topic: f.topic, MessageId: f.id, Offsets: f.offsets, Settled: f.settled}
	var err error
	if w.From, err = timeFlag("since", f.since); err != nil {
		return nil, err
	}
	w.To, err = timeFlag("until", f.until)
	return w, err
}

// chosen is filter for commands that change what they select: nobody should
// redrive everything because a flag was forgotten.
func (f *deadFlags) chosen() (*gantryv1.DeadLetterFilter, error) {
	some := f.reason != "" || f.topic != "" || f.id != "" || f.since != "" || f.until != "" || len(f.offsets) > 0
	switch {
	case !some && !f.all:
		return nil, usageErrorf("say which dead letters: --reason, --topic, --id, --since, --until, --offset, or --all")
	case some && f.all:
		return nil, usageErrorf("--all and the other selecting flags exclude each other")
	}
	return f.filter()
}

func timeFlag(name, value string) (*timestamppb.Timestamp, error) {
	if value == "" {
		return nil, nil
	}
	t, ok := parseTime(value)
	if !ok {
		return nil, usageErrorf("--%s %q: want a time such as 2026-01-31T10:00:00Z or 2026-01-31, or how long ago, as 2h or 7d", name, value)
	}
	return timestamppb.New(t), nil
}

// parseTime reads a time: RFC 3339, a date (UTC), or a duration before now.
func parseTime(s string) (time.Time, bool) {
	if d, ok := parseSpan(s); ok {
		return time.Now().Add(-d), true
	}
	return parseDate(s)
}

func parseDate(s string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

// parseSpan reads a duration that is not negative; days of 24 hours too, as 7d.
func parseSpan(s string) (time.Duration, bool) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err == nil
	}
	d, err := time.ParseDuration(s)
	return d, err == nil && d >= 0
}

func newDLQList() *cobra.Command {
	var (
		f     deadFlags
		limit int
		start int64
	)
	cmd := &cobra.Command{
		Use:               "list GROUP",
		Short:             "List the dead letters of a consumer group, the oldest first",
		Example:           "  gantry dlq list billing --reason exhausted --since 24h",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeGroups,
	}
	f.add(cmd)
	f.addSettled(cmd)
	cmd.Flags().IntVar(&limit, "limit", 100, "list so many at most (0: all)")
	cmd.Flags().Int64Var(&start, "start", 0, "begin at this `OFFSET`")
	return clientCommand(cmd, inEveryShard(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		filter, err := f.filter()
		if err != nil {
			return err
		}
		views, next, err := c.listDead(ctx, args[0], filter, start, limit)
		if err != nil {
			return err
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), views)
		}
		rows := make([][]string, 0, len(views))
		for _, v := range views {
			rows = append(rows, []string{fmt.Sprint(v.Offset), v.Died, v.from(), v.ID, v.Tag, strings.Join(v.Keys, ","),
				fmt.Sprint(v.Attempts), fmt.Sprint(v.Size), v.State, v.Reason})
		}
		header := []string{"OFFSET", "DIED", "FROM", "ID", "TAG", "KEYS", "ATTEMPTS", "SIZE", "STATE", "REASON"}
		if err := printList(cmd.OutOrStdout(), "no dead letter", header, rows); err != nil {
			return err
		}
		if next != nil {
			_, err = fmt.Fprintf(cmd.ErrOrStderr(), "there may be more: go on with --start %d\n", *next)
		}
		return err
	}))
}

// listDead asks for pages until there are limit dead letters, or no more.
func (c *client) listDead(ctx context.Context, group string, filter *gantryv1.DeadLetterFilter, from int64, limit int) (views []deadView, next *int64, err error) {
	views = []deadView{}
	for {
		page := 0
		if limit > 0 {
			page = min(limit-len(views), 1000)
		}
		call, cancel := c.call(ctx)
		r, err := c.deadLetters().List(call, &gantryv1.ListDeadLettersRequest{
			Group: group, Namespace: c.namespace, Filter: filter, From: from, Limit: int32(page),
		})
		cancel()
		if err != nil {
			return nil, nil, c.explain(err)
		}
		for _, d := range r.GetDeadLetters() {
			views = append(views, viewDead(d))
		}
		if r.Next == nil || limit > 0 && len(views) >= limit {
			return views, r.Next, nil
		}
		from = r.GetNext()
	}
}

func newDLQShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show GROUP OFFSET", Short: "Show one dead letter with its properties and body",
		Args: cobra.ExactArgs(2), ValidArgsFunction: completeGroups,
	}
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		offset, err := strconv.ParseInt(args[1], 10, 64)
		if err != nil || offset < 0 {
			return usageErrorf("OFFSET %q: want a number, as dlq list shows it", args[1])
		}
		ctx, cancel := c.call(ctx)
		defer cancel()
		m, err := c.deadLetters().Show(ctx, &gantryv1.ShowDeadLetterRequest{Group: args[0], Namespace: c.namespace, Offset: offset})
		if err != nil {
			return c.explain(err)
		}
		v := viewDeadMessage(m)
		if c.json {
			return printJSON(cmd.OutOrStdout(), v)
		}
		return printDead(cmd.OutOrStdout(), m, v)
	})
}

func printDead(w io.Writer, m *gantryv1.DeadLetterMessage, v deadMessageView) error {
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%-15s %s\n", name, clean(value))
		}
	}
	line("offset", fmt.Sprint(v.Offset))
	line("state", v.State)
	line("reason", v.Reason)
	line("died", v.Died)
	line("attempts", fmt.Sprint(v.Attempts))
	line("from", v.from())
	line("last client", v.LastClient)
	line("last lease end", v.LeaseEnd)
	line("id", v.ID)
	line("tag", v.Tag)
	line("keys", strings.Join(v.Keys, ", "))
	line("message group", v.Group)
	line("lite topic", v.LiteTopic)
	line("born", v.Born)
	line("stored", v.Stored)
	line("compression", v.Compression)
	line("unreadable", v.Unreadable)
	for _, p := range m.GetProperties() {
		line("property", p.GetKey()+"="+p.GetValue())
	}
	if len(v.History) > 0 {
		fmt.Fprintln(w)
		if err := printAttempts(w, v.History); err != nil {
			return err
		}
	}
	if v.State == "lost" {
		_, err := fmt.Fprintln(w, "\nretention took the message")
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s\n", clean(string(v.Body)))
	return err
}

func newDLQRedrive() *cobra.Command {
	var (
		f      deadFlags
		target string
		rate   int32
		dryRun bool
	)
	cmd := &cobra.Command{
		Use:   "redrive GROUP",
		Short: "Put dead letters back into the topics they were consumed from",
		Long: `Put dead letters back, each into the topic it was consumed from, or all into the
topic that --to names. A message that goes back keeps its id, counts its attempts
from one, and is a message of that topic like any other: all consumer groups of the
topic receive it, not only this one.

Each dead letter goes back once. When the command is interrupted, or the broker is
restarted meanwhile, run it again: it goes on where it was. Messages that die again
while it runs are left for the next time.`,
		Example: `  gantry dlq redrive billing --all --dry-run
  gantry dlq redrive billing --reason exhausted --since 2h --rate 100`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeGroups,
	}
	f.add(cmd)
	f.addAll(cmd)
	cmd.Flags().StringVar(&target, "to", "", "put all of them into this `TOPIC`")
	cmd.Flags().Int32Var(&rate, "rate", 0, "at most so many a second (0: as fast as it goes)")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only count, and find what would fail")
	cmd.RegisterFlagCompletionFunc("to", topicNames)
	return clientCommand(cmd, inEveryShard(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		filter, err := f.chosen()
		if err != nil {
			return err
		}
		if rate < 0 {
			return usageErrorf("--rate %d: want 0 or more", rate)
		}
		stream, err := c.deadLetters().Redrive(c.header(ctx), &gantryv1.RedriveRequest{
			Group: args[0], Namespace: c.namespace, Filter: filter, TargetTopic: target, Rate: rate, DryRun: dryRun,
		})
		return c.settleDead(cmd, stream, err, "redriven", dryRun)
	}))
}

func newDLQDiscard() *cobra.Command {
	var (
		f      deadFlags
		dryRun bool
	)
	cmd := &cobra.Command{
		Use:   "discard GROUP",
		Short: "Give dead letters up: they are not listed or redriven any more",
		Long: `Give dead letters up: they are not listed, exported or redriven any more (list and
export show them with --settled). Consumers that subscribe to %DLQ%GROUP still get
them, and their bytes go with the log's retention.`,
		Example:           "  gantry dlq discard billing --offset 3,7",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeGroups,
	}
	f.add(cmd)
	f.addAll(cmd)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only count")
	return clientCommand(cmd, inEveryShard(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		filter, err := f.chosen()
		if err != nil {
			return err
		}
		stream, err := c.deadLetters().Discard(c.header(ctx), &gantryv1.DiscardRequest{
			Group: args[0], Namespace: c.namespace, Filter: filter, DryRun: dryRun,
		})
		return c.settleDead(cmd, stream, err, "discarded", dryRun)
	}))
}

// progressView is the outcome of a redrive or discard in JSON.
type progressView struct {
	Matched int64  `json:"matched"`
	Done    int64  `json:"done"`
	Failed  int64  `json:"failed"`
	Failure string `json:"failure,omitempty"`
	DryRun  bool   `json:"dry_run"`
}

// settleDead follows a redrive or discard to its end. On a terminal it shows how
// far it is.
func (c *client) settleDead(cmd *cobra.Command, stream grpc.ServerStreamingClient[gantryv1.DeadLetterProgress], err error, done string, dryRun bool) error {
	if err != nil {
		return c.explain(err)
	}
	bar := progressBar{to: cmd.ErrOrStderr(), on: !c.json && isTerminal(cmd.ErrOrStderr())}
	var last *gantryv1.DeadLetterProgress
	for {
		p, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			bar.end()
			if last == nil {
				return c.explain(err)
			}
			return fmt.Errorf("%w; %d of %d were %s: run the command again to go on", c.explain(err), last.GetDone(), last.GetMatched(), done)
		}
		last = p
		bar.show(done, p.GetDone(), p.GetMatched())
	}
	bar.end()
	v := progressView{last.GetMatched(), last.GetDone(), last.GetFailed(), last.GetFailure(), dryRun}
	switch {
	case c.json:
		err = printJSON(cmd.OutOrStdout(), v)
	case v.Matched == 0:
		_, err = fmt.Fprintln(cmd.OutOrStdout(), "no dead letter is selected: there is none, or it was redriven or discarded before")
	case dryRun:
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s would be %s\n", count(v.Matched-v.Failed, "dead letter"), done)
	default:
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", count(v.Done, "dead letter"), done)
	}
	if err == nil && v.Failed > 0 {
		err = fmt.Errorf("%s cannot be %s; the first: %s", count(v.Failed, "dead letter"), done, v.Failure)
	}
	return err
}

// progressBar is one line that is written over and over.
type progressBar struct {
	to    io.Writer
	on    bool
	drawn bool
}

const barWidth = 30

func (b *progressBar) show(what string, n, of int64) {
	if !b.on || of == 0 {
		return
	}
	b.drawn = true
	full := int(n * barWidth / of)
	// What stood there before may have been longer.
	fmt.Fprintf(b.to, "\r[%s%s] %d of %d %s\x1b[K", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), n, of, what)
}

func (b *progressBar) end() {
	if b.drawn {
		fmt.Fprintln(b.to)
		b.drawn = false
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func newDLQExport() *cobra.Command {
	var f deadFlags
	cmd := &cobra.Command{
		Use:               "export GROUP",
		Short:             "Write dead letters with their messages, one JSON object a line",
		Example:           "  gantry dlq export billing --since 24h > dead.jsonl",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeGroups,
	}
	f.add(cmd)
	f.addSettled(cmd)
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		filter, err := f.filter()
		if err != nil {
			return err
		}
		stream, err := c.deadLetters().Export(c.header(ctx), &gantryv1.ExportDeadLettersRequest{Group: args[0], Namespace: c.namespace, Filter: filter})
		for err == nil {
			var m *gantryv1.DeadLetterMessage
			if m, err = stream.Recv(); err != nil {
				break
			}
			if err := printJSON(cmd.OutOrStdout(), viewDeadMessage(m)); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		return c.explain(err)
	})
}
