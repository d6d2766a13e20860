package broker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
)

func replayed(t testing.TB, b *Broker, req ReplayRequest, want ReplayProgress) {
	t.Helper()
	got, err := b.Replay(t.Context(), name("G"), name("T"), req, nil)
	if err != nil || got != want {
		t.Fatalf("replay: %+v, %v; want %+v", got, err, want)
	}
}

// drained receives and acknowledges what a group gets at once.
func drained(t testing.TB, b *Broker, group string, change ...func(*ReceiveRequest)) (got []string) {
	t.Helper()
	for {
		ms := receive(t, b, "T", group, change...)
		if len(ms) == 0 {
			caughtUp(t, b)
			return got
		}
		got = append(got, bodies(ms)...)
		ack(t, b, "T", group, ms...)
	}
}

// caughtUp waits until everything is applied: an acknowledgement is answered
// before it is.
func caughtUp(t testing.TB, b *Broker) {
	t.Helper()
	if err := b.dispatcher.Await(t.Context(), b.wal.Committed()); err != nil {
		t.Fatal(err)
	}
}

// next receives and acknowledges n messages.
func next(t testing.TB, b *Broker, group string, n int) (got []string) {
	t.Helper()
	for len(got) < n {
		ms := receive(t, b, "T", group, waiting)
		got = append(got, bodies(ms)...)
		ack(t, b, "T", group, ms...)
	}
	caughtUp(t, b)
	return got
}

// later waits for another millisecond than that of all that was stored.
func later() int64 {
	for now := time.Now().UnixMilli(); ; {
		if at := time.Now().UnixMilli(); at > now {
			return at
		}
	}
}

func TestARangeIsReplayedToOneGroupOnly(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 2)
	send(t, b, "T", msg("early", "early"))
	from := later()
	big := strings.Repeat("x", 100_000)
	var sent []string
	for i := range 20 {
		m := msg(fmt.Sprint("id-", i), fmt.Sprint(i%10, big))
		m.Tag = string("AB"[i%2])
		m.User = []Property{{"n", fmt.Sprint(i)}}
		send(t, b, "T", m)
		sent = append(sent, string(m.Body)+"#1")
	}
	to := later()
	send(t, b, "T", msg("late", "late"))
	for _, g := range []string{"G", "H"} {
		if got := drained(t, b, g); len(got) != 22 {
			t.Fatalf("%s got %d", g, len(got))
		}
	}
	slices.Sort(sent)
	before := b.wal.Committed()
	whole := ReplayRequest{From: from, To: to}
	dry := whole
	dry.DryRun = true
	for range 2 { // the dry run changes nothing, and a finished replay can be repeated
		replayed(t, b, dry, ReplayProgress{Total: 20, Passed: 20, Done: 20})
		replayed(t, b, whole, ReplayProgress{Total: 20, Passed: 20, Done: 20})
		got := drained(t, b, "G")
		if slices.Sort(got); !slices.Equal(got, sent) {
			t.Fatalf("the group got %d messages again, want %d, each for the first time", len(got), len(sent))
		}
	}
	if got := drained(t, b, "H"); got != nil {
		t.Errorf("another group got %d messages", len(got))
	}
	if wrote := b.wal.Committed() - before; wrote > 100_000 {
		t.Errorf("replaying 40 messages of 100 kB wrote %d bytes", wrote)
	}
	for _, c := range []struct {
		filter string
		sql    FilterType
		done   int64
	}{{"B", FilterTag, 10}, {"A || B", FilterTag, 20}, {"C", FilterTag, 0}, {"n BETWEEN 3 AND 7", FilterSQL, 5}} {
		req := whole
		req.Filter, req.FilterType = c.filter, c.sql
		replayed(t, b, req, ReplayProgress{Total: 20, Passed: 20, Done: c.done})
		if got := drained(t, b, "G"); int64(len(got)) != c.done {
			t.Errorf("%s gave %d messages, want %d", c.filter, len(got), c.done)
		}
	}
	// Until now is the end when none is given.
	replayed(t, b, ReplayRequest{From: to}, ReplayProgress{Total: 1, Passed: 1, Done: 1})
	if got := drained(t, b, "G"); !slices.Equal(got, []string{"late#1"}) {
		t.Error(got)
	}
}

