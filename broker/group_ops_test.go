package broker

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// inGroups are messages whose first letter is their message group; "-" is none.
func inGroups(bodies ...string) (msgs []Outgoing) {
	for _, s := range bodies {
		m := msg("id-"+s, s)
		if s[0] != '-' {
			m.Group, m.HasGroup = s[:1], true
		}
		msgs = append(msgs, m)
	}
	return msgs
}

func orderedGroup(t *testing.T, b *Broker) {
	t.Helper()
	makeTopic(t, b, "T", topic.FIFO, 1)
	if _, err := b.CreateGroup(t.Context(), group.Group{Name: name("G"), FIFO: true}); err != nil {
		t.Fatal(err)
	}
}

// waiting receives with patience: what waited for a record that was just applied
// is handed out when a timer has fired.
func waiting(r *ReceiveRequest) { r.Wait = time.Minute }

// blocked is key: message#attempt+behind of all that is blocked.
func blocked(t *testing.T, b *Broker) string {
	t.Helper()
	keys, err := b.Blocked(name("G"), 0)
	if err != nil {
		t.Fatal(err)
	}
	var s []string
	for _, k := range keys {
		s = append(s, fmt.Sprintf("%s:%s#%d+%d", k.Key, k.MessageID, k.Attempt, k.Behind))
	}
	return strings.Join(s, " ")
}

func TestBlockedShowsWhatWaitsForWhat(t *testing.T) {
	b := open(t, t.TempDir())
	orderedGroup(t, b)
	if got := blocked(t, b); got != "" {
		t.Fatal(got)
	}
	before := time.Now().UnixMilli()
	send(t, b, "T", inGroups("a1", "b1", "a2", "c1", "a3", "d1")...)
	got := receive(t, b, "T", "G", func(r *ReceiveRequest) { r.Batch = 3 })
	want(t, got, "a1#1", "b1#1", "c1#1")
	// a2 was put aside, a3 was not looked at; nobody waits for b1 and c1.
	if got := blocked(t, b); got != "a:id-a1#1+2" {
		t.Fatal(got)
	}
	keys, _ := b.Blocked(name("G"), 1)
	if k := keys[0]; k.Topic != name("T") || k.Queue != 0 || k.Offset != 0 || k.Owner != "c1" || k.Since < before || k.Since > time.Now().UnixMilli() ||
		k.Until < before+MinInvisible.Milliseconds() || k.Stored < before || k.More {
		t.Fatalf("%+v", k)
	}
	// A second attempt counts as blocked, and goes first.
	if _, err := b.ChangeInvisible(t.Context(), name("G"), name("T"), got[1].Handle, 0, false); err != nil {
		t.Fatal(err)
	}
	want(t, receive(t, b, "T", "G", func(r *ReceiveRequest) { r.Batch = 1; r.Wait = time.Minute; r.ClientID = "c2" }), "b1#2")
	if got := blocked(t, b); got != "b:id-b1#2+0 a:id-a1#1+2" {
		t.Fatal(got)
	}
	if _, err := b.Blocked(name("none"), 0); ReasonOf(err) != GroupNotFound {
		t.Fatal(err)
	}
}

func TestSkipFreesTheMessageGroupAndKeepsTheOthersInOrder(t *testing.T) {
	for _, state := range []string{"leased", "waiting for its next attempt", "put aside"} {
		t.Run(state, func(t *testing.T) {
			dir := t.TempDir()
			b := open(t, dir)
			orderedGroup(t, b)
			send(t, b, "T", inGroups("a1", "b1", "a2", "a3")...)
			got := receive(t, b, "T", "G")
			want(t, got, "a1#1", "b1#1")
			offset, next := record.QueueOffset(0), "a2#1"
			switch state {
			case "waiting for its next attempt":
				if _, err := b.ChangeInvisible(t.Context(), name("G"), name("T"), got[0].Handle, time.Hour, false); err != nil {
					t.Fatal(err)
				}
			case "put aside":
				offset, next = 2, "a3#1"
			}
			if err := b.Skip(t.Context(), name("G"), name("T"), 0, offset); err != nil {
				t.Fatal(err)
			}
			if state == "leased" {
				if errs := ackErrs(t, b, "T", "G", got[0]); errs[0] != nil {
					t.Errorf("an acknowledgement after the skip is one too many, not wrong: %v", errs[0])
				}
			}
			if err := b.Skip(t.Context(), name("G"), name("T"), 0, offset); ReasonOf(err) != PreconditionFailed {
				t.Errorf("second skip: %v", err)
			}
			if state == "put aside" {
				ack(t, b, "T", "G", got[0])
			}
			second := receive(t, b, "T", "G", waiting)
			want(t, second, next)
			dead := listDead(t, b, DeadLetterFilter{})
			if len(dead) != 1 || dead[0].Reason != reasonSkipped || dead[0].Origin.Offset != offset {
				t.Fatalf("dead letters %+v", dead)
			}
			closeBroker(t, b)
			b = open(t, dir)
			ack(t, b, "T", "G", got[1], second[0])
			if offset == 0 {
				want(t, receive(t, b, "T", "G", waiting), "a3#1")
			}
			redriven(t, b, RedriveRequest{}, DeadLetterProgress{Matched: 1, Done: 1})
		})
	}
}

