package broker

import (
	"fmt"
	"strings"
	"time"

	"github.com/gantry-mq/gantry/broker/topic"
)

// simFirst is what a topic with a deduplication window remembers of a message.
type simFirst struct {
	m        *simMsg
	identity string
	stored   int64 // Unix ms
	sent     Sent
}

// identity says which messages are the same one to the topic.
func (tp *simTopic) identity(m *simMsg) string {
	switch tp.DedupKey {
	case topic.DedupByID:
		return m.lite + "/" + m.id
	case topic.DedupByKey:
		return m.lite + "/" + m.key
	}
	return m.lite + "/" + fmt.Sprint(m.n)
}

// known returns which message each of some is the same as: one that is remembered,
// an earlier one of these, or itself.
func (tp *simTopic) known(ms []*simMsg, now int64) []*simFirst {
	firsts := make([]*simFirst, len(ms))
	byIdentity := map[string]*simFirst{}
	for _, f := range tp.firsts {
		delete(byIdentity, f.identity)
		if f.stored+tp.DedupWindow.Milliseconds() > now {
			byIdentity[f.identity] = f
		}
	}
	for i, m := range ms {
		id := tp.identity(m)
		if firsts[i] = byIdentity[id]; firsts[i] == nil || tp.DedupWindow == 0 {
			firsts[i] = &simFirst{m: m, identity: id, stored: now}
			byIdentity[id] = firsts[i]
		}
	}
	return firsts
}

func (tp *simTopic) remember(f *simFirst) {
	if tp.DedupWindow > 0 {
		tp.firsts = append(tp.firsts, f)
		tp.firsts = tp.firsts[max(0, len(tp.firsts)-int(tp.DedupMax)):]
	}
}

// wantFirst sees that a message which was stored before is answered with that.
func (s *sim) wantFirst(m *simMsg, got *Sent, first *simFirst, alone bool) {
	want := first.sent
	if !alone { // only a request of one message is answered with a handle
		want.RecallHandle = ""
	}
	if want.MessageID != m.id && s.trimmed && got.MessageID == m.id { // nobody knows any more what the first was called
		want.MessageID = m.id
	}
	s.logf("%s is %s: %+v", m.id, first.m.id, *got)
	if *got != want {
		s.failf("%s, sent again, was answered with %+v; as %s with %+v", m.id, *got, first.m.id, want)
	}
}

// sendAgain sends something again that was sent before, as a client does that was
// not answered, or as one that has made a mistake: under the same id or key.
func (s *sim) sendAgain() {
	tp := s.topic()
	var known []*simMsg
	for _, f := range tp.firsts {
		known = append(known, f.m)
	}
	if e := s.anyMessage(); e != nil && (len(known) == 0 || s.r.IntN(8) == 0) {
		tp, known = e.home, []*simMsg{e}
	}
	if len(known) == 0 {
		return
	}
	m := *pick(s.r, known)
	s.sent++
	m.number, m.body = s.sent, []byte(fmt.Sprint(s.sent, ":", strings.Repeat("x", s.r.IntN(3000))))
	if s.r.IntN(3) == 0 {
		m.id = fmt.Sprint("m", s.sent)
	} else {
		tp.again[m.id] = true
	}
	ms := []*simMsg{&m}
	if m.due == 0 && !m.half && s.r.IntN(2) == 0 { // and beside itself
		twin := m
		s.sent++
		twin.number, twin.body = s.sent, []byte(fmt.Sprint(s.sent, ":"))
		ms = append(ms, &twin)
	}
	s.logf("%s again", m.id)
	s.post(tp, ms...)
}

// changeDedup gives a topic a deduplication window, or none.
func (s *sim) changeDedup() {
	tp := s.topic()
	none := time.Duration(0)
	changed, err := s.b.UpdateTopic(s.t.Context(), tp.Name, TopicChange{DedupWindow: &none})
	s.must(err)
	if s.r.IntN(4) > 0 {
		window := pick(s.r, []time.Duration{time.Second, 30 * time.Second, 10 * time.Minute})
		key := pick(s.r, []topic.DedupKey{topic.DedupByID, topic.DedupByKey, "property:n"})
		most := pick(s.r, []uint32{3, 1000})
		changed, err = s.b.UpdateTopic(s.t.Context(), tp.Name, TopicChange{DedupWindow: &window, DedupKey: &key, DedupMax: &most})
		s.must(err)
	}
	s.logf("%s has %+v", tp.name, changed.Dedup)
	tp.Dedup, tp.firsts = changed.Dedup, nil
	if changed != tp.Topic {
		s.failf("%s is %+v, want %+v", tp.name, changed, tp.Topic)
	}
}
