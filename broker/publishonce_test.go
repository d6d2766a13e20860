package broker

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// packOf is messages as a pack.
func packOf(msgs ...Outgoing) (pack []byte) {
	for _, o := range msgs {
		m := record.Message{Kind: record.KindMessage, DueTime: o.DueTime, Priority: o.Priority, Body: o.Body}
		if o.Transaction {
			m.Kind = record.KindHalf
		}
		if o.HasPriority {
			m.Flags = record.FlagPriority
		}
		fields := [][]byte{nil}
		if o.ID != "" {
			fields = append(fields, record.AppendField(nil, record.FieldMessageID, o.ID))
		}
		for _, k := range o.Keys {
			fields = append(fields, record.AppendField(nil, record.FieldKey, k))
		}
		if o.HasGroup {
			fields = append(fields, record.AppendField(nil, record.FieldGroup, o.Group))
		}
		if o.LiteTopic != "" {
			fields = append(fields, record.AppendField(nil, record.FieldLiteTopic, o.LiteTopic))
		}
		m.Properties = slices.Concat(fields...)
		pack = packMsg(pack, string(o.Body), func(to *record.Message) { *to = m })
	}
	return pack
}

// outcome is what a pack's only entry was told.
func outcome(t *testing.T, p Published) string {
	t.Helper()
	if len(p.Runs)+len(p.Pending) != 1 || len(p.Refused) > 0 {
		t.Fatalf("%+v", p)
	}
	return fmt.Sprint(p.Runs, p.Pending)
}

func TestMessagePublishedAgainGetsTheFirstResult(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	onceTopic(t, b, "T", topic.Mixed, topic.DedupByID)
	sequence := uint64(0)
	next := func(m ...Outgoing) Published { sequence++; return publish(t, b, "T", sequence, packOf(m...)) }
	firsts := map[string]string{}
	for _, m := range everyKind() {
		firsts[m.ID] = outcome(t, next(m))
	}
	n := stored(t, b, "T")
	for range 2 {
		for _, m := range everyKind() {
			again := next(m)
			if got := outcome(t, again); got != firsts[m.ID] || len(again.Repeated) != 1 || again.Repeated[0] != (RepeatedEntry{}) {
				t.Errorf("%s: published again it got %s %v, the first time %s", m.ID, got, again.Repeated, firsts[m.ID])
			}
		}
		// Through the other door it is the same message.
		for _, m := range everyKind() {
			s := send(t, b, "T", m)[0]
			var want Sent
			switch p := next(m); {
			case len(p.Runs) == 1:
				want = Sent{MessageID: m.ID, Offset: p.Runs[0].Offset}
			default:
				want = Sent{MessageID: m.ID, Offset: record.NoOffset, TransactionID: p.Pending[0].TransactionID, RecallHandle: p.Pending[0].RecallHandle}
			}
			if s != want {
				t.Errorf("%s: sent again it got %+v, want %+v", m.ID, s, want)
			}
		}
		if stored(t, b, "T") != n {
			t.Errorf("%d messages became %d", n, stored(t, b, "T"))
		}
		closeBroker(t, b)
		b = open(t, dir)
	}
}

// A batch of new messages, of some from before, of some twice and of some that are
// refused: each gets its own result, and so it does when the batch is sent again.
func TestPackMayHoldWhatWasStoredBefore(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	onceTopic(t, b, "T", topic.Mixed, topic.DedupByKey)
	keyed := func(id, key string) Outgoing { m := msg(id, id); m.Keys = []string{key}; return m }
	old := keyed("old", "a")
	old.HasGroup, old.Group = true, "somewhere"
	first := send(t, b, "T", old)[0]
	half := keyed("half", "h")
	half.Transaction = true
	halfAgain := keyed("half again", "h")
	bad := keyed("bad", "b")
	bad.LiteTopic = "/"
	pack := packOf(keyed("1", "a"), keyed("2", "x"), bad, keyed("3", "b"), keyed("4", "x"), half, keyed("5", "a"), halfAgain, keyed("6", "y"))
	got := publish(t, b, "T", 1, pack)
	if want := []RepeatedEntry{{0, "old"}, {4, "2"}, {6, "old"}, {7, "half"}}; !slices.Equal(got.Repeated, want) {
		t.Errorf("repeated %v, want %v", got.Repeated, want)
	}
	at := map[int]PlacedRun{}
	for _, r := range got.Runs {
		for i := range r.Count {
			at[r.Entry+i] = PlacedRun{Queue: r.Queue, Offset: r.Offset + record.QueueOffset(i)}
		}
	}
	if at[4] != at[1] || at[0] != at[6] || at[0].Offset != first.Offset || at[0].Queue != record.Hash32("somewhere")%2 || len(at) != 6 {
		t.Errorf("runs %+v", got.Runs)
	}
	if len(got.Pending) != 2 || got.Pending[0].TransactionID != got.Pending[1].TransactionID || len(got.Refused) != 1 || got.Refused[0].Entry != 2 {
		t.Errorf("pending %+v, refused %+v", got.Pending, got.Refused)
	}
	if n := stored(t, b, "T"); n != 5 { // old, 2, 3, half, 6
		t.Errorf("%d are stored", n)
	}
	if n := b.Stats().Duplicates; n != 4 {
		t.Errorf("%d duplicates counted", n)
	}
	for range 2 {
		again := publish(t, b, "T", 1, pack)
		for i := range again.Refused {
			again.Refused[i].Err = got.Refused[i].Err // the text is the same
		}
		for i := range got.Runs { // runs of the first answer end where a batch does
			if a, g := again.Runs[i], got.Runs[i]; a != g {
				t.Errorf("run %d: %+v, the first time %+v", i, a, g)
			}
		}
		if !again.Duplicate || fmt.Sprint(again.Pending, again.Repeated) != fmt.Sprint(got.Pending, got.Repeated) {
			t.Errorf("the batch again: %+v, the first time %+v", again, got)
		}
		closeBroker(t, b)
		b = open(t, dir)
	}
	// All of a batch was stored before: nothing is appended.
	end := b.wal.Committed()
	if p := publish(t, b, "T", 2, packOf(keyed("7", "a"), keyed("8", "y"))); len(p.Repeated) != 2 || len(p.Runs) != 2 {
		t.Errorf("%+v", p)
	}
	if b.wal.Committed() != end {
		t.Error("the log grew")
	}
}

