package broker

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/lite"
	"github.com/gantry-mq/gantry/broker/session"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
)

func lites(id, lite string) Outgoing {
	m := msg(id, id)
	m.LiteTopic = lite
	return m
}

func subscribe(t testing.TB, b *Broker, client string, names ...string) {
	t.Helper()
	syncLite(t, b, client, LiteAdd, names...)
}

func syncLite(t testing.TB, b *Broker, client string, action LiteAction, names ...string) {
	t.Helper()
	if err := b.SyncLite(t.Context(), client, name("G"), name("P"), action, names, LiteOffset{}); err != nil {
		t.Fatal(err)
	}
}

// connect registers a client and returns what it is told of lite topics.
func connect(t testing.TB, b *Broker, client string) <-chan string {
	t.Helper()
	told := make(chan string, 100)
	b.sessions.Register(session.Client{ID: client, Role: session.LitePushConsumer, Group: name("G")})
	b.sessions.Attach(client, func(c session.Command) error {
		told <- c.(session.UnsubscribeLite).LiteTopic
		return nil
	})
	return told
}

func wantTold(t testing.TB, told <-chan string, want ...string) {
	t.Helper()
	var got []string
	for len(told) > 0 {
		got = append(got, <-told)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("told %q, want %q", got, want)
	}
}

func liteGroup(t testing.TB, b *Broker, l group.Lite) {
	t.Helper()
	if _, err := b.CreateGroup(t.Context(), group.Group{Name: name("G"), LiteTopic: "P", Lite: l}); err != nil {
		t.Fatal(err)
	}
}

func as(client string) func(*ReceiveRequest) {
	return func(r *ReceiveRequest) { r.ClientID = client }
}

func TestLiteTopicsGoToTheirSubscribersInOrder(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	makeTopic(t, b, "P", topic.Lite, 1)
	subscribe(t, b, "c1", "x")
	subscribe(t, b, "c2", "y", "not-there-yet")
	send(t, b, "P", lites("x1", "x"), lites("y1", "y"), lites("x2", "x"))
	send(t, b, "P", lites("z1", "z"))

	first := receive(t, b, "P", "G", as("c1"))
	want(t, first, "x1#1")
	want(t, receive(t, b, "P", "G", as("c1"))) // x2 waits for x1
	want(t, receive(t, b, "P", "G", as("c3"))) // has subscribed to nothing
	second := receive(t, b, "P", "G", as("c2"))
	want(t, second, "y1#1")
	ack(t, b, "P", "G", first[0], second[0])
	want(t, receive(t, b, "P", "G", as("c1"), waiting), "x2#1")

	send(t, b, "P", lites("n1", "not-there-yet"))
	want(t, receive(t, b, "P", "G", as("c2")), "n1#1")
	closeBroker(t, b)

	b = open(t, dir)
	subscribe(t, b, "c1", "z")
	want(t, receive(t, b, "P", "G", as("c1")), "z1#1")
	if sent := send(t, b, "P", lites("x3", "x")); sent[0].Offset != 2 {
		t.Fatalf("offset %d, want 2", sent[0].Offset)
	}
}

func TestUnsubscribedLiteTopicIsNotRedeliveredToOthers(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "P", topic.Lite, 1)
	subscribe(t, b, "c1", "x")
	subscribe(t, b, "c2", "y")
	send(t, b, "P", lites("x1", "x"))
	got := receive(t, b, "P", "G", as("c1"))
	if _, err := b.ChangeInvisible(t.Context(), name("G"), name("P"), got[0].Handle, 0, true); err != nil {
		t.Fatal(err)
	}
	want(t, receive(t, b, "P", "G", as("c2")))
	want(t, receive(t, b, "P", "G", as("c1")), "x1#1") // suspended: the attempt did not count
}

