package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

const (
	payWithin  = 4 * time.Second
	badRequest = 40000 // the status of a recall that comes too late, or twice
)

// A till gives each order that arrives some time to be paid: a delayed message that comes when the time is over, unless it is recalled.
type till struct {
	producer rmq.Producer
	orders   map[string]*order
	open     journal // orders that arrived
	paid     journal
	expired  journal // orders whose timeout arrived

	mu      sync.Mutex
	handles map[string]string // recall handles by order
	latest  time.Duration     // the longest that a timeout was late
}

// arrive is the consumer of the topic orders.
func (t *till) arrive(mv *rmq.MessageView) bool {
	o := t.orders[string(mv.GetBody())]
	if o == nil {
		t.open.fault("%q is no order", mv.GetBody())
		return true
	}
	if !o.valid {
		t.open.fault("%s arrived, but was rolled back", o.id)
		return true
	}
	if !t.open.add(o.id) {
		return true
	}
	if err := t.takePayment(o); err != nil {
		t.open.fault("%s: %w", o.id, err)
	}
	return true
}

func (t *till) takePayment(o *order) error {
	m := &rmq.Message{Topic: "payment-timeouts", Body: []byte(o.id)}
	m.SetDelayTimestamp(time.Now().Add(payWithin))
	receipts, err := t.producer.Send(context.Background(), m)
	if err != nil {
		return err
	}
	handle := receipts[0].RecallHandle
	t.mu.Lock()
	t.handles[o.id] = handle
	t.mu.Unlock()
	if !o.paid {
		return nil
	}
	id, err := t.producer.Recall(context.Background(), m.Topic, handle)
	if err != nil {
		return fmt.Errorf("recall: %w", err)
	}
	if id != receipts[0].MessageID {
		return fmt.Errorf("recall of %s returned %s", receipts[0].MessageID, id)
	}
	t.paid.add(o.id)
	return nil
}

// expire is the consumer of the topic payment-timeouts.
func (t *till) expire(mv *rmq.MessageView) bool {
	id := string(mv.GetBody())
	due := mv.GetDeliveryTimestamp()
	switch {
	case due == nil:
		t.expired.fault("the timeout of %s has no delivery time", id)
		return true
	case time.Now().Before(*due):
		t.expired.fault("the timeout of %s arrived %v early", id, time.Until(*due))
		return true
	}
	if t.expired.add(id) {
		t.mu.Lock()
		t.latest = max(t.latest, time.Since(*due))
		t.mu.Unlock()
	}
	return true
}

func (t *till) lateness() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.latest
}

// tooLate recalls every timeout once more: the ones that were recalled before, and the ones that arrived. All must be refused.
func (t *till) tooLate(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, handle := range t.handles {
		_, err := t.producer.Recall(ctx, "payment-timeouts", handle)
		var status *rmq.ErrRpcStatus
		if !errors.As(err, &status) || status.Code != badRequest {
			return fmt.Errorf("a second recall for %s: %v, want status %d", id, err, badRequest)
		}
	}
	return nil
}
