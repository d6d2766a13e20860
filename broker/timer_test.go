package broker

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog"
)

func delayed(id, body string, due time.Time) Outgoing {
	m := msg(id, body)
	m.DueTime = due.UnixMilli()
	return m
}

// receiveNext waits for one message.
func receiveNext(t testing.TB, b *Broker, topic, group string) Delivered {
	t.Helper()
	for {
		got := receive(t, b, topic, group, func(r *ReceiveRequest) { r.Batch, r.Wait = 1, 10*time.Second })
		if len(got) > 0 {
			return got[0]
		}
		if t.Context().Err() != nil {
			t.Fatal(t.Context().Err())
		}
	}
}

func recallErr(t testing.TB, b *Broker, topic, handle string) string {
	t.Helper()
	_, err := b.Recall(t.Context(), name(topic), handle)
	if err == nil {
		return ""
	}
	if ReasonOf(err) != BadRequest {
		t.Fatalf("recall: %v, want BadRequest", err)
	}
	return err.Error()
}

func TestDelayedMessageIsDeliveredWhenDueAndNotBefore(t *testing.T) {
	for _, d := range []commitlog.Durability{commitlog.DurabilitySync, commitlog.DurabilityUnsafeAsync} {
		t.Run(fmt.Sprint(d), func(t *testing.T) {
			b := open(t, t.TempDir(), func(o *Options) { o.Durability = d })
			makeTopic(t, b, "D", topic.Delay, 2)
			due := time.Now().Add(300 * time.Millisecond)
			m := delayed("id-1", "later", due)
			m.Tag, m.Keys = "A", []string{"k"}
			sent := send(t, b, "D", m)
			if sent[0].Offset != -1 || sent[0].RecallHandle == "" {
				t.Fatalf("sent %+v, want no offset and a recall handle", sent[0])
			}
			got := receiveNext(t, b, "D", "G")
			if now := time.Now(); now.UnixMilli() < due.UnixMilli() {
				t.Fatalf("delivered at %v, due at %v", now, due)
			}
			want(t, []Delivered{got}, "later#1")
			if got.Message.DueTime != due.UnixMilli() || got.Offset != 0 {
				t.Fatalf("delivered with due time %d and offset %d, want %d and 0", got.Message.DueTime, got.Offset, due.UnixMilli())
			}
			if text := recallErr(t, b, "D", sent[0].RecallHandle); !strings.Contains(text, "delivered to its topic") {
				t.Fatalf("recall of a delivered message: %q", text)
			}
		})
	}
}

func TestDeliveryTimeInThePastIsNow(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "D", topic.Delay, 1)
	sent := send(t, b, "D", delayed("id-1", "now", time.Now().Add(-20*time.Second)))
	if sent[0].Offset != 0 || sent[0].RecallHandle != "" {
		t.Fatalf("sent %+v, want offset 0 and no recall handle", sent[0])
	}
	want(t, receive(t, b, "D", "G"), "now#1")
}

func TestDeliveryTimeHasALimit(t *testing.T) {
	b := open(t, t.TempDir(), func(o *Options) { o.MaxDelay = 24 * time.Hour })
	makeTopic(t, b, "D", topic.Delay, 1)
	m := delayed("id-1", "x", time.Now().Add(24*time.Hour+5*time.Second))
	m.Topic = name("D")
	if _, err := b.Send(t.Context(), []Outgoing{m}); ReasonOf(err) != IllegalDeliveryTime {
		t.Fatalf("sent with %v, want IllegalDeliveryTime", err)
	}
}

func TestRecallIsTruthful(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "D", topic.Delay, 1)
	makeTopic(t, b, "E", topic.Delay, 1)
	makeTopic(t, b, "N", topic.Normal, 1)
	soon := time.Now().Add(400 * time.Millisecond)
	gone := send(t, b, "D", delayed("gone", "recalled", soon))[0]
	send(t, b, "D", delayed("kept", "kept", soon))
	id, err := b.Recall(t.Context(), name("D"), gone.RecallHandle)
	if err != nil || id != "gone" {
		t.Fatalf("recalled %q, %v", id, err)
	}
	if text := recallErr(t, b, "D", gone.RecallHandle); !strings.Contains(text, "recalled or rescheduled before") {
		t.Fatalf("second recall: %q", text)
	}
	if text := recallErr(t, b, "E", gone.RecallHandle); !strings.Contains(text, "another topic") {
		t.Fatalf("recall with another topic: %q", text)
	}
	if text := recallErr(t, b, "D", "nonsense"); !strings.Contains(text, "not one of this broker's") {
		t.Fatalf("recall with nonsense: %q", text)
	}
	for topic, reason := range map[string]Reason{"N": TypeConflict, "absent": TopicNotFound, "a b": IllegalTopic} {
		if _, err := b.Recall(t.Context(), name(topic), gone.RecallHandle); ReasonOf(err) != reason {
			t.Fatalf("recall of topic %q: %v, want reason %v", topic, err, reason)
		}
	}
	want(t, []Delivered{receiveNext(t, b, "D", "G")}, "kept#1")
	want(t, receive(t, b, "D", "G"))
}

