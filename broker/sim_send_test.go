package broker

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/broker/transaction"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// message makes a message that the topic takes.
func (s *sim) message(tp *simTopic) *simMsg {
	s.sent++
	m := &simMsg{
		number: s.sent, home: tp,
		id: fmt.Sprint("m", s.sent), tag: pick(s.r, []string{"", "A", "B", "C"}), n: s.r.IntN(10),
		key: fmt.Sprint("k", s.r.IntN(20)), body: []byte(fmt.Sprint(s.sent, ":", strings.Repeat("x", s.r.IntN(3000)))),
	}
	if tp.Type == topic.FIFO || tp.Type == topic.Mixed && s.r.IntN(2) == 0 {
		m.group = fmt.Sprint("g", s.r.IntN(5))
	}
	if tp.Type == topic.Priority || tp.Type == topic.Mixed && s.r.IntN(3) == 0 {
		m.prio, m.priority = true, int32(s.r.IntN(5))
	}
	return m
}

func (m *simMsg) outgoing(tp *simTopic) Outgoing {
	return Outgoing{
		Topic: tp.Name, ID: m.id, Tag: m.tag, Keys: []string{m.key}, User: []Property{{"n", fmt.Sprint(m.n)}}, Body: m.body,
		Group: m.group, HasGroup: m.group != "", HasPriority: m.prio, Priority: m.priority, DueTime: m.due, LiteTopic: m.lite, BornTime: 1,
		Transaction: m.half, RecoverySeconds: m.recovery,
	}
}

// queue is where the message goes, -1 = anywhere.
func (m *simMsg) queue(tp *simTopic) int {
	switch {
	case m.group != "":
		return int(record.Hash32(m.group) % tp.Queues)
	case m.prio:
		return int(min(max(m.priority, 0), int32(tp.Queues)-1))
	}
	return -1
}

// post sends messages, sees what each is answered with, and notes what is to
// become of it. It returns those that are not stored already.
func (s *sim) post(tp *simTopic, ms ...*simMsg) (stored []*simMsg) {
	firsts := tp.known(ms, s.now())
	asPack := s.r.IntN(3) == 0
	var sent []Sent
	if asPack {
		sent = s.pack(tp, ms)
	} else {
		out := make([]Outgoing, len(ms))
		for i, m := range ms {
			out[i] = m.outgoing(tp)
		}
		var err error
		sent, err = s.b.Send(s.t.Context(), out)
		s.must(err)
	}
	for i, m := range ms {
		if f := firsts[i]; f.m != m {
			s.wantFirst(m, &sent[i], f, asPack || len(ms) == 1)
			continue
		}
		firsts[i].sent = sent[i]
		tp.remember(firsts[i])
		stored = append(stored, m)
		s.stored(tp, m, &sent[i])
	}
	s.look()
	for i, m := range ms {
		if at := sent[i].Offset; slices.Contains(stored, m) && at != record.NoOffset && !tp.holds(m, int(at)) {
			s.failf("%s is not at offset %d of a queue of %s, as was told", m.id, at, tp.name)
		}
	}
	return stored
}

// stored notes a message that was stored with this answer.
func (s *sim) stored(tp *simTopic, m *simMsg, sent *Sent) {
	delayed := m.due > s.now()
	if sent.MessageID != m.id || sent.Err != nil || (sent.TransactionID != "") != m.half || (sent.RecallHandle != "") != delayed ||
		(sent.Offset == record.NoOffset) != (delayed || m.half) {
		s.failf("%s was answered with %+v", m.id, *sent)
	}
	switch {
	case m.half:
		next := s.now() + simCheckAfter.Milliseconds()
		if m.recovery > 0 {
			next = s.now() + 1000*m.recovery
		}
		s.halves = append(s.halves, &simHalf{m: m, topic: tp, id: sent.TransactionID, stored: s.now(), next: next})
	case delayed:
		s.timers = append(s.timers, &simDelayed{m: m, topic: tp, queue: m.queue(tp), due: m.due, stored: s.now(), handle: sent.RecallHandle})
	default:
		c := tp.expect(m, m.queue(tp), true)
		if q, ok := tp.lites[m.lite]; ok {
			c.queue = int(q)
		}
	}
}

