package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// die sends messages, all of which the group G forwards to its dead letters.
func die(t testing.TB, b *Broker, topic string, msgs ...Outgoing) {
	t.Helper()
	send(t, b, topic, msgs...)
	for range msgs {
		got := receive(t, b, topic, "G", func(r *ReceiveRequest) { r.Batch = 1; r.ClientID = "undoer"; r.Wait = time.Minute })
		if err := b.ForwardToDeadLetter(t.Context(), name("G"), name(topic), got[0].Handle, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
}

func numbered(n int) (msgs []Outgoing) {
	for i := range n {
		msgs = append(msgs, msg(fmt.Sprint("id-", i), fmt.Sprint(i)))
	}
	return msgs
}

func listDead(t testing.TB, b *Broker, f DeadLetterFilter) []DeadLetter {
	t.Helper()
	page, next, err := b.DeadLetters(t.Context(), name("G"), f, 0, 0)
	if err != nil || next != record.NoOffset {
		t.Fatalf("next %d, %v", next, err)
	}
	return page
}

// states are the dead letters as message=state.
func states(dead []DeadLetter) string {
	var s []string
	for _, dl := range dead {
		s = append(s, dl.MessageID+"="+dl.State.String())
	}
	return strings.Join(s, " ")
}

func redriven(t testing.TB, b *Broker, req RedriveRequest, want DeadLetterProgress) {
	t.Helper()
	got, err := b.Redrive(t.Context(), name("G"), req, nil)
	if err != nil {
		t.Fatal(err)
	}
	failure := got.Failure
	got.Failure, want.Failure = "", ""
	if got != want {
		t.Fatalf("redrive: %+v (%s), want %+v", got, failure, want)
	}
}

// received is the ids of everything that a group which never was there receives.
func received(t testing.TB, b *Broker, topic, group string) string {
	t.Helper()
	var ids []string
	for {
		ms := receive(t, b, topic, group)
		if len(ms) == 0 {
			return strings.Join(ids, " ")
		}
		for _, m := range ms {
			id, _ := m.Message.Properties.Lookup(record.FieldMessageID)
			ids = append(ids, string(id))
		}
	}
}

// again ends the broker in some way and opens what it left.
type again struct {
	name string
	open func(t *testing.T, b *Broker) *Broker
}

func agains() []again {
	reopen := func(wipe string) func(*testing.T, *Broker) *Broker {
		return func(t *testing.T, b *Broker) *Broker {
			closeBroker(t, b)
			if wipe != "" {
				removeAll(t, filepath.Join(b.opts.Dir, wipe))
			}
			return open(t, b.opts.Dir)
		}
	}
	return []again{
		{"restarted", reopen("")},
		{"restarted without index", reopen("consumequeue")},
		{"restarted without checkpoint", reopen("state")},
		{"killed", func(t *testing.T, b *Broker) *Broker {
			// What is in the files now, with no checkpoint on the way out.
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(b.opts.Dir)); err != nil {
				t.Fatal(err)
			}
			return open(t, dir)
		}},
	}
}

func TestInterruptedRedriveGoesOnWhereItWas(t *testing.T) {
	for _, how := range agains() {
		t.Run(how.name, func(t *testing.T) {
			b := open(t, t.TempDir())
			makeTopic(t, b, "T", topic.Normal, 1)
			die(t, b, "T", numbered(20)...)
			stop := errors.New("stop")
			p, err := b.Redrive(t.Context(), name("G"), RedriveRequest{Rate: 70}, func(p DeadLetterProgress) error {
				if p.Done >= 10 {
					return stop
				}
				return nil
			})
			if !errors.Is(err, stop) || p.Matched != 20 || p.Done != 14 {
				t.Fatalf("%+v, %v", p, err)
			}
			b = how.open(t, b)
			redriven(t, b, RedriveRequest{}, DeadLetterProgress{Matched: 6, Done: 6})
			redriven(t, b, RedriveRequest{}, DeadLetterProgress{})
			var want []string
			for range 2 { // as it was sent, and as it came back
				for i := range 20 {
					want = append(want, fmt.Sprint("id-", i))
				}
			}
			if got := received(t, b, "T", "new"); got != strings.Join(want, " ") {
				t.Fatalf("topic has %s", got)
			}
			b = how.open(t, b)
			redriven(t, b, RedriveRequest{}, DeadLetterProgress{})
			for _, dl := range listDead(t, b, DeadLetterFilter{Settled: true}) {
				if dl.State != DeadRedriven {
					t.Errorf("%s is %v", dl.MessageID, dl.State)
				}
			}
		})
	}
}

func TestDiscardedDeadLettersStayDiscarded(t *testing.T) {
	for _, how := range agains() {
		t.Run(how.name, func(t *testing.T) {
			b := open(t, t.TempDir())
			makeTopic(t, b, "T", topic.Normal, 1)
			die(t, b, "T", numbered(4)...)
			some := DeadLetterFilter{Offsets: []record.QueueOffset{1, 3}}
			if p, err := b.Discard(t.Context(), name("G"), some, true, nil); err != nil || p != (DeadLetterProgress{Matched: 2}) {
				t.Fatalf("%+v, %v", p, err)
			}
			if p, err := b.Discard(t.Context(), name("G"), some, false, nil); err != nil || p != (DeadLetterProgress{Matched: 2, Done: 2}) {
				t.Fatalf("%+v, %v", p, err)
			}
			b = how.open(t, b)
			if got := states(listDead(t, b, DeadLetterFilter{})); got != "id-0=open id-2=open" {
				t.Fatal(got)
			}
			if got := states(listDead(t, b, DeadLetterFilter{Settled: true})); got != "id-0=open id-1=discarded id-2=open id-3=discarded" {
				t.Fatal(got)
			}
			redriven(t, b, RedriveRequest{}, DeadLetterProgress{Matched: 2, Done: 2})
		})
	}
}

func TestRedrivenMessageIsTheSameRecordInTheSameQueue(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.FIFO, 4)
	m := msg("id-1", "body")
	m.Tag, m.Keys, m.Group, m.HasGroup, m.User = "A", []string{"k"}, "customer", true, []Property{{"a", "1"}}
	die(t, b, "T", m)
	queue := record.Hash32("customer") % 4
	redriven(t, b, RedriveRequest{}, DeadLetterProgress{Matched: 1, Done: 1})
	tp, _ := b.topics.Lookup(name("T"))
	var e [2]consumequeue.Entry
	if n, err := b.index.Read(record.Key(tp.ID, queue), 0, e[:]); n != 2 || err != nil {
		t.Fatalf("%d entries, %v", n, err)
	}
	if e[0].Position != e[1].Position || e[0].Size != e[1].Size || e[0].TagHash != e[1].TagHash || e[0].GroupHash != e[1].GroupHash {
		t.Fatalf("the payload moved: %+v", e)
	}
	got := receive(t, b, "T", "G", func(r *ReceiveRequest) { r.Filter = "A" })
	want(t, got, "body#1")
	if got[0].Queue != queue || got[0].Offset != 1 || got[0].Origin != nil {
		t.Fatalf("%+v", got[0])
	}
	ack(t, b, "T", "G", got...)
}

