package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

// topView is one look at a broker in JSON. Rates are per second, since the look before.
type topView struct {
	Time         string         `json:"time"`
	Stored       float64        `json:"stored_per_second"`
	Delivered    float64        `json:"delivered_per_second"`
	Acknowledged float64        `json:"acknowledged_per_second"`
	LogBytes     float64        `json:"log_bytes_per_second"`
	SyncMS       float64        `json:"sync_ms_mean"`
	Lag          int64          `json:"lag"`
	InFlight     int64          `json:"in_flight"`
	Delayed      int64          `json:"delayed"`
	Clients      int32          `json:"clients"`
	DiskFree     int64          `json:"disk_free"`
	Resident     int64          `json:"resident"`
	CPU          float64        `json:"cpu_cores"`
	Topics       []topTopicView `json:"topics"`
	Groups       []topGroupView `json:"groups"`
}

type topTopicView struct {
	Topic    string  `json:"topic"`
	Stored   float64 `json:"stored_per_second"`
	Bytes    float64 `json:"body_bytes_per_second"`
	Messages int64   `json:"messages"`
}

type topGroupView struct {
	Group     string  `json:"group"`
	Topic     string  `json:"topic"`
	Delivered float64 `json:"delivered_per_second"`
	Lag       int64   `json:"lag"`
	InFlight  int64   `json:"in_flight"`
	Ready     int64   `json:"ready"`
	Clients   int32   `json:"clients"`
}

// look is what was read at one moment.
type look struct {
	overview *gantryv1.OverviewResponse
	topics   *gantryv1.TopicsResponse
	groups   *gantryv1.GroupsResponse
}