func TestSkipRefusesWhatIsNotOutstanding(t *testing.T) {
	b := open(t, t.TempDir())
	orderedGroup(t, b)
	send(t, b, "T", inGroups("a1", "b1")...)
	for _, c := range []struct {
		group, topic string
		offset       record.QueueOffset
		want         Reason
	}{
		{"G", "T", 0, PreconditionFailed}, // never handed out
		{"G", "none", 0, TopicNotFound},
		{"none", "T", 0, GroupNotFound},
	} {
		if err := b.Skip(t.Context(), name(c.group), name(c.topic), 0, c.offset); ReasonOf(err) != c.want {
			t.Errorf("%+v: %v", c, err)
		}
	}
	ack(t, b, "T", "G", receive(t, b, "T", "G", func(r *ReceiveRequest) { r.Batch = 1 })...)
	for offset := range record.QueueOffset(3) {
		if err := b.Skip(t.Context(), name("G"), name("T"), 0, offset); ReasonOf(err) != PreconditionFailed && offset != 0 || err == nil {
			t.Errorf("offset %d: %v", offset, err)
		}
	}
}

func TestResetMovesTheGroup(t *testing.T) {
	for what, c := range map[string]struct {
		req  func(third int64) ResetRequest
		want string
	}{
		"earliest":           {func(int64) ResetRequest { return ResetRequest{Policy: OffsetBeginning} }, "1#1 2#1 3#1 4#1"},
		"latest":             {func(int64) ResetRequest { return ResetRequest{Policy: OffsetEnd} }, ""},
		"an offset":          {func(int64) ResetRequest { return ResetRequest{Policy: OffsetExact, Value: 1} }, "2#1 3#1 4#1"},
		"an offset too far":  {func(int64) ResetRequest { return ResetRequest{Policy: OffsetExact, Value: 100} }, ""},
		"a time":             {func(third int64) ResetRequest { return ResetRequest{Policy: OffsetTimestamp, Value: third} }, "3#1 4#1"},
		"a time to come":     {func(third int64) ResetRequest { return ResetRequest{Policy: OffsetTimestamp, Value: third + 1e9} }, ""},
		"one queue":          {func(int64) ResetRequest { return ResetRequest{Policy: OffsetBeginning, Queue: 0} }, "1#1 2#1 3#1 4#1"},
		"nothing, a dry run": {func(int64) ResetRequest { return ResetRequest{Policy: OffsetBeginning, DryRun: true} }, "4#1"},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			b := open(t, dir)
			makeTopic(t, b, "T", topic.Normal, 1)
			send(t, b, "T", msg("1", "1"), msg("2", "2"))
			// The third has a later time than the second.
			for now := time.Now().UnixMilli(); time.Now().UnixMilli() == now; {
			}
			third := time.Now().UnixMilli()
			send(t, b, "T", msg("3", "3"), msg("4", "4"))
			got := receive(t, b, "T", "G", func(r *ReceiveRequest) { r.Batch = 3 })
			ack(t, b, "T", "G", got[0])
			if err := b.dispatcher.Await(t.Context(), b.wal.Committed()); err != nil {
				t.Fatal(err)
			}
			req := c.req(third)
			if what != "one queue" {
				req.Queue = -1
			}
			reset, err := b.ResetOffset(t.Context(), name("G"), name("T"), req)
			if err != nil || len(reset) != 1 || reset[0].From != 3 || reset[0].InFlight != 2 || reset[0].Max != 4 {
				t.Fatalf("%+v, %v", reset, err)
			}
			if !req.DryRun { // what was in flight is void
				if _, err := b.ChangeInvisible(t.Context(), name("G"), name("T"), got[1].Handle, time.Minute, false); ReasonOf(err) != InvalidHandle {
					t.Fatalf("a handle from before: %v", err)
				}
				closeBroker(t, b)
				b = open(t, dir)
			}
			again := receive(t, b, "T", "G")
			if s := strings.Join(bodies(again), " "); s != c.want {
				t.Fatalf("received %q, want %q", s, c.want)
			}
			if len(again) > 0 {
				ack(t, b, "T", "G", again...)
			}
			send(t, b, "T", msg("5", "5"))
			want(t, receive(t, b, "T", "G"), "5#1")
		})
	}
}

