package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

// finding is the outcome of one check, in JSON too.
type finding struct {
	Check  string `json:"check"`
	Result string `json:"result"` // ok, warning or failed
	Found  string `json:"found"`
	Advice string `json:"advice,omitempty"` // what to do; empty when ok
}

const (
	fine    = "ok"
	warning = "warning"
	failed  = "failed"
)

// What doctor takes for too little, too slow or too far.
const (
	diskFailed   = 0.05 // of the disk free
	diskWarning  = 0.15
	filesWarning = 4096 // descriptors: one for each client, two for each segment
	syncWarning  = 20 * time.Millisecond
	clockFailed  = 2 * time.Second
	memoryShare  = 0.9 // of the limit, by Go's heap alone
)

func newDoctor() *cobra.Command {
	cmd := &cobra.Command{
		Use: "doctor", Short: "Look for what is wrong with a broker and its host, and say what to do",
		Long: `Look for what is wrong with a broker and its host, and say what to do: whether it
serves, whether the address it tells clients to dial leads to it, its disk, its
clock, its limits, its directory, and work that nobody does.

It changes nothing. The exit code is 1 when a check failed; warnings do not count.`,
		Example: "  gantry doctor\n  gantry doctor --server broker.example:8081 --json",
		Args:    cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		findings := c.examine(ctx)
		if c.json {
			if err := printJSON(cmd.OutOrStdout(), findings); err != nil {
				return err
			}
		} else if err := printFindings(cmd, findings); err != nil {
			return err
		}
		bad := 0
		for _, f := range findings {
			if f.Result == failed {
				bad++
			}
		}
		if bad > 0 {
			return fmt.Errorf("%s failed", count(bad, "check"))
		}
		return nil
	})
}

func printFindings(cmd *cobra.Command, findings []finding) error {
	var rows [][]string
	for _, f := range findings {
		rows = append(rows, []string{f.Result, f.Check, f.Found})
	}
	if err := printTable(cmd.OutOrStdout(), []string{"RESULT", "CHECK", "FOUND"}, rows); err != nil {
		return err
	}
	for _, f := range findings {
		if f.Advice != "" {
			fmt.Fprintf(cmd.OutOrStdout(), "\n%s: %s\n", clean(f.Check), clean(f.Advice))
		}
	}
	return nil
}

// examine makes all checks that the first of them allows.
func (c *client) examine(ctx context.Context) []finding {
	asked := time.Now()
	callCtx, cancel := c.call(ctx)
	defer cancel()
	o, err := c.observe().Overview(callCtx, &gantryv1.OverviewRequest{})
	if err != nil {
		return []finding{{"server", failed, c.explain(err).Error(), "start one with `gantry serve`, or name the right address with --server; a firewall between here and there looks the same"}}
	}
	took := time.Since(asked)
	out := []finding{checkServing(o), checkDamage(o), c.dialsBack(ctx, o)}
	out = append(out, checkDisk(o)...)
	out = append(out, checkClock(o, asked.Add(took/2), took/2), checkKept(o), checkFiles(o), checkMemory(o), checkSyncs(o), checkDurability(o))
	groups, err := c.observe().Groups(callCtx, &gantryv1.GroupsRequest{})
	if err != nil {
		return append(out, finding{"groups", failed, c.explain(err).Error(), "ask again; the server's log has the reason"})
	}
	return append(out, checkGroups(groups), checkParked(o))
}

func checkServing(o *gantryv1.OverviewResponse) finding {
	s := o.GetServer()
	found := strings.TrimSpace(fmt.Sprintf("%s %s, up %v", s.GetName(), s.GetVersion(), o.GetProcess().GetUptime().AsDuration().Round(time.Second)))
	switch l := o.GetLog(); {
	case l.GetFailure() != "":
		return finding{"server", failed, "the log takes nothing more: " + l.GetFailure(), "look at the disk and the kernel's log, then start the broker again: what was acknowledged is there"}
	case o.GetNotReady() != "":
		return finding{"server", failed, o.GetNotReady(), "the broker's log says why"}
	}
	return finding{"server", fine, found, ""}
}

