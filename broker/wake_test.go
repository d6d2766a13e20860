package broker

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/topic"
)

func TestReceivePassesAnyNumberOfUnwantedMessages(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 1)
	for i := range 3 {
		batch := make([]Outgoing, MaxSendBatch)
		for j := range batch {
			batch[j] = msg(fmt.Sprint(i, j), "x")
			batch[j].Tag = "X"
		}
		for range scanBudget / MaxSendBatch {
			send(t, b, "T", batch...)
		}
	}
	wanted := msg("a", "wanted")
	wanted.Tag = "A"
	send(t, b, "T", wanted)
	want(t, receive(t, b, "T", "G", func(r *ReceiveRequest) { r.Filter = "A" }), "wanted#1")
}

// TestNoMessageWaitsBesideAParkedReceive sends two messages, one after the
// other, to two receives that wait. The second message may come while the
// receive that got the first still has the queue; the other must get it then.
func TestNoMessageWaitsBesideAParkedReceive(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 1)
	for i := range 1000 {
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan *Delivery, 2)
		for range cap(got) {
			go func() {
				d, err := b.Receive(ctx, ReceiveRequest{ClientID: "c", Group: name("G"), Topic: name("T"), Queue: -1, Batch: 32, Invisible: MaxInvisible, Wait: time.Minute})
				if err != nil && ctx.Err() == nil {
					t.Errorf("round %d: %v", i, err)
				}
				got <- d
			}()
		}
		for range 2 {
			if _, err := b.Send(ctx, []Outgoing{{Topic: name("T"), ID: "m", Body: []byte("m")}}); err != nil {
				t.Fatal(err)
			}
		}
		receives, messages := 0, 0
		for messages < 2 && receives < cap(got) {
			d := <-got
			receives++
			if d != nil {
				messages += len(d.Messages)
				d.Release()
			}
		}
		cancel()
		for ; receives < cap(got); receives++ {
			<-got
		}
		if messages < 2 {
			t.Fatalf("round %d: %d messages in %d receives", i, messages, receives)
		}
	}
}
