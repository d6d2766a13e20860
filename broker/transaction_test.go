package broker

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/session"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/broker/transaction"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// sendHalf stores a half message and returns its transaction id.
func sendHalf(t testing.TB, b *Broker, topic string, m Outgoing) string {
	t.Helper()
	m.Transaction = true
	sent := send(t, b, topic, m)
	if sent[0].TransactionID == "" {
		t.Fatal("no transaction id")
	}
	return sent[0].TransactionID
}

func end(t testing.TB, b *Broker, topic, id string, outcome transaction.Outcome) {
	t.Helper()
	if err := b.EndTransaction(t.Context(), name(topic), "", id, outcome, false); err != nil {
		t.Fatal(err)
	}
}

func TestCommittedMessagesAppearOnceInTheOrderOfTheirCommits(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Transaction, 1)
	tagged := msg("2", "second")
	tagged.Tag = "A"
	first := sendHalf(t, b, "T", msg("1", "first"))
	second := sendHalf(t, b, "T", tagged)
	third := sendHalf(t, b, "T", msg("3", "third"))
	want(t, receive(t, b, "T", "G"))
	end(t, b, "T", second, transaction.Committed)
	end(t, b, "T", first, transaction.Committed)
	got := receive(t, b, "T", "G")
	want(t, got, "second#1", "first#1")
	if got[0].Offset != 0 || got[1].Offset != 1 {
		t.Errorf("offsets %d and %d", got[0].Offset, got[1].Offset)
	}
	ack(t, b, "T", "G", got...)
	want(t, receive(t, b, "T", "G"))
	want(t, receive(t, b, "T", "H", func(r *ReceiveRequest) { r.Filter = "A" }), "second#1")
	end(t, b, "T", third, transaction.Committed)
	want(t, receive(t, b, "T", "G"), "third#1")
}

func TestCommitWakesALongPoll(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Mixed, 4)
	id := sendHalf(t, b, "T", msg("1", "m"))
	got := make(chan []Delivered)
	go func() { got <- receive(t, b, "T", "G", func(r *ReceiveRequest) { r.Wait = time.Hour }) }()
	for b.hub.Waiting() == 0 {
		runtime.Gosched()
	}
	end(t, b, "T", id, transaction.Committed)
	want(t, <-got, "m#1")
}

func TestRolledBackMessageNeverAppears(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Transaction, 1)
	id := sendHalf(t, b, "T", msg("1", "never"))
	end(t, b, "T", id, transaction.RolledBack)
	want(t, receive(t, b, "T", "G"))
	list, err := b.Transactions(t.Context(), TransactionFilter{})
	if err != nil || len(list) != 0 {
		t.Errorf("still listed: %v, %v", list, err)
	}
}

func TestMessageGroupKeepsOrderAcrossCommits(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Mixed, 4)
	if _, err := b.CreateGroup(t.Context(), group.Group{Name: name("G"), FIFO: true}); err != nil {
		t.Fatal(err)
	}
	grouped := func(s string) Outgoing {
		m := msg(s, s)
		m.Group, m.HasGroup = "customer", true
		return m
	}
	id := sendHalf(t, b, "T", grouped("half"))
	send(t, b, "T", grouped("plain"))
	end(t, b, "T", id, transaction.Committed)
	for _, body := range []string{"plain#1", "half#1"} {
		got := receive(t, b, "T", "G", func(r *ReceiveRequest) { r.Wait = time.Minute })
		want(t, got, body)
		ack(t, b, "T", "G", got...)
	}
}

func TestSecondDecisionIsToldTheFirst(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Transaction, 1)
	for first, second := range map[transaction.Outcome]transaction.Outcome{
		transaction.Committed: transaction.RolledBack, transaction.RolledBack: transaction.Committed,
	} {
		id := sendHalf(t, b, "T", msg("1", "m"))
		end(t, b, "T", id, first)
		end(t, b, "T", id, first)
		end(t, b, "T", id, 0)
		for range 2 {
			err := b.EndTransaction(t.Context(), name("T"), "1", id, second, true)
			if ReasonOf(err) != PreconditionFailed || !strings.Contains(err.Error(), first.String()) || !strings.Contains(err.Error(), "the producer") {
				t.Errorf("%v after %v: %v", second, first, err)
			}
		}
		tx, err := b.Transaction(t.Context(), id)
		if err != nil || tx.Decision == nil || tx.Decision.Outcome != first || tx.Decision.Source != transaction.FromProducer {
			t.Errorf("shown as %+v, %v", tx, err)
		}
	}
	want(t, receive(t, b, "T", "G"), "m#1")
	want(t, receive(t, b, "T", "G"))
}

