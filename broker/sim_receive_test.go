package broker

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/gantry-mq/gantry/broker/topic"
)

// request makes a receive of the group as one of its clients makes it.
func (s *sim) request(g *simGroup) ReceiveRequest {
	req := ReceiveRequest{
		ClientID: pick(s.r, g.clients), Group: name(g.name), Topic: name(g.topic), Queue: int32(s.r.IntN(4)) - 1,
		FilterType: g.filter.kind, Filter: g.filter.text, Batch: 1 + s.r.IntN(8),
		Invisible: MinInvisible + time.Duration(s.r.IntN(60_000))*time.Millisecond,
		AutoRenew: s.r.IntN(4) == 0,
	}
	if s.r.IntN(2) == 0 {
		req.AttemptID = fmt.Sprint("attempt", s.r.IntN(3))
	}
	return req
}

func (s *sim) receive() {
	g := s.group()
	if !g.ofLites {
		s.take(g, s.request(g), anyQueue)
	}
}

// take receives and holds what comes against what may. It returns how many came.
func (s *sim) take(g *simGroup, req ReceiveRequest, queues func(uint32) bool) int {
	d, can := s.ask(g, req, queues)
	return len(s.taken(g, &req, d, can, queues, false))
}

// ask makes a receive, after a look at what it may find.
func (s *sim) ask(g *simGroup, req ReceiveRequest, queues func(uint32) bool) (*Delivery, simReady) {
	s.quiet() // an ack is answered before it is applied, and makes room in ordered groups
	can := s.ready(g, s.now(), queues)
	d, err := s.b.Receive(s.t.Context(), req)
	if err != nil {
		s.wantReason("receive of "+g.name, err, MessageNotFound)
		d = &Delivery{}
	}
	return d, can
}

// taken takes in an answer and releases it. polled says that the receive waited:
// then it came back with the first of what came.
func (s *sim) taken(g *simGroup, req *ReceiveRequest, d *Delivery, can simReady, queues func(uint32) bool, polled bool) []*simEntry {
	now := s.now()
	var got []*simEntry
	for i := range d.Messages {
		got = append(got, s.delivered(g, &d.Messages[i]))
	}
	messages := slices.Clone(d.Messages)
	d.Release()
	if len(got)+len(can.sure)+len(can.burying) > 0 {
		s.logf("%s for %s (%d, %q) gets %v; sure are %d, maybe %d, dying %d", g.name, req.ClientID, req.Batch, req.AttemptID, got, len(can.sure), len(can.maybe), len(can.burying))
	}
	if again := s.repeated(g, req, now); g.isAgain(messages, got, again) {
		s.takenAgain(g, messages, got, again)
		return got
	}
	s.wantAmount(g, req, len(got), can, polled)
	if !polled {
		s.wantOrder(g, got, can)
	}
	for i, e := range got {
		m := &messages[i]
		if !can.sure[e] && !can.maybe[e] && (len(can.burying) == 0 || !s.freed(g, e, can)) {
			s.failf("%s got %v#%d, it has %+v of it", g.name, e, m.Attempt, g.places[e])
		}
		g.begin(e.queue, e.topic.queues[e.queue], e.offset)
		p := g.places[e]
		if p == nil {
			p = &simPlace{}
			g.places[e] = p
		}
		if p.attempt++; p.attempt != m.Attempt {
			s.failf("%s got %v as attempt %d, want %d", g.name, e, m.Attempt, p.attempt)
		}
		p.handle, p.by, p.owner, p.since, p.suspended = m.Handle, req.AttemptID, req.ClientID, now, false
		p.auto = req.AutoRenew && s.clients[req.ClientID].live
		lease := req.Invisible
		switch {
		case p.auto:
			lease = MaxHold
		case req.AutoRenew:
			lease = defaultInvisible
		}
		p.until(now + lease.Milliseconds())
		p.good = p.end
		g.handles = append(g.handles, simHandle{e, p.handle, p.good})
	}
	for e := range can.burying {
		g.dying[e] = &simDying{attempts: g.places[e].attempt, reason: reasonAttempts}
	}
	if len(got) < req.Batch && len(can.burying) == 0 {
		s.started(g, queues)
	}
	if len(got) == 0 && len(can.burying) == 0 {
		s.noticed(g, queues)
	}
	s.look()
	return got
}

// freed reports whether e waited behind something that this receive buried.
func (s *sim) freed(g *simGroup, e *simEntry, can simReady) bool {
	for dead := range can.burying {
		if g.ordered(e.topic) && dead.topic == e.topic && dead.queue == e.queue && dead.m.group == e.m.group && dead.offset < e.offset {
			return true
		}
	}
	return false
}

// until makes a place wait for a time, Unix ms.
func (p *simPlace) until(t int64) { p.early, p.late, p.end = t, t, t }

