package check

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// kinds makes a history that keeps every promise about messages that are stored
// once: sent again, delayed, half, dead and redriven.
func kinds(seed uint64) *History {
	r := rand.New(rand.NewPCG(seed, 1))
	h := &History{Groups: []Consumers{{Name: "all", Topic: "kinds"}}}
	now, next := int64(0), int64(0)
	tick := func() int64 { now += 1 + r.Int64N(5); return now }
	for i := range 60 {
		id := fmt.Sprint("m", i)
		s := Send{ID: id, Topic: "kinds", Body: Sum([]byte(id)), Once: true, Half: i%4 == 1}
		if i%4 == 2 {
			s.Due = now + 20
		}
		offset := next
		if s.placed() {
			s.Offset = offset
		}
		for try := range 3 {
			s.Call, s.OK, s.Result = 10*i+try, try == 1 || r.IntN(2) == 0, ""
			if s.OK {
				s.Result = fmt.Sprint("result ", i)
			}
			s.Begin, s.End = tick(), tick()
			h.AddSends(s)
		}
		if s.Half {
			commit := i%8 == 1
			e := Ending{ID: id, Commit: commit, Begin: tick(), End: tick()}
			h.AddEnding(e) // an answer that was lost
			e.OK, e.Begin, e.End = true, tick(), tick()
			h.AddEnding(e)
			e.Commit, e.OK, e.Begin, e.End = !commit, false, tick(), tick()
			h.AddEnding(e) // refused
			if !commit {
				continue
			}
		}
		now = max(now, s.Due)
		for left := r.IntN(3); ; left-- {
			d := Delivery{Consumers: "all", Slot: Slot{"kinds", 0, next}, ID: id, Body: s.Body, Attempt: 1, AttemptID: fmt.Sprint(id, left), Begin: tick(), End: tick()}
			next++
			h.AddDelivery(d)
			a := Ack{Consumers: "all", Slot: d.Slot, Attempt: 1, OK: true, Begin: tick(), End: tick()}
			if a.Dead = i%4 == 3 && left > 0; a.Dead {
				a.ID = id
			}
			h.AddAcks(a)
			if !a.Dead {
				break
			}
		}
	}
	return h
}

func TestHealthyHistoriesOfAllKindsPass(t *testing.T) {
	for seed := range uint64(50) {
		r := Check(kinds(seed))
		if len(r.Violations) > 0 || r.Lost > 0 || r.Delayed == 0 || r.Committed == 0 || r.RolledBack == 0 || r.Repeats == 0 || r.Dead == 0 {
			t.Fatalf("seed %d: %v\n%v", seed, r, r.Violations)
		}
	}
}

func TestEveryBrokenPromiseAboutAKindIsFound(t *testing.T) {
	// first returns the first delivery of the first message that match says.
	first := func(h *History, match func(s *Send) bool) *Delivery {
		for i := range h.Deliveries {
			d := &h.Deliveries[i]
			if j := slices.IndexFunc(h.Sends, func(s Send) bool { return s.ID == d.ID }); match(&h.Sends[j]) {
				return d
			}
		}
		panic("none")
	}
	plain := func(s *Send) bool { return s.placed() && s.ID == "m0" }
	half := func(s *Send) bool { return s.Half }
	forget := func(h *History, id string) {
		h.Deliveries = slices.DeleteFunc(h.Deliveries, func(d Delivery) bool { return d.ID == id })
	}
	elsewhere := func(h *History, d Delivery) {
		d.Offset += 1000
		d.AttemptID = "elsewhere"
		h.AddDelivery(d)
	}
	deadID := func(h *History) string {
		return h.Acks[slices.IndexFunc(h.Acks, func(a Ack) bool { return a.Dead })].ID
	}
	for _, c := range []struct {
		name   string
		rule   Rule
		damage func(h *History)
	}{
		{"a message before it is due", Early, func(h *History) {
			d := first(h, func(s *Send) bool { return s.Due > 0 })
			d.End = h.Sends[slices.IndexFunc(h.Sends, func(s Send) bool { return s.ID == d.ID })].Due - 1
		}},
		{"a delayed message that never comes", Lost, func(h *History) { forget(h, first(h, func(s *Send) bool { return s.Due > 0 }).ID) }},
		{"a committed message that never comes", Lost, func(h *History) { forget(h, first(h, half).ID) }},
		{"a message before it is committed", Decided, func(h *History) { d := first(h, half); d.Begin, d.End = 0, 1 }},
		{"a message that was rolled back", Decided, func(h *History) {
			id := h.Endings[slices.IndexFunc(h.Endings, func(e Ending) bool { return e.OK && !e.Commit })].ID
			d := *first(h, half)
			d.ID, d.Body = id, Sum([]byte(id))
			elsewhere(h, d)
		}},
		{"a message that nobody decided on", Decided, func(h *History) { h.Endings = nil }},
		{"a second decision that is another", Decided, func(h *History) {
			for i := range h.Endings {
				h.Endings[i].OK = true
			}
		}},
		{"a message sent again that is stored again", Twice, func(h *History) { elsewhere(h, *first(h, plain)) }},
		{"a message sent again that gets another result", Twice, func(h *History) {
			h.Sends[slices.IndexFunc(h.Sends, func(s Send) bool { return s.OK && s.ID == "m1" })].Result = "another"
			s := h.Sends[0]
			s.ID, s.OK, s.Result = "m1", true, "a third"
			h.AddSends(s)
		}},
		{"a dead letter that is redriven twice", Redriven, func(h *History) {
			id := deadID(h)
			elsewhere(h, *first(h, func(s *Send) bool { return s.ID == id }))
		}},
		{"a dead letter that is not redriven", Redriven, func(h *History) {
			id := deadID(h)
			last := -1
			for i, d := range h.Deliveries {
				if d.ID == id {
					last = i
				}
			}
			h.Deliveries = slices.Delete(h.Deliveries, last, last+1)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for seed := range uint64(20) {
				h := kinds(seed)
				c.damage(h)
				r := Check(h)
				if !slices.ContainsFunc(r.Violations, func(v Violation) bool { return v.Rule == c.rule }) {
					t.Fatalf("seed %d: no %q among %v", seed, c.rule, r.Violations)
				}
			}
		})
	}
}
