package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/proto/gantryv1"
)

var topicTypes = []string{"normal", "fifo", "delay", "transaction", "priority", "lite", "mixed"}

func newTopic() *cobra.Command {
	return parent("topic", "Create, change, list, describe, purge and delete topics",
		newTopicCreate(), newTopicUpdate(), newTopicList(), newTopicDescribe(), newTopicRoute(), newTopicPurge(), newTopicDelete())
}

// topicView is a topic in JSON.
type topicView struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace,omitempty"`
	Type      string `json:"type"`
	Queues    uint32 `json:"queues"`
	Created   string `json:"created"`
	LiteTTL   string `json:"lite_ttl,omitempty"`

	RetentionAge  string `json:"retention_age,omitempty"`
	RetentionSize int64  `json:"retention_size,omitempty"`
	DedupWindow   string `json:"dedup_window,omitempty"`
	DedupKey      string `json:"dedup_key,omitempty"`
	DedupMax      uint32 `json:"dedup_max,omitempty"`

	// The rest is of describe.
	Messages        *int64      `json:"messages,omitempty"`
	Bytes           *int64      `json:"bytes,omitempty"`
	BytesEstimated  bool        `json:"bytes_estimated,omitempty"`
	DedupRemembered int64       `json:"dedup_remembered,omitempty"`
	DedupSince      string      `json:"dedup_since,omitempty"`
	Offsets         []queueView `json:"offsets,omitempty"`
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
	for _, d := range []struct {
		from *durationpb.Duration
		to   *string
	}{{t.GetLiteTtl(), &v.LiteTTL}, {t.GetRetentionAge(), &v.RetentionAge}, {t.GetDedupWindow(), &v.DedupWindow}} {
		if d.from != nil {
			*d.to = duration(d.from.AsDuration())
		}
	}
	v.RetentionSize, v.DedupKey, v.DedupMax = t.GetRetentionSize(), t.GetDedupKey(), t.GetDedupMax()
	return v
}

// duration is how --help writes one: 1h, not 1h0m0s.
func duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// settings says what a topic has beyond a type and queues, in words.
func (v topicView) settings() (out []string) {
	if v.RetentionAge != "" {
		out = append(out, "keeps messages for "+v.RetentionAge)
	}
	if v.RetentionSize != 0 {
		size := byteSize(v.RetentionSize)
		out = append(out, "keeps up to "+size.String())
	}
	if v.DedupWindow != "" {
		out = append(out, fmt.Sprintf("a message sent again within %s is not stored (same %s, up to %d remembered)", v.DedupWindow, v.DedupKey, v.DedupMax))
	}
	if v.LiteTTL != "" {
		out = append(out, "lite topics go when not written to for "+v.LiteTTL)
	}
	return out
}

func stamp(t *timestamppb.Timestamp) string {
	if t == nil {
		return when(0)
	}
	return when(t.AsTime().UnixMilli())
}

// topicFlags are what can be set when a topic is created, and later.
type topicFlags struct {
	queues                             uint32
	liteTTL, retentionAge, dedupWindow time.Duration
	retentionSize                      byteSize
	dedupKey                           string
	dedupMax                           uint32
}

var topicSettings = []string{"queues", "lite-ttl", "retention-age", "retention-size", "dedup-window", "dedup-key", "dedup-max"}

func (f *topicFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.Uint32Var(&f.queues, "queues", 0, "number of queues, 1 to 1024 (0: the server's default)")
	flags.DurationVar(&f.liteTTL, "lite-ttl", 0, "delete lite topics below it that nobody has written to for so long, 15m to 720h (0: never)")
	flags.DurationVar(&f.retentionAge, "retention-age", 0, "keep messages for so long, whatever the log's retention is (0: as the log)")
	flags.Var(&f.retentionSize, "retention-size", "keep no more than this, as `SIZE` like 5GiB, whatever the log's retention is (0: as the log)")
	flags.DurationVar(&f.dedupWindow, "dedup-window", 0, "a message sent again within this time gets the first result and is not stored, 1s to 168h (0: off)")
	flags.StringVar(&f.dedupKey, "dedup-key", "", "the same message has the same `KEY`: id (default), key (all its keys), or property:NAME")
	flags.Uint32Var(&f.dedupMax, "dedup-max", 0, "remember so many messages, at some 92 bytes each; beyond that the oldest are forgotten early (0: 262144)")
	cmd.RegisterFlagCompletionFunc("dedup-key", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{"id", "key", "property:"}, cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
	})
}

