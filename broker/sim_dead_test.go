package broker

import (
	"context"
	"slices"

	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// letters returns a group that has dead letters, and those, by offset.
func (s *sim) letters() (g *simGroup, letters []*simEntry) {
	for range 4 {
		g = s.group()
		if dlq := s.topics[DLQPrefix+g.name]; dlq != nil {
			return g, dlq.queues[0].entries
		}
	}
	return g, nil
}

// state is what a listing says of a dead letter; ok is false when it says nothing
// any more.
func (e *simEntry) state() (state DeadLetterState, ok bool) {
	if e.offset < e.topic.queues[0].low || e.deleted {
		return 0, false
	}
	return e.letter.state, true
}

// selection picks a filter, and says what it selects.
func (s *sim) selection(letters []*simEntry) (f DeadLetterFilter, selects func(*simEntry) bool) {
	selects = func(*simEntry) bool { return true }
	if len(letters) == 0 {
		return f, selects
	}
	one := pick(s.r, letters)
	switch s.r.IntN(5) {
	case 0:
		f.MessageID = one.m.id
		selects = func(e *simEntry) bool { return e.m.id == one.m.id }
	case 1:
		f.Reason = pick(s.r, []string{reasonAttempts, reasonForwarded, reasonSkipped})
		selects = func(e *simEntry) bool { return e.letter.reason == f.Reason }
	case 2:
		for _, e := range letters {
			if s.r.IntN(2) == 0 {
				f.Offsets = append(f.Offsets, record.QueueOffset(e.offset))
			}
		}
		selects = func(e *simEntry) bool {
			return f.Offsets == nil || slices.Contains(f.Offsets, record.QueueOffset(e.offset))
		}
	case 3:
		f.From, f.To = one.stored, s.now()
		selects = func(e *simEntry) bool { return e.stored >= f.From && e.stored < f.To }
	}
	return f, selects
}

func (s *sim) listDead() {
	g, letters := s.letters()
	f, selects := s.selection(letters)
	f.Settled = s.r.IntN(2) == 0
	var listed []DeadLetter
	for from := record.QueueOffset(0); from != record.NoOffset; {
		page, next, err := s.b.DeadLetters(s.t.Context(), name(g.name), f, from, 1+s.r.IntN(5))
		s.must(err)
		listed = append(listed, page...)
		from = next
	}
	for _, e := range letters {
		state, ok := e.state()
		if !ok || !selects(e) || !f.Settled && (state == DeadRedriven || state == DeadDiscarded) {
			continue
		}
		if e.lost {
			if i := slices.IndexFunc(listed, func(dl DeadLetter) bool { return int(dl.Offset) == e.offset }); i >= 0 {
				listed = slices.Delete(listed, i, i+1)
			}
			continue
		}
		if len(listed) == 0 || int(listed[0].Offset) != e.offset {
			s.failf("the dead letter %v of %s is not listed by %+v", e, g.name, f)
		}
		dl := listed[0]
		listed = listed[1:]
		if dl.State != state || dl.MessageID != e.m.id || dl.Attempts != e.letter.attempts || dl.Reason != e.letter.reason || dl.BodySize != len(e.m.body) ||
			dl.Origin == nil || dl.Origin.Topic.Name != e.letter.from.topic.name || dl.Origin.ID != e.letter.from.topic.ID || int(dl.Origin.Offset) != e.letter.from.offset {
			s.failf("the dead letter %v of %s is listed as %+v with the origin %+v, want %+v", e, g.name, dl, dl.Origin, e.letter)
		}
	}
	if len(listed) > 0 {
		s.failf("listed by %+v among the dead letters of %s: %+v", f, g.name, listed)
	}
}

// open returns the dead letters that a redrive or discard finds.
func openLetters(letters []*simEntry, selects func(*simEntry) bool) (out []*simEntry) {
	for _, e := range letters {
		if state, ok := e.state(); ok && state == DeadOpen && selects(e) && !e.lost {
			out = append(out, e)
		}
	}
	return out
}

// redrive puts dead letters back, where they came from or elsewhere, and is
// interrupted now and then.
func (s *sim) redrive() {
	g, letters := s.letters()
	f, selects := s.selection(letters)
	req := RedriveRequest{Filter: f, DryRun: s.r.IntN(5) == 0}
	var target *simTopic
	if s.r.IntN(3) == 0 {
		target = s.topic(topic.Normal, topic.FIFO, topic.Mixed, topic.Delay)
		req.Target = &target.Name
	}
	stop := -1
	if s.r.IntN(2) == 0 {
		req.Rate, stop = 10, s.r.IntN(4) // one at a time, then
	}
	open := openLetters(letters, selects)
	good := 0
	coming := map[*simEntry]*simComing{}
	for _, e := range open {
		if to, queue := s.destination(e, target); to != nil {
			good++
			if !req.DryRun {
				coming[e] = to.expect(e.m, queue, false)
			}
		}
	}
	batches := 0
	s.touch()
	p, err := s.b.Redrive(s.t.Context(), name(g.name), req, func(DeadLetterProgress) error {
		if batches++; batches == stop {
			return errSimStop
		}
		return nil
	})
	if err != errSimStop {
		s.must(err)
	}
	s.logf("%s redrives %+v: %+v, %v", g.name, req, p, err)
	if int(p.Matched) != len(open) {
		s.failf("a redrive of %s matched %d, want %d", g.name, p.Matched, len(open))
	}
	if req.DryRun {
		if int(p.Failed) != len(open)-good || p.Done != 0 {
			s.failf("a dry redrive of %s: %+v, %d of %d can go", g.name, p, good, len(open))
		}
		return
	}
	if err == nil && (int(p.Done) != good || int(p.Failed) != len(open)-good) {
		s.failf("a redrive of %s: %+v, %d of %d can go", g.name, p, good, len(open))
	}
	s.settledLetters(g, open, DeadRedriven, int(p.Done), func(e *simEntry) bool {
		c := coming[e]
		if c != nil {
			c.must = true
		}
		return c != nil
	})
	for _, to := range s.topics { // no others
		to.coming = slices.DeleteFunc(to.coming, func(c *simComing) bool { return !c.must })
	}
}

// settledLetters sees which of the open ones are settled now: the first done that
// could be.
func (s *sim) settledLetters(g *simGroup, open []*simEntry, state DeadLetterState, done int, can func(*simEntry) bool) {
	for _, e := range open {
		want := DeadOpen
		if done > 0 && can(e) {
			want = state
			done--
		}
		e.letter.state = want
		if low, _, _ := s.b.index.Bounds(record.Key(e.topic.ID, e.queue)); e.offset < int(low) {
			continue // retention took it during a slow redrive
		}
		s.must(s.b.DeadLetter(s.t.Context(), name(g.name), record.QueueOffset(e.offset), func(dl *DeadLetter, _ *record.Message) error {
			if dl.State != want {
				s.failf("the dead letter %v of %s is %v, want %v", e, g.name, dl.State, want)
			}
			return nil
		}))
	}
}

// destination says where a redriven letter goes, nil if nowhere.
func (s *sim) destination(e *simEntry, target *simTopic) (*simTopic, int) {
	m := e.m
	tp := target
	if tp == nil {
		from := e.letter.from
		tp = s.topics[from.topic.name]
		if tp == from.topic {
			if m.lite != "" {
				q, ok := tp.lites[m.lite]
				if !ok {
					return nil, 0
				}
				return tp, int(q)
			}
			return tp, int(from.queue)
		}
	}
	switch {
	case tp == nil:
		return nil, 0
	case tp.Type == topic.Mixed || isDLQ(tp.Topic):
	case tp.Type == topic.Lite, m.group != "" && tp.Type != topic.FIFO, m.group == "" && m.prio && tp.Type != topic.Priority,
		m.group == "" && !m.prio && tp.Type == topic.FIFO:
		return nil, 0
	}
	return tp, m.queue(tp)
}

func (s *sim) discard() {
	g, letters := s.letters()
	f, selects := s.selection(letters)
	open := openLetters(letters, selects)
	p, err := s.b.Discard(s.t.Context(), name(g.name), f, false, nil)
	s.must(err)
	s.logf("%s discards %+v: %+v", g.name, f, p)
	if int(p.Matched) != len(open) || int(p.Done) != len(open) {
		s.failf("a discard of %s: %+v, want %d", g.name, p, len(open))
	}
	s.settledLetters(g, open, DeadDiscarded, len(open), func(*simEntry) bool { return true })
}

// find asks for a message by its id, wherever it is.
func (s *sim) find() {
	s.look()
	if s.sent == 0 {
		return
	}
	type there struct {
		m     *simMsg
		state MessageState
	}
	switch s.r.IntN(2) {
	case 0:
		if t := s.timer(); t != nil && !t.m.home.again[t.m.id] {
			state := MessageDelayed
			if t.recalled {
				state = MessageRecalled
			}
			if !t.fired {
				s.wantState(t.topic, t.m, t.recalled, state)
			}
		}
	case 1:
		if h := s.half(); h != nil && !h.m.home.again[h.m.id] {
			state := map[bool]MessageState{false: MessageHalf, true: MessageParked}[h.parked]
			if h.outcome == 0 {
				s.wantState(h.topic, h.m, false, state)
			}
		}
	}
	_ = there{}
}

// wantState sees that a message is found in the state.
func (s *sim) wantState(tp *simTopic, m *simMsg, mayBeGone bool, state MessageState) {
	found, _, err := s.b.FindMessages(context.WithoutCancel(s.t.Context()), MessageQuery{Topic: tp.Name, ID: m.id, Limit: 10})
	s.must(err)
	if len(found) == 0 && mayBeGone && s.trimmed {
		return
	}
	if len(found) != 1 || found[0].State != state || found[0].ID != m.id || found[0].BodySize != len(m.body) {
		s.failf("%s is found as %+v, want it %v", m.id, found, state)
	}
}
