package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/replica"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// What one shard needs of the leader of another, which may be on another node, it asks
// over the port between nodes, as JSON. Who may ask was checked by who was asked first.

// order is one of these.
type order struct {
	Group  *record.Resource `json:",omitempty"` // let it come into being
	Recall *recall          `json:",omitempty"` // a delayed message
	Reach  bool             `json:",omitempty"` // how far is what any node has seen committed
}

type recall struct {
	Topic  record.Resource
	Handle string
}

type reply struct {
	Failed    string          `json:",omitempty"` // why, in words
	Reason    broker.Reason   `json:",omitempty"`
	MessageID string          `json:",omitempty"`
	Position  record.Position `json:",omitempty"`
}

// order has the leader of a shard do something.
func (s *Shards) order(ctx context.Context, shard int, o order) (r reply, err error) {
	l := s.all[shard].Load()
	if l == nil {
		return r, broker.Errorf(broker.Unavailable, "this node is no member of shard %d yet", shard)
	}
	raw, err := json.Marshal(o)
	if err != nil {
		return r, err
	}
	raw, err = l.node.Order(ctx, raw)
	if err != nil {
		return r, broker.Errorf(broker.Unavailable, "shard %d does not answer: %w", shard, err)
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, fmt.Errorf("node: the answer of shard %d: %w", shard, err)
	}
	if r.Failed != "" {
		return r, broker.Errorf(r.Reason, "%s", r.Failed)
	}
	return r, nil
}

// leading is the broker of the term in which this node leads.
type leading struct {
	mu     sync.RWMutex // read-held by who uses it
	broker *broker.Broker
}

// set lets orders come to b, nil: none. What uses the one before has ended when it
// returns.
func (l *leading) set(b *broker.Broker) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broker = b
}

// obey does what another shard, or another node for it, wants of the leader of this one.
func (l *life) obey(ctx context.Context, raw []byte) ([]byte, error) {
	l.leading.mu.RLock()
	defer l.leading.mu.RUnlock()
	b := l.leading.broker
	if b == nil {
		return nil, replica.ErrNotLeading
	}
	var o order
	if err := json.Unmarshal(raw, &o); err != nil {
		return nil, fmt.Errorf("node: an order: %w", err)
	}
	var r reply
	var err error
	switch {
	case o.Group != nil:
		_, err = b.EnsureGroup(ctx, *o.Group)
	case o.Recall != nil:
		r.MessageID, err = b.Recall(ctx, o.Recall.Topic, o.Recall.Handle)
	case o.Reach:
		if err := l.node.Barrier(); err != nil {
			return nil, err
		}
		r.Position = b.Committed()
	default:
		err = errors.New("this node does not understand the order")
	}
	if err != nil {
		r.Failed, r.Reason = err.Error(), broker.ReasonOf(err)
	}
	return json.Marshal(r)
}