func TestConcurrentDecisionsAgreeOnOne(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Transaction, 1)
	visible := 0
	for i := range 50 {
		id := sendHalf(t, b, "T", msg(fmt.Sprint(i), "m"))
		errs := make([]error, 8)
		var wg sync.WaitGroup
		for j := range errs {
			outcome := []transaction.Outcome{transaction.Committed, transaction.RolledBack}[(i+j)%2]
			wg.Go(func() { errs[j] = b.EndTransaction(t.Context(), name("T"), "", id, outcome, false) })
		}
		wg.Wait()
		for j := range errs {
			if (errs[j] == nil) != (errs[j%2] == nil) {
				t.Fatalf("round %d: equal decisions end differently: %v", i, errs)
			}
			if errs[j] != nil && ReasonOf(errs[j]) != PreconditionFailed {
				t.Fatal(errs[j])
			}
		}
		if (errs[0] == nil) == (errs[1] == nil) {
			t.Fatalf("round %d: both or neither decision holds: %v", i, errs)
		}
		if commit := i % 2; errs[commit] == nil {
			visible++
		}
	}
	got := 0
	for ms := receive(t, b, "T", "G"); len(ms) > 0; ms = receive(t, b, "T", "G") {
		got += len(ms)
	}
	if got != visible {
		t.Errorf("%d messages visible, %d were committed", got, visible)
	}
}

func TestTransactionIDsAreCheckedBeforeTheyAreBelieved(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Transaction, 1)
	makeTopic(t, b, "Other", topic.Transaction, 1)
	makeTopic(t, b, "Gone", topic.Transaction, 1)
	id := sendHalf(t, b, "T", msg("1", "m"))
	gone := sendHalf(t, b, "Gone", msg("2", "m"))
	if err := b.DeleteTopic(t.Context(), name("Gone")); err != nil {
		t.Fatal(err)
	}
	makeTopic(t, b, "Gone", topic.Transaction, 1)
	plain := send(t, b, "Other", Outgoing{ID: "x", Body: []byte("x"), Transaction: true})
	refused := func(topic, messageID, id string, reason Reason) {
		t.Helper()
		err := b.EndTransaction(t.Context(), name(topic), messageID, id, transaction.Committed, false)
		if ReasonOf(err) != reason || err == nil {
			t.Errorf("commit of %q for message %q of %s: %v", id, messageID, topic, err)
		}
	}
	for i := range id {
		forged := []byte(id)
		if forged[i]++; forged[i] > 'z' {
			forged[i] = 'A'
		}
		refused("T", "", string(forged), InvalidTransaction)
	}
	for _, bad := range []string{"", " ", "x", id + "A", id[1:], strings.Repeat("A", len(id))} {
		refused("T", "", bad, InvalidTransaction)
	}
	refused("T", "2", id, InvalidTransaction)
	refused("Other", "", id, InvalidTransaction)
	refused("Nowhere", "", id, TopicNotFound)
	refused("bad topic", "", id, IllegalTopic)
	refused("Gone", "", gone, InvalidTransaction)
	refused("T", "", plain[0].TransactionID, InvalidTransaction)
	want(t, receive(t, b, "T", "G"))
	if err := b.EndTransaction(t.Context(), name("T"), "1", id, transaction.Committed, false); err != nil {
		t.Errorf("the refusals left a mark: %v", err)
	}
	open, parked := b.transactions.Counts()
	if open != 1 || parked != 0 {
		t.Errorf("%d open, %d parked: the deleted topic's one should be gone, Other's be there", open, parked)
	}
}

