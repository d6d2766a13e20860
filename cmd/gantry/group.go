package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

func newGroup() *cobra.Command {
	return parent("group", "Create, list, describe and delete consumer groups, and move them on",
		newGroupCreate(), newGroupList(), newGroupDescribe(), newGroupDelete(),
		newGroupUpdate(), newGroupPause(), newGroupResume(),
		newGroupBlocked(), newGroupSkip(), newGroupReset(), newGroupClone(), newGroupReplay())
}

// groupView is a group in JSON.
type groupView struct {
	Name        string           `json:"name"`
	Namespace   string           `json:"namespace,omitempty"`
	FIFO        bool             `json:"fifo"`
	MaxAttempts int32            `json:"max_attempts"`
	Retry       string           `json:"retry"`
	Paused      bool             `json:"paused,omitempty"`
	LiteTopic   string           `json:"lite_topic,omitempty"`
	Lite        *liteView        `json:"lite,omitempty"`
	Created     string           `json:"created"`
	Topics      []groupTopicView `json:"topics,omitempty"`
	Clients     []clientView     `json:"clients,omitempty"`
}

type liteView struct {
	Exclusive  bool   `json:"exclusive,omitempty"`
	Shared     bool   `json:"shared,omitempty"`
	Quota      uint32 `json:"quota,omitempty"`
	ResetTaken bool   `json:"reset_taken,omitempty"`
	ResetLeft  bool   `json:"reset_left,omitempty"`
}

type groupTopicView struct {
	Name      string           `json:"name"`
	Namespace string           `json:"namespace,omitempty"`
	Lag       int64            `json:"lag"`
	InFlight  int64            `json:"in_flight"`
	Queues    []groupQueueView `json:"queues"`
}

type groupQueueView struct {
	Queue    uint32 `json:"queue"`
	Cursor   int64  `json:"cursor"`
	Max      int64  `json:"max"`
	Lag      int64  `json:"lag"`
	InFlight int64  `json:"in_flight"`
	Ready    int64  `json:"ready"`
}

type clientView struct {
	ID       string `json:"id"`
	Language string `json:"language"`
	Version  string `json:"version"`
	Host     string `json:"host"`
	Remote   string `json:"remote"`
	LastSeen string `json:"last_seen"`
}

func viewGroup(g *gantryv1.Group) groupView {
	v := groupView{
		Name: g.GetName(), Namespace: g.GetNamespace(), FIFO: g.GetFifo(), MaxAttempts: g.GetMaxAttempts(),
		Retry: viewRetry(g), Paused: g.GetPaused(), LiteTopic: g.GetLiteTopic(), Created: stamp(g.GetCreated()),
	}
	if l := g.GetLite(); l != nil {
		v.Lite = &liteView{Exclusive: l.GetExclusive(), Shared: l.GetShared(), Quota: l.GetQuota(), ResetTaken: l.GetResetTaken(), ResetLeft: l.GetResetLeft()}
	}
	return v
}

// viewRetry is the pauses in the form --retry-steps takes, or a sentence.
func viewRetry(g *gantryv1.Group) string {
	if e := g.GetExponential(); e != nil {
		return fmt.Sprintf("%v x %g up to %v", e.GetInitial().AsDuration(), e.GetMultiplier(), e.GetMax().AsDuration())
	}
	var steps []string
	for _, s := range g.GetSteps().GetSteps() {
		steps = append(steps, shortDuration(s.AsDuration()))
	}
	return strings.Join(steps, ",")
}

// shortDuration is d without zero units at its end: 1m, not 1m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func newGroupCreate() *cobra.Command {
	var (
		fifo     bool
		attempts int32
		steps    []time.Duration
		lite     string
		options  gantryv1.LiteOptions
	)
	cmd := &cobra.Command{
		Use:               "create NAME",
		Short:             "Create a consumer group",
		Example:           "  gantry group create billing --max-attempts 5 --retry-steps 1s,5s,1m",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&fifo, "fifo", false, "deliver the messages of one message group strictly one after another")
	cmd.Flags().Int32Var(&attempts, "max-attempts", 0, "deliveries before a message is a dead letter, 1 to 1000 (0: the server's default)")
	cmd.Flags().DurationSliceVar(&steps, "retry-steps", nil, "pause before each further attempt, as `1s,5s,1m`; the last repeats (default: the server's)")
	cmd.Flags().StringVar(&lite, "lite-topic", "", "make a lite group, whose members follow lite topics of this `TOPIC`")
	cmd.Flags().BoolVar(&options.Exclusive, "lite-exclusive", false, "a lite topic is for the last client that subscribed to it; the one before is told")
	cmd.Flags().BoolVar(&options.Shared, "lite-shared", false, "all lite topics are for all clients, which subscribe to none by name")
	cmd.Flags().Uint32Var(&options.Quota, "lite-quota", 0, "lite topics of one client at most, up to 100000 (0: 2000)")
	cmd.Flags().BoolVar(&options.ResetTaken, "lite-reset-taken", false, "a lite topic that another client takes over begins at its first message")
	cmd.Flags().BoolVar(&options.ResetLeft, "lite-reset-left", false, "a lite topic that its client has left begins at its first message when subscribed to again")
	cmd.RegisterFlagCompletionFunc("lite-topic", topicNames)
	cmd.MarkFlagsMutuallyExclusive("lite-exclusive", "lite-shared")
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		request := &gantryv1.CreateGroupRequest{
			Name: args[0], Namespace: c.namespace, Fifo: fifo, MaxAttempts: attempts, LiteTopic: lite, Lite: &options,
		}
		if len(steps) > 0 {
			request.Retry = &gantryv1.CreateGroupRequest_Steps{Steps: retrySteps(steps)}
		}
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.management().CreateGroup(ctx, request)
		if err != nil {
			return c.explain(err)
		}
		v := viewGroup(r.GetGroup())
		if c.json {
			return printJSON(cmd.OutOrStdout(), v)
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "group %s created: %s\n", clean(v.Name), v.sentence())
		return err
	})
}