func (s *sim) send() {
	tp := s.topic(topic.Normal, topic.FIFO, topic.Priority, topic.Mixed)
	ms := make([]*simMsg, 1+s.r.IntN(6))
	for i := range ms {
		ms[i] = s.message(tp)
	}
	s.post(tp, ms...)
}

func (tp *simTopic) holds(m *simMsg, offset int) bool {
	for _, q := range tp.queues {
		if offset < len(q.entries) && q.entries[offset].m == m {
			return true
		}
	}
	return false
}

// ---- Delayed messages ----

// later picks a time from a millisecond to hours ahead.
func (s *sim) later() int64 {
	return s.now() + 1 + s.r.Int64N(pick(s.r, []int64{10, 3_000, 90_000, 600_000, 3 * 3_600_000}))
}

func (s *sim) sendDelayed() {
	tp := s.topic(topic.Delay, topic.Mixed)
	m := s.message(tp)
	m.due = s.later()
	if s.r.IntN(10) == 0 {
		m.due = s.now() - s.r.Int64N(1000) // at once
	}
	s.post(tp, m)
}

// timer picks a timer, one that is pending if one of a few is.
func (s *sim) timer() (t *simDelayed) {
	for range 4 {
		if len(s.timers) > 0 && (t == nil || t.fired || t.recalled) {
			t = pick(s.r, s.timers)
		}
	}
	return t
}

// handleOf picks the timer's handle or now and then an old one, and says whether
// it is good.
func (s *sim) handleOf(t *simDelayed) (handle string, good bool) {
	handle = t.handle
	if len(t.old) > 0 && s.r.IntN(3) == 0 {
		handle = pick(s.r, t.old)
	}
	return handle, handle == t.handle && !t.fired && !t.recalled
}

func (s *sim) recall() {
	t := s.timer()
	if t == nil {
		return
	}
	handle, good := s.handleOf(t)
	id, err := s.b.Recall(s.t.Context(), t.topic.Name, handle)
	s.logf("%s: %v", t.m.id, err)
	if !good {
		s.wantReason("recall of "+t.m.id, err, BadRequest)
		return
	}
	s.must(err)
	if id != t.m.id {
		s.failf("recalled %s, want %s", id, t.m.id)
	}
	t.recalled = true
}

func (s *sim) reschedule() {
	t := s.timer()
	if t == nil {
		return
	}
	due := s.later()
	if s.r.IntN(5) == 0 {
		due = s.now() - s.r.Int64N(2000)
	}
	if s.r.IntN(5) == 0 {
		due = t.m.due // perhaps back to where it was
	}
	handle, good := s.handleOf(t)
	next, id, err := s.b.Reschedule(s.t.Context(), t.topic.Name, handle, due)
	s.logf("%s to %+d ms: %v", t.m.id, due-s.now(), err)
	if !good {
		s.wantReason("reschedule of "+t.m.id, err, BadRequest)
		return
	}
	s.must(err)
	if id != t.m.id {
		s.failf("rescheduled %s, want %s", id, t.m.id)
	}
	t.due = max(due, s.now())
	t.old = append(t.old, t.handle)
	t.handle = next
}

