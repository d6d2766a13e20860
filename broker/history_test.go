package broker

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// told is deliveries as number:client=end.
func told(list []inflight.Attempt) string {
	var out []string
	for _, a := range list {
		out = append(out, fmt.Sprintf("%d:%s=%v", a.Number, a.Owner, a.End))
	}
	return strings.Join(out, " ")
}

func TestDeadLettersTellEachOfTheirDeliveries(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	makeTopic(t, b, "T", topic.FIFO, 1)
	if _, err := b.CreateGroup(t.Context(), group.Group{Name: name("G"), FIFO: true, MaxAttempts: 3}); err != nil {
		t.Fatal(err)
	}
	began := time.Now().UnixMilli()
	send(t, b, "T", inGroups("a1", "b1", "c1")...)
	for try := range 3 { // a1 fails until it is dead
		got := receive(t, b, "T", "G", func(r *ReceiveRequest) {
			r.Batch, r.Wait, r.ClientID = 1, time.Minute, fmt.Sprint("client", try)
		})
		want(t, got, fmt.Sprintf("a1#%d", try+1))
		if _, err := b.ChangeInvisible(t.Context(), name("G"), name("T"), got[0].Handle, 0, false); err != nil {
			t.Fatal(err)
		}
		if try == 1 {
			keys, err := b.Blocked(name("G"), 0)
			if err != nil || told(keys[0].History) != "1:client0=changed 2:client1=changed" {
				t.Errorf("blocked: %+v, %v", keys, err)
			}
		}
	}
	got := receive(t, b, "T", "G", waiting)
	want(t, got, "b1#1", "c1#1")
	if err := b.ForwardToDeadLetter(t.Context(), name("G"), name("T"), got[0].Handle, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := b.Skip(t.Context(), name("G"), name("T"), 0, got[1].Offset); err != nil {
		t.Fatal(err)
	}
	closeBroker(t, b)
	b = open(t, dir)
	for i, want := range []string{"1:client0=changed 2:client1=changed 3:client2=changed", "1:c1=forwarded", "1:c1=skipped"} {
		err := b.DeadLetter(t.Context(), name("G"), record.QueueOffset(i), func(dl *DeadLetter, _ *record.Message) error {
			if got := told(dl.History); got != want {
				t.Errorf("%s: %s, want %s", dl.MessageID, got, want)
			}
			at := began
			for _, a := range dl.History {
				if a.Leased < at || a.Ended < a.Leased || a.Ended > dl.Died || a.End == inflight.EndChanged && a.Changed < a.Leased {
					t.Errorf("%s, dead at %d: %+v", dl.MessageID, dl.Died, a)
				}
				at = a.Ended
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestDeliveriesOfARetryingMessageOutliveARestart(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	makeTopic(t, b, "T", topic.FIFO, 1)
	if _, err := b.CreateGroup(t.Context(), group.Group{Name: name("G"), FIFO: true}); err != nil {
		t.Fatal(err)
	}
	send(t, b, "T", inGroups("a1", "a2")...)
	for _, clean := range []bool{false, true} {
		got := receive(t, b, "T", "G", waiting)
		if _, err := b.ChangeInvisible(t.Context(), name("G"), name("T"), got[0].Handle, 0, false); err != nil {
			t.Fatal(err)
		}
		if clean { // from the checkpoint; the other time from the log
			closeBroker(t, b)
			b = open(t, dir)
			continue
		}
		killed := t.TempDir()
		if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		dir = killed
		b = open(t, dir)
	}
	if keys, err := b.Blocked(name("G"), 0); err != nil || told(keys[0].History) != "1:c1=changed 2:c1=changed" {
		t.Errorf("%+v, %v", keys, err)
	}
}
