package broker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// onceTopic makes a topic that remembers what it is sent for ten minutes.
func onceTopic(t testing.TB, b *Broker, s string, typ topic.Type, by topic.DedupKey) {
	t.Helper()
	_, err := b.CreateTopic(t.Context(), topic.Topic{
		Name: name(s), Type: typ, Queues: 2, Dedup: topic.Dedup{DedupWindow: 10 * time.Minute, DedupKey: by},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// stored counts the messages of a topic, delayed and undecided ones included.
func stored(t testing.TB, b *Broker, s string) int {
	t.Helper()
	st, err := b.TopicStatus(name(s))
	if err != nil {
		t.Fatal(err)
	}
	n := int(b.timers.Stats().Pending)
	open, parked := b.transactions.Counts()
	n += open + parked
	for _, q := range st.Queues {
		n += int(q.Max - q.Min)
	}
	return n
}

// everyKind is a message of each kind that a mixed topic takes.
func everyKind() []Outgoing {
	group := msg("fifo", "fifo")
	group.HasGroup, group.Group = true, "g"
	half := msg("half", "half")
	half.Transaction = true
	lite := msg("lite", "lite")
	lite.LiteTopic = "l"
	urgent := msg("urgent", "urgent")
	urgent.HasPriority, urgent.Priority = true, 1
	due := msg("due", "due")
	due.DueTime = 1 // long past: not delayed
	return []Outgoing{msg("plain", "plain"), group, half, lite, urgent, due, delayed("delayed", "delayed", time.Now().Add(time.Hour))}
}

func TestMessageSentAgainGetsTheFirstResult(t *testing.T) {
	b := open(t, t.TempDir())
	onceTopic(t, b, "T", topic.Mixed, topic.DedupByID)
	for _, m := range everyKind() {
		before := stored(t, b, "T")
		first := send(t, b, "T", m)[0]
		for range 3 {
			if again := send(t, b, "T", m)[0]; again != first {
				t.Errorf("%s: sent again it got %+v, the first time %+v", m.ID, again, first)
			}
		}
		if n := stored(t, b, "T") - before; n != 1 && m.LiteTopic == "" {
			t.Errorf("%s: stored %d times", m.ID, n)
		}
	}
	if n := b.Stats().Duplicates; n != 21 {
		t.Errorf("%d duplicates counted, want 21", n)
	}
	if got := receive(t, b, "T", "G"); len(got) != 4 {
		t.Errorf("received %v", bodies(got))
	}
	// What the first result names is the message.
	again := send(t, b, "T", everyKind()[6])[0]
	if id, err := b.Recall(t.Context(), name("T"), again.RecallHandle); err != nil || id != "delayed" {
		t.Errorf("recalled %q, %v", id, err)
	}
}

func TestBusinessKeysIdentifyMessages(t *testing.T) {
	keyed := func(id string, keys ...string) Outgoing { m := msg(id, id); m.Keys = keys; return m }
	with := func(id string, p ...Property) Outgoing { m := msg(id, id); m.User = p; return m }
	lite := func(id, lite string) Outgoing { m := keyed(id, "k"); m.LiteTopic = lite; return m }
	for _, c := range []struct {
		by   topic.DedupKey
		msgs []Outgoing
		want string // ids of the answers
	}{
		{topic.DedupByID, []Outgoing{keyed("1", "a"), keyed("2", "a"), keyed("1", "b")}, "1 2 1"},
		{topic.DedupByKey, []Outgoing{keyed("1", "a"), keyed("2", "a"), keyed("3", "a", "b"), keyed("4", "b", "a"), keyed("5", "ab"), keyed("6", "a", "b")}, "1 1 3 4 5 3"},
		{topic.DedupByKey, []Outgoing{keyed("1"), keyed("2"), keyed("1")}, "1 2 1"}, // no key: each is stored
		{topic.DedupByKey, []Outgoing{lite("1", "x"), lite("2", "y"), lite("3", "x")}, "1 2 1"},
		{"property:order", []Outgoing{with("1", Property{"order", "7"}), with("2", Property{"a", "b"}, Property{"order", "7"}), with("3", Property{"order", "8"})}, "1 1 3"},
		{"property:order", []Outgoing{with("1", Property{"other", "7"}), with("2", Property{"other", "7"}), with("3", Property{"order", ""}), with("4", Property{"order", ""})}, "1 2 3 4"},
	} {
		for _, batch := range []bool{true, false} {
			b := open(t, t.TempDir())
			onceTopic(t, b, "T", topic.Mixed, c.by)
			var ids []string
			if batch {
				for _, s := range send(t, b, "T", c.msgs...) {
					ids = append(ids, s.MessageID)
				}
			} else {
				for _, m := range c.msgs {
					ids = append(ids, send(t, b, "T", m)[0].MessageID)
				}
			}
			if got := strings.Join(ids, " "); got != c.want {
				t.Errorf("by %s, in one batch %v: answered %s, want %s", c.by, batch, got, c.want)
			}
		}
	}
}

func TestWithoutAWindowEveryMessageIsStored(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 1)
	send(t, b, "T", msg("1", "x"), msg("1", "x"))
	send(t, b, "T", msg("1", "x"))
	want(t, receive(t, b, "T", "G"), "x#1", "x#1", "x#1")
	m, _, err := b.viewMessage(firstPosition(b))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Release()
	if record.FlagsOf(m.Bytes())&record.FlagDedup != 0 {
		t.Error("its records say that they are remembered")
	}
}

// firstPosition returns where the first message of the log is.
func firstPosition(b *Broker) (at record.Position) {
	b.replay(context.Background(), b.wal.Committed(), func(pos record.Position, _ []byte, kind record.Kind, _ int64) error {
		if at == 0 && kind.IsMessage() {
			at = pos
		}
		return nil
	})
	return at
}

func TestOneOfManySendersOfAMessageStoresIt(t *testing.T) {
	b := open(t, t.TempDir(), func(o *Options) { o.Durability = commitlog.DurabilitySync })
	onceTopic(t, b, "T", topic.Mixed, topic.DedupByID)
	const senders, rounds = 8, 30
	for round := range rounds {
		var wg sync.WaitGroup
		results := make([][]Sent, senders)
		for s := range senders {
			wg.Go(func() {
				var batch []Outgoing
				for _, m := range everyKind() {
					m.ID = fmt.Sprint(m.ID, round)
					batch = append(batch, m, m)
				}
				if s%2 == 1 {
					slices.Reverse(batch) // each holds what the other waits for
				}
				for i := range batch {
					batch[i].Topic = name("T")
				}
				var err error
				if results[s], err = b.Send(t.Context(), batch); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		byID := map[string]Sent{}
		for _, sent := range results {
			for _, s := range sent {
				if first, ok := byID[s.MessageID]; ok && first != s {
					t.Fatalf("answered %+v and %+v", first, s)
				}
				byID[s.MessageID] = s
			}
		}
		if len(byID) != len(everyKind()) {
			t.Fatalf("%d messages, want %d", len(byID), len(everyKind()))
		}
	}
	if n := stored(t, b, "T"); n != rounds*6 { // and one lite message each
		t.Errorf("%d messages are stored, want %d", n, rounds*6)
	}
}

func TestMessageThatCouldNotBeStoredIsNotRemembered(t *testing.T) {
	b := open(t, t.TempDir())
	onceTopic(t, b, "T", topic.Normal, topic.DedupByID)
	gate := &gatedAppender{appender: b.append, arrived: make(chan struct{}), open: make(chan struct{})}
	gate.refuse.Store(true)
	b.append = gate
	m := msg("1", "x")
	m.Topic = name("T")
	failed := make(chan error)
	go func() {
		_, err := b.Send(t.Context(), []Outgoing{m})
		failed <- err
	}()
	<-gate.arrived // it has claimed the message, and will be refused
	waiting := make(chan []Sent)
	go func() {
		sent, err := b.Send(t.Context(), []Outgoing{m})
		if err != nil {
			t.Error(err)
		}
		waiting <- sent
	}()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Send(gone, []Outgoing{m}); ReasonOf(err) != Unavailable {
		t.Errorf("a sender that does not wait for another: %v", err)
	}
	close(gate.open)
	if err := <-failed; err == nil {
		t.Error("the append was not refused")
	}
	if sent := <-waiting; len(sent) != 1 || sent[0].Offset != 0 {
		t.Errorf("who waited got %+v", sent)
	}
	if n := stored(t, b, "T"); n != 1 {
		t.Errorf("%d are stored", n)
	}
}

// gatedAppender refuses the first batch, when it is let.
type gatedAppender struct {
	appender
	refuse        atomic.Bool
	arrived, open chan struct{}
}

func (g *gatedAppender) Submit(batch *commitlog.Batch) error {
	if g.refuse.CompareAndSwap(true, false) {
		close(g.arrived)
		<-g.open
		return commitlog.ErrDiskFull
	}
	return g.appender.Submit(batch)
}

// What is remembered is in checkpoints, and follows from the log without them.
func TestMessagesAreRememberedAcrossAKill(t *testing.T) {
	for _, c := range []struct {
		name       string
		checkpoint bool
		without    string
	}{
		{"with the log alone", false, ""},
		{"after a checkpoint", true, ""},
		{"without the indexes", true, "consumequeue"},
		{"without the state", true, "state"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			b := open(t, dir)
			onceTopic(t, b, "T", topic.Mixed, topic.DedupByID)
			first := map[string]Sent{}
			sendAll := func(from int) {
				for i := range 5 {
					for _, m := range everyKind() {
						m.ID = fmt.Sprint(m.ID, from+i)
						first[m.ID] = send(t, b, "T", m)[0]
					}
				}
			}
			sendAll(0)
			if c.checkpoint {
				closeBroker(t, b)
				b = open(t, dir)
			}
			sendAll(10)
			dir = killed(t, b, dir, c.without)
			b = open(t, dir)
			n := stored(t, b, "T")
			for i := range 15 {
				for _, m := range everyKind() {
					m.ID = fmt.Sprint(m.ID, i)
					if was, ok := first[m.ID]; ok {
						if again := send(t, b, "T", m)[0]; again != was {
							t.Fatalf("%s: sent again it got %+v, the first time %+v", m.ID, again, was)
						}
					}
				}
			}
			if stored(t, b, "T") != n {
				t.Errorf("%d messages became %d", n, stored(t, b, "T"))
			}
		})
	}
}

func TestWindowEnds(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := open(t, t.TempDir())
		defer closeBroker(t, b)
		onceTopic(t, b, "T", topic.Normal, topic.DedupByID)
		send(t, b, "T", msg("1", "x"))
		for _, step := range []struct {
			pass time.Duration
			want int
		}{{10*time.Minute - time.Second, 1}, {2 * time.Second, 2}, {9 * time.Minute, 2}} {
			time.Sleep(step.pass)
			send(t, b, "T", msg("1", "x"))
			if n := stored(t, b, "T"); n != step.want {
				t.Errorf("after %v more %d are stored, want %d", step.pass, n, step.want)
			}
		}
		time.Sleep(11 * time.Minute)
		send(t, b, "T", msg("2", "x"))
		if st := b.dedup.Status(1); st.Count != 1 {
			t.Errorf("%+v is remembered, want the newest alone", st)
		}
	})
}

func TestDeduplicationIsChangedWhileItRuns(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 1)
	change := func(window time.Duration, by topic.DedupKey, most uint32) {
		t.Helper()
		c := TopicChange{DedupWindow: &window}
		if window > 0 {
			c.DedupKey, c.DedupMax = &by, &most
		}
		tp, err := b.UpdateTopic(t.Context(), name("T"), c)
		if err != nil || tp.DedupWindow != window {
			t.Fatalf("%+v, %v", tp, err)
		}
	}
	sends := func(want int, ids ...string) {
		t.Helper()
		for _, id := range ids {
			m := msg(id, id)
			m.Keys = []string{"k" + id}
			send(t, b, "T", m)
		}
		if n := stored(t, b, "T"); n != want {
			t.Fatalf("%d are stored, want %d", n, want)
		}
	}
	sends(2, "1", "1")
	change(time.Minute, "id", 0)
	sends(3, "1", "1") // what was sent before is not remembered
	change(time.Minute, "key", 0)
	sends(4, "1", "1")
	change(time.Minute, "id", 2)
	sends(6, "2", "3", "2", "3")
	sends(8, "4", "2") // of two that are remembered, 2 was the oldest
	change(0, "", 0)
	sends(10, "2", "4")
}