func TestDelayedMessagesAreCountedByTopic(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	for _, s := range []string{"D", "E", "gone"} {
		makeTopic(t, b, s, topic.Delay, 2)
		for i := range 5 {
			send(t, b, s, delayed(fmt.Sprint(s, i), "later", time.Now().Add(time.Duration(1+20*i)*time.Minute)))
		}
	}
	send(t, b, "D", delayed("soon", "soon", time.Now().Add(50*time.Millisecond)))
	recalled := send(t, b, "E", delayed("recalled", "recalled", time.Now().Add(time.Hour)))[0]
	moved := send(t, b, "E", delayed("moved", "moved", time.Now().Add(time.Hour)))[0]
	if _, err := b.Recall(t.Context(), name("E"), recalled.RecallHandle); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Reschedule(t.Context(), name("E"), moved.RecallHandle, time.Now().Add(3*time.Hour).UnixMilli()); err != nil {
		t.Fatal(err)
	}
	want(t, []Delivered{receiveNext(t, b, "D", "G")}, "soon#1")
	if err := b.DeleteTopic(t.Context(), name("gone")); err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		got := map[string]int64{}
		for _, tp := range b.Stats().Topics {
			got[tp.Name.Name] = tp.Timing
		}
		if !maps.Equal(got, map[string]int64{"D": 5, "E": 6}) {
			t.Errorf("%s: %v", when, got)
		}
	}
	check("as they came")
	closeBroker(t, b)
	b = open(t, dir)
	check("after a restart")
	if _, err := b.Recall(t.Context(), name("D"), send(t, b, "D", delayed("late", "late", time.Now().Add(time.Hour)))[0].RecallHandle); err != nil {
		t.Fatal(err)
	}
	check("after one that came and went")
}

// Many recalls against the timers' own firing: every message is either
// recalled or delivered, never both, never neither.
func TestRecallRacesWithDelivery(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "D", topic.Delay, 1)
	const n = 200
	due := time.Now().Add(300 * time.Millisecond)
	handles := map[string]string{}
	for i := range n {
		id := fmt.Sprint("id-", i)
		handles[id] = send(t, b, "D", delayed(id, id, due.Add(time.Duration(i/4)*time.Millisecond)))[0].RecallHandle
	}
	recalled := make(chan string, n)
	for id, h := range handles {
		go func() {
			time.Sleep(time.Until(due.Add(10 * time.Millisecond)))
			if _, err := b.Recall(context.Background(), name("D"), h); err != nil {
				id = ""
			}
			recalled <- id
		}()
	}
	left := map[string]bool{}
	for id := range handles {
		left[id] = true
	}
	for range n {
		delete(left, <-recalled)
	}
	for len(left) > 0 {
		m := receiveNext(t, b, "D", "G")
		if id := string(m.Message.Body); !left[id] {
			t.Fatalf("%s was delivered although it was recalled, or twice", id)
		} else {
			delete(left, id)
		}
		ack(t, b, "D", "G", m)
	}
	want(t, receive(t, b, "D", "G"))
	t.Logf("%d of %d recalled", n-int(b.timersDelivered(t, "D")), n)
}

func (b *Broker) timersDelivered(t *testing.T, topic string) (n int64) {
	st, err := b.TopicStatus(name(topic))
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range st.Queues {
		n += int64(q.Max)
	}
	return n
}