func TestRedrivesAtTheSameTimeSendNothingTwice(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 1)
	die(t, b, "T", numbered(100)...)
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			if _, err := b.Redrive(t.Context(), name("G"), RedriveRequest{Rate: 200}, nil); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if ids := strings.Fields(received(t, b, "T", "new")); len(ids) != 200 {
		t.Fatalf("the topic has %d messages, want 200", len(ids))
	}
}

func TestRedriveSelectsByWhatItsFilterSays(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 1)
	makeTopic(t, b, "Other", topic.Normal, 1)
	if _, err := b.CreateGroup(t.Context(), group.Group{Name: name("G"), MaxAttempts: 1}); err != nil {
		t.Fatal(err)
	}
	die(t, b, "T", msg("a", "1"), msg("b", "2"))
	die(t, b, "Other", msg("c", "3"))
	send(t, b, "T", msg("d", "4")) // and one that is out of attempts
	got := receive(t, b, "T", "G")
	if _, err := b.ChangeInvisible(t.Context(), name("G"), name("T"), got[0].Handle, 0, false); err != nil {
		t.Fatal(err)
	}
	want(t, receive(t, b, "T", "G"))
	all := listDead(t, b, DeadLetterFilter{})
	if got := states(all); got != "a=open b=open c=open d=open" {
		t.Fatal(got)
	}
	died := all[3].Died
	for what, c := range map[string]struct {
		f    DeadLetterFilter
		want string
	}{
		"reason":  {DeadLetterFilter{Reason: "exhausted"}, "d"},
		"topic":   {DeadLetterFilter{Topic: "Other"}, "c"},
		"id":      {DeadLetterFilter{MessageID: "b"}, "b"},
		"offsets": {DeadLetterFilter{Offsets: []record.QueueOffset{3, 0, 9}}, "a d"},
		"from":    {DeadLetterFilter{From: died + 1}, ""},
		"to":      {DeadLetterFilter{To: all[0].Died}, ""},
		"between": {DeadLetterFilter{From: all[0].Died, To: died + 1}, "a b c d"},
		"both":    {DeadLetterFilter{Topic: "T", Reason: "forwarded"}, "a b"},
		"nothing": {DeadLetterFilter{Topic: "T", MessageID: "c"}, ""},
	} {
		got := listDead(t, b, c.f)
		if s := strings.ReplaceAll(states(got), "=open", ""); s != c.want {
			t.Errorf("%s: %s, want %s", what, s, c.want)
		}
		redriven(t, b, RedriveRequest{Filter: c.f, DryRun: true}, DeadLetterProgress{Matched: int64(len(got))})
	}
	redriven(t, b, RedriveRequest{Filter: DeadLetterFilter{Topic: "Other"}}, DeadLetterProgress{Matched: 1, Done: 1})
	if got := states(listDead(t, b, DeadLetterFilter{Settled: true})); got != "a=open b=open c=redriven d=open" {
		t.Fatal(got)
	}
}

