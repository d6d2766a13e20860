package broker

import (
	"math"
	"slices"
	"time"

	"github.com/gantry-mq/gantry/broker/transaction"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// lookForRetention sees that nothing went but what a purge took, or what is older
// than its topic or the log keeps, and that what is older than its topic keeps
// went. It finds payloads that went without their entry.
func (s *sim) lookForRetention(tp *simTopic, q *simQueue, n uint32, low int) {
	if low < q.low || low < q.purged {
		s.failf("queue %d of %s begins at %d, it had begun at %d, purged up to %d", n, tp.name, low, q.low, q.purged)
	}
	old := s.now() - s.setup.Retention.Milliseconds() // for the log
	switch {
	case s.setup.Size > 0:
		old = s.now()
	case s.setup.Retention == 0:
		old = 0
	}
	first := s.b.wal.First()
	s.trimmed = s.trimmed || s.b.wal.Trimmed()
	for ; q.low < low; q.low++ {
		if q.low >= len(q.entries) {
			continue // arrive says so
		}
		switch e := q.entries[q.low]; {
		case q.low < q.purged, tp.expires(e) < s.now():
			s.trimEntry(e)
		case e.lost, e.deleted && s.trimmed: // nothing keeps it in the log
		case tp.OwnRetention() || e.stored > old || e.after >= first:
			s.failf("%v, %d ms old, is gone; the log begins at %d, the record is at %d or above", e, s.now()-e.stored, first, e.after)
		}
	}
	for _, e := range q.entries[min(low, len(q.entries)):] {
		if since := max(tp.expires(e), tp.changed, s.opened); tp.RetainAge > 0 && s.now()-since > 2*housekeepEvery.Milliseconds() {
			s.failf("%v, %d ms old, is still there", e, s.now()-e.stored)
		}
		if e.lost || e.deleted || e.after >= first {
			continue
		}
		l, err := s.b.load(tp.Topic, e.queue, record.QueueOffset(e.offset))
		switch {
		case err == nil:
			l.release()
		case isTrimmed(err) && e.stored <= old && !tp.OwnRetention():
			e.lost = true
		default:
			s.failf("%v, %d ms old: %w", e, s.now()-e.stored, err)
		}
	}
}

// expires is the last time, Unix ms, at which the topic's own retention leaves an
// entry alone.
func (tp *simTopic) expires(e *simEntry) int64 {
	if tp.RetainAge == 0 {
		return math.MaxInt64
	}
	return e.stored + tp.RetainAge.Milliseconds()
}

// trimEntry ends an entry that a record has trimmed, of which every group knows at
// once, and of those before it that retention had taken.
func (s *sim) trimEntry(e *simEntry) {
	for _, g := range s.groups {
		if s.topics[g.topic] != e.topic || !g.begun[e.queue] {
			continue
		}
		for _, e := range e.topic.queues[e.queue].entries[:e.offset+1] {
			if p := g.places[e]; p == nil || !p.settled {
				g.places[e] = &simPlace{settled: true}
			}
		}
		g.freed = s.now()
	}
}

// changeRetention gives a topic a retention of its own, or the log's.
func (s *sim) changeRetention() {
	tp := s.topic()
	age := pick(s.r, []time.Duration{0, 0, time.Minute, 5 * time.Minute, time.Hour})
	changed, err := s.b.UpdateTopic(s.t.Context(), tp.Name, TopicChange{RetainAge: &age})
	s.must(err)
	s.logf("%s keeps messages for %v", tp.name, age)
	tp.RetainAge, tp.changed = age, s.now()
	if changed != tp.Topic {
		s.failf("%s is %+v, want %+v", tp.name, changed, tp.Topic)
	}
}

// purge lets go of a topic's messages, or of the older ones.
func (s *sim) purge() {
	s.look()
	tp := s.topics[pick(s.r, sorted(s.topics))]
	req := PurgeRequest{DryRun: s.r.IntN(4) == 0}
	before := int64(math.MaxInt64)
	if s.r.IntN(2) == 0 {
		req.Before = s.now() - s.r.Int64N(100_000)
		before = req.Before
	}
	var want Purged
	for _, h := range s.halves {
		if h.topic == tp && h.outcome == 0 && h.stored < before {
			want.Half++
			if !req.DryRun {
				h.outcome = transaction.RolledBack
			}
		}
	}
	for _, t := range s.timers {
		if t.topic == tp && !t.fired && !t.recalled && t.stored < before {
			want.Delayed++
			if !req.DryRun {
				t.recalled = true
			}
		}
	}
	for _, q := range tp.queues {
		to := max(q.low, len(q.entries))
		if i := slices.IndexFunc(q.entries, func(e *simEntry) bool { return e.offset >= q.low && e.stored >= before }); i >= 0 {
			to = i
		}
		want.Messages += int64(to - q.low)
		if !req.DryRun {
			q.purged = max(q.purged, to)
		}
	}
	got, err := s.b.PurgeTopic(s.t.Context(), tp.Name, req)
	s.must(err)
	s.logf("purge of %s, %+v: %+v", tp.name, req, got)
	if got.Queues = nil; got.Messages != want.Messages || got.Half != want.Half || got.Delayed != want.Delayed {
		s.failf("purge of %s: %+v, want %+v", tp.name, got, want)
	}
}

// deleteMessage deletes a message, wherever it is.
func (s *sim) deleteMessage() {
	s.look()
	m := s.anyMessage()
	if m == nil {
		return
	}
	var want DeletedMessage
	lost := 0
	var entries []*simEntry
	for _, n := range sorted(s.topics) {
		for _, e := range s.topics[n].entries() {
			switch {
			case !e.m.named(m) || e.deleted || e.offset < e.topic.queues[e.queue].low:
			case e.lost:
				lost++
			default:
				entries = append(entries, e)
			}
		}
	}
	want.Entries = len(entries)
	for _, t := range s.timers {
		if t.m.named(m) && !t.fired && !t.recalled {
			want.Delayed++
			t.recalled = true
		}
	}
	for _, h := range s.halves {
		if h.m.named(m) && h.outcome == 0 {
			want.Half++
			h.outcome = transaction.RolledBack
		}
	}
	got, err := s.b.DeleteMessage(s.t.Context(), m.home.Name, m.id)
	s.logf("%s is deleted: %+v, %v", m.id, got, err)
	if s.trimmed && want == (DeletedMessage{}) && ReasonOf(err) == MessageNotFound {
		return
	}
	s.must(err)
	if got.Half != want.Half || got.Delayed != want.Delayed || got.Entries < want.Entries || got.Entries > want.Entries+lost {
		s.failf("the deletion of %s: %+v, want %+v, of %v", m.id, got, want, entries)
	}
	for _, e := range entries {
		e.deleted, e.topic.holes = true, true
		for _, g := range s.groups {
			if p := g.places[e]; p != nil {
				p.settled = true
			}
		}
	}
}

// named reports whether a message has the id of another one in its topic.
func (m *simMsg) named(other *simMsg) bool { return m.home == other.home && m.id == other.id }

// anyMessage picks a message that was sent to a topic which is still there, nil if
// there is none.
func (s *sim) anyMessage() *simMsg {
	switch t, h := s.timer(), s.half(); {
	case t != nil && s.r.IntN(6) == 0:
		return t.m
	case h != nil && s.r.IntN(6) == 0:
		return h.m
	}
	tp := s.topics[pick(s.r, sorted(s.topics))]
	entries := tp.entries()
	if g := s.group(); s.r.IntN(3) == 0 {
		entries = s.held(g)
	}
	entries = slices.DeleteFunc(entries, func(e *simEntry) bool { return s.topics[e.m.home.name] != e.m.home })
	if len(entries) == 0 {
		return nil
	}
	return pick(s.r, entries).m
}
