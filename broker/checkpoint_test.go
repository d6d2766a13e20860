package broker

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// byHand is for a broker whose checkpoints are made by the test.
func byHand(o *Options) { o.ArenaSize, o.SegmentSize, o.CheckpointEvery = 64<<10, 64<<10, 1<<40 }

func checkpoint(t *testing.T, b *Broker) {
	t.Helper()
	quiet(t, b)
	if err := b.checkpt.final(); err != nil {
		t.Fatal(err)
	}
}

// loseCheckpoint does something to the newer of two checkpoints in a directory.
func loseCheckpoint(t *testing.T, dir string, how func(string) error) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "state", "*.ckpt"))
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	if err := how(slices.Max(files)); err != nil {
		t.Fatal(err)
	}
}

// The index goes on with the newest checkpoint: pages that this one does not name
// have other queues' entries. The one before it must not be used with them.
func TestABrokerStartsFromTheCheckpointBeforeTheNewest(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, byHand)
	makeTopic(t, b, "Q", topic.Normal, 1)
	makeTopic(t, b, "R", topic.Normal, 1)
	makeTopic(t, b, "Stay", topic.Normal, 1)
	send(t, b, "Stay", msg("1", "1")) // and with it the file
	fill := func(topic string) {
		for i := range 200 {
			send(t, b, topic, msg(fmt.Sprint(i), fmt.Sprint(i)))
		}
	}
	fill("Q")
	checkpoint(t, b)
	deleteMessage(t, b, "Q", "0") // whose entry a restart from here looks for
	if _, err := b.PurgeTopic(t.Context(), name("Q"), PurgeRequest{}); err != nil {
		t.Fatal(err)
	}
	checkpoint(t, b)
	fill("R")
	for _, damage := range []func(string) error{os.Remove, func(path string) error { return os.WriteFile(path, []byte("x"), 0o644) }} {
		left := copyOf(t, dir, "")
		loseCheckpoint(t, left, damage)
		again := open(t, left, byHand)
		if got := readAll(t, again, "R"); len(got) != 200 {
			t.Errorf("R has %d messages", len(got))
		}
		if got := readAll(t, again, "Q"); len(got) != 0 {
			t.Errorf("Q has %v", got)
		}
		survivesKills(t, again, left, byHand)
	}
}

// The older checkpoint knows of messages that were there, and of a pending timer
// that fired since: retention has taken their records. With the timer's bucket gone
// the index is made again, without one it is as it was.
func TestABrokerStartsFromTheCheckpointBeforeWhatRetentionTook(t *testing.T) {
	for _, timer := range []bool{false, true} {
		dir, w := t.TempDir(), &wall{}
		options := func(o *Options) { byHand(o); w.option(o); o.RetentionAge = retainAge }
		b := open(t, dir, options)
		h := &oldPayloads{t: t, b: b, dir: dir}
		makeTopic(t, b, "D", topic.Delay, 1)
		makeTopic(t, b, "Q", topic.Normal, 1)
		makeTopic(t, b, "F", topic.Normal, 1)
		if timer {
			send(t, b, "D", delayed("moved", "moved", w.now().Add(time.Hour)))
		}
		send(t, b, "Q", msg("old", "old"))
		end := b.wal.Committed()
		h.fill(2)
		old := w.now().Add(retainAge)
		checkpoint(t, b)
		w.jump(2 * time.Hour)
		for b.timers.Stats().Pending > 0 {
			time.Sleep(time.Millisecond)
		}
		h.fill(1)
		checkpoint(t, b)
		b.retain(old)
		if b.wal.First() < end {
			t.Fatal("nothing was dropped")
		}
		left := copyOf(t, dir, "")
		loseCheckpoint(t, left, os.Remove)
		again := open(t, left, options)
		if timer {
			want(t, receive(t, again, "D", "G"), "moved#1")
		}
		tp, _ := again.Route(name("Q"))
		if low, high, _ := again.index.Bounds(record.Key(tp.ID, 0)); low != 1 || high != 1 {
			t.Errorf("timer %v: the queue of a message that is gone has [%d, %d)", timer, low, high)
		}
	}
}

// A group that is new to a queue without its beginning begins at its end. One that
// has seen the queue empty, or left what was there to others, is not new.
func TestAGroupIsRememberedWhereItTookNothing(t *testing.T) {
	dir := t.TempDir()
	options := func(o *Options) { byHand(o); o.RetentionAge = retainAge }
	b := open(t, dir, options)
	h := &oldPayloads{t: t, b: b, dir: dir}
	makeTopic(t, b, "Q", topic.Normal, 1)
	makeTopic(t, b, "F", topic.Normal, 1)
	want(t, receive(t, b, "Q", "Empty"))
	send(t, b, "Q", msg("old", "old"))
	tagged := func(r *ReceiveRequest) { r.FilterType, r.Filter = FilterTag, "new" }
	want(t, receive(t, b, "Q", "Filtered", tagged))
	end := b.wal.Committed()
	h.fill(2)
	old := time.Now().Add(retainAge)
	time.Sleep(2 * time.Millisecond) // segments are kept by the millisecond
	for range 2 {
		h.fill(1)
		checkpoint(t, b)
	}
	b.retain(old)
	if b.wal.First() < end {
		t.Fatal("nothing was dropped")
	}
	m := msg("new", "new")
	m.Tag = "new"
	send(t, b, "Q", m)
	closeBroker(t, b)
	b = open(t, dir, options)
	want(t, receive(t, b, "Q", "Empty"), "new#1")
	want(t, receive(t, b, "Q", "Filtered", tagged), "new#1")
	want(t, receive(t, b, "Q", "New"))
}
