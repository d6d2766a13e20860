package client

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/proto/gantryv1"
	"github.com/gantry-mq/gantry/proto/stream"
)

func TestABatchIsFilledUntilTheWindowHasRoomForIt(t *testing.T) {
	turns := new(turn)
	turns.lanes.Store(1)
	p := &lane{
		turn: turns,
		c:    &Client{}, enough: 1 << 20, open: newOpenBatches(), kick: make(chan struct{}, 1), changed: make(chan struct{}),
		opts:   ProducerOptions{BatchBytes: 1 << 20, BatchMessages: 1000, MaxBuffered: 1 << 20, Linger: time.Nanosecond},
		window: &gantryv1.PublishWindow{Bytes: 1 << 20, Batches: 2},
		limits: &gantryv1.PublishOpened{},
	}
	give := func() {
		for i := range 5 {
			if err := p.add(context.Background(), &Message{Topic: fmt.Sprint("t", i), Body: []byte("body")}, record.KindMessage, 0, nil); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Millisecond) // longer than any may linger
	}
	var req stream.PublishRequest
	sent := func() (n int) {
		for {
			if _, ok := p.next(&req); !ok {
				return n
			}
			n++
		}
	}
	give()
	if n := sent(); n != 2 {
		t.Fatalf("%d batches were sent, the window is 2", n)
	}
	give()
	if err := p.answered(&gantryv1.PublishResult{Sequence: 1, Runs: []*gantryv1.PublishRun{{Count: 1}}}); err != nil {
		t.Fatal(err)
	}
	if n := sent(); n != 1 {
		t.Fatalf("%d batches were sent after an answer", n)
	}
	if req.Batch.Topic != "t2" {
		t.Errorf("the third batch is of topic %s", req.Batch.Topic)
	}
	if b := p.queue[p.sent-1]; len(b.starts) != 2 {
		t.Errorf("it has %d messages, though the second was given before it could be sent", len(b.starts))
	}
}