const topicSettingsHelp = `A topic with a --retention-age or --retention-size of its own is not touched by
the log's retention. Messages that go sooner are gone at once for every group;
their bytes go with their file of the log. Messages that stay longer are written
again each time a file of the log goes, so a topic that keeps n times as long as
the log writes each message about n times more.`

func newTopicCreate() *cobra.Command {
	var f topicFlags
	var kind string
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Create a topic",
		Long:              "Create a topic.\n\n" + topicSettingsHelp,
		Example:           "  gantry topic create orders --type fifo --queues 16\n  gantry topic create payments --dedup-window 10m --retention-age 720h",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&kind, "type", "normal", "messages it accepts: "+strings.Join(topicTypes, ", "))
	f.add(cmd)
	cmd.RegisterFlagCompletionFunc("type", completeWords(topicTypes...))
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		number, ok := gantryv1.TopicType_value[strings.ToUpper(kind)]
		if !ok || number == 0 {
			return usageErrorf("--type %q: want one of %s", kind, strings.Join(topicTypes, ", "))
		}
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.management().CreateTopic(ctx, &gantryv1.CreateTopicRequest{
			Name: args[0], Namespace: c.namespace, Type: gantryv1.TopicType(number), Queues: f.queues,
			LiteTtl: durationpb.New(f.liteTTL), RetentionAge: durationpb.New(f.retentionAge), RetentionSize: int64(f.retentionSize),
			DedupWindow: durationpb.New(f.dedupWindow), DedupKey: f.dedupKey, DedupMax: f.dedupMax,
		})
		if err != nil {
			return c.explain(err)
		}
		return printTopic(cmd, c, "created", r.GetTopic())
	})
}

func newTopicUpdate() *cobra.Command {
	var f topicFlags
	cmd := &cobra.Command{
		Use: "update NAME", Short: "Change a topic's queues, retention or deduplication",
		Long: `Change what is given, leave the rest. 0 takes a bound, a window or a time away;
queues can be added only.

With more queues, messages of one message group or priority may go to another
queue than those sent before, and overtake them: change ordered topics when they
are empty.

` + topicSettingsHelp,
		Example: "  gantry topic update orders --queues 32\n  gantry topic update orders --dedup-window 10m --dedup-key property:order_id\n  gantry topic update logs --retention-age 6h --retention-size 20GiB",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completeTopics,
	}
	f.add(cmd)
	cmd.MarkFlagsOneRequired(topicSettings...)
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		req := &gantryv1.UpdateTopicRequest{Name: args[0], Namespace: c.namespace}
		size := int64(f.retentionSize)
		for name, change := range map[string]func(){
			"queues":         func() { req.Queues = &f.queues },
			"lite-ttl":       func() { req.LiteTtl = durationpb.New(f.liteTTL) },
			"retention-age":  func() { req.RetentionAge = durationpb.New(f.retentionAge) },
			"retention-size": func() { req.RetentionSize = &size },
			"dedup-window":   func() { req.DedupWindow = durationpb.New(f.dedupWindow) },
			"dedup-key":      func() { req.DedupKey = &f.dedupKey },
			"dedup-max":      func() { req.DedupMax = &f.dedupMax },
		} {
			if cmd.Flags().Changed(name) {
				change()
			}
		}
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.topicOps().Update(ctx, req)
		if err != nil {
			return c.explain(err)
		}
		return printTopic(cmd, c, "updated", r.GetTopic())
	})
}

func (c *client) topicOps() gantryv1.TopicOpsClient { return gantryv1.NewTopicOpsClient(c.conn) }

