package client

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gantry-mq/gantry/proto/gantryv1"
	"github.com/gantry-mq/gantry/proto/stream"
)

// subscription is what a consumer has of one shard.
type subscription struct {
	opts  ConsumerOptions // the consumer's; the prefetch is this one's share
	feed  feed
	inbox *inbox[Delivery] // the consumer's
	store uint64           // of the stream that is open

	mu sync.Mutex
	// held is what was received and is not settled; owed of it is what the broker
	// has no credit for yet.
	held, heldBytes int
	owed, owedBytes int
	stopping        bool // wants no more messages
	stopped         bool // and has told the broker
	err             error
	settles         []settle   // to be sent
	sent            []settling // not answered, in order
	settleID        uint64
	changed         chan struct{} // closed and made anew when sent or settles shrink
}

func (s *subscription) subscribe() *gantryv1.Subscribe {
	s.mu.Lock()
	defer s.mu.Unlock()
	lease := &gantryv1.LeaseMode{LiteTopics: s.opts.LiteTopics}
	if s.opts.Invisible > 0 {
		lease.Invisible = durationpb.New(s.opts.Invisible)
	}
	sub := &gantryv1.Subscribe{
		Agent:    agent(),
		ClientId: s.feed.c.opts.ID, Group: s.feed.c.resource(s.opts.Group), Topic: s.feed.c.resource(s.opts.Topic),
		Mode: &gantryv1.Subscribe_Lease{Lease: lease},
		Credit: &gantryv1.ConsumeCredit{
			Bytes: uint64(max(s.opts.PrefetchBytes-s.heldBytes, 1)), Messages: uint32(max(s.opts.Prefetch-s.held, 1)),
		},
	}
	setFilter(sub, s.opts.Tag, s.opts.SQL)
	s.owed, s.owedBytes = 0, 0
	s.stopped = false
	// What was not answered is asked again.
	var again []settle
	for _, st := range s.sent {
		for _, e := range st.entries {
			e.again = true
			again = append(again, e)
		}
	}
	s.settles, s.sent = append(again, s.settles...), nil
	return sub
}

// frame takes a frame apart into one slab of deliveries, which alias its records.
func (s *subscription) frame(f *stream.Frame) error {
	n := 0
	for _, r := range f.Runs {
		n += int(r.Count)
	}
	slab := make([]Delivery, 0, n+1)
	size := 0
	w := walk{frame: f}
	for slab = append(slab, Delivery{}); w.next(&slab[len(slab)-1].view); slab = append(slab, Delivery{}) {
		d := &slab[len(slab)-1]
		d.store, d.topic, d.queue = s.store, s.opts.Topic, s.feed.at.queue(f.Queue)
		d.of, d.lease, d.bytes, d.end = s, w.lease(), w.padded, f.LeaseEnd
		size += d.bytes
	}
	slab = slab[:len(slab)-1]
	if w.err != nil {
		return w.err
	}
	s.mu.Lock()
	s.held += len(slab)
	s.heldBytes += size
	s.mu.Unlock()
	s.inbox.put(slab)
	return nil
}

// broken forgets what nobody has taken and the broker will hand out again.
func (s *subscription) broken() {
	if s.opts.Invisible > 0 {
		return // it is held until then whoever is connected
	}
	for _, slab := range s.inbox.drop(func(d *Delivery) bool { return d.of == s }) {
		s.mu.Lock()
		for i := range slab {
			s.held--
			s.heldBytes -= slab[i].bytes
		}
		s.mu.Unlock()
	}
}

func (s *subscription) ended(err error) {
	if err == nil {
		err = ErrClosed
	}
	s.inbox.end(err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	for _, st := range s.sent {
		failSettles(st.entries, fmt.Errorf("%w: %w", ErrUnknown, err))
	}
	failSettles(s.settles, err)
	s.settles, s.sent = nil, nil
	s.notify()
}

func (s *subscription) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// stopReceiving has the broker send no more; what was received may be settled.
func (s *subscription) stopReceiving() {
	s.mu.Lock()
	s.stopping = true
	s.mu.Unlock()
	s.feed.wake()
}

// settled waits until everything that was settled is answered.
func (s *subscription) settled(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.err == nil && len(s.settles)+len(s.sent) > 0 {
		changed := s.changed
		s.mu.Unlock()
		s.feed.wake()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		s.mu.Lock()
		if ctx.Err() != nil {
			return fmt.Errorf("gantry: not everything was settled: %w", ctx.Err())
		}
	}
	return nil
}