func checkDamage(o *gantryv1.OverviewResponse) finding {
	if d := o.GetLog().GetDamage(); d != "" {
		return finding{"damage", failed, d, "an index is made again when the broker is started again, a node of three repairs its log; otherwise see `gantry log check`, and look at the disk"}
	}
	return finding{"damage", fine, "none was found", ""}
}

// dialsBack goes where a client is sent.
func (c *client) dialsBack(ctx context.Context, o *gantryv1.OverviewResponse) finding {
	const check = "advertised address"
	advertised := o.GetServer().GetAdvertisedEndpoints()
	if len(advertised) == 0 {
		return finding{check, fine, "none: each client is told the address it came by", ""}
	}
	for _, addr := range advertised {
		flags := *c.clientFlags
		flags.server, flags.shard = addr, 0
		there, err := flags.connect()
		if err != nil {
			return finding{check, failed, fmt.Sprintf("%s: %v", addr, err), "give `gantry serve --advertise` a HOST:PORT"}
		}
		defer there.close()
		ctx, cancel := there.call(ctx)
		defer cancel()
		who, err := there.observe().Overview(ctx, &gantryv1.OverviewRequest{})
		if err != nil {
			return finding{check, failed, fmt.Sprintf("%s does not answer from here: %v", addr, there.explain(err)),
				"clients that reach the broker are sent there and fail. Correct --advertise, or leave it out: then each is told the address it came by"}
		}
		if who.GetProcess().GetPid() != o.GetProcess().GetPid() || who.GetServer().GetDataDir() != o.GetServer().GetDataDir() {
			return finding{check, failed, addr + " is another broker", "correct --advertise: clients are sent to the wrong one"}
		}
	}
	return finding{check, fine, strings.Join(advertised, ", ") + " leads to this broker", ""}
}

func checkDisk(o *gantryv1.OverviewResponse) []finding {
	d := o.GetDisk()
	if d.GetTotal() == 0 {
		return []finding{{"disk", warning, "the broker does not know its disk", "look at its log"}}
	}
	share := float64(d.GetFree()) / float64(d.GetTotal())
	f := finding{"disk", fine, fmt.Sprintf("%s of %s free (%.0f %%)", about(d.GetFree()), about(d.GetTotal()), share*100), ""}
	const advice = "make room, or bound the log with --retention-size or --retention-age; at 0 sends are refused, and go on when there is space"
	switch {
	case o.GetLog().GetDiskFull(), share < diskFailed:
		f.Result, f.Advice = failed, advice
	case share < diskWarning:
		f.Result, f.Advice = warning, advice
	}
	kind := finding{"file system", fine, dash(d.GetKind()), ""}
	switch d.GetKind() {
	case "tmpfs", "ramfs":
		kind.Result, kind.Advice = failed, "this is memory: a reboot loses every message; give --data a directory on a disk"
	case "nfs", "cifs", "9p", "fuse":
		kind.Result, kind.Advice = warning, "what fdatasync promises here depends on another machine; a local disk is what acknowledgements mean"
	case "overlay":
		kind.Result, kind.Advice = warning, "this is a container's own layer, which goes with the container: mount a volume for --data"
	}
	mode := finding{"directory", fine, fmt.Sprintf("%s has mode %04o", o.GetServer().GetDataDir(), d.GetMode()), ""}
	if d.GetMode()&0o077 != 0 {
		mode.Result, mode.Advice = warning, "other users of the host can read messages: chmod 700 "+o.GetServer().GetDataDir()
	}
	return []finding{f, kind, mode}
}

// checkClock compares the server's clock with this host's, which was midway at the
// time given, give or take slack.
func checkClock(o *gantryv1.OverviewResponse, here time.Time, slack time.Duration) finding {
	off := o.GetTime().AsTime().Sub(here).Round(time.Millisecond)
	if off.Abs() > clockFailed+slack {
		return finding{"clock", failed, fmt.Sprintf("the server's differs from this host's by %v", off), "delayed messages come by the server's clock, and are sent by the clients': keep both right with NTP"}
	}
	return finding{"clock", fine, fmt.Sprintf("within %v of this host's", (off.Abs() + slack).Round(time.Millisecond)), ""}
}