func TestSubscriptionMayBeginElsewhere(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "P", topic.Lite, 1)
	send(t, b, "P", lites("1", "x"), lites("2", "x"), lites("3", "x"))
	for _, step := range []struct {
		from LiteOffset
		want []string
	}{
		{LiteOffset{Policy: LiteMax}, nil},
		{LiteOffset{Policy: LiteAt, Value: 1}, []string{"2#1"}},
		{LiteOffset{Policy: LiteTail, Value: 1}, []string{"1#1"}},
		{LiteOffset{Policy: LiteMin}, []string{"1#1"}},
	} {
		step.from.Requested = true
		if err := b.SyncLite(t.Context(), "c1", name("G"), name("P"), LiteAdd, []string{"x"}, step.from); err != nil {
			t.Fatal(err)
		}
		want(t, receive(t, b, "P", "G", as("c1")), step.want...)
	}
}

func TestLiteTopicIsMadeOnceByManySenders(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "P", topic.Lite, 1)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 50 {
				m := lites(fmt.Sprint(i, "-", j), fmt.Sprint("lite-", j))
				m.Topic = name("P")
				if _, err := b.Send(t.Context(), []Outgoing{m}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := b.dispatcher.Await(t.Context(), b.wal.Committed()); err != nil {
		t.Fatal(err)
	}
	tp, _ := b.topics.Lookup(name("P"))
	list := b.lites.List(tp.ID)
	if len(list) != 50 {
		t.Fatalf("%d lite topics, want 50", len(list))
	}
	for _, l := range list {
		if _, high, _ := b.index.Bounds(recordKey(tp, l.Queue)); high != 16 {
			t.Errorf("%s has %d messages, want 16", l.Name, high)
		}
	}
}

func TestExclusiveLiteTopicGoesToItsNewestSubscriber(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "P", topic.Lite, 1)
	liteGroup(t, b, group.Lite{Exclusive: true})
	told1, told2 := connect(t, b, "c1"), connect(t, b, "c2")
	subscribe(t, b, "c1", "x", "y")
	send(t, b, "P", lites("x1", "x"), lites("x2", "x"), lites("y1", "y"))
	held := receive(t, b, "P", "G", as("c1"), batchOf(1))
	want(t, held, "x1#1")
	subscribe(t, b, "c2", "x")
	wantTold(t, told1, "x")
	want(t, receive(t, b, "P", "G", as("c2"))) // c1 still has x1
	ack(t, b, "P", "G", held...)
	second := receive(t, b, "P", "G", as("c2"), waiting)
	want(t, second, "x2#1")
	mine := receive(t, b, "P", "G", as("c1"))
	want(t, mine, "y1#1")
	ack(t, b, "P", "G", second[0], mine[0])

	// c1 says what it had before it was told: it is told again and takes nothing.
	syncLite(t, b, "c1", LiteReplace, "x", "y")
	wantTold(t, told1, "x")
	wantTold(t, told2)
	send(t, b, "P", lites("x3", "x"))
	want(t, receive(t, b, "P", "G", as("c1")))

	// What nobody has any more it gets by saying it again.
	b.sessions.Terminate("c2")
	syncLite(t, b, "c1", LiteReplace, "x", "y")
	wantTold(t, told1)
	want(t, receive(t, b, "P", "G", as("c1"), waiting), "x3#1")
}

func TestLiteTopicBeginsAnewWhereItsGroupSaysSo(t *testing.T) {
	for _, c := range []struct {
		lite group.Lite
		want [2]string // after it was taken over, after its client left it
	}{
		{group.Lite{Exclusive: true}, [2]string{"", ""}},
		{group.Lite{Exclusive: true, ResetTaken: true}, [2]string{"x1#1", ""}},
		{group.Lite{Exclusive: true, ResetLeft: true}, [2]string{"", "x1#1"}},
	} {
		b := open(t, t.TempDir())
		makeTopic(t, b, "P", topic.Lite, 1)
		liteGroup(t, b, c.lite)
		subscribe(t, b, "c1", "x")
		send(t, b, "P", lites("x1", "x"))
		ack(t, b, "P", "G", receive(t, b, "P", "G", as("c1"))...)
		check := func(want string) {
			t.Helper()
			got := receive(t, b, "P", "G", as("c2"))
			if s := strings.Join(bodies(got), " "); s != want {
				t.Errorf("%+v: received %q, want %q", c.lite, s, want)
			}
			if len(got) > 0 {
				ack(t, b, "P", "G", got...)
			}
		}
		subscribe(t, b, "c2", "x")
		check(c.want[0])
		syncLite(t, b, "c2", LiteRemove, "x")
		subscribe(t, b, "c2", "x")
		check(c.want[1])
	}
}

