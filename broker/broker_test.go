package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// open starts a broker on dir and closes it with the test.
func open(t testing.TB, dir string, change ...func(*Options)) *Broker {
	t.Helper()
	opts := Options{Dir: dir, SegmentSize: 1 << 20, AutoCreateGroups: true, Durability: commitlog.DurabilityUnsafeAsync,
		Fatal: func(err error) { t.Errorf("broker failed: %v", err) }}
	for _, f := range change {
		f(&opts)
	}
	b, err := (*Broker)(nil), error(nil)
	if *replicated && opts.FS == nil {
		b, err = openReplicated(t, opts)
	} else {
		b, err = Open(t.Context(), opts)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if b.ctx.Err() == nil {
			closeBroker(t, b)
		}
	})
	return b
}

func closeBroker(t testing.TB, b *Broker) {
	t.Helper()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	closeReplicated(t, b)
}

func name(s string) record.Resource { return record.Resource{Name: s} }

func makeTopic(t testing.TB, b *Broker, s string, typ topic.Type, queues uint32) {
	t.Helper()
	if _, err := b.CreateTopic(t.Context(), topic.Topic{Name: name(s), Type: typ, Queues: queues}); err != nil {
		t.Fatal(err)
	}
}

func send(t testing.TB, b *Broker, topic string, msgs ...Outgoing) []Sent {
	t.Helper()
	for i := range msgs {
		msgs[i].Topic = name(topic)
	}
	sent, err := b.Send(t.Context(), msgs)
	if err != nil {
		t.Fatal(err)
	}
	return sent
}

func msg(id, body string) Outgoing { return Outgoing{ID: id, Body: []byte(body)} }

func receive(t testing.TB, b *Broker, topic, group string, change ...func(*ReceiveRequest)) []Delivered {
	t.Helper()
	req := ReceiveRequest{ClientID: "c1", Group: name(group), Topic: name(topic), Queue: -1, Batch: 32, Invisible: MinInvisible}
	for _, f := range change {
		f(&req)
	}
	d, err := b.Receive(t.Context(), req)
	if ReasonOf(err) == MessageNotFound && err != nil {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Release)
	return d.Messages
}

func bodies(ms []Delivered) []string {
	var out []string
	for _, m := range ms {
		out = append(out, fmt.Sprintf("%s#%d", m.Message.Body, m.Attempt))
	}
	return out
}

func want(t testing.TB, got []Delivered, want ...string) {
	t.Helper()
	if g := bodies(got); strings.Join(g, " ") != strings.Join(want, " ") {
		t.Fatalf("received %v, want %v", g, want)
	}
}

func ack(t testing.TB, b *Broker, topic, group string, ms ...Delivered) {
	t.Helper()
	for _, err := range ackErrs(t, b, topic, group, ms...) {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func ackErrs(t testing.TB, b *Broker, topic, group string, ms ...Delivered) []error {
	t.Helper()
	var entries []AckEntry
	for _, m := range ms {
		entries = append(entries, AckEntry{Handle: m.Handle})
	}
	errs, err := b.Ack(t.Context(), name(group), name(topic), entries)
	if err != nil {
		t.Fatal(err)
	}
	if errs == nil {
		errs = make([]error, len(entries)) // all went well
	}
	return errs
}

func TestMessageGoesThroughUnchanged(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 4)
	sent := Outgoing{ID: "id-1", Body: bytes.Repeat([]byte("x"), 100_000), Packing: record.FlagGzip, Tag: "航班", Keys: []string{"k1", "k 2"},
		User: []Property{{"a", "1"}, {"empty", ""}}, BornTime: 1234, BornHost: "h", Trace: "00-ab"}
	send(t, b, "T", sent)
	got := receive(t, b, "T", "G")
	if len(got) != 1 {
		t.Fatalf("received %d", len(got))
	}
	m := got[0].Message
	if !bytes.Equal(m.Body, sent.Body) || m.Flags&record.FlagGzip == 0 || m.BornTime != 1234 {
		t.Fatalf("body or header changed: %+v", m)
	}
	var fields []string
	m.Properties.Each(func(f record.Field, k, v []byte) bool {
		if f != record.FieldSHA1 {
			fields = append(fields, fmt.Sprintf("%d:%s=%s", f, k, v))
		}
		return true
	})
	if got, want := strings.Join(fields, " "), "1:=id-1 2:=航班 3:=k1 3:=k 2 0:a=1 0:empty= 5:=h 6:=00-ab"; got != want {
		t.Fatalf("properties %q, want %q", got, want)
	}
}

func TestEachGroupGetsEveryMessageOnce(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 3)
	for i := range 100 {
		send(t, b, "T", msg(fmt.Sprint(i), fmt.Sprint(i)))
	}
	for _, g := range []string{"G1", "G2"} {
		seen := map[string]bool{}
		for {
			ms := receive(t, b, "T", g)
			if len(ms) == 0 {
				break
			}
			for _, m := range ms {
				if seen[string(m.Message.Body)] {
					t.Fatalf("%s got %s twice", g, m.Message.Body)
				}
				seen[string(m.Message.Body)] = true
			}
			ack(t, b, "T", g, ms...)
		}
		if len(seen) != 100 {
			t.Fatalf("%s got %d messages", g, len(seen))
		}
	}
}

