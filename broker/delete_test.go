package broker

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/broker/transaction"
	"github.com/gantry-mq/gantry/commitlog/record"
)

func deleteMessage(t testing.TB, b *Broker, topic, id string) DeletedMessage {
	t.Helper()
	d, err := b.DeleteMessage(t.Context(), name(topic), id)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func stateOf(t testing.TB, b *Broker, topic, id string) MessageState {
	t.Helper()
	page, _, err := b.FindMessages(t.Context(), MessageQuery{Topic: name(topic), ID: id, Limit: 1})
	if err != nil || len(page) != 1 {
		t.Fatalf("%s: %+v, %v", id, page, err)
	}
	return page[0].State
}

func TestDeletedMessageIsNeverDelivered(t *testing.T) {
	for _, c := range []struct {
		id    string
		want  DeletedMessage
		state MessageState
		do    func(t *testing.T, b *Broker, held []Delivered) // what comes before
	}{
		{id: "plain", want: DeletedMessage{Entries: 1}, state: MessageDeleted},
		{id: "fifo", want: DeletedMessage{Entries: 1}, state: MessageDeleted},
		{id: "lite", want: DeletedMessage{Entries: 1}, state: MessageDeleted},
		{id: "held", want: DeletedMessage{Entries: 1}, state: MessageDeleted},
		{id: "retrying", want: DeletedMessage{Entries: 1}, state: MessageDeleted},
		{id: "dead", want: DeletedMessage{Entries: 2}, state: MessageDeleted},
		{id: "delayed", want: DeletedMessage{Delayed: 1}, state: MessageRecalled},
		{id: "half", want: DeletedMessage{Half: 1}, state: MessageRolledBack},
		{id: "half", want: DeletedMessage{Entries: 1}, state: MessageDeleted, do: func(t *testing.T, b *Broker, _ []Delivered) {
			tx, err := b.Transactions(t.Context(), TransactionFilter{})
			if err != nil || len(tx) != 1 {
				t.Fatalf("%+v, %v", tx, err)
			}
			end(t, b, "T", tx[0].ID, transaction.Committed)
		}},
		{id: "dead", want: DeletedMessage{Entries: 3}, state: MessageDeleted, do: func(t *testing.T, b *Broker, _ []Delivered) {
			if p, err := b.Redrive(t.Context(), name("G"), RedriveRequest{}, nil); err != nil || p.Done != 1 {
				t.Fatalf("%+v, %v", p, err)
			}
		}},
		{id: "plain", want: DeletedMessage{Entries: 2}, state: MessageDeleted, do: func(t *testing.T, b *Broker, _ []Delivered) {
			send(t, b, "T", msg("plain", "plain")) // its producer sent it twice
		}},
	} {
		t.Run(fmt.Sprint(c.id, c.want), func(t *testing.T) {
			dir := t.TempDir()
			b := open(t, dir, unasked)
			held := full(t, b, "T")
			if c.do != nil {
				c.do(t, b, held)
			}
			if d := deleteMessage(t, b, "T", c.id); d != c.want {
				t.Errorf("deleted %+v, want %+v", d, c.want)
			}
			if s := stateOf(t, b, "T", c.id); s != c.state {
				t.Errorf("it is %v, want %v", s, c.state)
			}
			if d := deleteMessage(t, b, "T", c.id); d != (DeletedMessage{}) {
				t.Errorf("deleted again: %+v", d)
			}
			survivesKills(t, b, dir, unasked)
			if _, err := b.Redrive(t.Context(), name("G"), RedriveRequest{}, nil); err != nil && c.id != "dead" {
				t.Error(err)
			}
			for _, where := range []string{"T", DLQPrefix + "G"} {
				for _, g := range []string{"G", "New"} {
					for _, m := range drainAll(t, b, where, g) {
						if m == c.id {
							t.Errorf("delivered from %s to %s", where, g)
						}
					}
				}
				pulled, err := b.Pull(t.Context(), PullRequest{Group: name("P"), Topic: name(where), Batch: 32, Filter: "*"})
				if pulled != nil && err == nil {
					for _, m := range pulled.Messages {
						if string(m.Message.Body) == c.id {
							t.Errorf("pulled from %s", where)
						}
					}
					pulled.Release()
				}
				if got := readAll(t, b, where); slices.Contains(got, c.id) {
					t.Errorf("read by offset from %s: %v", where, got)
				}
			}
			if letters, _, err := b.DeadLetters(t.Context(), name("G"), DeadLetterFilter{Settled: true}, 0, 10); err != nil || c.id == "dead" && len(letters) != 0 {
				t.Errorf("dead letters: %+v, %v", letters, err)
			}
			quiet(t, b)
			if _, queues, err := b.GroupStatus(name("New")); err != nil {
				t.Error(err)
			} else {
				for _, q := range queues {
					if q.InFlight+q.Ready != 0 {
						t.Errorf("something is left over in a queue that was read and acknowledged: %+v", q)
					}
				}
			}
		})
	}
}

// readAll reads a topic's own queues by offset, as streams do.
func readAll(t *testing.T, b *Broker, topic string) (got []string) {
	t.Helper()
	if _, ok := b.topics.Lookup(name(topic)); !ok {
		return nil
	}
	r, err := b.Read(t.Context(), ReadRequest{Topic: name(topic), Start: Start{Policy: StartEarliest}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for {
		c, err := r.Next(1<<20, 100)
		if err != nil {
			t.Fatal(err)
		}
		if c == nil {
			return got
		}
		for _, run := range c.Runs {
			err := record.Walk(run.Records, run.Position, func(_ record.Position, rec []byte, _ record.Kind) error {
				m, err := record.ParseMessage(rec)
				got = append(got, string(m.Body))
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		c.Release()
	}
}

// drainAll receives and acknowledges all there is.
func drainAll(t testing.TB, b *Broker, topic, group string) (got []string) {
	t.Helper()
	if _, ok := b.topics.Lookup(name(topic)); !ok {
		return nil
	}
	for {
		ms := receive(t, b, topic, group)
		if len(ms) == 0 {
			return got
		}
		for _, m := range ms {
			got = append(got, string(m.Message.Body))
		}
		ack(t, b, topic, group, ms...)
	}
}

func TestDeletionFreesAMessageGroup(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.FIFO, 1)
	if _, err := b.CreateGroup(t.Context(), group.Group{Name: name("G"), FIFO: true}); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		m := msg(fmt.Sprint(i), fmt.Sprint(i))
		m.HasGroup, m.Group = true, "g"
		send(t, b, "T", m)
	}
	long := func(r *ReceiveRequest) { r.Invisible = MaxInvisible }
	held := receive(t, b, "T", "G", long)
	want(t, held, "0#1")
	deleteMessage(t, b, "T", "1") // put aside behind it
	want(t, receive(t, b, "T", "G", long))
	deleteMessage(t, b, "T", "0")
	want(t, receive(t, b, "T", "G", long), "2#1")
	if errs := ackErrs(t, b, "T", "G", held...); errs[0] != nil {
		t.Errorf("ack of a message that was deleted: %v", errs)
	}
}

func TestMessageToDeleteMustBeThere(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 1)
	makeTopic(t, b, "Other", topic.Normal, 1)
	send(t, b, "Other", msg("1", "1"))
	for id, reason := range map[string]Reason{"1": MessageNotFound, "": BadRequest} {
		if _, err := b.DeleteMessage(t.Context(), name("T"), id); ReasonOf(err) != reason {
			t.Errorf("%q: %v", id, err)
		}
	}
	if _, err := b.DeleteMessage(t.Context(), name("none"), "1"); ReasonOf(err) != TopicNotFound {
		t.Error(err)
	}
}

// A lease whose record comes after the deletion in the log is settled, and its
// message does not leave.
func TestMessageDeletedWhileItIsHandedOut(t *testing.T) {
	for _, fifo := range []bool{false, true} {
		dir := t.TempDir()
		b := open(t, dir)
		makeTopic(t, b, "T", topic.Normal, 1)
		if _, err := b.CreateGroup(t.Context(), group.Group{Name: name("G"), FIFO: fifo}); err != nil {
			t.Fatal(err)
		}
		send(t, b, "T", msg("1", "1"), msg("2", "2"))
		tp, _ := b.Route(name("T"))
		inner := b.append
		b.append = &doing{inner, record.KindLease, func() {
			if err := inner.Submit(record1(appendDelete(nil, []entryRef{{record.Key(tp.ID, 0), 0}}))); err != nil {
				t.Error(err)
			}
		}}
		next := receiveNext(t, b, "T", "G")
		want(t, []Delivered{next}, "2#1")
		ack(t, b, "T", "G", next)
		quiet(t, b)
		if _, queues, err := b.GroupStatus(name("G")); err != nil || queues[0].InFlight+queues[0].Ready != 0 {
			t.Errorf("fifo %v: %+v, %v", fifo, queues, err)
		}
		survivesKills(t, b, dir)
	}
}

// A dead letter that was decided before the deletion, and comes after it in the
// log, is deleted too.
func TestMessageDeletedWhileItDies(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	makeTopic(t, b, "T", topic.Normal, 1)
	send(t, b, "T", msg("1", "1"))
	held := receive(t, b, "T", "G")
	tp, _ := b.Route(name("T"))
	inner := b.append
	b.append = &doing{inner, record.KindDeadLetter, func() {
		if err := inner.Submit(record1(appendDelete(nil, []entryRef{{record.Key(tp.ID, 0), 0}}))); err != nil {
			t.Error(err)
		}
	}}
	if err := b.ForwardToDeadLetter(t.Context(), name("G"), name("T"), held[0].Handle, 0, 0); err != nil {
		t.Fatal(err)
	}
	want(t, receive(t, b, DLQPrefix+"G", "D"))
	survivesKills(t, b, dir)
}

// Delayed messages are deleted at the moment they come due: each is delivered
// before, or never.
func TestMessagesDeletedWhileTheyComeDue(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Delay, 1)
	const n = 200
	begin := time.Now().Add(20 * time.Millisecond)
	for i := range n {
		send(t, b, "T", delayed(fmt.Sprint(i), fmt.Sprint(i), begin.Add(time.Duration(i)*time.Millisecond)))
	}
	var delayedOnes, entries atomic.Int64
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			for i := w; i < n; i += 2 {
				d, err := b.DeleteMessage(t.Context(), name("T"), fmt.Sprint(i))
				if err != nil || d.Delayed+d.Entries != 1 {
					t.Errorf("message %d: %+v, %v", i, d, err)
				}
				delayedOnes.Add(int64(d.Delayed))
				entries.Add(int64(d.Entries))
			}
		})
	}
	wg.Wait()
	for b.timers.Stats().Pending > 0 {
		time.Sleep(time.Millisecond)
	}
	want(t, receive(t, b, "T", "G"))
	t.Logf("%d before they came due, %d after", delayedOnes.Load(), entries.Load())
}

