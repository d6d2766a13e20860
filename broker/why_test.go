package broker

import (
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/session"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// why returns where the only message with an id stands with a group.
func why(t *testing.T, b *Broker, id, group string) (Explanation, *Standing) {
	t.Helper()
	if err := b.dispatcher.Await(t.Context(), b.wal.Committed()); err != nil { // an ack is durable, not applied yet
		t.Fatal(err)
	}
	found, err := b.Why(t.Context(), record.Resource{}, id)
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %v, %v", id, found, err)
	}
	for i := range found[0].Groups {
		if found[0].Groups[i].Group == name(group) {
			return found[0], &found[0].Groups[i]
		}
	}
	return found[0], nil
}

func TestWhyFollowsAMessageThroughItsLife(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 1)
	makeTopic(t, b, "Other", topic.Normal, 1)
	if _, err := b.CreateGroup(t.Context(), group.Group{Name: name("G"), MaxAttempts: 3, Retry: group.Retry{Steps: []time.Duration{time.Hour}}}); err != nil {
		t.Fatal(err)
	}
	at := func(id string, place Place) *Standing {
		t.Helper()
		_, st := why(t, b, id, "G")
		if st == nil || st.Place != place {
			t.Fatalf("%s is at %+v, want place %d", id, st, place)
		}
		return st
	}
	tagged := func(id, tag string) Outgoing { m := msg(id, id); m.Tag = tag; return m }
	send(t, b, "T", tagged("a", "x"), tagged("b", "x"), tagged("c", "y"), tagged("d", "x"))
	if _, st := why(t, b, "a", "G"); st != nil {
		t.Fatalf("a group that has not begun stands at %+v", st)
	}
	one := func(r *ReceiveRequest) { r.Batch, r.FilterType, r.Filter = 1, FilterTag, "x" }
	first := receive(t, b, "T", "G", one)
	if st := at("a", GroupLeased); st.Client != "c1" || st.Attempt != 1 || st.Until == 0 || st.Clients != 0 {
		t.Errorf("leased: %+v", st)
	}
	if st := at("b", GroupBehind); st.Ahead != 0 {
		t.Errorf("the next one has %d ahead", st.Ahead)
	}
	if st := at("c", GroupFiltered); st.Filter != "TAG x" {
		t.Errorf("filtered by %q", st.Filter)
	}
	if st := at("d", GroupBehind); st.Ahead != 2 {
		t.Errorf("the last one has %d ahead", st.Ahead)
	}
	ack(t, b, "T", "G", first...)
	at("a", GroupDone)

	second := receive(t, b, "T", "G", one)
	if _, err := b.ChangeInvisible(t.Context(), name("G"), name("T"), second[0].Handle, time.Hour, false); err != nil {
		t.Fatal(err)
	}
	b.sessions.Register(session.Client{ID: "c1", Role: session.PushConsumer, Group: name("G")})
	if st := at("b", GroupWaiting); st.Attempt != 1 || st.Until <= b.now() || st.Clients != 1 {
		t.Errorf("waiting: %+v", st)
	}
	if err := b.Skip(t.Context(), name("G"), name("T"), 0, 1); err != nil {
		t.Fatal(err)
	}
	if st := at("b", GroupDead); st.Reason == "" {
		t.Errorf("dead: %+v", st)
	}
	if _, err := b.Redrive(t.Context(), name("G"), RedriveRequest{}, func(DeadLetterProgress) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if st := at("b", GroupBehind); st.Ahead != 2 { // c and d are before where it is now
		t.Errorf("redriven: %+v", st)
	}
	if _, err := b.DeleteMessage(t.Context(), name("T"), "d"); err != nil {
		t.Fatal(err)
	}
	if e, st := why(t, b, "d", "G"); st != nil || e.Message.State != MessageDeleted {
		t.Errorf("deleted: %v, %+v", e.Message.State, st)
	}
	if _, err := b.Why(t.Context(), name("Other"), "a"); ReasonOf(err) != MessageNotFound {
		t.Errorf("in another topic: %v", err)
	}
}

func TestWhyNamesWhatIsHeldBackAndWhatIsBlocked(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "F", topic.FIFO, 1)
	makeTopic(t, b, "D", topic.Delay, 1)
	makeTopic(t, b, "X", topic.Transaction, 1)
	if _, err := b.CreateGroup(t.Context(), group.Group{Name: name("G"), FIFO: true}); err != nil {
		t.Fatal(err)
	}
	ordered := func(id string) Outgoing { m := msg(id, id); m.Group, m.HasGroup = "key", true; return m }
	send(t, b, "F", ordered("head"), ordered("next"))
	receive(t, b, "F", "G")
	if _, st := why(t, b, "next", "G"); st == nil || st.Place != GroupBlocked && st.Place != GroupBehind {
		t.Errorf("behind another of its message group: %+v", st)
	}
	late := msg("late", "late")
	late.DueTime = time.Now().Add(time.Hour).UnixMilli()
	send(t, b, "D", late)
	if e, _ := why(t, b, "late", "G"); e.Message.State != MessageDelayed || e.Message.Due != late.DueTime {
		t.Errorf("delayed: %+v", e.Message)
	}
	sendHalf(t, b, "X", msg("half", "half"))
	if e, _ := why(t, b, "half", "G"); e.Message.State != MessageHalf || len(e.Groups) != 0 {
		t.Errorf("undecided: %+v", e)
	}
}