func TestTransactionalMessageCannotBeDelayedOrLite(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Mixed, 1)
	makeTopic(t, b, "N", topic.Normal, 1)
	for where, m := range map[string]Outgoing{
		"N": {ID: "1", Body: []byte("x"), Transaction: true},
		"T": {ID: "1", Body: []byte("x"), Transaction: true, DueTime: time.Now().Add(time.Hour).UnixMilli()},
	} {
		m.Topic = name(where)
		if _, err := b.Send(t.Context(), []Outgoing{m}); ReasonOf(err) != TypeConflict {
			t.Errorf("to %s: %v", where, err)
		}
	}
}

// inBubble runs f with virtual time.
func inBubble(t *testing.T, f func(t *testing.T)) {
	// A sync.Pool may hold on to a channel of a bubble, which must not be used
	// outside of it. Two collections empty it.
	empty := func() { runtime.GC(); runtime.GC() }
	empty()
	defer empty()
	defer func(was bool) { *replicated = was }(*replicated)
	*replicated = false // a node has sockets, which virtual time does not wait for
	synctest.Test(t, f)
}

// producer connects a producer with a command stream. What it is asked about
// comes out of the channel.
func newProducer(b *Broker, id string, topics ...string) (asked chan string, detach func()) {
	c := session.Client{ID: id, Role: session.Producer}
	for _, s := range topics {
		c.Publishing = append(c.Publishing, name(s))
	}
	b.sessions.Register(c)
	asked = make(chan string, 1000)
	detach = b.sessions.Attach(id, func(c session.Command) error {
		asked <- c.(session.RecoverTransaction).ID
		return nil
	})
	return asked, detach
}

func TestUndecidedIsAskedOfAnotherLiveProducerOfTheTopic(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := open(t, t.TempDir())
		defer closeBroker(t, b)
		makeTopic(t, b, "T", topic.Transaction, 1)
		sender, gone := newProducer(b, "sender", "T")
		m := msg("1", "m")
		id := sendHalf(t, b, "T", m)
		m.RecoverySeconds = 20
		patient := sendHalf(t, b, "T", m)
		began := time.Now()
		gone() // the sender's stream breaks
		stranger, _ := newProducer(b, "stranger", "Other")
		asked, _ := newProducer(b, "colleague", "T")
		expect := func(id string, after time.Duration) {
			t.Helper()
			if got := <-asked; got != id {
				t.Fatalf("asked about %q", got)
			}
			if d := time.Since(began).Truncate(time.Second); d != after {
				t.Fatalf("asked after %v, want %v", d, after)
			}
		}
		expect(id, 6*time.Second)
		end(t, b, "T", id, 0) // it does not know
		expect(patient, 20*time.Second)
		expect(id, 36*time.Second)
		d, err := b.HalfMessage(t.Context(), id)
		if err != nil || string(d.Messages[0].Message.Body) != "m" || d.Messages[0].Topic != name("T") {
			t.Fatalf("%+v, %v", d, err)
		}
		d.Release()
		want(t, receive(t, b, "T", "G"))
		if err := b.EndTransaction(t.Context(), name("T"), "1", id, transaction.Committed, true); err != nil {
			t.Fatal(err)
		}
		want(t, receive(t, b, "T", "G"), "m#1")
		tx, err := b.Transaction(t.Context(), id)
		if err != nil || tx.Decision == nil || tx.Decision.Source != transaction.FromCheck {
			t.Errorf("%+v, %v", tx, err)
		}
		if _, err := b.HalfMessage(t.Context(), id); ReasonOf(err) != PreconditionFailed {
			t.Errorf("the half message of a decided transaction: %v", err)
		}
		expect(patient, 50*time.Second)
		if len(sender)+len(stranger)+len(asked) != 0 {
			t.Error("somebody else was asked, or too often")
		}
	})
}