func TestOneOfManyPublishersOfAMessageStoresIt(t *testing.T) {
	b := open(t, t.TempDir())
	onceTopic(t, b, "T", topic.Mixed, topic.DedupByID)
	const publishers, rounds = 6, 40
	results := make([][]string, publishers)
	var wg sync.WaitGroup
	for who := range publishers {
		wg.Go(func() {
			for round := range rounds {
				var msgs []Outgoing
				for _, m := range everyKind() {
					m.ID = fmt.Sprint(m.ID, round)
					msgs = append(msgs, m)
				}
				if who%2 == 1 {
					slices.Reverse(msgs) // each holds what the other waits for
				}
				p, err := b.Publish(context.Background(), &Pack{Producer: uint64(who + 1), Sequence: uint64(round + 1), Topic: name("T"), Queue: -1, Records: inPieces(packOf(msgs...))})
				if err != nil {
					t.Error(err)
					return
				}
				out, err := p.Wait()
				if err != nil {
					t.Error(err)
				}
				byID := map[string]string{}
				for _, r := range out.Runs {
					for i := range r.Count {
						byID[msgs[r.Entry+i].ID] = fmt.Sprint(r.Queue, r.Offset+record.QueueOffset(i))
					}
				}
				for _, e := range out.Pending {
					byID[msgs[e.Entry].ID] = fmt.Sprint(e.Position, e.TransactionID, e.RecallHandle)
				}
				results[who] = append(results[who], fmt.Sprint(byID))
			}
		})
	}
	wg.Wait()
	for who := range results {
		for round := range results[who] {
			if results[who][round] != results[0][round] {
				t.Fatalf("round %d: publisher %d was told %s, publisher 0 %s", round, who, results[who][round], results[0][round])
			}
		}
	}
	if n := stored(t, b, "T"); n != rounds*6 { // and one lite message each
		t.Errorf("%d messages are stored, want %d", n, rounds*6)
	}
}

// A publisher that is gone, or slow to take its answers, holds nobody back.
func TestMessageIsReleasedWhenItIsApplied(t *testing.T) {
	b := open(t, t.TempDir())
	onceTopic(t, b, "T", topic.Normal, topic.DedupByID)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	records := packOf(msg("1", "x"))
	slow, err := b.Publish(ctx, &Pack{Producer: 1, Sequence: 1, Topic: name("T"), Queue: -1, Records: inPieces(records)})
	if err != nil {
		t.Fatal(err)
	}
	quick, err := b.Publish(ctx, &Pack{Producer: 2, Sequence: 1, Topic: name("T"), Queue: -1, Records: inPieces(records)})
	if err != nil {
		t.Fatal(err)
	}
	m := msg("1", "x")
	m.Topic = name("T")
	if sent, err := b.Send(ctx, []Outgoing{m}); err != nil || sent[0].Offset != 0 {
		t.Errorf("%+v, %v", sent, err)
	}
	for _, p := range []*Publishing{quick, slow} {
		if out, err := p.Wait(); err != nil || len(out.Runs) != 1 || out.Runs[0].Offset != 0 {
			t.Errorf("%+v, %v", out, err)
		}
	}
}