func order(fifo bool) string {
	if fifo {
		return "fifo"
	}
	return "concurrent"
}

func newGroupList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List consumer groups", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions}
	return clientCommand(cmd, inEveryShard(func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.management().ListGroups(ctx, &gantryv1.ListGroupsRequest{Namespace: filterNamespace(cmd, c)})
		if err != nil {
			return c.explain(err)
		}
		views := make([]groupView, 0, len(r.GetGroups()))
		for _, g := range r.GetGroups() {
			views = append(views, viewGroup(g))
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), views)
		}
		rows := make([][]string, 0, len(views))
		for _, v := range views {
			rows = append(rows, []string{qualified(v.Namespace, v.Name), order(v.FIFO), fmt.Sprint(v.MaxAttempts), v.LiteTopic, v.Created})
		}
		return printList(cmd.OutOrStdout(), "no group", []string{"GROUP", "ORDER", "ATTEMPTS", "LITE TOPIC", "CREATED"}, rows)
	}))
}

func newGroupDescribe() *cobra.Command {
	cmd := &cobra.Command{
		Use: "describe NAME", Short: "Show a consumer group, how far it is, and who is connected",
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeGroups,
	}
	return clientCommand(cmd, inEveryShard(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.management().DescribeGroup(ctx, &gantryv1.DescribeGroupRequest{Name: args[0], Namespace: c.namespace})
		if err != nil {
			return c.explain(err)
		}
		v := viewGroup(r.GetGroup())
		for _, t := range r.GetTopics() {
			topic := groupTopicView{Name: t.GetName(), Namespace: t.GetNamespace(), Lag: t.GetLag(), InFlight: t.GetInFlight()}
			for _, q := range t.GetQueues() {
				topic.Queues = append(topic.Queues, groupQueueView{q.GetQueue(), q.GetCursor(), q.GetMaxOffset(), q.GetLag(), q.GetInFlight(), q.GetReady()})
			}
			v.Topics = append(v.Topics, topic)
		}
		for _, m := range r.GetClients() {
			v.Clients = append(v.Clients, clientView{m.GetId(), m.GetLanguage(), m.GetVersion(), m.GetHost(), m.GetRemoteAddress(), stamp(m.GetLastSeen())})
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), v)
		}
		return printGroup(cmd, v)
	}))
}

func (v *liteView) sentence() string {
	var out []string
	for _, part := range []struct {
		is   bool
		text string
	}{
		{v.Exclusive, "for the last client to subscribe"}, {v.Shared, "for all clients"}, {v.Quota > 0, fmt.Sprintf("at most %d for one client", v.Quota)},
		{v.ResetTaken, "read again when taken over"}, {v.ResetLeft, "read again when left"},
	} {
		if part.is {
			out = append(out, part.text)
		}
	}
	return strings.Join(out, ", ")
}

func printGroup(cmd *cobra.Command, v groupView) error {
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "group %s: %s, up to %s, created %s\nretry after %s\n",
		clean(qualified(v.Namespace, v.Name)), order(v.FIFO), count(v.MaxAttempts, "attempt"), v.Created, clean(v.Retry))
	if v.Paused {
		fmt.Fprintln(out, "paused: it is handed nothing until gantry group resume")
	}
	if v.LiteTopic != "" {
		fmt.Fprintf(out, "lite topics of %s\n", clean(v.LiteTopic))
	}
	if v.Lite != nil {
		fmt.Fprintf(out, "lite topics are %s\n", v.Lite.sentence())
	}
	var rows [][]string
	for _, t := range v.Topics {
		for _, q := range t.Queues {
			rows = append(rows, []string{qualified(t.Namespace, t.Name), fmt.Sprint(q.Queue), fmt.Sprint(q.Cursor), fmt.Sprint(q.Max),
				fmt.Sprint(q.Lag), fmt.Sprint(q.InFlight), fmt.Sprint(q.Ready)})
		}
	}
	if len(rows) > 0 {
		fmt.Fprintln(out)
		if err := printTable(out, []string{"TOPIC", "QUEUE", "NEXT", "END", "LAG", "IN FLIGHT", "WAITING"}, rows); err != nil {
			return err
		}
	}
	rows = nil
	for _, m := range v.Clients {
		rows = append(rows, []string{m.ID, m.Language, m.Version, m.Host, m.Remote, m.LastSeen})
	}
	if len(rows) == 0 {
		_, err := fmt.Fprintln(out, "\nno client is connected")
		return err
	}
	fmt.Fprintln(out)
	return printTable(out, []string{"CLIENT", "LANGUAGE", "VERSION", "HOST", "ADDRESS", "LAST SEEN"}, rows)
}

func newGroupDelete() *cobra.Command {
	cmd := &cobra.Command{
		Use: "delete NAME", Short: "Delete a consumer group with its offsets, leases and pending redeliveries",
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeGroups,
	}
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		ctx, cancel := c.call(ctx)
		defer cancel()
		_, err := c.management().DeleteGroup(ctx, &gantryv1.DeleteGroupRequest{Name: args[0], Namespace: c.namespace})
		if err != nil {
			return c.explain(err)
		}
		return printDeleted(cmd, c, "group", args[0])
	})
}