func TestRedriveGoesWhereMessagesOfItsKindCan(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 1)
	makeTopic(t, b, "F", topic.FIFO, 1)
	makeTopic(t, b, "target", topic.Normal, 2)
	ordered := msg("ordered", "o")
	ordered.Group, ordered.HasGroup = "g", true
	die(t, b, "F", ordered)
	die(t, b, "T", msg("plain", "p"))
	if err := b.DeleteTopic(t.Context(), name("T")); err != nil {
		t.Fatal(err)
	}
	// The topic of one is gone.
	p, err := b.Redrive(t.Context(), name("G"), RedriveRequest{DryRun: true}, nil)
	if err != nil || p.Matched != 2 || p.Failed != 1 || !strings.Contains(p.Failure, `"T" is gone`) {
		t.Fatalf("%+v, %v", p, err)
	}
	// The target does not take the other.
	redriven(t, b, RedriveRequest{Target: ptr(name("target"))}, DeadLetterProgress{Matched: 2, Done: 1, Failed: 1})
	if got := received(t, b, "target", "new"); got != "plain" {
		t.Fatal(got)
	}
	redriven(t, b, RedriveRequest{}, DeadLetterProgress{Matched: 1, Done: 1})
	for _, req := range []RedriveRequest{{Target: ptr(name("none"))}, {Rate: -1}, {Target: ptr(name("%DLQ%G"))}} {
		if _, err := b.Redrive(t.Context(), name("G"), req, nil); ReasonOf(err) == Internal {
			t.Errorf("%+v: %v", req, err)
		}
	}
	// Sent to the dead-letter topic by a producer: it has no origin.
	send(t, b, "%DLQ%G", msg("stray", "s"))
	redriven(t, b, RedriveRequest{}, DeadLetterProgress{Matched: 1, Failed: 1})
	redriven(t, b, RedriveRequest{Target: ptr(name("target"))}, DeadLetterProgress{Matched: 1, Done: 1})
	if got := received(t, b, "target", "newer"); got != "plain stray" && got != "stray plain" {
		t.Fatal(got)
	}
}

func ptr[T any](v T) *T { return &v }