func newTop() *cobra.Command {
	var every time.Duration
	var looks, rows int
	cmd := &cobra.Command{
		Use: "top", Short: "Watch a broker: rates, lag, the busiest topics and the groups furthest behind",
		Long: `Watch a broker until Ctrl-C. On a terminal the screen is drawn anew each time;
otherwise, and with --json, one look follows the other.`,
		Example: "  gantry top\n  gantry top --json --looks 1",
		Args:    cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().DurationVar(&every, "every", 2*time.Second, "pause between two looks, at least 100ms")
	cmd.Flags().IntVar(&looks, "looks", 0, "end after so many (0: never)")
	cmd.Flags().IntVar(&rows, "rows", 10, "show so many topics and groups")
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		if every < 100*time.Millisecond || looks < 0 || rows < 1 {
			return usageErrorf("--every must be at least 100ms, --looks at least 0, --rows at least 1")
		}
		last, err := c.look(ctx)
		if err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		pause := time.NewTicker(every)
		defer pause.Stop()
		for n := 0; looks == 0 || n < looks; n++ {
			select {
			case <-ctx.Done():
				return nil
			case <-pause.C:
			}
			next, err := c.look(ctx)
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				return err
			}
			v := viewTop(last, next)
			last = next
			if c.json {
				err = printJSON(out, v)
			} else {
				err = printTop(out, v, rows, onTerminal(out))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (c *client) look(ctx context.Context) (l look, err error) {
	ctx, cancel := c.call(ctx)
	defer cancel()
	if l.overview, err = c.observe().Overview(ctx, &gantryv1.OverviewRequest{}); err != nil {
		return l, c.explain(err)
	}
	if l.topics, err = c.observe().Topics(ctx, &gantryv1.TopicsRequest{}); err != nil {
		return l, c.explain(err)
	}
	if l.groups, err = c.observe().Groups(ctx, &gantryv1.GroupsRequest{}); err != nil {
		return l, c.explain(err)
	}
	return l, nil
}

func viewTop(a, b look) topView {
	dt := b.overview.GetTime().AsTime().Sub(a.overview.GetTime().AsTime()).Seconds()
	per := func(before, after uint64) float64 {
		if dt <= 0 || after < before { // it began anew
			return 0
		}
		return float64(after-before) / dt
	}
	x, y := a.overview.GetTraffic(), b.overview.GetTraffic()
	v := topView{
		Time: stamp(b.overview.GetTime()), Stored: per(x.GetMessagesIn(), y.GetMessagesIn()), Delivered: per(x.GetMessagesOut(), y.GetMessagesOut()),
		Acknowledged: per(x.GetAcknowledged(), y.GetAcknowledged()), LogBytes: per(uint64(a.overview.GetLog().GetBytes()), uint64(b.overview.GetLog().GetBytes())),
		Lag: y.GetLag(), InFlight: y.GetInFlight(), Delayed: y.GetDelayed(), Clients: y.GetClients(), DiskFree: b.overview.GetDisk().GetFree(),
		Resident: b.overview.GetProcess().GetResident(), Topics: []topTopicView{}, Groups: []topGroupView{},
	}
	if n := b.overview.GetLog().GetSyncs() - a.overview.GetLog().GetSyncs(); n > 0 {
		v.SyncMS = (b.overview.GetLog().GetSyncTime().AsDuration() - a.overview.GetLog().GetSyncTime().AsDuration()).Seconds() * 1000 / float64(n)
	}
	if dt > 0 {
		v.CPU = (b.overview.GetProcess().GetCpu().AsDuration() - a.overview.GetProcess().GetCpu().AsDuration()).Seconds() / dt
	}
	before := map[string]*gantryv1.TopicTraffic{}
	for _, t := range a.topics.GetTopics() {
		before[qualified(t.GetTopic().GetNamespace(), t.GetTopic().GetName())] = t
	}
	for _, t := range b.topics.GetTopics() {
		name := qualified(t.GetTopic().GetNamespace(), t.GetTopic().GetName())
		v.Topics = append(v.Topics, topTopicView{
			Topic: name, Stored: per(before[name].GetMessagesIn(), t.GetMessagesIn()), Bytes: per(before[name].GetBytesIn(), t.GetBytesIn()), Messages: t.GetMessages(),
		})
	}
	slices.SortStableFunc(v.Topics, func(a, b topTopicView) int { return cmp.Compare(b.Stored, a.Stored) })
	out := map[[2]string]uint64{}
	eachConsumption(a.groups, func(group, topic string, t *gantryv1.GroupTopicTraffic, _ int32) {
		out[[2]string{group, topic}] = t.GetMessagesOut()
	})
	eachConsumption(b.groups, func(group, topic string, t *gantryv1.GroupTopicTraffic, clients int32) {
		v.Groups = append(v.Groups, topGroupView{
			Group: group, Topic: topic, Delivered: per(out[[2]string{group, topic}], t.GetMessagesOut()),
			Lag: t.GetLag(), InFlight: t.GetInFlight(), Ready: t.GetReady(), Clients: clients,
		})
	})
	slices.SortStableFunc(v.Groups, func(a, b topGroupView) int { return cmp.Compare(b.Lag, a.Lag) })
	return v
}

func eachConsumption(r *gantryv1.GroupsResponse, f func(group, topic string, t *gantryv1.GroupTopicTraffic, clients int32)) {
	for _, g := range r.GetGroups() {
		for _, t := range g.GetTopics() {
			f(qualified(g.GetGroup().GetNamespace(), g.GetGroup().GetName()), qualified(t.GetNamespace(), t.GetTopic()), t, g.GetClients())
		}
	}
}

func onTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// printTop writes a look in one piece, so that a screen does not flicker.
func printTop(out io.Writer, v topView, rows int, screen bool) error {
	var b bytes.Buffer
	if screen {
		b.WriteString("\x1b[H\x1b[2J")
	}
	fmt.Fprintf(&b, "%s  stored %s  delivered %s  acknowledged %s  log %s/s  fdatasync %.2f ms\n", v.Time, perSecond(v.Stored), perSecond(v.Delivered), perSecond(v.Acknowledged), about(v.LogBytes), v.SyncMS)
	fmt.Fprintf(&b, "lag %d  in flight %d  delayed %d  clients %d  cpu %.2f cores  resident %v  disk free %v\n\n", v.Lag, v.InFlight, v.Delayed, v.Clients, v.CPU, about(v.Resident), about(v.DiskFree))
	var lines [][]string
	for _, t := range v.Topics[:min(rows, len(v.Topics))] {
		lines = append(lines, []string{t.Topic, perSecond(t.Stored), about(t.Bytes) + "/s", fmt.Sprint(t.Messages)})
	}
	if err := printList(&b, "no topic", []string{"TOPIC", "STORED", "BODIES", "MESSAGES"}, lines); err != nil {
		return err
	}
	fmt.Fprintln(&b)
	lines = nil
	for _, g := range v.Groups[:min(rows, len(v.Groups))] {
		lines = append(lines, []string{g.Group, g.Topic, perSecond(g.Delivered), fmt.Sprint(g.Lag), fmt.Sprint(g.InFlight), fmt.Sprint(g.Ready), fmt.Sprint(g.Clients)})
	}
	if err := printList(&b, "no group consumes anything", []string{"GROUP", "TOPIC", "DELIVERED", "LAG", "IN FLIGHT", "WAITING", "CLIENTS"}, lines); err != nil {
		return err
	}
	if !screen {
		fmt.Fprintln(&b)
	}
	_, err := out.Write(b.Bytes())
	return err
}

func perSecond(v float64) string { return fmt.Sprintf("%.0f/s", v) }

// about is a number of bytes as people say it.
func about[N int64 | float64](n N) string {
	v := float64(n)
	for i := 3; i >= 0; i-- {
		if u := units[i]; v >= float64(u.bytes) {
			return fmt.Sprintf("%.1f %s", v/float64(u.bytes), u.suffix)
		}
	}
	return fmt.Sprintf("%.0f B", v)
}
