//go:build !race

// The race detector has pools forget at random.

package broker

import (
	"bytes"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/topic"
)

// What the two hot paths allocate, everything in the process counted: the log,
// the dispatcher and the index too.
func TestHotPathsHardlyAllocate(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 4)
	batch := make([]Outgoing, MaxReceiveBatch)
	for i := range batch {
		batch[i] = msg("0170C0035AC5673D2D5A0A5C1DF1390299", "")
		batch[i].Topic, batch[i].Tag, batch[i].Body = name("T"), "A", bytes.Repeat([]byte("x"), 1024)
	}
	acks := make([]AckEntry, 0, MaxReceiveBatch)
	sendBatch := func(n int) {
		if _, err := b.Send(t.Context(), batch[:n]); err != nil {
			t.Fatal(err)
		}
	}
	receiveAndAck := func(n int) {
		d, err := b.Receive(t.Context(), ReceiveRequest{ClientID: "c", Group: name("G"), Topic: name("T"), Queue: -1, Batch: n, Invisible: MinInvisible, Filter: "A", Wait: time.Minute})
		if err != nil || len(d.Messages) != n {
			t.Fatal(d, err)
		}
		acks = acks[:0]
		for _, m := range d.Messages {
			acks = append(acks, AckEntry{Handle: m.Handle})
		}
		d.Release()
		if _, err := b.Ack(t.Context(), name("G"), name("T"), acks); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 { // pools and maps reach their size
		sendBatch(MaxReceiveBatch)
		receiveAndAck(MaxReceiveBatch)
	}
	for _, c := range []struct {
		name        string
		n           int
		send, again float64 // allocations of a send, and of a receive with its ack
	}{
		{"one message", 1, 4, 16},
		{"32 messages", MaxReceiveBatch, 4, 16},
	} {
		send := testing.AllocsPerRun(50, func() { sendBatch(c.n) })
		again := testing.AllocsPerRun(50, func() { receiveAndAck(c.n) })
		t.Logf("%s: a send allocates %v times, a receive with its ack %v times", c.name, send, again)
		if send > c.send || again > c.again {
			t.Errorf("want at most %v and %v", c.send, c.again)
		}
	}
}
