package broker

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/broker/transaction"
	"github.com/gantry-mq/gantry/commitlog/record"
)

func find(t testing.TB, b *Broker, q MessageQuery) (page []FoundMessage, next string) {
	t.Helper()
	if q.Limit == 0 {
		q.Limit = 100
	}
	page, next, err := b.FindMessages(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return page, next
}

// pictures is what tests say of messages.
func pictures(page []FoundMessage) string {
	var out []string
	for _, m := range page {
		s := fmt.Sprintf("%s=%v@%d", m.ID, m.State, m.Offset)
		for _, p := range m.Places {
			s += fmt.Sprintf("+%s:%d", p.Topic, p.Offset)
			if p.Settled {
				s += "settled"
			}
		}
		for _, d := range m.Deliveries {
			s += fmt.Sprintf("(%s %v %d)", d.Group, d.State, d.Attempt)
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

func keyed(id, key string) Outgoing {
	m := msg(id, "body of "+id)
	m.Keys, m.Tag = []string{key, "all"}, "A"
	return m
}

func removeDir(t testing.TB, dir string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
}

func TestMessagesOfEveryStateAreFoundAlsoAfterARestartAndWithoutIndexes(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	makeTopic(t, b, "T", topic.Mixed, 1)
	send(t, b, "T", keyed("plain", "k1"))
	send(t, b, "T", keyed("dead", "k1"))
	for _, m := range receive(t, b, "T", "G") {
		if id, _ := m.Message.Properties.Lookup(record.FieldMessageID); string(id) != "dead" {
			ack(t, b, "T", "G", m)
			continue
		}
		if err := b.ForwardToDeadLetter(t.Context(), name("G"), name("T"), m.Handle, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	half := func(id string) string {
		m := keyed(id, "k2")
		m.Transaction = true
		return send(t, b, "T", m)[0].TransactionID
	}
	half("half")
	commit, rollback := half("committed"), half("rolledback")
	for id, outcome := range map[string]transaction.Outcome{commit: transaction.Committed, rollback: transaction.RolledBack} {
		if err := b.EndTransaction(t.Context(), name("T"), "", id, outcome, false); err != nil {
			t.Fatal(err)
		}
	}
	later := func(id string, d time.Duration) string {
		m := keyed(id, "k3")
		m.DueTime = time.Now().Add(d).UnixMilli()
		return send(t, b, "T", m)[0].RecallHandle
	}
	later("pending", time.Hour)
	if _, err := b.Recall(t.Context(), name("T"), later("recalled", time.Hour)); err != nil {
		t.Fatal(err)
	}
	moved, _, err := b.Reschedule(t.Context(), name("T"), later("moved", time.Hour), time.Now().Add(2*time.Hour).UnixMilli())
	if err != nil || moved == "" {
		t.Fatal(err)
	}
	later("fired", 50*time.Millisecond)
	for got := ""; got != "body of fired"; { // another group gets all that is in the queue
		m := receiveNext(t, b, "T", "H")
		got = string(m.Message.Body)
		ack(t, b, "T", "H", m)
	}
	caughtUp(t, b)
	check := func(t *testing.T, b *Broker) {
		t.Helper()
		for _, c := range []struct {
			q    MessageQuery
			want string
		}{
			{MessageQuery{Key: "k1"}, "dead=dead letter@1+%DLQ%G:0 plain=queued@0"},
			{MessageQuery{Key: "k2"}, "rolledback=rolled back@-1 committed=queued@2 half=half@-1"},
			{MessageQuery{Key: "k3"}, "fired=queued@3 moved=delayed@-1 recalled=recalled@-1 pending=delayed@-1"},
			{MessageQuery{ID: "committed"}, "committed=queued@2"},
			{MessageQuery{ID: "nobody"}, ""},
			{MessageQuery{Key: "plain"}, ""}, // an id is no key
			{MessageQuery{Key: "all", To: 1}, ""},
			{MessageQuery{Key: "all", From: time.Now().Add(time.Hour).UnixMilli()}, ""},
			{MessageQuery{}, "plain=queued@0 dead=dead letter@1+%DLQ%G:0 committed=queued@2 fired=queued@3 half=half@-1"},
			{MessageQuery{States: []MessageState{MessageQueued}}, "plain=queued@0 committed=queued@2 fired=queued@3"},
			{MessageQuery{States: []MessageState{MessageDead}}, "dead=dead letter@1+%DLQ%G:0"},
			{MessageQuery{Group: name("G")}, "dead=dead letter@1+%DLQ%G:0"},
			{MessageQuery{Group: name("H")}, ""},
			{MessageQuery{States: []MessageState{MessageHalf}}, "half=half@-1"},
			{MessageQuery{States: []MessageState{MessageParked, MessageRetrying}}, ""},
		} {
			c.q.Topic = name("T")
			page, next := find(t, b, c.q)
			if got := pictures(page); got != c.want || next != "" {
				t.Errorf("%+v: %s\nwant %s; next %q", c.q, got, c.want, next)
			}
		}
		page, _ := find(t, b, MessageQuery{Topic: name("T"), ID: "moved"})
		if in := time.Until(time.UnixMilli(page[0].Due)); in < 90*time.Minute {
			t.Errorf("moved is due in %v", in)
		}
		if m := page[0]; m.Tag != "A" || !slices.Equal(m.Keys, []string{"k3", "all"}) || m.BodySize != len("body of moved") || m.Stored == 0 || m.Born == 0 {
			t.Errorf("%+v", m)
		}
	}
	check(t, b)
	outer := t // the broker outlives the subtest that opens it
	for _, wipe := range [][]string{nil, {"keyindex"}, {"keyindex", "consumequeue"}, {"keyindex", "consumequeue", "state"}} {
		t.Run(fmt.Sprint("without ", wipe), func(t *testing.T) {
			closeBroker(t, b)
			for _, d := range wipe {
				removeDir(t, filepath.Join(dir, d))
			}
			b = open(outer, dir)
			check(t, b)
		})
	}
	t.Run("with a damaged index", func(t *testing.T) {
		closeBroker(t, b)
		names, _ := filepath.Glob(filepath.Join(dir, "keyindex", "*"))
		for _, n := range names {
			if err := os.Truncate(n, 16); err != nil {
				t.Fatal(err)
			}
		}
		b = open(outer, dir)
		check(t, b)
	})
	if _, err := b.Redrive(t.Context(), name("G"), RedriveRequest{}, nil); err != nil {
		t.Fatal(err)
	}
	page, _ := find(t, b, MessageQuery{Topic: name("T"), ID: "dead"})
	if got := pictures(page); got != "dead=queued@1+%DLQ%G:0settled+T:4" {
		t.Error(got)
	}
}

func TestQueriesArePaged(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 3)
	makeTopic(t, b, "other", topic.Normal, 1)
	var sent []string
	for i := range 50 {
		id := fmt.Sprintf("id-%02d", i)
		sent = append(sent, id)
		send(t, b, "T", keyed(id, "k"))
		send(t, b, "other", keyed(id, "k"))
	}
	for _, limit := range []int{1, 7, 25, 50, 51} {
		for _, q := range []MessageQuery{{Key: "k"}, {}} {
			var got []string
			q.Topic, q.Limit = name("T"), limit
			for pages := 0; pages == 0 || q.Page != ""; pages++ {
				var page []FoundMessage
				if page, q.Page = find(t, b, q); len(page) > limit || pages > 51 {
					t.Fatalf("page %d has %d messages", pages, len(page))
				}
				if q.Key == "" && !slices.IsSortedFunc(page, func(a, b FoundMessage) int { return int(a.Stored - b.Stored) }) {
					t.Error("not in order of time")
				}
				for _, m := range page {
					got = append(got, m.ID)
				}
			}
			if q.Key != "" {
				slices.Reverse(got)
			} else {
				slices.Sort(got) // queues' messages of one millisecond are in order of queue
			}
			if !slices.Equal(got, sent) {
				t.Errorf("limit %d, key %q: %v", limit, q.Key, got)
			}
		}
	}
}

func TestOneMessageIsReadByPlaceOrByID(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 1)
	send(t, b, "T", keyed("id-1", "k"))
	for i := range 2 {
		var got string
		read := func(f FoundMessage, m *record.Message) error {
			got = fmt.Sprintf("%s %v %d %s", f.ID, f.State, f.Offset, m.Body)
			return nil
		}
		var err error
		if i == 0 {
			err = b.MessageAt(name("T"), 0, 0, read)
		} else {
			err = b.MessageByID(t.Context(), name("T"), "id-1", read)
		}
		if err != nil || got != "id-1 queued 0 body of id-1" {
			t.Errorf("%s, %v", got, err)
		}
	}
	nobody := func(FoundMessage, *record.Message) error { t.Error("called"); return nil }
	for what, err := range map[string]error{
		"offset":   b.MessageAt(name("T"), 0, 1, nobody),
		"negative": b.MessageAt(name("T"), 0, -1, nobody),
		"queue":    b.MessageAt(name("T"), 9, 0, nobody),
		"id":       b.MessageByID(t.Context(), name("T"), "id-2", nobody),
	} {
		if ReasonOf(err) != MessageNotFound {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestBadQueriesAreRefused(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 1)
	if _, err := b.EnsureGroup(t.Context(), name("G")); err != nil {
		t.Fatal(err)
	}
	for what, q := range map[string]MessageQuery{
		"no limit":        {},
		"high limit":      {Limit: MaxMessagePage + 1},
		"id and key":      {Limit: 1, ID: "a", Key: "b"},
		"page of id":      {Limit: 1, ID: "a", Page: "1-2-3"},
		"page of nothing": {Limit: 1, Page: "17"},
		"page of time":    {Limit: 1, Page: "queued.x"},
		"page of ties":    {Limit: 1, Page: "queued.17-3"},
		"other's page":    {Limit: 1, Page: "half.3", States: []MessageState{MessageQueued}},
		"page of halves":  {Limit: 1, Page: "half.-3"},
		"unlistable":      {Limit: 1, States: []MessageState{MessageQueued, MessageRecalled}},
		"half of a group": {Limit: 1, States: []MessageState{MessageHalf}, Group: name("G")},
	} {
		q.Topic = name("T")
		if _, _, err := b.FindMessages(t.Context(), q); ReasonOf(err) != BadRequest {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestPayloadsThatRetentionCopiedAreFoundOnce(t *testing.T) {
	b := open(t, t.TempDir(), func(o *Options) {
		o.SegmentSize, o.RetentionSize, o.CheckpointEvery = 64<<10, 256<<10, 16<<10
	})
	makeTopic(t, b, "T", topic.Mixed, 1)
	m := keyed("pending", "k")
	m.DueTime = time.Now().Add(time.Hour).UnixMilli()
	send(t, b, "T", m, keyed("plain", "k"))
	sent := b.wal.Committed()
	for tries := 0; b.wal.First() <= sent; tries++ {
		if tries == 1000 {
			t.Fatalf("the log still begins at %d", b.wal.First())
		}
		send(t, b, "T", Outgoing{ID: "f", Body: make([]byte, 16<<10)})
		b.retain(time.Now())
	}
	page, _ := find(t, b, MessageQuery{Topic: name("T"), Key: "k"})
	if got := pictures(page); got != "pending=delayed@-1" {
		t.Error(got)
	}
}

// A message that came back into its own queue has two places there, one when
// retention has taken the first: a copy's own offset is the place of its redrive.
func TestPlacesInItsOwnQueueAreNamedOnce(t *testing.T) {
	b := open(t, t.TempDir(), func(o *Options) {
		o.SegmentSize, o.RetentionSize, o.CheckpointEvery = 64<<10, 512<<10, 16<<10
	})
	makeTopic(t, b, "T", topic.Normal, 1)
	makeTopic(t, b, "F", topic.Normal, 1)
	fill := func(until func() bool) {
		t.Helper()
		for tries := 0; !until(); tries++ {
			if tries == 1000 {
				t.Fatalf("the log begins at %d, ends at %d", b.wal.First(), b.wal.Committed())
			}
			send(t, b, "F", Outgoing{ID: "f", Body: make([]byte, 16<<10)})
			b.retain(time.Now())
		}
	}
	places := func() string {
		t.Helper()
		page, _ := find(t, b, MessageQuery{Topic: name("T"), Key: "k"})
		return pictures(page)
	}
	die(t, b, "T", keyed("m", "k"))
	sent := b.wal.Committed()
	time.Sleep(2 * time.Millisecond) // what is as old as the segment goes with it, the redrive is younger
	fill(func() bool { return b.wal.Committed() > sent+256<<10 })
	time.Sleep(2 * time.Millisecond)
	redriven(t, b, RedriveRequest{}, DeadLetterProgress{Matched: 1, Done: 1})
	if got := places(); got != "m=queued@0+%DLQ%G:0settled+T:1" {
		t.Error(got)
	}
	fill(func() bool { return b.wal.First() > sent })
	if got := places(); got != "m=queued@1" {
		t.Error(got)
	}
	if d := deleteMessage(t, b, "T", "m"); d.Entries != 1 {
		t.Errorf("%+v", d)
	}
}

// A message among 100,000, by id.
func BenchmarkFindMessage(b *testing.B) {
	br := benchBroker(b, 1)
	for i := 0; i < 100_000; i += 500 {
		msgs := make([]Outgoing, 500)
		for j := range msgs {
			msgs[j] = keyed(fmt.Sprint("id-", i+j), fmt.Sprint("k-", i+j))
		}
		send(b, br, "T", msgs...)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i = (i + 7919) % 100_000
		if page, _ := find(b, br, MessageQuery{Topic: name("T"), ID: fmt.Sprint("id-", i), Limit: 1}); len(page) != 1 {
			b.Fatal(i)
		}
	}
}