func TestPendingMessagesSurvive(t *testing.T) {
	wipe := func(parts ...string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			for _, p := range parts {
				if err := os.RemoveAll(filepath.Join(dir, p)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for _, c := range []struct {
		name    string
		between func(t *testing.T, dir string)
	}{
		{"a kill", nil},
		{"a restart", wipe()},
		{"the loss of the index", wipe("consumequeue")},
		{"the loss of the state", wipe("state")},
		{"the loss of both", wipe("consumequeue", "state")},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			b := open(t, dir)
			makeTopic(t, b, "D", topic.Delay, 1)
			far := time.Now().Add(time.Hour)
			soon := time.Now().Add(time.Second)
			early := time.Now().Add(10 * time.Millisecond)
			h := map[string]string{}
			for i, due := range []time.Time{early, soon, soon, far, far} {
				id := fmt.Sprint("m", i)
				h[id] = send(t, b, "D", delayed(id, id, due))[0].RecallHandle
			}
			want(t, []Delivered{receiveNext(t, b, "D", "G")}, "m0#1")
			if _, err := b.Recall(t.Context(), name("D"), h["m1"]); err != nil {
				t.Fatal(err)
			}
			if c.between == nil {
				killed := t.TempDir() // the files as they are at this moment
				if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
					t.Fatal(err)
				}
				dir = killed
			} else {
				closeBroker(t, b)
				c.between(t, dir)
			}
			b = open(t, dir)
			want(t, []Delivered{receiveNext(t, b, "D", "G")}, "m2#1")
			want(t, receive(t, b, "D", "G"))
			if text := recallErr(t, b, "D", h["m1"]); text == "" {
				t.Fatal("a message was recalled twice")
			}
			if _, err := b.Recall(t.Context(), name("D"), h["m3"]); err != nil {
				t.Fatal(err)
			}
			left, err := b.Timers(t.Context(), TimerQuery{Topic: name("D"), Limit: 10})
			if err != nil || len(left) != 1 || left[0].MessageID != "m4" {
				t.Fatalf("pending: %+v, %v; want m4", left, err)
			}
			if st := b.timers.Stats(); st.Pending != 1 {
				t.Fatalf("%+v, want 1 pending", st)
			}
		})
	}
}

func TestTimersOfADeletedTopicFireIntoNothing(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "D", topic.Delay, 1)
	makeTopic(t, b, "E", topic.Delay, 1)
	due := time.Now().Add(200 * time.Millisecond)
	send(t, b, "D", delayed("lost", "lost", due))
	send(t, b, "E", delayed("kept", "kept", due.Add(time.Millisecond)))
	if err := b.DeleteTopic(t.Context(), name("D")); err != nil {
		t.Fatal(err)
	}
	makeTopic(t, b, "D", topic.Delay, 1)
	want(t, []Delivered{receiveNext(t, b, "E", "G")}, "kept#1")
	want(t, receive(t, b, "D", "G"))
	if st := b.Stats(); st.Delayed != 0 {
		t.Fatalf("%d still delayed", st.Delayed)
	}
}

func TestTimersAreListedAndFoundByID(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "D", topic.Delay, 1)
	makeTopic(t, b, "M", topic.Mixed, 1)
	far := time.Now().Add(time.Hour)
	for i, key := range []string{"red", "blue", "red", "red"} {
		m := delayed(fmt.Sprint("m", i), fmt.Sprint("m", i), far.Add(-time.Duration(i)*10*time.Minute))
		m.Keys = []string{key}
		send(t, b, "D", m)
	}
	send(t, b, "M", delayed("other", "other", far))
	list := func(q TimerQuery) (ids []string) {
		t.Helper()
		q.Topic = name("D")
		if q.Limit == 0 {
			q.Limit = 10
		}
		ps, err := b.Timers(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range ps {
			ids = append(ids, p.MessageID)
		}
		return ids
	}
	check := func(got []string, want string) {
		t.Helper()
		if strings.Join(got, " ") != want {
			t.Fatalf("listed %v, want %s", got, want)
		}
	}
	check(list(TimerQuery{}), "m3 m2 m1 m0")
	check(list(TimerQuery{Key: "red"}), "m3 m2 m0")
	check(list(TimerQuery{Limit: 2}), "m3 m2")
	check(list(TimerQuery{From: far.Add(-15 * time.Minute).UnixMilli()}), "m1 m0")
	check(list(TimerQuery{To: far.Add(-15 * time.Minute).UnixMilli()}), "m3 m2")
	find := func(id string) string {
		t.Helper()
		h, err := b.FindTimer(t.Context(), name("D"), id)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	if _, err := b.Recall(t.Context(), name("D"), find("m2")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.FindTimer(t.Context(), name("D"), "m2"); ReasonOf(err) != MessageNotFound {
		t.Fatalf("found after the recall: %v", err)
	}
	h, _, err := b.Reschedule(t.Context(), name("D"), find("m0"), far.Add(-40*time.Minute).UnixMilli())
	if err != nil {
		t.Fatal(err)
	}
	check(list(TimerQuery{}), "m0 m3 m1")
	again, id, err := b.Reschedule(t.Context(), name("D"), h, time.Now().Add(100*time.Millisecond).UnixMilli())
	if err != nil || id != "m0" {
		t.Fatalf("rescheduled %q, %v", id, err)
	}
	if recallErr(t, b, "D", h) == "" {
		t.Fatal("a handle is good after its message was rescheduled")
	}
	want(t, []Delivered{receiveNext(t, b, "D", "G")}, "m0#1")
	if text := recallErr(t, b, "D", again); !strings.Contains(text, "delivered") {
		t.Fatalf("recall after delivery: %q", text)
	}
	check(list(TimerQuery{}), "m3 m1")
}
