package broker

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/access"
	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/quota"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// mirror makes to the tables of from, and fails when that takes other than n records.
func mirror(t *testing.T, to, from *Broker, n int) {
	t.Helper()
	got, err := to.Mirror(t.Context(), from.Tables())
	if err != nil || got != n {
		t.Fatalf("%d changes, %v; want %d", got, err, n)
	}
	if !to.Mirrors(from.Tables()) {
		t.Fatal("the tables differ")
	}
}

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestTablesAreMirroredWithAllThatChanges(t *testing.T) {
	key := withMasterKey(t)
	from, dir := open(t, t.TempDir(), key), t.TempDir()
	to := open(t, dir, key)
	makeTopic(t, to, DLQPrefix+"g", topic.Normal, 1) // its own, and its IDs differ from now on
	makeTopic(t, from, "plain", topic.Normal, 4)
	makeTopic(t, from, "lite", topic.Lite, 1)
	makeTopic(t, from, "fifo", topic.FIFO, 2)
	must[group.Group](t)(from.CreateGroup(t.Context(), group.Group{Name: name("g"), FIFO: true, Retry: group.Retry{Initial: time.Second}}))
	must[access.User](t)(from.CreateUser(t.Context(), access.User{Name: "u", Enabled: true}, "the-secret"))
	p := must[access.Policy](t)(from.Grant(t.Context(), access.Policy{User: "u", Resource: access.Pattern{Type: access.Any, Match: access.Whichever},
		Actions: access.Pub, Sources: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}))
	hundred := uint64(100)
	must[quota.Quota](t)(from.SetQuota(t.Context(), quota.Subject{Kind: quota.Topic, Resource: name("plain")}, [5]*uint64{quota.SendMessages: &hundred}))
	mirror(t, to, from, 6)
	mirror(t, to, from, 0)
	if tp, err := to.Route(name("fifo")); err != nil || tp.Type != topic.FIFO || tp.Queues != 2 {
		t.Fatalf("%+v, %v", tp, err)
	}
	if _, err := to.Route(name("lite")); ReasonOf(err) != TopicNotFound {
		t.Fatalf("the lite topic: %v", err)
	}
	if secret, err := to.Access().Key().Open("u", to.Access().Users()[0].Sealed); err != nil || secret != "the-secret" {
		t.Fatalf("the user's secret: %q, %v", secret, err)
	}

	eight, paused := uint32(8), true
	must[topic.Topic](t)(from.UpdateTopic(t.Context(), name("plain"), TopicChange{Queues: &eight}))
	must[group.Group](t)(from.UpdateGroup(t.Context(), name("g"), GroupChange{Paused: &paused}))
	must[access.Policy](t)(from.Revoke(t.Context(), p.ID))
	must[quota.Quota](t)(from.UnsetQuota(t.Context(), quota.Subject{Kind: quota.Topic, Resource: name("plain")}))
	mirror(t, to, from, 4)

	// It is all in the log of the mirror.
	closeBroker(t, to)
	to = open(t, dir, key)
	mirror(t, to, from, 0)

	for _, tp := range []string{"plain", "fifo"} {
		if err := from.DeleteTopic(t.Context(), name(tp)); err != nil {
			t.Fatal(err)
		}
	}
	if err := from.DeleteGroup(t.Context(), name("g")); err != nil {
		t.Fatal(err)
	}
	if err := from.DeleteUser(t.Context(), "u"); err != nil {
		t.Fatal(err)
	}
	mirror(t, to, from, 4)
	if left := to.Topics(); len(left) != 1 || !isDLQ(left[0]) {
		t.Fatalf("left are %+v", left)
	}
}

func TestATopicMadeAgainLosesItsMessagesInTheMirrorToo(t *testing.T) {
	from, to := open(t, t.TempDir()), open(t, t.TempDir())
	makeTopic(t, from, "t", topic.Normal, 1)
	mirror(t, to, from, 1)
	if _, err := to.Send(t.Context(), []Outgoing{{Topic: name("t"), ID: "m", Body: []byte("x")}}); err != nil {
		t.Fatal(err)
	}
	mirror(t, to, from, 0)
	if s := must[TopicStatus](t)(to.TopicStatus(name("t"))); s.Queues[0].Max != 1 {
		t.Fatalf("%+v", s)
	}
	old := must[topic.Topic](t)(from.Route(name("t")))
	if err := from.DeleteTopic(t.Context(), name("t")); err != nil {
		t.Fatal(err)
	}
	for from.now() == old.Created { // made in the same millisecond it would be the same
		time.Sleep(time.Millisecond)
	}
	makeTopic(t, from, "t", topic.Normal, 1)
	mirror(t, to, from, 2)
	if s := must[TopicStatus](t)(to.TopicStatus(name("t"))); s.Queues[0].Max != 0 {
		t.Fatalf("%+v", s)
	}
}

func TestManyTopicsAreMirroredAtOnce(t *testing.T) {
	from, to := open(t, t.TempDir()), open(t, t.TempDir())
	var all Tables
	for i := range 3*mirrorBatch + 1 {
		all.Topics = append(all.Topics, topic.Topic{Name: name("t" + string(rune('a'+i%26)) + time.Duration(i).String()), Type: topic.Normal, Queues: 1, Created: 1})
	}
	if n, err := from.Mirror(t.Context(), all); err != nil || n != len(all.Topics) {
		t.Fatal(n, err)
	}
	mirror(t, to, from, len(all.Topics))
	if !slices.Equal(to.Topics(), from.Topics()) {
		t.Fatal("other topics")
	}
}

// A group that is named for the first time comes into being where the tables are; who
// named it waits until it is here.
func TestAGroupOfAMirrorComesFromWhereItsTablesAre(t *testing.T) {
	from := open(t, t.TempDir())
	var to *Broker
	to = open(t, t.TempDir(), func(o *Options) {
		o.NewGroup = func(ctx context.Context, n record.Resource) error {
			_, err := from.EnsureGroup(ctx, n)
			return err
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			changed := from.TablesChanged()
			if _, err := to.Mirror(ctx, from.Tables()); err != nil {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	g, err := to.EnsureGroup(t.Context(), name("g"))
	if err != nil || g.Name != name("g") {
		t.Fatalf("%+v, %v", g, err)
	}
	if there, ok := from.Group(name("g")); !ok || there.Created != g.Created {
		t.Fatalf("%+v, %v", there, ok)
	}
	if _, err := to.EnsureGroup(t.Context(), name("CID_RMQ_SYS_x")); ReasonOf(err) != IllegalGroup {
		t.Fatalf("a name that is refused: %v", err)
	}
	cancel()
	<-done
}

func TestABrokerKnowsTheRecallHandlesItMade(t *testing.T) {
	a, b := open(t, t.TempDir()), open(t, t.TempDir())
	makeTopic(t, a, "t", topic.Delay, 1)
	sent, err := a.Send(t.Context(), []Outgoing{{Topic: name("t"), ID: "m", Body: []byte("x"), DueTime: time.Now().Add(time.Hour).UnixMilli()}})
	if err != nil {
		t.Fatal(err)
	}
	if h := sent[0].RecallHandle; !a.MadeRecall(h) || b.MadeRecall(h) || a.MadeRecall("x") {
		t.Fatal("the handle is not known to be whose it is")
	}
}