func TestDeletedPayloadsAreNotCopiedForward(t *testing.T) {
	h := newOldPayloads(t)
	deleteMessage(t, h.b, "D", "moved")
	deleteMessage(t, h.b, "Q", "dead")
	h.retain()
	want(t, receive(t, h.b, "D", "G2"))
	want(t, receive(t, h.b, DLQPrefix+"G", "G2"))
	h.reopen("consumequeue")
	want(t, receive(t, h.b, "D", "G3"))
	want(t, receive(t, h.b, DLQPrefix+"G", "G3"))
	if s := stateOf(t, h.b, "D", "far1"); s != MessageDelayed {
		t.Errorf("a delayed message that was copied is %v", s)
	}
	if d := deleteMessage(t, h.b, "D", "far1"); d.Delayed != 1 {
		t.Errorf("deletion of a delayed message that was copied: %+v", d)
	}
}

func FuzzParseDelete(f *testing.F) {
	f.Add(record.Command(appendDelete(nil, []entryRef{{record.Key(1, 2), 3}, {record.Key(4, 5), 6}})))
	f.Fuzz(func(t *testing.T, data []byte) {
		refs, err := parseDelete(data)
		if err != nil {
			return
		}
		if again, err := parseDelete(record.Command(appendDelete(nil, refs))); err != nil || !slices.Equal(again, refs) {
			t.Fatalf("%+v became %+v, %v", refs, again, err)
		}
	})
}
