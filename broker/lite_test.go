package broker

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/topic"
)

func lites(id, lite string) Outgoing {
	m := msg(id, id)
	m.LiteTopic = lite
	return m
}

func subscribe(t testing.TB, b *Broker, client string, names ...string) {
	t.Helper()
	if err := b.SyncLite(t.Context(), client, name("G"), name("P"), LiteAdd, names, LiteOffset{}); err != nil {
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
	want(t, receive(t, b, "P", "G", as("c1"), func(r *ReceiveRequest) { r.Wait = time.Minute }), "x2#1")

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