// delivered finds the entry that a message was delivered from.
func (s *sim) delivered(g *simGroup, m *Delivered) *simEntry {
	q := s.topics[g.topic].queues[m.Queue]
	if q == nil || int(m.Offset) >= len(q.entries) {
		s.failf("%s got %s from queue %d offset %d, where there is nothing", g.name, idOf(&m.Message), m.Queue, m.Offset)
	}
	e := q.entries[m.Offset]
	if err := e.m.check(&m.Message); err != nil {
		s.failf("%s got %v: %w", g.name, e, err)
	}
	if l := e.letter; l == nil != (m.Origin == nil) || l != nil && (m.Origin.Topic != l.from.topic.name || m.Origin.MessageID != e.m.id) {
		s.failf("%s got %v with the origin %+v", g.name, e, m.Origin)
	}
	return e
}

// repeated returns what an earlier receive with this attempt id holds: true, or
// perhaps holds: false.
func (s *sim) repeated(g *simGroup, req *ReceiveRequest, now int64) map[*simEntry]bool {
	again := map[*simEntry]bool{}
	for e, p := range g.places {
		if req.AttemptID != "" && !p.settled && p.by == req.AttemptID && p.owner == req.ClientID && now < p.late && !e.gone() {
			again[e] = now < p.early
		}
	}
	return again
}

// isAgain reports whether a receive was answered with what its attempt holds.
func (g *simGroup) isAgain(messages []Delivered, got []*simEntry, again map[*simEntry]bool) bool {
	for _, sure := range again {
		if sure {
			return true
		}
	}
	if len(got) == 0 {
		return false
	}
	_, ok := again[got[0]]
	return ok && messages[0].Handle == g.places[got[0]].handle
}

// takenAgain sees that a repeated receive gets what it holds, as it was.
func (s *sim) takenAgain(g *simGroup, messages []Delivered, got []*simEntry, again map[*simEntry]bool) {
	for i, e := range got {
		m, p := &messages[i], g.places[e]
		if _, ok := again[e]; !ok || m.Attempt != p.attempt || m.Handle != p.handle {
			s.failf("%s got %v#%d for an attempt that holds %+v of it", g.name, e, m.Attempt, p)
		}
		delete(again, e)
	}
	for e, sure := range again {
		if sure {
			s.failf("%s did not get %v, which its attempt holds", g.name, e)
		}
	}
}

func (s *sim) wantAmount(g *simGroup, req *ReceiveRequest, got int, can simReady, polled bool) {
	least, most := min(req.Batch, len(can.sure)), min(req.Batch, len(can.sure)+len(can.maybe))
	if len(can.burying) > 0 {
		most = req.Batch // what died makes room for what was behind it
	}
	planned := (s.topics[g.topic].Type == topic.Priority || g.ofLites) && s.holes(g) // which it plans to take is decided before a look at them
	if polled || planned || len(can.burying) > 0 || s.haunted(g) {
		least = min(1, least)
	}
	if got < least || got > most {
		s.failf("%s got %d of a batch of %d; there are %v, there may be %v", g.name, got, req.Batch, sortedEntries(can.sure), sortedEntries(can.maybe))
	}
}

// holes reports whether something may be planned for that is not there any more.
func (s *sim) holes(g *simGroup) bool { return s.trimmed || s.topics[g.topic].holes }

// haunted reports whether the group is to get something that retention took, or
// that it does not want: it takes a place in a batch, and is not found. In an
// ordered group it may have been put aside, which only the broker knows.
func (s *sim) haunted(g *simGroup) bool {
	if g.strays {
		return true
	}
	tp := s.topics[g.topic]
	for _, e := range tp.entries() {
		if p := g.places[e]; e.gone() && (p != nil && !p.settled || p == nil && g.ordered(tp) && g.wants(e)) {
			return true
		}
	}
	return false
}

// wantOrder sees that redeliveries come before what is new, the longest waiting
// first, and what is new without gaps in a queue; and more urgent messages before
// others, but for the share of those. can is as before the receive.
func (s *sim) wantOrder(g *simGroup, got []*simEntry, can simReady) {
	tp := s.topics[g.topic]
	if g.ordered(tp) || len(can.burying) > 0 {
		return
	}
	below := 0
	for _, e := range got {
		p := g.places[e]
		passed := false
		for left := range can.sure {
			if slices.Contains(got, left) {
				continue
			}
			l := g.places[left]
			level := tp.Type != topic.Priority || e.queue == left.queue
			passed = passed || tp.Type == topic.Priority && e.queue < left.queue
			switch {
			case p == nil && l != nil && level && !s.haunted(g) && !(tp.Type == topic.Priority && s.holes(g)): // else what was planned for was not there, and something new took its place
				s.failf("%s got %v, which is new, before %v again", g.name, e, left)
			case p != nil && l != nil && p.early > l.late && level:
				s.failf("%s got %v again before %v, which waits longer", g.name, e, left)
			case p == nil && l == nil && e.queue == left.queue && e.offset > left.offset:
				s.failf("%s got %v before %v", g.name, e, left)
			}
		}
		if passed {
			below++
		}
	}
	if below > 1+len(got)/PriorityShare && !s.holes(g) {
		s.failf("%s got %d of %v before more urgent ones", g.name, below, got)
	}
}