// printTopic tells what was done to a topic.
func printTopic(cmd *cobra.Command, c *client, done string, t *gantryv1.Topic) error {
	v := viewTopic(t)
	if c.json {
		return printJSON(cmd.OutOrStdout(), v)
	}
	what := append([]string{v.Type, count(v.Queues, "queue")}, v.settings()...)
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "topic %s %s: %s\n", clean(v.Name), done, clean(strings.Join(what, ", ")))
	return err
}

func newTopicList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List topics", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions}
	return clientCommand(cmd, inEveryShard(func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
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
		return printList(cmd.OutOrStdout(), "no topic", []string{"TOPIC", "TYPE", "QUEUES", "CREATED"}, rows)
	}))
}

func newTopicDescribe() *cobra.Command {
	cmd := &cobra.Command{
		Use: "describe NAME", Short: "Show a topic and its queues",
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeTopics,
	}
	return clientCommand(cmd, inEveryShard(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.management().DescribeTopic(ctx, &gantryv1.DescribeTopicRequest{Name: args[0], Namespace: c.namespace})
		if err != nil {
			return c.explain(err)
		}
		v := viewTopic(r.GetTopic())
		v.Messages, v.Bytes, v.BytesEstimated, v.DedupRemembered = &r.Messages, &r.Bytes, r.GetBytesEstimated(), r.GetDedupRemembered()
		if r.GetDedupSince() != nil {
			v.DedupSince = stamp(r.GetDedupSince())
		}
		for _, q := range r.GetQueues() {
			v.Offsets = append(v.Offsets, queueView{q.GetQueue(), q.GetMinOffset(), q.GetMaxOffset()})
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), v)
		}
		size := count(*v.Bytes, "byte")
		if v.BytesEstimated {
			size = "about " + size
		}
		fmt.Fprintf(cmd.OutOrStdout(), "topic %s: %s, %s, %s (%s), created %s\n",
			clean(qualified(v.Namespace, v.Name)), v.Type, count(v.Queues, "queue"), count(*v.Messages, "message"), size, v.Created)
		lines := v.settings()
		if v.DedupRemembered > 0 {
			lines = append(lines, fmt.Sprintf("%s remembered, since %s", count(v.DedupRemembered, "message"), v.DedupSince))
		}
		for _, line := range lines {
			fmt.Fprintf(cmd.OutOrStdout(), "  %s\n", clean(line))
		}
		fmt.Fprintln(cmd.OutOrStdout())
		rows := make([][]string, 0, len(v.Offsets))
		for _, q := range v.Offsets {
			rows = append(rows, []string{fmt.Sprint(q.Queue), fmt.Sprint(q.Min), fmt.Sprint(q.Max), fmt.Sprint(q.Max - q.Min)})
		}
		return printTable(cmd.OutOrStdout(), []string{"QUEUE", "MIN", "MAX", "MESSAGES"}, rows)
	}))
}

// purgeView is the outcome of a purge in JSON.
type purgeView struct {
	Topic     string      `json:"topic"`
	Namespace string      `json:"namespace,omitempty"`
	Messages  int64       `json:"messages"`
	Delayed   int64       `json:"delayed"`
	Half      int64       `json:"half"`
	Offsets   []queueView `json:"offsets"` // of the queues that lost messages
	DryRun    bool        `json:"dry_run"`
}

func (v purgeView) String() string {
	s := count(v.Messages, "message")
	if v.Delayed > 0 {
		s += ", " + count(v.Delayed, "delayed message")
	}
	if v.Half > 0 {
		s += ", " + count(v.Half, "undecided transaction")
	}
	return s
}