func TestChecksGoAroundTheProducers(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := open(t, t.TempDir())
		defer closeBroker(t, b)
		makeTopic(t, b, "T", topic.Transaction, 1)
		var asked []chan string
		for _, id := range []string{"p1", "p2", "p3"} {
			c, _ := newProducer(b, id, "T")
			asked = append(asked, c)
		}
		b.sessions.Register(session.Client{ID: "p0", Role: session.Producer, Publishing: []record.Resource{name("T")}}) // has no stream
		const n = 300
		for i := range n {
			sendHalf(t, b, "T", msg(fmt.Sprint(i), "m"))
		}
		time.Sleep(7 * time.Second)
		total := 0
		for i, c := range asked {
			total += len(c)
			if len(c) < n/6 {
				t.Errorf("producer %d was asked %d times", i, len(c))
			}
		}
		if total != n {
			t.Errorf("%d half messages, %d checks", n, total)
		}
	})
}

func TestCheckThatNobodyTakesIsNotCounted(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := open(t, t.TempDir())
		defer closeBroker(t, b)
		makeTopic(t, b, "T", topic.Transaction, 1)
		_, detach := newProducer(b, "p", "T")
		detach()
		busy := errors.New("the backlog is full")
		b.sessions.Attach("p", func(session.Command) error { return busy })
		id := sendHalf(t, b, "T", msg("1", "m"))
		time.Sleep(100 * time.Second)
		tx, err := b.Transaction(t.Context(), id)
		if err != nil || tx.Checks != 0 || tx.Next < time.Now().UnixMilli() {
			t.Errorf("%+v, %v", tx, err)
		}
	})
}

func TestParkedAfterTheLastCheckAndSettledByHand(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		dir := t.TempDir()
		b := open(t, dir)
		makeTopic(t, b, "T", topic.Transaction, 1)
		commit := sendHalf(t, b, "T", msg("1", "by hand"))
		rollback := sendHalf(t, b, "T", msg("2", "never"))
		recheck := sendHalf(t, b, "T", msg("3", "asked again"))
		late := sendHalf(t, b, "T", msg("4", "late"))
		time.Sleep(6*time.Second + TransactionCheckMax*TransactionCheckEvery - time.Second)
		parked := func() string {
			list, err := b.Transactions(t.Context(), TransactionFilter{Parked: true})
			if err != nil {
				t.Fatal(err)
			}
			var ids []string
			for _, tx := range list {
				if !tx.Parked || tx.Checks != TransactionCheckMax || tx.Topic != name("T") {
					t.Errorf("listed %+v", tx)
				}
				ids = append(ids, tx.MessageID)
			}
			return strings.Join(ids, " ")
		}
		if got := parked(); got != "" {
			t.Errorf("parked early: %s", got)
		}
		time.Sleep(2 * time.Second)
		closeBroker(t, b)
		b = open(t, dir)
		defer func() { closeBroker(t, b) }()
		if got := parked(); got != "1 2 3 4" {
			t.Fatalf("parked: %q", got)
		}
		if st := b.Stats(); st.HalfOpen != 0 || st.HalfParked != 4 {
			t.Errorf("%d open, %d parked", st.HalfOpen, st.HalfParked)
		}
		asked, _ := newProducer(b, "p", "T")
		time.Sleep(ClientExpiry - time.Minute)
		if len(asked) != 0 {
			t.Error("a parked one was asked about")
		}
		want(t, receive(t, b, "T", "G"))
		for id, outcome := range map[string]transaction.Outcome{commit: transaction.Committed, rollback: transaction.RolledBack} {
			tx, err := b.SettleTransaction(t.Context(), id, outcome)
			if err != nil || tx.Decision == nil || tx.Decision.Outcome != outcome || tx.Decision.Source != transaction.FromOperator {
				t.Errorf("settled: %+v, %v", tx, err)
			}
		}
		if _, err := b.SettleTransaction(t.Context(), commit, transaction.RolledBack); ReasonOf(err) != PreconditionFailed {
			t.Errorf("settled the other way: %v", err)
		}
		if _, _, err := b.RecheckTransaction(t.Context(), commit); ReasonOf(err) != PreconditionFailed {
			t.Errorf("recheck of a settled one: %v", err)
		}
		if tx, producers, err := b.RecheckTransaction(t.Context(), recheck); err != nil || tx.Parked || producers != 1 {
			t.Errorf("recheck: %+v, %d producers, %v", tx, producers, err)
		}
		if id := <-asked; id != recheck {
			t.Errorf("asked about %q", id)
		}
		time.Sleep(time.Second)
		if tx, err := b.Transaction(t.Context(), recheck); err != nil || tx.Checks != 1 {
			t.Errorf("after one more check: %+v, %v", tx, err)
		}
		end(t, b, "T", late, transaction.Committed) // its producer comes back after all
		want(t, receive(t, b, "T", "G"), "by hand#1", "late#1")
	})
}