func TestTagFilterPassesWhatMatchesAndSkipsTheRestForTheGroup(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 1)
	for i, tag := range []string{"A", "B", "", "A", "C"} {
		m := msg(fmt.Sprint(i), tag+fmt.Sprint(i))
		m.Tag = tag
		send(t, b, "T", m)
	}
	filter := func(r *ReceiveRequest) { r.Filter = "A || C" }
	want(t, receive(t, b, "T", "G", filter), "A0#1", "A3#1", "C4#1")
	want(t, receive(t, b, "T", "G"))
}

func TestStateSurvivesRestart(t *testing.T) {
	for _, wipe := range []string{"", "consumequeue", "state"} {
		t.Run("without "+wipe, func(t *testing.T) {
			dir := t.TempDir()
			b := open(t, dir)
			makeTopic(t, b, "T", topic.Normal, 1)
			send(t, b, "T", msg("1", "one"), msg("2", "two"), msg("3", "three"))
			got := receive(t, b, "T", "G", func(r *ReceiveRequest) { r.Batch = 2 })
			want(t, got, "one#1", "two#1")
			ack(t, b, "T", "G", got[0])
			closeBroker(t, b)
			if wipe != "" {
				removeAll(t, dir+"/"+wipe)
			}

			b = open(t, dir)
			want(t, receive(t, b, "T", "G"), "three#1")
			ack(t, b, "T", "G", got[1]) // the handle from before the restart
			if errs := ackErrs(t, b, "T", "G", got[0]); errs[0] != nil {
				t.Fatalf("second ack: %v", errs[0])
			}
			sent := send(t, b, "T", msg("4", "four"))
			if sent[0].Offset != 3 {
				t.Fatalf("offset %d after restart, want 3", sent[0].Offset)
			}
			want(t, receive(t, b, "T", "G"), "four#1")
		})
	}
}

func TestDirectoryInUseIsRefused(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	if _, err := Open(t.Context(), Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Fatalf("second open: %v", err)
	}
}

func TestLongPollIsWokenByAMessage(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 4)
	got := make(chan []Delivered)
	go func() {
		d, err := b.Receive(t.Context(), ReceiveRequest{Group: name("G"), Topic: name("T"), Queue: -1, Batch: 1, Invisible: MinInvisible, Wait: time.Hour})
		if err != nil {
			t.Error(err)
			close(got)
			return
		}
		got <- d.Messages
	}()
	for b.hub.Waiting() == 0 {
		runtime.Gosched()
	}
	send(t, b, "T", msg("1", "hello"))
	want(t, <-got, "hello#1")
}