func checkKept(o *gantryv1.OverviewResponse) finding {
	if o.GetProcess().GetClockUnsynchronized() {
		return finding{"clock is kept", warning, "the kernel knows of nothing that keeps the clock right", "run chrony or systemd-timesyncd on the server's host"}
	}
	return finding{"clock is kept", fine, "the kernel has no complaint", ""}
}

func checkFiles(o *gantryv1.OverviewResponse) finding {
	p := o.GetProcess()
	f := finding{"open files", fine, fmt.Sprintf("%d of %d", p.GetOpenFiles(), p.GetOpenFilesLimit()), ""}
	if p.GetOpenFilesLimit() < filesWarning || int64(p.GetOpenFiles()) > p.GetOpenFilesLimit()*8/10 {
		f.Result, f.Advice = warning, "raise the limit: LimitNOFILE= in a systemd unit, ulimit -n in a shell; each client and each segment takes one"
	}
	return f
}

func checkMemory(o *gantryv1.OverviewResponse) finding {
	p := o.GetProcess()
	f := finding{"memory", fine, fmt.Sprintf("heap %s, limit %s", about(p.GetHeap()), limitText(p.GetMemoryLimit())), ""}
	if limit := p.GetMemoryLimit(); limit > 0 && float64(p.GetHeap()) > memoryShare*float64(limit) {
		f.Result, f.Advice = warning, "the collector runs all the time at the limit: give the container more memory"
	}
	return f
}

func limitText(n int64) string {
	if n == 0 {
		return "none"
	}
	return about(n)
}

func checkSyncs(o *gantryv1.OverviewResponse) finding {
	l := o.GetLog()
	if l.GetSyncs() == 0 {
		return finding{"fdatasync", fine, "none was needed yet", ""}
	}
	mean := l.GetSyncTime().AsDuration() / time.Duration(l.GetSyncs())
	f := finding{"fdatasync", fine, fmt.Sprintf("mean %v, longest %v", mean.Round(10*time.Microsecond), l.GetSyncMax().AsDuration().Round(10*time.Microsecond)), ""}
	if mean > syncWarning {
		f.Result, f.Advice = warning, "every acknowledged send waits for this: a slow or a busy disk. A disk of its own, or one with power-loss protection, is what helps"
	}
	return f
}

func checkDurability(o *gantryv1.OverviewResponse) finding {
	d := o.GetServer().GetDurability()
	if d == "unsafe-async" {
		return finding{"durability", warning, d, "a power cut loses acknowledged messages; --durability sync keeps them"}
	}
	return finding{"durability", fine, dash(d), ""}
}

func checkGroups(r *gantryv1.GroupsResponse) finding {
	var alone []string
	for _, g := range r.GetGroups() {
		lag := int64(0)
		for _, t := range g.GetTopics() {
			lag += t.GetLag()
		}
		if lag > 0 && g.GetClients() == 0 {
			alone = append(alone, fmt.Sprintf("%s (%s)", qualified(g.GetGroup().GetNamespace(), g.GetGroup().GetName()), count(lag, "message")))
		}
	}
	if len(alone) == 0 {
		return finding{"groups", fine, "none has messages waiting and nobody connected", ""}
	}
	shown := strings.Join(alone[:min(len(alone), 5)], ", ")
	if len(alone) > 5 {
		shown += fmt.Sprintf(" and %d more", len(alone)-5)
	}
	return finding{"groups", warning, "messages wait and no consumer is connected: " + shown, "start the consumers, or `gantry group delete` what is not used any more"}
}

func checkParked(o *gantryv1.OverviewResponse) finding {
	if n := o.GetTraffic().GetHalfParked(); n > 0 {
		return finding{"transactions", warning, fmt.Sprintf("%d wait for a person", n), "`gantry txn list --parked` shows them, commit or rollback decides"}
	}
	return finding{"transactions", fine, "none waits for a person", ""}
}