func TestTransactionsAreListedInPages(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Transaction, 3)
	makeTopic(t, b, "U", topic.Transaction, 1)
	for i := range 25 {
		sendHalf(t, b, "T", msg(fmt.Sprint(i), "m"))
		sendHalf(t, b, "U", msg("u", "m"))
	}
	tp := name("T")
	f := TransactionFilter{Topic: &tp, Limit: 10}
	var got []string
	for {
		page, err := b.Transactions(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		for _, tx := range page {
			got = append(got, tx.MessageID)
		}
		if len(page) < f.Limit {
			break
		}
		f.After = page[len(page)-1].ID
	}
	for i := range got {
		if got[i] != fmt.Sprint(i) {
			t.Fatalf("%v", got)
		}
	}
	if len(got) != 25 {
		t.Errorf("%d of 25", len(got))
	}
	if u, err := b.Transactions(t.Context(), TransactionFilter{MessageID: "u"}); err != nil || len(u) != 25 {
		t.Errorf("by message id: %d, %v", len(u), err)
	}
	nowhere := name("nowhere")
	if _, err := b.Transactions(t.Context(), TransactionFilter{Topic: &nowhere}); ReasonOf(err) != TopicNotFound {
		t.Error(err)
	}
}

// A copy of the data directory, taken between any two answers, is what a kill at
// that moment would leave.
func TestEveryStageSurvivesAKill(t *testing.T) {
	dir := t.TempDir()
	unasked := func(o *Options) { o.TransactionCheckAfter = time.Hour }
	b := open(t, dir, unasked)
	makeTopic(t, b, "T", topic.Transaction, 1)
	ids := map[string]string{}
	half := func(s string) func() { return func() { ids[s] = sendHalf(t, b, "T", msg(s, s)) } }
	var committed []string
	stages := []struct {
		name string
		do   func()
	}{
		{"half", half("a")},
		{"three more", func() { half("b")(); half("c")(); half("d")() }},
		{"commit", func() { end(t, b, "T", ids["c"], transaction.Committed); committed = append(committed, "c#1") }},
		{"rollback", func() { end(t, b, "T", ids["b"], transaction.RolledBack) }},
		{"asked about", func() {
			a, _ := b.Transaction(t.Context(), ids["a"])
			d, _ := b.Transaction(t.Context(), ids["d"])
			checks := []transaction.Check{
				{Position: a.Position, Checks: 3, Next: time.Now().Add(time.Hour).UnixMilli()}, {Position: d.Position, Checks: 15, Parked: true},
			}
			if err := b.commit(record1(transaction.AppendCheck(nil, checks))); err != nil {
				t.Fatal(err)
			}
		}},
		{"an earlier one later", func() { end(t, b, "T", ids["a"], transaction.Committed); committed = append(committed, "a#1") }},
	}
	for _, s := range stages {
		s.do()
		if err := b.dispatcher.Await(t.Context(), b.wal.Committed()); err != nil {
			t.Fatal(err)
		}
		state := b.transactions.AppendSnapshot(nil)
		for _, wipe := range []string{"", "consumequeue", "state"} {
			killed := t.TempDir()
			if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			c := open(t, killed, unasked)
			if got := c.transactions.AppendSnapshot(nil); !bytes.Equal(got, state) {
				t.Fatalf("%s: after a kill the state is\n%x, it was\n%x", s.name, got, state)
			}
			closeBroker(t, c) // writes a checkpoint
			if wipe != "" {
				removeAll(t, killed+"/"+wipe)
			}
			c = open(t, killed, unasked)
			if got := c.transactions.AppendSnapshot(nil); !bytes.Equal(got, state) {
				t.Fatalf("%s, %s wiped: the state is\n%x, it was\n%x", s.name, wipe, got, state)
			}
			want(t, receive(t, c, "T", "G"), committed...)
			var rest []string
			for _, m := range []string{"a", "b", "c", "d"} {
				if ids[m] == "" {
					continue
				}
				switch err := c.EndTransaction(t.Context(), name("T"), m, ids[m], transaction.Committed, true); {
				case m == "b" && strings.Contains(fmt.Sprint(err), "rolled back"):
				case err != nil:
					t.Fatalf("%s: commit of %s: %v", s.name, m, err)
				case !strings.Contains(strings.Join(committed, " "), m):
					rest = append(rest, m+"#1")
				}
			}
			want(t, receive(t, c, "T", "G"), rest...)
			closeBroker(t, c)
		}
	}
}