func TestSharedGroupHasAllLiteTopics(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "P", topic.Lite, 1)
	liteGroup(t, b, group.Lite{Shared: true})
	send(t, b, "P", lites("x1", "x"))
	want(t, receive(t, b, "P", "G", as("c1"))) // has not said that it is there
	syncLite(t, b, "c1", LiteReplace)
	syncLite(t, b, "c2", LiteReplace)
	send(t, b, "P", lites("y1", "y"), lites("x2", "x"), lites("z1", "z"))
	first := receive(t, b, "P", "G", as("c1"), batchOf(2))
	want(t, first, "x1#1", "y1#1")
	want(t, receive(t, b, "P", "G", as("c2")), "z1#1")
	ack(t, b, "P", "G", first...)
	want(t, receive(t, b, "P", "G", as("c2"), waiting), "x2#1")
	if err := b.SyncLite(t.Context(), "c1", name("G"), name("P"), LiteAdd, []string{"x"}, LiteOffset{}); ReasonOf(err) != PreconditionFailed {
		t.Errorf("a subscription by name: %v", err)
	}
}

func TestLiteSubscriptionsHaveTheQuotaOfTheirGroup(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "P", topic.Lite, 1)
	liteGroup(t, b, group.Lite{Quota: 2})
	subscribe(t, b, "c1", "x", "y")
	subscribe(t, b, "c2", "z")
	if err := b.SyncLite(t.Context(), "c1", name("G"), name("P"), LiteAdd, []string{"z"}, LiteOffset{}); ReasonOf(err) != LiteSubscriptionQuota {
		t.Fatalf("the third of two: %v", err)
	}
	for _, wrong := range []group.Lite{{Exclusive: true, Shared: true}, {Quota: MaxLiteQuota + 1}} {
		if _, err := b.CreateGroup(t.Context(), group.Group{Name: name("W"), Lite: wrong}); ReasonOf(err) != BadRequest {
			t.Errorf("%+v: %v", wrong, err)
		}
	}
}

// On a topic for all types, too, lite topics are in order, and apart from the
// topic's own messages.
func TestLiteTopicsOfAMixedTopicAreInOrder(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "P", topic.Mixed, 1)
	send(t, b, "P", lites("x1", "x"), lites("x2", "x"), msg("own", "own"))
	subscribe(t, b, "c1", "x")
	held := receive(t, b, "P", "G", as("c1"))
	want(t, held, "x1#1")
	want(t, receive(t, b, "P", "G", as("other")), "own#1")
	if _, err := b.ChangeInvisible(t.Context(), name("G"), name("P"), held[0].Handle, 0, false); err != nil {
		t.Fatal(err)
	}
	want(t, receive(t, b, "P", "G", as("other")))
	again := receive(t, b, "P", "G", as("c1"))
	want(t, again, "x1#2")
	ack(t, b, "P", "G", again...)
	want(t, receive(t, b, "P", "G", as("c1"), waiting), "x2#1")
}

func TestAckBeforeAnyReceiveLeavesALiteGroupInOrder(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.FIFO, 1)
	makeTopic(t, b, "P", topic.Lite, 1)
	subscribe(t, b, "c1", "x")
	if _, err := b.Ack(t.Context(), name("G"), name("P"), []AckEntry{{Handle: "no handle"}}); err != nil {
		t.Fatal(err)
	}
	send(t, b, "P", lites("1", "x"), lites("2", "x"))
	want(t, receive(t, b, "P", "G", as("c1")), "1#1")
}

