package broker

import (
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// TestRetentionTakesWhatWaitsForRedelivery checks that a message which the log
// no longer holds is settled, whether it has attempts left or not, and does not
// keep its group from anything else.
func TestRetentionTakesWhatWaitsForRedelivery(t *testing.T) {
	for name1, attempts := range map[string]int32{"attempts left": 3, "its last attempt": 1} {
		t.Run(name1, func(t *testing.T) {
			b := open(t, t.TempDir(), func(o *Options) { o.SegmentSize, o.CheckpointEvery, o.RetentionSize = 64<<10, 32<<10, 128<<10 })
			makeTopic(t, b, "T", topic.Normal, 1)
			makeTopic(t, b, "Other", topic.Normal, 1)
			if _, err := b.CreateGroup(t.Context(), group.Group{Name: name("G"), MaxAttempts: attempts}); err != nil {
				t.Fatal(err)
			}
			send(t, b, "T", msg("1", "old"))
			got := receive(t, b, "T", "G")
			want(t, got, "old#1")
			if _, err := b.ChangeInvisible(t.Context(), name("G"), name("T"), got[0].Handle, 0, false); err != nil {
				t.Fatal(err)
			}
			release(got)
			retained(t, b, record.Key(got[0].Message.Topic, 0))
			send(t, b, "T", msg("2", "new"))
			want(t, receive(t, b, "T", "G"), "new#1")
			want(t, receive(t, b, "T", "G"))
			if _, queues, err := b.GroupStatus(name("G")); err != nil || len(queues) != 1 || queues[0].Ready != 0 || queues[0].InFlight != 1 {
				t.Fatalf("%+v, %v", queues, err)
			}
		})
	}
}

// retained has retention take what a queue holds, for the sake of topic Other.
func retained(t *testing.T, b *Broker, key record.QueueKey) {
	t.Helper()
	for i := 0; ; i++ {
		if low, high, _ := b.index.Bounds(key); low == high {
			return
		}
		if i == 1000 {
			t.Fatal("retention drops nothing")
		}
		send(t, b, "Other", Outgoing{ID: "x", Body: make([]byte, 30<<10)})
		b.retain(time.Now())
	}
}

// What was planned to be handed out again, retention has taken. Then a receive looks
// at what is less urgent, and does not come back with nothing.
func TestRetentionTakesWhatWasMoreUrgent(t *testing.T) {
	b := open(t, t.TempDir(), func(o *Options) { o.SegmentSize, o.CheckpointEvery, o.RetentionSize = 64<<10, 32<<10, 128<<10 })
	makeTopic(t, b, "T", topic.Priority, 4)
	makeTopic(t, b, "Other", topic.Normal, 1)
	send(t, b, "T", urgent(1, "some"), urgent(2, "more"), urgent(3, "most"))
	top := receive(t, b, "T", "G")
	want(t, top, "most#1", "more#1", "some#1")
	release(top)
	retained(t, b, record.Key(top[0].Message.Topic, 1))
	send(t, b, "T", urgent(0, "low"))
	low := receive(t, b, "T", "G")
	want(t, low, "low#1")
	for _, m := range append(low, top...) {
		if _, err := b.ChangeInvisible(t.Context(), name("G"), name("T"), m.Handle, 0, false); err != nil {
			t.Fatal(err)
		}
	}
	want(t, receive(t, b, "T", "G", batchOf(1)), "low#2")
}

func release(ms []Delivered) {
	d := Delivery{Messages: ms}
	d.Release()
}