func TestResetOfOneQueueLeavesTheOthers(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Priority, 3) // a message's priority is its queue
	for q := range int32(3) {
		m := msg(fmt.Sprint(q), fmt.Sprint(q))
		m.Priority, m.HasPriority = q, true
		send(t, b, "T", m)
	}
	ack(t, b, "T", "G", receive(t, b, "T", "G")...)
	if _, err := b.ResetOffset(t.Context(), name("G"), name("T"), ResetRequest{Policy: OffsetBeginning, Queue: 1}); err != nil {
		t.Fatal(err)
	}
	want(t, receive(t, b, "T", "G"), "1#1")
}

func TestResetRefusesWhatMakesNoSense(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 1)
	if _, err := b.EnsureGroup(t.Context(), name("G")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		group, topic string
		req          ResetRequest
		want         Reason
	}{
		{"none", "T", ResetRequest{}, GroupNotFound},
		{"G", "none", ResetRequest{}, TopicNotFound},
		{"G", "T", ResetRequest{Queue: 1}, BadRequest},
		{"G", "T", ResetRequest{Policy: OffsetExact, Value: -1}, IllegalOffset},
		{"G", "T", ResetRequest{Policy: 99}, BadRequest},
	} {
		if _, err := b.ResetOffset(t.Context(), name(c.group), name(c.topic), c.req); ReasonOf(err) != c.want {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestResetWakesWhoWaits(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 1)
	send(t, b, "T", msg("1", "1"))
	ack(t, b, "T", "G", receive(t, b, "T", "G")...)
	got := make(chan []Delivered)
	go func() {
		d, err := b.Receive(t.Context(), ReceiveRequest{ClientID: "c", Group: name("G"), Topic: name("T"), Queue: -1, Batch: 1, Invisible: MinInvisible, Wait: time.Minute})
		if err != nil {
			t.Error(err)
			close(got)
			return
		}
		got <- d.Messages
	}()
	for b.Stats().Waiting == 0 {
		runtime.Gosched()
	}
	if _, err := b.ResetOffset(t.Context(), name("G"), name("T"), ResetRequest{Policy: OffsetBeginning, Queue: -1}); err != nil {
		t.Fatal(err)
	}
	want(t, <-got, "1#1")
}

func TestAPausedGroupIsHandedNothingUntilItIsResumed(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	makeTopic(t, b, "T", topic.Normal, 1)
	send(t, b, "T", msg("1", "1"), msg("2", "2"))
	held := receive(t, b, "T", "G", func(r *ReceiveRequest) { r.Batch = 1 })
	pause := func(on bool) {
		t.Helper()
		if g, err := b.UpdateGroup(t.Context(), name("G"), GroupChange{Paused: &on}); err != nil || g.Paused != on {
			t.Fatalf("%+v, %v", g, err)
		}
	}
	pause(true)
	now := func(r *ReceiveRequest) { r.Wait = 0 }
	want(t, receive(t, b, "T", "G", now))
	want(t, receive(t, b, "T", "other"), "1#1", "2#1")
	ack(t, b, "T", "G", held...) // what it holds it may settle

	// A change of its retry policy does not resume it, and neither does a restart.
	attempts := int32(3)
	if g, err := b.UpdateGroup(t.Context(), name("G"), GroupChange{MaxAttempts: &attempts}); err != nil || !g.Paused || g.MaxAttempts != 3 {
		t.Fatalf("%+v, %v", g, err)
	}
	closeBroker(t, b)
	b = open(t, dir)
	want(t, receive(t, b, "T", "G", now))

	// Who waits is woken by the resumption.
	got := make(chan []Delivered)
	go func() { got <- receive(t, b, "T", "G", waiting) }()
	for b.hub.Waiting() == 0 {
		runtime.Gosched()
	}
	send(t, b, "T", msg("3", "3")) // wakes it in vain
	pause(false)
	ms := <-got
	if len(ms) == 0 || string(ms[0].Message.Body) != "2" {
		t.Fatal(bodies(ms))
	}
	if _, err := b.UpdateGroup(t.Context(), name("none"), GroupChange{}); ReasonOf(err) != GroupNotFound {
		t.Error(err)
	}
}