// started says that the group has looked at the queues, to their end.
func (s *sim) started(g *simGroup, queues func(uint32) bool) {
	for n, q := range s.topics[g.topic].queues {
		if queues(n) {
			g.begin(n, q, len(q.entries))
		}
	}
}

// begin says that the group's first message of a queue is at offset at or behind
// it. A group that is new to a queue which retention has taken from begins at its
// end: what is before that it never gets. Of a lite topic it gets what there is.
func (g *simGroup) begin(n uint32, q *simQueue, at int) {
	if g.begun[n] {
		return
	}
	g.begun[n] = true
	for _, e := range q.entries[:at] {
		if q.low > 0 && g.places[e] == nil && !g.ofLites {
			g.places[e] = &simPlace{settled: true}
		}
	}
}

// noticed says that the group has found nothing: what retention took from it
// holds nobody up any more, but where it waits itself.
func (s *sim) noticed(g *simGroup, queues func(uint32) bool) {
	tp := s.topics[g.topic]
	for n, q := range tp.queues {
		busy := map[string]bool{}
		for _, e := range q.entries {
			p := g.places[e]
			switch {
			case !queues(n) || p != nil && p.settled || e.deleted:
			case e.gone() && (p == nil || s.now() >= p.late) && !(g.ordered(tp) && busy[e.m.group]):
				g.places[e] = &simPlace{settled: true}
			default:
				busy[e.m.group] = true
			}
		}
	}
}

// giveBack receives, and the answer does not reach the client.
func (s *sim) giveBack() {
	g := s.group()
	if g.ofLites {
		return
	}
	req := s.request(g)
	d, can := s.ask(g, req, anyQueue)
	lent := &Delivery{Messages: slices.Clone(d.Messages)}
	got := s.taken(g, &req, d, can, anyQueue, false)
	if len(got) == 0 {
		return
	}
	from := s.r.IntN(len(got))
	s.b.GiveBack(lent, from)
	s.logf("the answer ended after %d", from)
	for _, e := range got[from:] {
		p := g.places[e]
		p.auto, p.by = false, ""
		p.until(s.now() + ReleaseDelay.Milliseconds())
	}
}

// poll waits for a first message: until something in the model becomes ready, or
// somebody makes it so.
func (s *sim) poll() {
	g := s.group()
	req := s.request(g)
	req.AttemptID = ""
	queues := anyQueue
	if g.ofLites {
		s.subscribe(g, req.ClientID)
		queues = s.liteQueues(g, req.ClientID)
	}
	s.touch()
	if can := s.ready(g, s.now(), queues); len(can.sure)+len(can.maybe)+len(can.burying) > 0 {
		s.take(g, req, queues)
		return
	}
	req.Wait = time.Duration(1+s.r.IntN(20_000)) * time.Millisecond
	began := s.now()
	type answer struct {
		d   *Delivery
		err error
	}
	answers := make(chan answer, 1)
	s.polling = g
	go func() {
		d, err := s.b.Receive(context.WithoutCancel(s.t.Context()), req)
		answers <- answer{d, err}
	}()
	s.quiet()
	if len(answers) == 0 {
		s.started(g, queues)
	}
	var a answer
	disturbed := int64(0)
	select {
	case a = <-answers:
	case <-time.After(time.Duration(s.r.IntN(10_000)) * time.Millisecond):
		s.look()
		disturbed = s.now()
		s.interfere(g)
		a = <-answers
	}
	if a.err != nil {
		s.wantReason("poll of "+g.name, a.err, MessageNotFound)
		a.d = &Delivery{}
	}
	s.look()
	s.polling = nil
	s.logf("%s polled for %v and got %d after %d ms", g.name, req.Wait, len(a.d.Messages), s.now()-began)
	if can := s.ready(g, s.now()-1, queues); len(can.sure) > 0 && s.now() > max(disturbed, g.freed) {
		s.failf("%s slept although %v were there", g.name, sortedEntries(can.sure))
	}
	if len(a.d.Messages) == 0 {
		if s.now() != began+req.Wait.Milliseconds() {
			s.failf("%s polled for %v and got nothing after %d ms", g.name, req.Wait, s.now()-began)
		}
		return
	}
	s.taken(g, &req, a.d, s.ready(g, s.now(), queues), queues, true)
}

// interfere does something that may make a message ready for the group.
func (s *sim) interfere(g *simGroup) {
	pick(s.r, []func(){
		s.send, s.sendLite, s.decide, s.reschedule, s.deleteMessage, s.purge,
		func() { s.ackSome(g) },
		func() { s.resetSome(g) },
		func() { s.replayTo(g) },
		func() {
			if g.ofLites { // the client that waits gets more, or less
				s.subscribe(g, pick(s.r, g.clients))
			}
		},
	})()
}

func sortedEntries[V any](m map[*simEntry]V) []*simEntry {
	return slices.SortedFunc(maps.Keys(m), func(a, b *simEntry) int {
		return cmp.Or(cmp.Compare(a.queue, b.queue), cmp.Compare(a.offset, b.offset))
	})
}
