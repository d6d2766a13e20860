package broker

import (
	"strings"
	"sync"
	"time"

	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// StepKind is what happened to a message.
type StepKind int

const (
	StepStore   StepKind = iota // a producer's send, until it was durable
	StepDeliver                 // from the look at its queue until its lease was durable
	StepSettle                  // a decision about a delivery, until it was durable
)

// Step is something that happened to a message whose producer sends a trace context
// with it and wants it to be recorded.
type Step struct {
	Kind         StepKind
	Trace        string // W3C traceparent, as the producer gave it
	Began, Ended time.Time
	Topic        record.Resource
	Group        record.Resource // of deliveries and what settles them
	MessageID    string
	Queue        uint32             // of deliveries and what settles them
	Offset       record.QueueOffset // likewise
	Attempt      int32              // likewise
	Client       string             // who has it; "" = not known
	Outcome      string             // of StepSettle
	Held         time.Duration      // of StepSettle: since the delivery
}

// tracedDeliveries is how many deliveries are remembered at least, for what settles
// them: an acknowledgement names a place, not a message.
const tracedDeliveries = 16 << 10

// tracer tells Options.Trace of steps. A nil one, the usual one, does nothing.
type tracer struct {
	tell func(Step)

	mu       sync.Mutex
	new, old map[tracedKey]Step // guarded by mu; deliveries, and when the new ones are many they become the old ones
}

type tracedKey struct {
	sub    inflight.SubKey
	queue  uint32
	offset record.QueueOffset
}

func newTracer(tell func(Step)) *tracer {
	if tell == nil {
		return nil
	}
	return &tracer{tell: tell, new: map[tracedKey]Step{}}
}

// begin is when a step begins.
func (t *tracer) begin() (began time.Time) {
	if t != nil {
		began = time.Now()
	}
	return began
}

// wanted reports whether a traceparent (version-trace-parent-flags in hex) says that
// its trace is recorded.
func wanted(traceparent string) bool {
	const flags = len("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0")
	return len(traceparent) > flags && strings.IndexByte("13579bdfBDF", traceparent[flags]) >= 0
}

// stored tells of messages of one send. msgs are still the sender's.
func (t *tracer) stored(began time.Time, msgs []Outgoing) {
	if t == nil {
		return
	}
	for i := range msgs {
		if m := &msgs[i]; wanted(m.Trace) {
			t.tell(Step{Kind: StepStore, Began: began, Ended: time.Now(), Trace: strings.Clone(m.Trace), MessageID: strings.Clone(m.ID),
				Topic: record.Resource{Namespace: strings.Clone(m.Topic.Namespace), Name: strings.Clone(m.Topic.Name)}})
		}
	}
}

// packed notes an accepted entry of a pack, which its Wait tells of.
func (t *tracer) packed(p *Publishing, out *Outgoing) {
	if t != nil && wanted(out.Trace) {
		p.traced = append(p.traced, Step{Kind: StepStore, Trace: strings.Clone(out.Trace), MessageID: strings.Clone(out.ID), Topic: p.topic.Name})
	}
}

// published tells of what was noted.
func (t *tracer) published(began time.Time, steps []Step) {
	for _, s := range steps {
		s.Began, s.Ended = began, time.Now()
		t.tell(s)
	}
}

// delivered tells of what a receive has found, and remembers it.
func (t *tracer) delivered(began time.Time, r *receiving) {
	if t == nil {
		return
	}
	for i := range r.found {
		f := &r.found[i]
		trace, ok := f.loaded.msg.Properties.Lookup(record.FieldTrace)
		if !ok || !wanted(string(trace)) {
			continue
		}
		id, _ := f.loaded.msg.Properties.Lookup(record.FieldMessageID)
		s := Step{
			Kind: StepDeliver, Trace: string(trace), Began: began, Ended: time.Now(), Topic: r.topic.Name, Group: r.group.Name,
			MessageID: f.loaded.id + string(id), Queue: f.held.Queue, Offset: f.held.Offset, Attempt: f.held.Attempt, Client: strings.Clone(r.req.ClientID),
		}
		t.remember(tracedKey{r.sub.Key(), s.Queue, s.Offset}, s)
		t.tell(s)
	}
}

func (t *tracer) remember(key tracedKey, s Step) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.new) >= tracedDeliveries {
		t.old, t.new = t.new, map[tracedKey]Step{}
	}
	t.new[key] = s
}

// settled tells what became of deliveries.
func (t *tracer) settled(began time.Time, sub *inflight.Sub, held []inflight.Held, outcome string) {
	if t == nil {
		return
	}
	for i := range held {
		t.settle(began, sub, &held[i], outcome)
	}
}

func (t *tracer) settle(began time.Time, sub *inflight.Sub, h *inflight.Held, outcome string) {
	key := tracedKey{sub.Key(), h.Queue, h.Offset}
	t.mu.Lock()
	s, ok := t.new[key]
	if !ok {
		s, ok = t.old[key]
	}
	delete(t.new, key)
	delete(t.old, key)
	t.mu.Unlock()
	if !ok {
		return
	}
	s.Kind, s.Held, s.Outcome = StepSettle, began.Sub(s.Ended), outcome
	s.Began, s.Ended = began, time.Now()
	t.tell(s)
}