func TestReplayLeavesAloneWhatComesAnyway(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 1)
	send(t, b, "T", numbered(4)...)
	ack(t, b, "T", "G", receive(t, b, "T", "G", func(r *ReceiveRequest) { r.Batch = 1 })...)
	caughtUp(t, b)
	held := receive(t, b, "T", "G", func(r *ReceiveRequest) { r.Batch = 1 })
	for _, dry := range []bool{true, false} {
		replayed(t, b, ReplayRequest{To: later(), DryRun: dry}, ReplayProgress{Total: 4, Passed: 4, Done: 1})
	}
	ack(t, b, "T", "G", held...)
	if got := drained(t, b, "G"); !slices.Equal(got, []string{"0#1", "2#1", "3#1"}) {
		t.Error(got)
	}
	// A group that is new to the topic gets all of it anyway, or begins at its end.
	if _, err := b.EnsureGroup(t.Context(), name("N")); err != nil {
		t.Fatal(err)
	}
	p, err := b.Replay(t.Context(), name("N"), name("T"), ReplayRequest{}, nil)
	if err != nil || p.Done != 0 {
		t.Errorf("%+v, %v", p, err)
	}
	if got := drained(t, b, "N"); len(got) != 4 {
		t.Error(got)
	}
}

func TestADryRunKnowsThatANewGroupBeginsAtTheEndOfWhatLostItsBeginning(t *testing.T) {
	b := open(t, t.TempDir(), func(o *Options) { o.SegmentSize, o.CheckpointEvery, o.RetentionSize = 64<<10, 32<<10, 128<<10 })
	makeTopic(t, b, "T", topic.Normal, 1)
	makeTopic(t, b, "Other", topic.Normal, 1)
	send(t, b, "T", numbered(1)...)
	tp, _ := b.topics.Lookup(name("T"))
	retained(t, b, record.Key(tp.ID, 0))
	send(t, b, "T", numbered(3)...)
	if _, err := b.EnsureGroup(t.Context(), name("G")); err != nil {
		t.Fatal(err)
	}
	for _, dry := range []bool{true, false} {
		replayed(t, b, ReplayRequest{To: later(), DryRun: dry}, ReplayProgress{Total: 3, Passed: 3, Done: 3})
	}
	if got := drained(t, b, "G"); len(got) != 3 {
		t.Error(got)
	}
}