// listTimers holds the pending messages of a topic against the model's.
func (s *sim) listTimers() {
	s.look()
	tp := s.topic(topic.Delay, topic.Mixed)
	list, err := s.b.Timers(s.t.Context(), TimerQuery{Topic: tp.Name, Limit: MaxTimerList})
	s.must(err)
	want := map[string]*simDelayed{}
	for _, t := range s.timers {
		if t.topic == tp && !t.fired && !t.recalled {
			want[t.handle] = t
		}
	}
	last := int64(0)
	for _, p := range list {
		t := want[p.Handle]
		if t == nil || p.Due != t.due || p.MessageID != t.m.id || p.Bytes != len(t.m.body) || p.Due < last {
			s.failf("%s lists %+v, want %+v", tp.name, p, t)
		}
		last = p.Due
		delete(want, p.Handle)
	}
	if len(want) > 0 {
		s.failf("%s does not list the pending %v", tp.name, slices.Collect(maps.Values(want)))
	}
}

// ---- Transactions ----

func (s *sim) sendHalf() {
	tp := s.topic(topic.Transaction, topic.Mixed)
	m := s.message(tp)
	m.half = true
	if s.r.IntN(3) == 0 {
		m.recovery = 1 + s.r.Int64N(30)
	}
	s.post(tp, m)
}

// half picks a half message, one that is undecided if one of a few is.
func (s *sim) half() (h *simHalf) {
	for range 4 {
		if len(s.halves) > 0 && (h == nil || h.outcome != 0) {
			h = pick(s.r, s.halves)
		}
	}
	return h
}

func (s *sim) decide() {
	h := s.half()
	if h == nil {
		return
	}
	outcome := pick(s.r, []transaction.Outcome{0, transaction.Committed, transaction.Committed, transaction.RolledBack})
	byHand := outcome != 0 && s.r.IntN(4) == 0
	if h.outcome == 0 && outcome == transaction.Committed {
		h.topic.expect(h.m, h.m.queue(h.topic), true)
	}
	var err error
	if byHand {
		_, err = s.b.SettleTransaction(s.t.Context(), h.id, outcome)
	} else {
		err = s.b.EndTransaction(s.t.Context(), h.topic.Name, h.m.id, h.id, outcome, s.r.IntN(2) == 0)
	}
	s.logf("%s to %v, is %v: %v", h.m.id, outcome, h.outcome, err)
	switch {
	case outcome != 0 && h.outcome != 0 && outcome != h.outcome:
		s.wantReason("second decision about "+h.m.id, err, PreconditionFailed)
	default:
		s.must(err)
	}
	if h.outcome == 0 {
		h.outcome = outcome
	}
	if outcome != 0 {
		tx, err := s.b.Transaction(s.t.Context(), h.id)
		if err != nil || tx.Decision == nil || tx.Decision.Outcome != h.outcome {
			s.failf("%s is %+v, %v; it is %v", h.m.id, tx, err, h.outcome)
		}
	}
}

// recheck has the producer asked again, also about what is parked.
func (s *sim) recheck() {
	h := s.half()
	if h == nil {
		return
	}
	_, asked, err := s.b.RecheckTransaction(s.t.Context(), h.id)
	if h.outcome != 0 {
		s.wantReason("recheck of "+h.m.id, err, PreconditionFailed)
		return
	}
	s.must(err)
	if live := s.clients[simProducer].live; live != (asked == 1) {
		s.failf("a recheck of %s is for %d producers; there is one: %v", h.m.id, asked, live)
	}
	h.checks, h.parked, h.next = 0, false, s.now()
}

func (s *sim) listTransactions() {
	s.look()
	parked := s.r.IntN(2) == 0
	list, err := s.b.Transactions(s.t.Context(), TransactionFilter{Parked: parked})
	s.must(err)
	want := map[string]bool{}
	for _, h := range s.halves {
		if h.outcome == 0 && (h.parked || !parked) {
			want[h.id] = true
		}
	}
	for _, tx := range list {
		if !want[tx.ID] {
			s.failf("%+v is listed, parked: %v", tx, parked)
		}
		delete(want, tx.ID)
	}
	if len(want) > 0 {
		s.failf("%d half messages are not listed, parked: %v", len(want), parked)
	}
}