func TestRetentionCopiesUndecidedMessagesForward(t *testing.T) {
	dir := t.TempDir()
	small := func(o *Options) { o.RetentionSize, o.TransactionCheckAfter = 2<<20, time.Hour }
	b := open(t, dir, small)
	makeTopic(t, b, "T", topic.Mixed, 1)
	tagged := func(r *ReceiveRequest) { r.Filter = "A" }
	m := msg("0", "first")
	m.Tag = "A"
	send(t, b, "T", m)
	ack(t, b, "T", "G", receive(t, b, "T", "G", tagged)...) // groups that come later begin at the end
	ack(t, b, "T", "H", receive(t, b, "T", "H")...)
	m = msg("1", "kept")
	m.Tag = "A"
	kept := sendHalf(t, b, "T", m)
	parked := sendHalf(t, b, "T", msg("2", "parked"))
	dropped := sendHalf(t, b, "T", msg("3", "dropped"))
	tx, err := b.Transaction(t.Context(), parked)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.commit(record1(transaction.AppendCheck(nil, []transaction.Check{{Position: tx.Position, Checks: 15, Parked: true}}))); err != nil {
		t.Fatal(err)
	}
	for range 3 { // the second and third time they are copies already
		before := b.wal.First()
		for range 8 {
			send(t, b, "T", msg("f", strings.Repeat("x", 700<<10)))
		}
		for range 2 { // what a restart replays is kept, too
			if err := b.checkpt.final(); err != nil {
				t.Fatal(err)
			}
			send(t, b, "T", msg("f", "x"))
		}
		b.retain(time.Now())
		if now := b.wal.First(); now <= before || now <= tx.Position {
			t.Fatalf("the log begins at %d, before at %d: the messages hold it", now, before)
		}
	}
	state := b.transactions.AppendSnapshot(nil)
	closeBroker(t, b)
	b = open(t, dir, small)
	if got := b.transactions.AppendSnapshot(nil); !bytes.Equal(got, state) {
		t.Fatalf("after a restart\n%x, before\n%x", got, state)
	}
	d, err := b.HalfMessage(t.Context(), parked)
	if err != nil || string(d.Messages[0].Message.Body) != "parked" {
		t.Fatalf("%+v, %v", d, err)
	}
	d.Release()
	end(t, b, "T", kept, transaction.Committed)
	end(t, b, "T", dropped, transaction.RolledBack)
	if tx, err := b.SettleTransaction(t.Context(), parked, transaction.Committed); err != nil || tx.Decision == nil {
		t.Fatal(tx, err)
	}
	closeBroker(t, b)
	removeAll(t, dir+"/consumequeue")
	b = open(t, dir, small)
	want(t, receive(t, b, "T", "G", tagged), "kept#1")
	var last []string
	for ms := receive(t, b, "T", "H"); len(ms) > 0; ms = receive(t, b, "T", "H") {
		last = bodies(ms)
	}
	if n := len(last); n < 2 || last[n-2] != "kept#1" || last[n-1] != "parked#1" {
		t.Fatalf("%d received last", n)
	}
}