func TestUnusedLiteTopicExpires(t *testing.T) {
	b := open(t, t.TempDir())
	if _, err := b.CreateTopic(t.Context(), topic.Topic{Name: name("P"), Type: topic.Lite, Queues: 1, LiteTTL: 20 * time.Minute}); err != nil {
		t.Fatal(err)
	}
	subscribe(t, b, "c1", "x")
	send(t, b, "P", lites("1", "x"))
	b.expireLite(time.Now().Add(19 * time.Minute))
	if b.lites.Count() != 1 {
		t.Fatal("gone too early")
	}
	b.expireLite(time.Now().Add(21 * time.Minute))
	if b.lites.Count() != 0 {
		t.Fatal("still there")
	}
	subscribe(t, b, "c1", "x")
	want(t, receive(t, b, "P", "G", as("c1")))
	if sent := send(t, b, "P", lites("2", "x")); sent[0].Offset != 0 {
		t.Fatalf("a new lite topic of the same name begins at %d", sent[0].Offset)
	}
	want(t, receive(t, b, "P", "G", as("c1")), "2#1")
}

// Lite topics are deleted under senders that never stop, whether idle or not: no
// message may go into a lite topic that is deleted already.
// Nobody looked at the lite topic while it had a message, and that one went by its
// age: the next is for those who have subscribed, all the same.
func TestFirstMessageAfterOthersWentReachesASubscriber(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "P", topic.Lite, 1)
	liteGroup(t, b, group.Lite{})
	send(t, b, "P", lites("old", "x"))
	subscribe(t, b, "c1", "x")
	if _, err := b.PurgeTopic(t.Context(), name("P"), PurgeRequest{}); err != nil {
		t.Fatal(err)
	}
	send(t, b, "P", lites("new", "x"))
	want(t, receive(t, b, "P", "G"), "new#1")
}

