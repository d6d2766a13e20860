package broker

import (
	"fmt"
	"slices"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// look sees what has happened since the last look: what has come into queues, and
// what retention and lite topics' time have taken. Each must have a reason in
// the model, and what must have happened has.
func (s *sim) look() {
	s.quiet()
	s.lookForTimers()
	s.lookForChecks()
	if g := s.polling; g != nil { // it buries by itself
		queues := anyQueue
		if g.ofLites { // which ones it has may have changed since
			queues = func(uint32) bool { return true }
		}
		for e := range s.ready(g, s.now(), queues).burying {
			g.dying[e] = &simDying{attempts: g.places[e].attempt, reason: reasonAttempts}
		}
	}
	for _, g := range sorted(s.groups) { // dead-letter topics come by themselves
		n := DLQPrefix + g
		if tp, ok := s.b.topics.Lookup(name(n)); ok && s.topics[n] == nil {
			s.topics[n] = newSimTopic(tp)
		}
	}
	for _, n := range sorted(s.topics) {
		s.lookAtTopic(s.topics[n])
	}
	for _, n := range sorted(s.groups) {
		g := s.groups[n]
		for e, d := range g.dying {
			if d.must {
				s.failf("%v is not among the dead letters of %s", e, n)
			}
		}
		clear(g.dying)
	}
	s.seen = s.b.wal.Committed()
}

func (s *sim) lookAtTopic(tp *simTopic) {
	if now, ok := s.b.topics.Lookup(tp.Name); !ok || now != tp.Topic {
		s.failf("topic %s is %+v, want %+v", tp.name, now, tp.Topic)
	}
	s.lookForLites(tp)
	for _, n := range sorted(tp.queues) {
		s.lookAtQueue(tp, n)
	}
	for _, c := range tp.coming {
		if c.must {
			s.failf("%s is not in %s", c.m.id, tp.name)
		}
	}
	tp.coming = nil
}

// lookForLites makes the queues of lite topics that are new, and forgets those
// whose time is over.
func (s *sim) lookForLites(tp *simTopic) {
	there := map[string]bool{}
	for _, l := range s.b.lites.List(tp.ID) {
		there[l.Name] = true
		if q, ok := tp.lites[l.Name]; ok && q == l.Queue {
			continue
		}
		if tp.queues[l.Queue] != nil {
			s.failf("the lite topic %s of %s has the queue %d, which was another's", l.Name, tp.name, l.Queue)
		}
		tp.lites[l.Name] = l.Queue
		tp.queues[l.Queue] = &simQueue{}
		s.logf("lite topic %s has queue %d", l.Name, l.Queue)
	}
	now := s.now()
	for _, n := range sorted(tp.lites) {
		q := tp.queues[tp.lites[n]]
		unused := int64(0)
		if len(q.entries) > 0 {
			unused = now - q.entries[len(q.entries)-1].stored
		}
		switch ttl := tp.LiteTTL.Milliseconds(); {
		case !there[n] && (ttl == 0 || unused <= ttl):
			s.failf("the lite topic %s of %s is gone %d ms after its last message", n, tp.name, unused)
		case there[n] && ttl > 0 && unused > ttl+3*housekeepEvery.Milliseconds():
			s.failf("the lite topic %s of %s is there %d ms after its last message", n, tp.name, unused)
		case !there[n]:
			s.logf("lite topic %s is gone", n)
			delete(tp.queues, tp.lites[n])
			delete(tp.lites, n)
		}
	}
}

func (s *sim) lookAtQueue(tp *simTopic, n uint32) {
	q := tp.queues[n]
	low, high, _ := s.b.index.Bounds(record.Key(tp.ID, n))
	s.lookForRetention(tp, q, n, int(low))
	if int(high) < len(q.entries) {
		s.failf("queue %d of %s ends at %d, it had %d", n, tp.name, high, len(q.entries))
	}
	for off := len(q.entries); off < int(high); off++ {
		e := &simEntry{topic: tp, queue: n, offset: off}
		q.entries = append(q.entries, e)
		if off < q.low {
			s.failf("%s/%d/%d came and was gone before anybody could see it", tp.name, n, off)
		}
		s.arrive(e)
	}
}

// arrive finds out what a new entry is.
func (s *sim) arrive(e *simEntry) {
	tp := e.topic
	l, err := s.b.load(tp.Topic, e.queue, record.QueueOffset(e.offset))
	if err != nil {
		s.failf("a new entry, %s/%d/%d: %w", tp.name, e.queue, e.offset, err)
	}
	defer l.release()
	entry, _, err := s.b.payloadOf(tp.Topic, e.queue, record.QueueOffset(e.offset))
	s.must(err)
	e.stored, e.after = entry.StoreTime, s.seen
	number := numberOf(&l.msg)
	is := func(c *simComing) bool { return c.m.number == number && (c.queue < 0 || uint32(c.queue) == e.queue) }
	if i := slices.IndexFunc(tp.coming, is); i >= 0 {
		e.m = tp.coming[i].m
		tp.coming = slices.Delete(tp.coming, i, i+1)
	} else if e.letter = s.arriveDead(e); e.letter == nil {
		s.failf("%s came into %s/%d/%d, coming are %v", idOf(&l.msg), tp.name, e.queue, e.offset, tp.coming)
	}
	if err := e.m.check(&l.msg); err != nil {
		s.failf("%v: %w", e, err)
	}
	s.logf("%v", e)
}

// arriveDead finds out where a new dead letter is from, nil when it is none.
func (s *sim) arriveDead(e *simEntry) (letter *simLetter) {
	if !isDLQ(e.topic.Topic) {
		return nil
	}
	g := s.groups[e.topic.name[len(DLQPrefix):]]
	s.must(s.b.DeadLetter(s.t.Context(), name(g.name), record.QueueOffset(e.offset), func(dl *DeadLetter, m *record.Message) error {
		for from, d := range g.dying {
			if from.topic.ID != dl.Origin.ID || from.queue != dl.Origin.Queue || from.offset != int(dl.Origin.Offset) {
				continue
			}
			if dl.Attempts != d.attempts || dl.Reason != d.reason || dl.MessageID != from.m.id || dl.State != DeadOpen {
				return fmt.Errorf("the dead letter %+v of %v, want %+v", dl, from, *d)
			}
			delete(g.dying, from)
			letter = &simLetter{from: from, attempts: d.attempts, reason: d.reason}
			e.m = from.m
			p := g.places[from]
			if p == nil { // put aside behind another, and skipped
				p = &simPlace{}
				g.places[from] = p
			}
			p.settled = true
			g.freed = e.stored
			return nil
		}
		return fmt.Errorf("%s#%d (%s) became a dead letter of %s, dying are %v", dl.MessageID, dl.Attempts, dl.Reason, g.name, g.dying)
	}))
	return letter
}

// lookForTimers says what has come due.
func (s *sim) lookForTimers() {
	now := s.now()
	for _, t := range s.timers {
		if !t.fired && !t.recalled && t.due <= now {
			t.fired = true
			t.topic.expect(t.m, t.queue, true)
		}
	}
}

// lookForChecks sees that each undecided half message was asked about as often as
// it should, and is parked when nobody answered.
func (s *sim) lookForChecks() {
	now := s.now()
	producer, busy := s.clients[simProducer], s.asked.busy.Load()
	var due, maybe int
	for _, h := range s.halves {
		if h.outcome != 0 {
			continue
		}
		tx, err := s.b.Transaction(s.t.Context(), h.id)
		s.must(err)
		for !h.parked && h.next <= now {
			at := max(h.next, s.opened)
			// A silent producer may have been gone by then.
			silent := producer.live && at-producer.seen >= ClientExpiry.Milliseconds()
			switch {
			case h.checks >= simCheckMax:
				h.parked = true
			case !producer.live || !busy:
				h.checks++
				due++
			case silent && int(tx.Checks) > h.checks:
				h.checks++
			}
			if silent {
				maybe++
			}
			h.next = at + simCheckEvery.Milliseconds()
		}
		if tx.Decision != nil || tx.MessageID != h.m.id || int(tx.Checks) != h.checks || tx.Parked != h.parked {
			s.failf("the half message %s is %+v; want %d checks, parked %v", h.m.id, tx, h.checks, h.parked)
		}
	}
	asked := s.asked.take()
	if producer.live && !busy && (len(asked) > due || len(asked) < due-maybe) {
		s.failf("the producer was asked %d times, want %d", len(asked), due)
	}
	for _, id := range asked {
		if d, err := s.b.HalfMessage(s.t.Context(), id); err == nil {
			d.Release()
		} else if r := ReasonOf(err); r != PreconditionFailed && r != InvalidTransaction {
			s.failf("the message of a check: %w", err)
		}
	}
}