func newTopicPurge() *cobra.Command {
	var before string
	var dryRun, yes bool
	cmd := &cobra.Command{
		Use: "purge NAME", Short: "Make a topic's messages gone for every group",
		Long: `Make a topic's messages gone for every group: those in its queues, whoever holds
them, its delayed messages, and its undecided transactions, which are rolled back.
Offsets go on where they were. Groups stay, and so do their dead letters: purge the
topic %DLQ%GROUP for those. Disk space comes back with the files of the log.

It asks before it does it, unless --yes is given. It cannot be undone.`,
		Example: "  gantry topic purge orders --dry-run\n  gantry topic purge orders --before 24h --yes",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completeTopics,
	}
	cmd.Flags().StringVar(&before, "before", "", "only messages from before this `TIME`: 24h (ago), 2026-01-31, or 2026-01-31T10:00:00Z")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only tell what would go")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return clientCommand(cmd, inEveryShard(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		req := &gantryv1.PurgeTopicRequest{Name: args[0], Namespace: c.namespace, DryRun: dryRun || !yes}
		var err error
		if req.Before, err = timeFlag("before", before); err != nil {
			return err
		}
		v, err := c.purge(ctx, req)
		if err != nil {
			return err
		}
		name := clean(qualified(c.namespace, args[0]))
		if !dryRun && !yes {
			if err := confirm(cmd, fmt.Sprintf("Purge %v of topic %s?", v, name)); err != nil {
				return err
			}
			req.DryRun = false
			if v, err = c.purge(ctx, req); err != nil {
				return err
			}
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), v)
		}
		done := "purged"
		if dryRun {
			done = "would be purged"
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "topic %s: %v %s\n", name, v, done)
		return err
	}))
}

// purge has no deadline: many delayed messages take their time.
func (c *client) purge(ctx context.Context, req *gantryv1.PurgeTopicRequest) (purgeView, error) {
	r, err := c.topicOps().Purge(c.header(ctx), req)
	if err != nil {
		return purgeView{}, c.explain(err)
	}
	v := purgeView{
		Topic: req.GetName(), Namespace: req.GetNamespace(), DryRun: req.GetDryRun(),
		Messages: r.GetMessages(), Delayed: r.GetDelayed(), Half: r.GetHalf(), Offsets: []queueView{},
	}
	for _, q := range r.GetQueues() {
		v.Offsets = append(v.Offsets, queueView{q.GetQueue(), q.GetMinOffset(), q.GetMaxOffset()})
	}
	return v, nil
}

// confirm asks, and returns nil for a yes.
func confirm(cmd *cobra.Command, question string) error {
	fmt.Fprintf(cmd.ErrOrStderr(), "%s [y/N] ", question)
	answer, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	case "":
		if err != nil {
			return usageErrorf("there is nobody to ask: give --yes")
		}
	}
	return errors.New("not done")
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
	return record.Resource{Namespace: namespace, Name: name}.Label()
}

func newTopicRoute() *cobra.Command {
	cmd := &cobra.Command{
		Use: "route NAME", Short: "Show where clients are sent to for a topic",
		Long: `Show where clients are sent to for a topic: the address of each queue's broker as it is
told to this client. If programs cannot reach it from where they run, see --advertise
of gantry serve.`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeTopics,
	}
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		queues, err := c.route(ctx, args[0])
		if err != nil {
			return err
		}
		type routeView struct {
			Queue     int32    `json:"queue"`
			Broker    string   `json:"broker"`
			Addresses []string `json:"addresses"`
			Accepts   []string `json:"accepts"`
		}
		var views []routeView
		var rows [][]string
		for _, q := range queues {
			v := routeView{Queue: q.GetId(), Broker: q.GetBroker().GetName()}
			for _, a := range q.GetBroker().GetEndpoints().GetAddresses() {
				v.Addresses = append(v.Addresses, net.JoinHostPort(a.GetHost(), fmt.Sprint(a.GetPort())))
			}
			for _, t := range q.GetAcceptMessageTypes() {
				v.Accepts = append(v.Accepts, strings.ToLower(t.String()))
			}
			views = append(views, v)
			rows = append(rows, []string{fmt.Sprint(v.Queue), v.Broker, strings.Join(v.Addresses, " "), strings.Join(v.Accepts, " ")})
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), views)
		}
		return printTable(cmd.OutOrStdout(), []string{"QUEUE", "BROKER", "ADDRESSES", "ACCEPTS"}, rows)
	})
}