func TestReplayedMessagesAreTriedAgainAndDieLikeOthers(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 1)
	if _, err := b.CreateGroup(t.Context(), group.Group{Name: name("G"), MaxAttempts: 2}); err != nil {
		t.Fatal(err)
	}
	send(t, b, "T", numbered(2)...)
	drained(t, b, "G")
	replayed(t, b, ReplayRequest{To: later()}, ReplayProgress{Total: 2, Passed: 2, Done: 2})
	for _, want1 := range [][]string{{"0#1", "1#1"}, {"0#2", "1#2"}} {
		got := receive(t, b, "T", "G", waiting)
		want(t, got, want1...)
		for _, m := range got {
			if _, err := b.ChangeInvisible(t.Context(), name("G"), name("T"), m.Handle, 0, false); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := receive(t, b, "T", "G"); len(got) != 0 {
		t.Error(bodies(got))
	}
	if got := states(listDead(t, b, DeadLetterFilter{})); got != "id-0=open id-1=open" {
		t.Error(got)
	}
	if dead := listDead(t, b, DeadLetterFilter{}); told(dead[0].History) != "1:c1=changed 2:c1=changed" {
		t.Errorf("%+v", dead[0].History)
	}
}

func TestReplayKeepsTheOrderOfMessageGroups(t *testing.T) {
	b := open(t, t.TempDir())
	orderedGroup(t, b)
	send(t, b, "T", inGroups("a1", "b1", "a2", "b2", "a3")...)
	next(t, b, "G", 5)
	end := later()
	send(t, b, "T", inGroups("a4", "a5")...)
	held := receive(t, b, "T", "G")
	want(t, held, "a4#1") // a5 was put aside
	replayed(t, b, ReplayRequest{To: end}, ReplayProgress{Total: 5, Passed: 5, Done: 5})
	want(t, receive(t, b, "T", "G"), "b1#1") // a4 is out, so no other of its group is
	ack(t, b, "T", "G", held...)
	if got := next(t, b, "G", 4); !slices.Equal(got, []string{"a1#1", "a2#1", "a3#1", "a5#1"}) {
		t.Error(got)
	}
}

// errStop interrupts a replay, as a client does that goes away.
var errStop = errors.New("stop")

func TestAnInterruptedReplayGoesOnWhereItWas(t *testing.T) {
	for _, how := range []string{"the client goes", "restart", "kill -9", "kill -9 without a checkpoint"} {
		t.Run(how, func(t *testing.T) {
			dir := t.TempDir()
			b := open(t, dir)
			makeTopic(t, b, "T", topic.Normal, 3)
			const n = 60
			for i := range n {
				m := msg(fmt.Sprint("id-", i), fmt.Sprint(i))
				m.Tag = "A"
				send(t, b, "T", m)
			}
			drained(t, b, "G")
			req := ReplayRequest{To: later(), Filter: " A ", Rate: 100}
			first, err := b.Replay(t.Context(), name("G"), name("T"), req, func(p ReplayProgress) error {
				if p.Done >= 25 {
					return errStop
				}
				return nil
			})
			if !errors.Is(err, errStop) || first.Done < 25 || first.Done >= n {
				t.Fatalf("%+v, %v", first, err)
			}
			switch {
			case how == "restart":
				closeBroker(t, b)
				b = open(t, dir)
			case strings.HasPrefix(how, "kill"):
				killed := t.TempDir()
				if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
					t.Fatal(err)
				}
				if strings.HasSuffix(how, "checkpoint") {
					removeDir(t, killed+"/state")
				}
				b = open(t, killed)
			}
			if how == "restart" { // by another range, and by none
				other := req
				other.From = 1
				if _, err := b.Replay(t.Context(), name("G"), name("T"), other, nil); ReasonOf(err) != PreconditionFailed || !strings.Contains(err.Error(), "not finished") {
					t.Errorf("another range: %v", err)
				}
				req = ReplayRequest{Resume: true}
			}
			if how == "kill -9" {
				req.To = 0
			}
			req.Rate = 0
			replayed(t, b, req, ReplayProgress{Total: n, Passed: n, Done: n})
			got := drained(t, b, "G")
			slices.Sort(got)
			if len(got) != n || len(slices.Compact(got)) != n {
				t.Errorf("%d messages came, %d of them different, want %d", len(got), len(slices.Compact(got)), n)
			}
			if _, err := b.Replay(t.Context(), name("G"), name("T"), ReplayRequest{Resume: true}, nil); ReasonOf(err) != PreconditionFailed {
				t.Errorf("resumed when it was done: %v", err)
			}
		})
	}
}

func TestAReplayWaitsForAGroupThatHasEnoughToDo(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 1)
	const n = 3 * replayWindow
	for range n / 512 {
		send(t, b, "T", numbered(512)...)
	}
	drained(t, b, "G")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	waited := make(chan ReplayProgress)
	done := make(chan error)
	go func() {
		told := false
		_, err := b.Replay(ctx, name("G"), name("T"), ReplayRequest{To: later()}, func(p ReplayProgress) error {
			if p.Waiting && !told {
				told = true
				waited <- p
			}
			return nil
		})
		done <- err
	}()
	if p := <-waited; p.Done > replayWindow || p.Done < replayWindow-replayBatch {
		t.Errorf("%+v", p)
	}
	if _, err := b.Replay(t.Context(), name("G"), name("T"), ReplayRequest{Resume: true}, nil); ReasonOf(err) != PreconditionFailed {
		t.Errorf("a second one beside it: %v", err)
	}
	send(t, b, "T", msg("new", "new"))
	next(t, b, "G", n+1)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if rest := drained(t, b, "G"); len(rest) != 0 {
		t.Errorf("%d messages too many", len(rest))
	}
}

