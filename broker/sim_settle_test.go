package broker

import (
	"slices"
	"time"

	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// holder picks a group that has something outstanding, if one of a few has.
func (s *sim) holder() (g *simGroup, held []*simEntry) {
	for range 4 {
		g = s.group()
		if held = s.held(g); len(held) > 0 {
			break
		}
	}
	return g, held
}

// holds reports whether the place's lease lasts: surely, or perhaps.
func (p *simPlace) holds(now int64) (sure, maybe bool) {
	return p.handle != "" && now < p.early, p.handle != "" && now < p.late
}

func (s *sim) ack() {
	g, _ := s.holder()
	s.ackSome(g)
}

// ackSome acknowledges some of what the group holds, and sometimes twice.
func (s *sim) ackSome(g *simGroup) {
	held := s.held(g)
	held = held[:min(len(held), 1+s.r.IntN(8))]
	var entries []AckEntry
	for _, e := range held {
		entries = append(entries, AckEntry{MessageID: e.m.id, Handle: g.places[e].handle})
	}
	for range 1 + s.r.IntN(2) {
		if len(entries) == 0 {
			return
		}
		errs := s.acknowledge(g, entries)
		for i, e := range held {
			p := g.places[e]
			sure, maybe := p.holds(s.now())
			switch {
			case p.settled || sure:
				s.must(errs[i])
			case errs[i] != nil:
				s.wantReason("ack of "+e.String(), errs[i], InvalidHandle)
			case !maybe && !(e.gone() && s.now() < p.good):
				s.failf("%s acknowledged %v, its lease has ended: %+v", g.name, e, p)
			}
			if errs[i] == nil {
				s.logf("%s acknowledges %v", g.name, e)
				p.settled = true
			}
		}
		// Twice is fine as long as the handle lasts.
		entries, held = slices.Clone(entries), slices.DeleteFunc(held, func(e *simEntry) bool { return !g.places[e].settled || s.now() >= g.places[e].early })
		entries = entries[:0]
		for _, e := range held {
			entries = append(entries, AckEntry{MessageID: e.m.id, Handle: g.places[e].handle})
		}
	}
}

// acknowledge returns what became of each entry.
func (s *sim) acknowledge(g *simGroup, entries []AckEntry) []error {
	errs, err := s.b.Ack(s.t.Context(), name(g.name), name(g.topic), entries)
	s.must(err)
	if errs == nil {
		errs = make([]error, len(entries))
	}
	return errs
}

// lease picks something that a group holds with a handle.
func (s *sim) lease() (g *simGroup, e *simEntry, p *simPlace) {
	g, held := s.holder()
	for _, e := range held {
		if p := g.places[e]; p.handle != "" {
			return g, e, p
		}
	}
	return nil, nil, nil
}

// wantLease holds the outcome of what needs a lease against the model. It
// reports whether it was done.
func (s *sim) wantLease(what string, p *simPlace, err error) bool {
	sure, maybe := p.holds(s.now())
	switch {
	case sure:
		s.must(err)
	case err != nil:
		s.wantReason(what, err, InvalidHandle)
	case !maybe:
		s.failf("%s: done, but the lease has ended: %+v", what, p)
	}
	return err == nil
}

func (s *sim) changeInvisible() {
	g, e, p := s.lease()
	if p == nil {
		return
	}
	d := time.Duration(s.r.Int64N(pick(s.r, []int64{1, 5_000, 100_000}))) * time.Millisecond
	suspend := s.r.IntN(4) == 0
	handle, err := s.b.ChangeInvisible(s.t.Context(), name(g.name), name(g.topic), p.handle, d, suspend)
	s.logf("%s wants %v in %v: %v", g.name, e, d, err)
	if !s.wantLease("change of "+e.String(), p, err) {
		return
	}
	p.handle, p.by, p.auto = handle, "", false
	if suspend && !p.suspended {
		p.attempt--
		p.suspended = true
	}
	p.until(s.now() + d.Milliseconds())
	p.good = p.end
	g.handles = append(g.handles, simHandle{e, handle, p.good})
}

func (s *sim) forward() {
	g, e, p := s.lease()
	if p == nil || isDLQ(e.topic.Topic) { // re-driven, it would come back as no dead letter
		return
	}
	tried, most := int32(s.r.IntN(5)), int32(s.r.IntN(5))
	d := &simDying{attempts: max(p.attempt, tried), reason: reasonForwarded}
	if most > 0 && tried >= most {
		d.reason = reasonAttempts
	}
	g.dying[e] = d
	err := s.b.ForwardToDeadLetter(s.t.Context(), name(g.name), name(g.topic), p.handle, tried, most)
	s.logf("%s gives %v up: %v", g.name, e, err)
	if isTrimmed(err) && e.gone() {
		return
	}
	d.must = s.wantLease("forward of "+e.String(), p, err)
}

// oldHandle uses a handle of some time ago, which holds its message only if it is
// still the one.
func (s *sim) oldHandle() {
	g, _ := s.holder()
	if len(g.handles) == 0 {
		return
	}
	h := pick(s.r, g.handles)
	p := g.places[h.e]
	now := s.now()
	_, current := false, false
	if p != nil && !p.settled && p.handle == h.handle {
		_, current = p.holds(now)
	}
	errs := s.acknowledge(g, []AckEntry{{Handle: h.handle}})
	s.logf("%s acknowledges %v with a handle of before: %v", g.name, h.e, errs[0])
	switch {
	case current && errs[0] == nil:
		p.settled = true
	case current:
		s.wantLease("ack of "+h.e.String(), p, errs[0])
	case errs[0] == nil && (now >= h.deadline || !h.e.gone() && (p == nil || !p.settled)):
		s.failf("%s acknowledged %v with an old handle, it has %+v", g.name, h.e, p)
	case errs[0] != nil:
		s.wantReason("ack of "+h.e.String(), errs[0], InvalidHandle)
	}
	if _, err := s.b.ChangeInvisible(s.t.Context(), name(g.name), name(g.topic), h.handle, time.Hour, false); !current || errs[0] == nil {
		s.wantReason("change of "+h.e.String()+" with an old handle", err, InvalidHandle)
	} else {
		s.wantReason("change of "+h.e.String()+" with an expired handle", err, InvalidHandle)
	}
}

// skip moves a message out of the way, as an operator would.
func (s *sim) skip() {
	g := s.group()
	held := s.topics[g.topic].entries()
	if out := s.held(g); len(out) > 0 && s.r.IntN(3) > 0 {
		held = out
	}
	if len(held) == 0 {
		return
	}
	e := pick(s.r, held)
	p := g.places[e]
	if s.topics[g.topic].queues[e.queue] == nil || isDLQ(e.topic.Topic) || e.topic.Type == topic.Mixed && !anyQueue(e.queue) {
		return
	}
	d := &simDying{reason: reasonSkipped}
	if p != nil {
		d.attempts = p.attempt
	}
	g.dying[e] = d
	err := s.b.Skip(s.t.Context(), name(g.name), name(g.topic), e.queue, record.QueueOffset(e.offset))
	s.logf("%s skips %v: %v", g.name, e, err)
	switch {
	case e.gone(): // a receive may have noticed and settled it
		if p != nil && err == nil {
			p.settled = true
		}
		return
	case p == nil && err == nil && g.ordered(e.topic) && g.wants(e):
		// It was put aside behind another, which only the broker knows.
	case err == nil && g.strays && !g.wants(e):
		// A replay put it there.
	case p == nil || p.settled:
		s.wantReason("skip of "+e.String(), err, PreconditionFailed)
		return
	default:
		s.must(err)
	}
	d.must = true
}

// blocked sees that everything in the way that the model knows of is listed.
func (s *sim) blocked() {
	g := s.group()
	tp := s.topics[g.topic]
	list, err := s.b.Blocked(name(g.name), 0)
	s.must(err)
	for _, k := range list {
		q := tp.queues[k.Queue]
		if q == nil || int(k.Offset) >= len(q.entries) || !g.ordered(tp) {
			s.failf("%s is blocked by %+v", g.name, k)
		}
		e := q.entries[k.Offset]
		p := g.places[e]
		if p != nil && (p.settled || k.Attempt != p.attempt) || p == nil && k.Attempt > 0 || !e.gone() && (k.MessageID != e.m.id || k.Key != e.m.group) {
			s.failf("%s is blocked by %+v, it has %+v of %v", g.name, k, p, e)
		}
	}
	if !g.ordered(tp) {
		return
	}
	for e, p := range g.places {
		first := !p.settled && p.attempt > 1 && !e.gone()
		for other, o := range g.places {
			first = first && (o.settled || other.queue != e.queue || other.m.group != e.m.group || other.offset >= e.offset)
		}
		if first && !slices.ContainsFunc(list, func(k BlockedKey) bool { return k.Queue == e.queue && int(k.Offset) == e.offset }) {
			s.failf("%s has %v for the %d. time and it is not among what blocks", g.name, e, p.attempt)
		}
	}
}

// pull reads by offset, without leases.
func (s *sim) pull() {
	g := s.group()
	tp := s.topics[g.topic]
	n := uint32(s.r.IntN(int(tp.Queues)))
	q := tp.queues[n]
	from, batch := s.r.IntN(len(q.entries)+2), 1+s.r.IntN(8)
	d, err := s.b.Pull(s.t.Context(), PullRequest{
		Group: name(g.name), Topic: name(g.topic), Queue: int32(n), Offset: record.QueueOffset(from), Batch: batch,
		FilterType: g.filter.kind, Filter: g.filter.text,
	})
	if from < q.low || from > len(q.entries) {
		s.wantReason("pull outside the queue", err, IllegalOffset)
		if to := min(max(from, q.low), len(q.entries)); int(d.NextOffset) != to {
			s.failf("pull at %d of %d to %d is sent to %d", from, q.low, len(q.entries), d.NextOffset)
		}
		return
	}
	var want []*simEntry
	next := from
	for ; next < len(q.entries) && len(want) < batch; next++ {
		if e := q.entries[next]; g.wants(e) && !e.gone() && !e.deleted {
			want = append(want, e)
		}
	}
	if err != nil {
		s.wantReason("pull", err, MessageNotFound)
	}
	defer d.Release()
	if int(d.NextOffset) != next || len(d.Messages) != len(want) {
		s.failf("pulled %d messages from %s/%d/%d, next %d; want %d, next %d", len(d.Messages), tp.name, n, from, d.NextOffset, len(want), next)
	}
	for i := range d.Messages {
		if e := s.delivered(g, &d.Messages[i]); e != want[i] {
			s.failf("pulled %v, want %v", e, want[i])
		}
	}
}

// offset stores an offset, or looks at what is stored.
func (s *sim) offset() {
	g := s.group()
	tp := s.topics[g.topic]
	n := uint32(s.r.IntN(int(tp.Queues)))
	got, err := s.b.GetOffset(name(g.name), name(g.topic), int32(n))
	want, ok := g.stored[n]
	switch {
	case ok && (err != nil || got != want):
		s.failf("the offset of %s in %s/%d is %d, %v; want %d", g.name, g.topic, n, got, err, want)
	case !ok && err != nil:
		s.wantReason("offset", err, OffsetNotFound)
	case !ok:
		for _, e := range tp.queues[n].entries[:min(int(got), len(tp.queues[n].entries))] {
			if p := g.places[e]; g.wants(e) && !e.gone() && !e.deleted && (p == nil || !p.settled) && (g.begun[n] || e.topic.queues[n].low == 0) {
				s.failf("the offset of %s in %s/%d is %d, but %v is not settled", g.name, g.topic, n, got, e)
			}
		}
	}
	if s.r.IntN(2) == 0 {
		g.stored[n] = record.QueueOffset(s.r.IntN(1000))
		s.must(s.b.UpdateOffset(s.t.Context(), name(g.name), name(g.topic), int32(n), g.stored[n]))
	}
}

func (s *sim) resetOffset() { s.resetSome(s.group()) }

// resetSome moves the group to another place, of one queue or of all.
func (s *sim) resetSome(g *simGroup) {
	tp := s.topics[g.topic]
	if tp == nil {
		return
	}
	req := ResetRequest{Policy: pick(s.r, []OffsetPolicy{OffsetBeginning, OffsetEnd, OffsetTimestamp, OffsetExact}), Queue: -1, DryRun: s.r.IntN(4) == 0}
	if s.r.IntN(2) == 0 {
		req.Queue = int32(s.r.IntN(int(tp.Queues)))
	}
	switch req.Policy {
	case OffsetTimestamp:
		req.Value = s.now() - s.r.Int64N(100_000)
	case OffsetExact:
		req.Value = s.r.Int64N(50)
	}
	done, err := s.b.ResetOffset(s.t.Context(), name(g.name), name(g.topic), req)
	s.must(err)
	s.logf("%s is reset to %+v: %+v", g.name, req, done)
	for _, r := range done {
		q := tp.queues[r.Queue]
		to := 0
		switch req.Policy {
		case OffsetEnd:
			to = len(q.entries)
		case OffsetTimestamp:
			to = q.storedAt(req.Value)
		case OffsetExact:
			to = int(req.Value)
		}
		if to = min(max(to, q.low), len(q.entries)); int(r.To) != to || int(r.Max) != len(q.entries) {
			s.failf("%s is reset to %+v, want %d of %d", g.name, r, to, len(q.entries))
		}
		if req.DryRun {
			continue
		}
		g.moveTo(r.Queue, q, to)
	}
}

// storedAt returns where what was stored at a time, Unix ms, or later begins.
func (q *simQueue) storedAt(t int64) int {
	at := slices.IndexFunc(q.entries, func(e *simEntry) bool { return e.stored >= t && e.offset >= q.low })
	if at < 0 {
		return len(q.entries)
	}
	return at
}

// moveTo says that the group's next message of the queue is the one at an offset,
// for the first time.
func (g *simGroup) moveTo(n uint32, q *simQueue, to int) {
	g.begun[n] = true
	delete(g.stored, n)
	for _, e := range q.entries {
		delete(g.places, e)
		if e.offset < to {
			g.places[e] = &simPlace{settled: true}
		}
	}
}
