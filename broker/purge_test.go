package broker

import (
	"fmt"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/broker/transaction"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// unasked keeps producers from being asked about transactions, which is state.
func unasked(o *Options) { o.TransactionCheckAfter = time.Hour }

// full makes a topic with messages in every state, and a group that holds some.
func full(t *testing.T, b *Broker, s string) (held []Delivered) {
	t.Helper()
	makeTopic(t, b, s, topic.Mixed, 1)
	send(t, b, s, msg("dead", "dead"), msg("held", "held"), msg("retrying", "retrying"))
	held = receive(t, b, s, "G", func(r *ReceiveRequest) { r.Invisible = MaxInvisible })
	want(t, held, "dead#1", "held#1", "retrying#1")
	if err := b.ForwardToDeadLetter(t.Context(), name("G"), name(s), held[0].Handle, 0, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := b.ChangeInvisible(t.Context(), name("G"), name(s), held[2].Handle, 0, false); err != nil {
		t.Fatal(err)
	}
	for _, m := range everyKind() {
		send(t, b, s, m)
	}
	return held
}

func purge(t *testing.T, b *Broker, s string, req PurgeRequest) Purged {
	t.Helper()
	p, err := b.PurgeTopic(t.Context(), name(s), req)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPurgedMessagesAreGoneForEveryGroup(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, unasked)
	held := full(t, b, "T")
	full(t, b, "Other")
	half, err := b.Transactions(t.Context(), TransactionFilter{})
	if err != nil || len(half) != 2 {
		t.Fatalf("%+v, %v", half, err)
	}
	counted := purge(t, b, "T", PurgeRequest{DryRun: true})
	if counted.Messages != 8 || counted.Delayed != 1 || counted.Half != 1 || len(counted.Queues) != 2 || counted.Queues[0] != (QueueStatus{0, 7, 7}) {
		t.Fatalf("counted %+v", counted)
	}
	if n := stored(t, b, "T"); n != 11 { // of both topics what is in no queue
		t.Fatalf("after a dry run there are %d", n)
	}
	if p := purge(t, b, "T", PurgeRequest{}); fmt.Sprint(p) != fmt.Sprint(counted) {
		t.Fatalf("purged %+v, counted %+v", p, counted)
	}
	if got := bounds(t, b, "T") + ", " + bounds(t, b, "Other"); got != "7-7, 0-7" {
		t.Fatalf("bounds are %s", got)
	}
	if st := b.timers.Stats(); st.Pending != 1 {
		t.Errorf("%d delayed messages are left, want that of the other topic", st.Pending)
	}
	if err := b.EndTransaction(t.Context(), name("T"), "half", half[0].ID, transaction.Committed, false); ReasonOf(err) != PreconditionFailed {
		t.Errorf("commit of what was purged: %v", err)
	}
	for _, g := range []string{"G", "New"} {
		want(t, receive(t, b, "T", g))
	}
	if errs := ackErrs(t, b, "T", "G", held[1:2]...); errs[0] != nil {
		t.Errorf("ack of a message that was purged: %v", errs)
	}
	want(t, receive(t, b, DLQPrefix+"G", "D"), "dead#1", "dead#1")
	if p := purge(t, b, "T", PurgeRequest{}); p.Messages+p.Delayed+p.Half != 0 {
		t.Errorf("purged again: %+v", p)
	}
	survivesKills(t, b, dir, unasked)
	if sent := send(t, b, "T", msg("next", "next")); sent[0].Offset != 7 {
		t.Errorf("offsets do not go on: %+v", sent)
	}
	want(t, receive(t, b, "T", "G"), "next#1")
	if p := purge(t, b, DLQPrefix+"G", PurgeRequest{}); p.Messages != 2 {
		t.Errorf("dead letters: %+v", p)
	}
	if page, _, err := b.DeadLetters(t.Context(), name("G"), DeadLetterFilter{}, 0, 10); err != nil || len(page) != 0 {
		t.Errorf("dead letters are left: %+v, %v", page, err)
	}
	survivesKills(t, b, dir, unasked)
}

func TestPurgeOfWhatIsOlderThanATime(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := open(t, t.TempDir())
		defer closeBroker(t, b)
		makeTopic(t, b, "T", topic.Mixed, 2)
		far := time.Now().Add(time.Hour)
		half := func(id string) Outgoing { m := msg(id, id); m.Transaction = true; return m }
		for i := range 6 {
			send(t, b, "T", msg(fmt.Sprint(i), fmt.Sprint(i)), delayed(fmt.Sprint("d", i), "x", far), half(fmt.Sprint("h", i)))
			time.Sleep(time.Second)
		}
		before := time.Now().Add(-2500 * time.Millisecond).UnixMilli() // three were sent since
		for _, dry := range []bool{true, false} {
			p := purge(t, b, "T", PurgeRequest{Before: before, DryRun: dry})
			if p.Messages != 4 || p.Delayed != 4 || p.Half != 4 {
				t.Fatalf("dry run %v: %+v", dry, p)
			}
		}
		if n := stored(t, b, "T"); n != 6 {
			t.Errorf("%d are left, want 6", n)
		}
	})
}

// More delayed messages than one append takes, some of them coming due meanwhile.
func TestPurgeOfDelayedMessagesThatComeDue(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Delay, 4)
	now := time.Now()
	const n = 3000
	for i := 0; i < n; i += 100 {
		var ms []Outgoing
		for j := i; j < i+100; j++ {
			ms = append(ms, delayed(fmt.Sprint(j), "x", now.Add(time.Duration(j)*time.Millisecond)))
		}
		send(t, b, "T", ms...)
	}
	p := purge(t, b, "T", PurgeRequest{})
	if left := stored(t, b, "T"); left != 0 {
		t.Errorf("%d are left", left)
	}
	st, _ := b.TopicStatus(name("T"))
	sum := p.Delayed
	for _, q := range st.Queues {
		sum += int64(q.Max)
	}
	if sum != n || p.Delayed == 0 {
		t.Errorf("%d were cancelled, %d came due, of %d", p.Delayed, sum-p.Delayed, n)
	}
}

func TestTopicsToPurgeAreNamedRightly(t *testing.T) {
	b := open(t, t.TempDir())
	if _, err := b.PurgeTopic(t.Context(), name("none"), PurgeRequest{}); ReasonOf(err) != TopicNotFound {
		t.Error(err)
	}
	makeTopic(t, b, "T", topic.Normal, 1)
	if _, err := b.PurgeTopic(t.Context(), name("T"), PurgeRequest{Before: -1}); ReasonOf(err) != BadRequest {
		t.Error(err)
	}
}

func FuzzParseTrim(f *testing.F) {
	t := trim{Topic: 3, Queues: nil}
	f.Add(record.Command(t.append(nil)))
	f.Add([]byte{3, 2, 0, 5, 1, 7})
	f.Fuzz(func(t *testing.T, data []byte) {
		tr, err := parseTrim(data)
		if err != nil {
			return
		}
		if again, err := parseTrim(record.Command(tr.append(nil))); err != nil || fmt.Sprint(again) != fmt.Sprint(tr) {
			t.Fatalf("%+v became %+v, %v", tr, again, err)
		}
	})
}