func TestNoMessageGoesIntoADeletedLiteTopic(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, func(o *Options) { o.SegmentSize = 64 << 20 })
	makeTopic(t, b, "P", topic.Lite, 1)
	tp, _ := b.topics.Lookup(name("P"))
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for i := range 8 {
		wg.Go(func() {
			for j := 0; ; j++ {
				select {
				case <-stop:
					return
				default:
				}
				m := lites(fmt.Sprint(i, "-", j), fmt.Sprint("lite-", j%50))
				m.Topic = name("P")
				if _, err := b.Send(t.Context(), []Outgoing{m}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	deleted := 0
	for deleted < 200 {
		list := b.lites.List(tp.ID)
		if len(list) == 0 {
			continue
		}
		if err := b.deleteLite(tp, list); err != nil {
			t.Fatal(err)
		}
		for _, l := range list {
			if !b.lites.Has(record.Key(tp.ID, l.Queue)) {
				deleted++
			}
		}
	}
	close(stop)
	wg.Wait()
	closeBroker(t, b)
	b = open(t, dir)
	tb, ends, messages := lite.NewTable(), map[record.QueueKey]record.QueueOffset{}, 0
	err := b.replay(t.Context(), b.wal.Committed(), func(_ record.Position, rec []byte, kind record.Kind, _ int64) (err error) {
		switch kind {
		case record.KindLitePut:
			err = tb.ApplyPut(record.Command(rec), func(record.TopicID) bool { return true })
		case record.KindLiteDelete:
			_, _, err = tb.ApplyDelete(record.Command(rec), func(k record.QueueKey) record.QueueOffset { return ends[k] })
		case record.KindMessage:
			key := record.KeyOf(rec)
			ends[key] = record.OffsetOf(rec) + 1
			messages++
			if !tb.Has(key) {
				t.Errorf("message %d of %v came after its lite topic was deleted", record.OffsetOf(rec), key)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d deletes among %d messages", deleted, messages)
}

// The sender that made a lite topic may learn late that this is applied: what it
// remembers must not lead others into a lite topic that is deleted by then, nor
// must it forget one that another made since.
func TestMakerThatIsLateLeadsNobodyIntoADeletedLiteTopic(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "P", topic.Lite, 1)
	tp, _ := b.topics.Lookup(name("P"))
	makes := func() (late *liteSend, queue uint32) {
		t.Helper()
		batch := &commitlog.Batch{}
		s, err := b.beginLite(t.Context(), tp, []Outgoing{lites("1", "x")}, batch)
		if err != nil {
			t.Fatal(err)
		}
		err = b.append.Submit(batch)
		s.end(err == nil)
		if err == nil {
			err = b.await(batch)
		}
		if err != nil {
			t.Fatal(err)
		}
		return s, s.queues[0]
	}
	first, gone := makes()
	if err := b.deleteLite(tp, b.lites.List(tp.ID)); err != nil {
		t.Fatal(err)
	}
	second, queue := makes()
	if queue == gone {
		t.Fatal("a message went into the lite topic that was deleted")
	}
	first.applied()
	if q := b.liteMade[liteName{tp.ID, "x"}]; q != queue {
		t.Fatalf("the lite topic made last is remembered as %d, want %d", q, queue)
	}
	second.applied()
	if len(b.liteMade) > 0 {
		t.Fatalf("%v is remembered", b.liteMade)
	}
}

// An index that is made anew has no queues of lite topics that are gone.
func TestDeletedLiteTopicStaysDeletedInARebuiltIndex(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	makeTopic(t, b, "P", topic.Lite, 1)
	send(t, b, "P", lites("1", "x"), lites("2", "y"))
	tp, _ := b.topics.Lookup(name("P"))
	x, _ := b.lites.Lookup(tp.ID, "x")
	if err := b.deleteLite(tp, []lite.Topic{{Name: "x", Queue: x}}); err != nil {
		t.Fatal(err)
	}
	closeBroker(t, b)
	if err := os.RemoveAll(filepath.Join(dir, "consumequeue")); err != nil {
		t.Fatal(err)
	}
	b = open(t, dir)
	if _, _, ok := b.index.Bounds(record.Key(tp.ID, x)); ok {
		t.Error("the queue of a deleted lite topic is back")
	}
	subscribe(t, b, "c1", "x", "y")
	want(t, receive(t, b, "P", "G", as("c1")), "2#1")
}

func TestLiteNamesAreChecked(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "P", topic.Lite, 1)
	for _, bad := range []string{" ", "a/b", "%x", "a|b", "ü", string(make([]byte, 65))} {
		m := lites("1", bad)
		m.Topic = name("P")
		if _, err := b.Send(t.Context(), []Outgoing{m}); ReasonOf(err) != IllegalLiteTopic {
			t.Errorf("send to %q: %v", bad, err)
		}
		if err := b.SyncLite(t.Context(), "c", name("G"), name("P"), LiteAdd, []string{bad}, LiteOffset{}); ReasonOf(err) != IllegalLiteTopic {
			t.Errorf("subscribe to %q: %v", bad, err)
		}
	}
}

// A lite topic of a mixed one may be stuck like any other.
func TestAMessageOfALiteTopicIsSkipped(t *testing.T) {
	for _, typ := range []topic.Type{topic.Lite, topic.Mixed} {
		b := open(t, t.TempDir())
		makeTopic(t, b, "P", typ, 1)
		subscribe(t, b, "c1", "x")
		send(t, b, "P", lites("x1", "x"), lites("x2", "x"))
		d := receive(t, b, "P", "G", as("c1"))
		want(t, d, "x1#1")
		if err := b.Skip(t.Context(), name("G"), name("P"), d[0].Queue, d[0].Offset); err != nil {
			t.Fatalf("%v: %v", typ, err)
		}
		want(t, receive(t, b, "P", "G", as("c1"), waiting), "x2#1")
		if err := b.Skip(t.Context(), name("G"), name("P"), d[0].Queue+1, 0); ReasonOf(err) != BadRequest {
			t.Fatalf("%v: skipped in a lite topic that is not there: %v", typ, err)
		}
	}
}

// A pack tells those who wait for its lite topics, as single messages do.
func TestLiteMessagesOfAPackReachWhoHasSubscribedBefore(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "P", topic.Lite, 1)
	subscribe(t, b, "c1", "x")
	want(t, receive(t, b, "P", "G", as("c1"))) // takes what the subscription hinted at
	publish(t, b, "P", 1, packOf(lites("x1", "x")))
	want(t, receive(t, b, "P", "G", as("c1"), waiting), "x1#1")
	tp, _ := b.topics.Lookup(name("P"))
	if idle, unknown := b.lites.Idle(tp.ID, time.Now().Add(-time.Hour).UnixMilli()); len(idle)+len(unknown) > 0 {
		t.Errorf("%v are idle, of %v it is not known when they were written to", idle, unknown)
	}
}