func TestRedriveLeavesWhatDiesMeanwhile(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 1)
	die(t, b, "T", numbered(3)...)
	p, err := b.Redrive(t.Context(), name("G"), RedriveRequest{Rate: 100}, func(p DeadLetterProgress) error {
		for _, m := range receive(t, b, "T", "G") {
			if err := b.ForwardToDeadLetter(t.Context(), name("G"), name("T"), m.Handle, 0, 0); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || p != (DeadLetterProgress{Matched: 3, Done: 3}) {
		t.Fatalf("%+v, %v", p, err)
	}
	if got := states(listDead(t, b, DeadLetterFilter{Settled: true})); got != "id-0=redriven id-1=redriven id-2=redriven id-0=open id-1=open id-2=open" {
		t.Fatal(got)
	}
}

func TestDeadLetterTellsItsStory(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 1)
	m := msg("id-1", "the body")
	m.Tag, m.Keys, m.User = "A", []string{"k1", "k2"}, []Property{{"a", "1"}}
	before := time.Now().UnixMilli()
	send(t, b, "T", msg("fine", "x"))
	ack(t, b, "T", "G", receive(t, b, "T", "G")...)
	die(t, b, "T", m)
	var got DeadLetter
	err := b.DeadLetter(t.Context(), name("G"), 0, func(dl *DeadLetter, m *record.Message) error {
		got = *dl
		if !bytes.Equal(m.Body, []byte("the body")) {
			t.Errorf("body %q", m.Body)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got.MessageID != "id-1" || got.Tag != "A" || strings.Join(got.Keys, " ") != "k1 k2" || got.Attempts != 1 || got.Reason != reasonForwarded ||
		got.BodySize != 8 || got.Died < before || got.Owner != "undoer" || got.LeaseEnd < got.Died || got.Origin == nil {
		t.Fatalf("%+v", got)
	}
	if o := *got.Origin; o.Topic != name("T") || o.Queue != 0 || o.Offset != 1 {
		t.Fatalf("origin %+v", o)
	}
	never := func(*DeadLetter, *record.Message) error { return nil }
	if err := b.DeadLetter(t.Context(), name("G"), 1, never); ReasonOf(err) != MessageNotFound {
		t.Errorf("an offset that is not there: %v", err)
	}
	if err := b.DeadLetter(t.Context(), name("nobody"), 1, never); ReasonOf(err) != GroupNotFound {
		t.Errorf("a group that is not there: %v", err)
	}
	if err := b.DeleteGroup(t.Context(), name("G")); err != nil {
		t.Fatal(err)
	}
	if got := states(listDead(t, b, DeadLetterFilter{})); got != "id-1=open" {
		t.Errorf("after the group's deletion: %s", got)
	}
}

func TestDeadLettersArePaged(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 1)
	die(t, b, "T", numbered(7)...)
	var got []string
	pages := 0
	for from := record.QueueOffset(0); from != record.NoOffset; pages++ {
		page, next, err := b.DeadLetters(t.Context(), name("G"), DeadLetterFilter{}, from, 3)
		if err != nil || len(page) > 3 {
			t.Fatal(len(page), err)
		}
		got = append(got, states(page))
		from = next
	}
	if pages != 3 || strings.Count(strings.Join(got, " "), "=open") != 7 {
		t.Fatalf("%d pages: %v", pages, got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := b.DeadLetters(ctx, name("G"), DeadLetterFilter{}, 0, 0); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestListingOfSomeDeadLettersEnds(t *testing.T) {
	b := open(t, t.TempDir())
	defer closeBroker(t, b)
	makeTopic(t, b, "T", topic.Normal, 1)
	die(t, b, "T", numbered(4)...)
	if got := states(listDead(t, b, DeadLetterFilter{Offsets: []record.QueueOffset{1}})); got != "id-1=open" { // listDead wants no next page
		t.Fatal(got)
	}
}

// FuzzSettlingRecords: whatever a record holds, reading it fails or gives what
// writes the same record again.
func FuzzSettlingRecords(f *testing.F) {
	r := redrive{DLQ: 7, Offset: 9, Position: 1 << 40, Size: 100, TagHash: 5, GroupHash: 6}
	f.Add(r.append(nil, record.Key(1, 2)))
	dl := deadLetter{Group: 1, Topic: 2, Queue: 3, Offset: 4, LeaseID: 5, Position: 6, Size: 7, Attempt: 8, LeaseEnd: 9, Owner: "c", TopicName: "T", MessageID: "m", Reason: "r",
		Attempts: []inflight.Attempt{{Number: 1, Owner: "a", Leased: 10, Ended: 20, End: inflight.EndExpired}, {Number: 2, Owner: "a", Leased: 30, Changed: 31, Ended: 40, End: inflight.EndChanged}, {Number: 3, Owner: "c", Ended: 50}}}
	f.Add(dl.append(nil, record.Key(1, 2)))
	f.Add(appendDiscard(nil, 7, []record.QueueOffset{1, 2, 1 << 40}))
	f.Fuzz(func(t *testing.T, rec []byte) {
		if len(rec) < 40 {
			return
		}
		if dlq, offsets, err := parseDiscard(record.Command(rec)); err == nil {
			dlq2, again, err := parseDiscard(record.Command(appendDiscard(nil, dlq, offsets)))
			if err != nil || dlq2 != dlq || !slices.Equal(again, offsets) {
				t.Errorf("%d %v came back as %d %v, %v", dlq, offsets, dlq2, again, err)
			}
		}
		if r, err := parseRedrive(rec); err == nil {
			again, err := parseRedrive(r.append(nil, record.KeyOf(rec)))
			again.StoreTime = r.StoreTime
			if err != nil || again != r {
				t.Errorf("%+v came back as %+v, %v", r, again, err)
			}
		}
		if dl, err := parseDeadLetter(rec); err == nil {
			again, err := parseDeadLetter(dl.append(nil, record.KeyOf(rec)))
			again.StoreTime = dl.StoreTime
			if err != nil || !reflect.DeepEqual(again, dl) {
				t.Errorf("%+v came back as %+v, %v", dl, again, err)
			}
		}
	})
}

func TestSettledDeadLettersStaySettledWhereRetentionTookTheirRecords(t *testing.T) {
	for _, wipe := range []string{"", "consumequeue"} {
		t.Run("without "+wipe, func(t *testing.T) {
			small := func(o *Options) {
				o.SegmentSize, o.RetentionSize, o.CheckpointEvery = 64<<10, 256<<10, 16<<10
			}
			dir := t.TempDir()
			b := open(t, dir, small)
			makeTopic(t, b, "T", topic.Normal, 1)
			makeTopic(t, b, "filler", topic.Normal, 1)
			// drop writes until retention has taken everything below pos.
			drop := func(pos record.Position) {
				t.Helper()
				for tries := 0; b.wal.First() <= pos; tries++ {
					if tries == 1000 {
						t.Fatalf("the log still begins at %d, below %d", b.wal.First(), pos)
					}
					send(t, b, "filler", Outgoing{ID: "f", Body: make([]byte, 16<<10)})
					// Checkpoints bound what one retention takes. With them up to date it is a
					// segment; far behind, it could go past the letters' own age in one step.
					for b.checkpt.busy.Load() {
						runtime.Gosched()
					}
					b.retain(time.Now())
				}
			}
			send(t, b, "T", numbered(4)...)
			sent := b.wal.Committed()
			for range 8 { // into other segments than the messages
				send(t, b, "filler", Outgoing{ID: "f", Body: make([]byte, 16<<10)})
			}
			for now := time.Now().UnixMilli(); time.Now().UnixMilli() <= now; { // what died is younger than the segment
			}
			for _, m := range receive(t, b, "T", "G") {
				if err := b.ForwardToDeadLetter(t.Context(), name("G"), name("T"), m.Handle, 0, 0); err != nil {
					t.Fatal(err)
				}
			}
			died := b.wal.Committed()
			drop(sent) // copies the payloads
			p, err := b.Redrive(t.Context(), name("G"), RedriveRequest{Filter: DeadLetterFilter{MessageID: "id-1"}}, nil)
			if err != nil || p.Done != 1 {
				t.Fatalf("%+v, %v", p, err)
			}
			if p, err := b.Discard(t.Context(), name("G"), DeadLetterFilter{MessageID: "id-2"}, false, nil); err != nil || p.Done != 1 {
				t.Fatalf("%+v, %v", p, err)
			}
			drop(died) // and now the copies are all that is known of them
			closeBroker(t, b)
			if wipe != "" {
				removeAll(t, filepath.Join(dir, wipe))
			}
			b = open(t, dir, small)
			if got := states(listDead(t, b, DeadLetterFilter{Settled: true})); got != "id-0=open id-1=redriven id-2=discarded id-3=open" {
				t.Fatal(got)
			}
			redriven(t, b, RedriveRequest{}, DeadLetterProgress{Matched: 2, Done: 2})
			if got := received(t, b, "T", "G"); got != "id-1 id-0 id-3" {
				t.Fatalf("the topic has %s", got)
			}
		})
	}
}

func TestForwardSaysHowOftenTheConsumerTried(t *testing.T) {
	for _, c := range []struct {
		attempts, of int32
		reason       string
		counted      int32
	}{{0, 0, reasonForwarded, 1}, {2, 3, reasonForwarded, 2}, {3, 3, reasonAttempts, 3}, {1 << 30, 3, reasonAttempts, MaxAttemptsLimit}} {
		b := open(t, t.TempDir())
		makeTopic(t, b, "T", topic.Normal, 1)
		send(t, b, "T", msg("1", "m"))
		got := receive(t, b, "T", "G")
		if err := b.ForwardToDeadLetter(t.Context(), name("G"), name("T"), got[0].Handle, c.attempts, c.of); err != nil {
			t.Fatal(err)
		}
		var dl DeadLetter
		err := b.DeadLetter(t.Context(), name("G"), 0, func(found *DeadLetter, _ *record.Message) error {
			dl = *found
			return nil
		})
		if err != nil || dl.Reason != c.reason || dl.Attempts != c.counted {
			t.Errorf("%+v: %q after %d attempts, %v", c, dl.Reason, dl.Attempts, err)
		}
		closeBroker(t, b)
	}
}