func TestReceiveEndsWithItsClient(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 4)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := b.Receive(ctx, ReceiveRequest{Group: name("G"), Topic: name("T"), Queue: -1, Invisible: MinInvisible, Wait: time.Hour})
		done <- err
	}()
	for b.hub.Waiting() == 0 {
		runtime.Gosched()
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if b.hub.Waiting() != 0 {
		t.Fatal("the waiter is still there")
	}
}

func TestChangeInvisibleBringsTheMessageBackWithANewAttempt(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 1)
	send(t, b, "T", msg("1", "m"))
	first := receive(t, b, "T", "G")
	want(t, first, "m#1")
	handle, err := b.ChangeInvisible(t.Context(), name("G"), name("T"), first[0].Handle, 0, false)
	if err != nil || handle == "" || handle == first[0].Handle {
		t.Fatalf("handle %q, %v", handle, err)
	}
	if errs := ackErrs(t, b, "T", "G", first[0]); ReasonOf(errs[0]) != InvalidHandle {
		t.Fatalf("ack with the old handle: %v", errs[0])
	}
	second := receive(t, b, "T", "G", func(r *ReceiveRequest) { r.Wait = time.Minute })
	want(t, second, "m#2")
	ack(t, b, "T", "G", second...)
	if _, err := b.ChangeInvisible(t.Context(), name("G"), name("T"), second[0].Handle, time.Second, false); ReasonOf(err) != InvalidHandle {
		t.Fatalf("change after ack: %v", err)
	}
}

func TestAttemptIDReturnsTheSameMessagesAgain(t *testing.T) {
	for _, fifo := range []bool{false, true} {
		b := open(t, t.TempDir())
		makeTopic(t, b, "T", topic.Normal, 1)
		if _, err := b.CreateGroup(t.Context(), group.Group{Name: name("G"), FIFO: fifo}); err != nil {
			t.Fatal(err)
		}
		send(t, b, "T", msg("1", "a"))
		same := func(r *ReceiveRequest) { r.AttemptID = "attempt" }
		first := receive(t, b, "T", "G", same)
		want(t, first, "a#1")
		again := receive(t, b, "T", "G", same)
		want(t, again, "a#1")
		if again[0].Handle != first[0].Handle {
			t.Fatal("another handle")
		}
		want(t, receive(t, b, "T", "G", func(r *ReceiveRequest) { r.AttemptID = "other" }))
		ack(t, b, "T", "G", again...)
		want(t, receive(t, b, "T", "G", same))
	}
}

func TestDeadLetterAfterTheLastAttempt(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	makeTopic(t, b, "T", topic.Normal, 1)
	if _, err := b.CreateGroup(t.Context(), group.Group{Name: name("G"), MaxAttempts: 2}); err != nil {
		t.Fatal(err)
	}
	m := msg("id-1", "poison")
	m.Tag = "A"
	send(t, b, "T", m)
	for range 2 {
		got := receive(t, b, "T", "G", func(r *ReceiveRequest) { r.Wait = time.Minute })
		if _, err := b.ChangeInvisible(t.Context(), name("G"), name("T"), got[0].Handle, 0, false); err != nil {
			t.Fatal(err)
		}
	}
	want(t, receive(t, b, "T", "G"))
	want(t, receive(t, b, "T", "G"))
	closeBroker(t, b)
	b = open(t, dir)
	dead := receive(t, b, "%DLQ%G", "Undertaker", func(r *ReceiveRequest) { r.Filter = "A" })
	want(t, dead, "poison#1")
	if o := dead[0].Origin; o == nil || o.Topic != "T" || o.MessageID != "id-1" {
		t.Fatalf("origin %+v", o)
	}
	want(t, receive(t, b, "T", "G"))
}