func TestReplayHonoursTheFilterOfItsGroup(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 1)
	for i := range 6 {
		m := msg(fmt.Sprint("id-", i), fmt.Sprint(i))
		m.Tag = string("AB"[i%2])
		send(t, b, "T", m)
	}
	onlyA := func(r *ReceiveRequest) { r.Filter = "A" }
	drained(t, b, "G", onlyA)
	replayed(t, b, ReplayRequest{To: later()}, ReplayProgress{Total: 6, Passed: 6, Done: 6})
	if got := drained(t, b, "G", onlyA); !slices.Equal(got, []string{"0#1", "2#1", "4#1"}) {
		t.Error(got)
	}
	caughtUp(t, b)
	status, _ := b.inflight.Subs()[0].Status(time.Now().UnixMilli())
	if status[0].InFlight+status[0].Ready != 0 {
		t.Errorf("what the group does not want is still there: %+v", status)
	}
}

func TestAReplayCanBeCancelledAndEndsWithItsTopicOrGroup(t *testing.T) {
	for what, end := range map[string]func(*Broker) error{
		"cancel": func(b *Broker) error {
			p, err := b.CancelReplay(context.Background(), name("G"), name("T"))
			if p.Total != 30 || p.Done == 0 || p.Passed != p.Done {
				err = fmt.Errorf("%+v, %w", p, err)
			}
			return err
		},
		"topic": func(b *Broker) error { return b.DeleteTopic(context.Background(), name("T")) },
		"group": func(b *Broker) error { return b.DeleteGroup(context.Background(), name("G")) },
		"reset": func(b *Broker) error {
			_, err := b.ResetOffset(context.Background(), name("G"), name("T"), ResetRequest{Policy: OffsetEnd, Queue: -1})
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			b := open(t, t.TempDir())
			makeTopic(t, b, "T", topic.Normal, 1)
			send(t, b, "T", numbered(30)...)
			drained(t, b, "G")
			calls := 0
			p, err := b.Replay(t.Context(), name("G"), name("T"), ReplayRequest{To: later(), Rate: 100}, func(ReplayProgress) error {
				if calls++; calls == 1 {
					return end(b)
				}
				return nil
			})
			if what == "reset" { // which forgets what was handed out so far, and the rest comes
				if err != nil || p.Done != 30 {
					t.Fatalf("%+v, %v", p, err)
				}
				if got := drained(t, b, "G"); len(got) != 20 {
					t.Error(got)
				}
				return
			}
			if ReasonOf(err) != PreconditionFailed {
				t.Errorf("%+v, %v", p, err)
			}
			if d := record.NewDecoder(b.replays.AppendSnapshot(nil)); d.Count(1) != 0 {
				t.Error("a replay is left")
			}
		})
	}
}

func TestBadReplaysAreRefused(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 1)
	if _, err := b.EnsureGroup(t.Context(), name("G")); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		group, topic string
		req          ReplayRequest
		want         Reason
	}{
		"no group":  {"none", "T", ReplayRequest{}, GroupNotFound},
		"no topic":  {"G", "none", ReplayRequest{}, TopicNotFound},
		"no range":  {"G", "T", ReplayRequest{From: 5, To: 5}, BadRequest},
		"no rate":   {"G", "T", ReplayRequest{Rate: -1}, BadRequest},
		"no filter": {"G", "T", ReplayRequest{FilterType: FilterSQL, Filter: "a >"}, IllegalFilter},
		"nothing":   {"G", "T", ReplayRequest{Resume: true}, PreconditionFailed},
	} {
		if _, err := b.Replay(t.Context(), name(c.group), name(c.topic), c.req, nil); ReasonOf(err) != c.want {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := b.CancelReplay(t.Context(), name("G"), name("T")); ReasonOf(err) != PreconditionFailed {
		t.Error(err)
	}
}