func TestFIFOGroupHandsOutOneMessagePerMessageGroup(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.FIFO, 1)
	if _, err := b.CreateGroup(t.Context(), group.Group{Name: name("G"), FIFO: true}); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"a1", "b1", "a2", "a3", "b2"} {
		m := msg(s, s)
		m.Group, m.HasGroup = s[:1], true
		send(t, b, "T", m)
	}
	soon := func(r *ReceiveRequest) { r.Wait = time.Minute }
	first := receive(t, b, "T", "G")
	want(t, first, "a1#1", "b1#1")
	want(t, receive(t, b, "T", "G"))
	if _, err := b.ChangeInvisible(t.Context(), name("G"), name("T"), first[0].Handle, 0, false); err != nil { // a1 fails
		t.Fatal(err)
	}
	ack(t, b, "T", "G", first[1])
	second := receive(t, b, "T", "G", soon)
	if len(second) == 1 {
		second = append(second, receive(t, b, "T", "G", soon)...)
	}
	if got := strings.Join(bodies(second), " "); got != "b2#1 a1#2" && got != "a1#2 b2#1" {
		t.Fatalf("second round %q", got)
	}
	ack(t, b, "T", "G", second...)
	third := receive(t, b, "T", "G", soon)
	want(t, third, "a2#1")
	ack(t, b, "T", "G", third...)
	want(t, receive(t, b, "T", "G", soon), "a3#1")
}

func TestForgedHandlesAreRefused(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 1)
	makeTopic(t, b, "Other", topic.Normal, 1)
	send(t, b, "T", msg("1", "m"))
	h := receive(t, b, "T", "G")[0].Handle
	receive(t, b, "Other", "G")
	for i := range len(h) {
		for _, c := range []byte("A_z") {
			bad := []byte(h)
			if bad[i] == c {
				continue
			}
			bad[i] = c
			if errs := ackErrs(t, b, "T", "G", Delivered{Handle: string(bad)}); ReasonOf(errs[0]) != InvalidHandle {
				t.Fatalf("handle with byte %d changed: %v", i, errs[0])
			}
		}
	}
	for _, bad := range []string{"", "x", h + "A", h[:len(h)-1], strings.Repeat("A", len(h)), "\x00\xff"} {
		if errs := ackErrs(t, b, "T", "G", Delivered{Handle: bad}); ReasonOf(errs[0]) != InvalidHandle {
			t.Fatalf("handle %q: %v", bad, errs[0])
		}
	}
	if errs := ackErrs(t, b, "Other", "G", Delivered{Handle: h}); ReasonOf(errs[0]) != InvalidHandle {
		t.Fatalf("handle of another topic: %v", errs[0])
	}
	ack(t, b, "T", "G", Delivered{Handle: h})
}

func TestPullAndOffsets(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 1)
	for i := range 5 {
		send(t, b, "T", msg(fmt.Sprint(i), fmt.Sprint(i)))
	}
	d, err := b.Pull(t.Context(), PullRequest{Group: name("G"), Topic: name("T"), Offset: 1, Batch: 2})
	if err != nil || len(d.Messages) != 2 || d.NextOffset != 3 {
		t.Fatalf("%+v, %v", d, err)
	}
	d.Release()
	d, err = b.Pull(t.Context(), PullRequest{Group: name("G"), Topic: name("T"), Offset: 9})
	if ReasonOf(err) != IllegalOffset || d.NextOffset != 5 {
		t.Fatalf("%+v, %v", d, err)
	}
	if _, err := b.GetOffset(name("G"), name("T"), 0); ReasonOf(err) != OffsetNotFound {
		t.Fatal(err)
	}
	if err := b.UpdateOffset(t.Context(), name("G"), name("T"), 0, 3); err != nil {
		t.Fatal(err)
	}
	if off, err := b.GetOffset(name("G"), name("T"), 0); err != nil || off != 3 {
		t.Fatal(off, err)
	}
	for policy, want := range map[OffsetPolicy]record.QueueOffset{OffsetBeginning: 0, OffsetEnd: 5} {
		if off, err := b.QueryOffset(name("T"), 0, policy, 0); err != nil || off != want {
			t.Fatal(policy, off, err)
		}
	}
	if off, err := b.QueryOffset(name("T"), 0, OffsetTimestamp, time.Now().Add(time.Hour).UnixMilli()); err != nil || off != 5 {
		t.Fatal(off, err)
	}
}

func removeAll(t testing.TB, dir string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
}

func recordKey(tp topic.Topic, queue uint32) record.QueueKey { return record.Key(tp.ID, queue) }
