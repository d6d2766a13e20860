package check

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// healthy makes a history that keeps every promise: a plain group, a filtered
// one and an ordered one; lost answers, resends, redeliveries, repeated receives.
func healthy(seed uint64) *History {
	r := rand.New(rand.NewPCG(seed, 0))
	h := &History{Groups: []Consumers{
		{Name: "all", Topic: "plain"}, {Name: "some", Topic: "plain", Tags: []string{"A"}}, {Name: "ordered", Topic: "fifo", FIFO: true},
	}}
	now := int64(0)
	tick := func() int64 { now += 1 + r.Int64N(5); return now }
	for _, topic := range []string{"plain", "fifo"} {
		var stored []Delivery // what is where
		for i := range 40 {
			id := fmt.Sprintf("%s-%d", topic, i)
			s := Send{ID: id, Topic: topic, Body: Sum([]byte(id)), Call: i, Begin: tick(), Tag: string("AB"[i%2])}
			if topic == "fifo" {
				s.Group, s.Tag = fmt.Sprint("g", i%3), ""
			}
			s.OK = r.IntN(4) > 0
			if s.OK || r.IntN(2) == 0 {
				s.Offset = int64(len(stored))
				stored = append(stored, Delivery{Slot: Slot{topic, 0, s.Offset}, ID: id, Group: s.Group, Tag: s.Tag, Body: s.Body})
			}
			s.End = tick()
			h.AddSends(s)
			if !s.OK && r.IntN(2) == 0 { // sent again
				s.OK, s.Call, s.Offset, s.Begin = true, 1000+i, int64(len(stored)), tick()
				stored = append(stored, Delivery{Slot: Slot{topic, 0, s.Offset}, ID: id, Group: s.Group, Tag: s.Tag, Body: s.Body})
				s.End = tick()
				h.AddSends(s)
			}
		}
		for _, g := range h.Groups {
			for i, d := range stored {
				if !g.wants(topic, d.Tag) {
					continue
				}
				d.Consumers = g.Name
				for d.Attempt = 1; ; d.Attempt++ {
					d.AttemptID = fmt.Sprint(g.Name, i, d.Attempt)
					d.Begin, d.End = tick(), tick()
					h.AddDelivery(d)
					if r.IntN(5) == 0 { // the same receive again
						d.Begin, d.End = tick(), tick()
						h.AddDelivery(d)
					}
					a := Ack{Consumers: g.Name, Slot: d.Slot, Attempt: d.Attempt, OK: true, Begin: tick(), End: tick()}
					if r.IntN(4) > 0 {
						h.AddAcks(a)
						break
					}
					if r.IntN(2) == 0 { // an answer that was lost
						a.OK = false
						h.AddAcks(a)
						if r.IntN(2) == 0 {
							break
						}
					}
				}
			}
		}
	}
	return h
}

func TestHealthyHistoriesPass(t *testing.T) {
	for seed := range uint64(50) {
		if r := Check(healthy(seed)); len(r.Violations) > 0 || r.Lost > 0 || r.Appeared < 60 || r.Redelivered == 0 {
			t.Fatalf("seed %d: %v\n%v", seed, r, r.Violations)
		}
	}
}

// Who acknowledges what has meanwhile come to another, and was acknowledged there, is told
// that it is done with.
func TestALateAcknowledgementMayFindTheMessageDone(t *testing.T) {
	for seed := range uint64(20) {
		h := healthy(seed)
		i := slices.IndexFunc(h.Acks, func(a Ack) bool { return a.OK && a.Attempt > 1 })
		late := h.Acks[i]
		late.Attempt--
		late.Begin, late.End = late.End+1, late.End+2
		before := Check(h).Late
		h.AddAcks(late)
		if r := Check(h); len(r.Violations) > 0 || r.Late != before+1 {
			t.Errorf("seed %d: %v, %v", seed, r, r.Violations)
		}
	}
}

// TestEveryBrokenPromiseIsFound breaks healthy histories in one place each.
func TestEveryBrokenPromiseIsFound(t *testing.T) {
	// acked returns an acknowledgement that succeeded, of the named group.
	acked := func(h *History, group string) Ack {
		return h.Acks[slices.IndexFunc(h.Acks, func(a Ack) bool { return a.OK && a.Consumers == group })]
	}
	// of returns the index of the last delivery that a is about.
	of := func(h *History, a Ack) int {
		last := -1
		for i, d := range h.Deliveries {
			if d.Consumers == a.Consumers && d.Slot == a.Slot {
				last = i
			}
		}
		return last
	}
	// forget removes all that match from a group's history.
	forget := func(h *History, match func(group, id string) bool) {
		h.Deliveries = slices.DeleteFunc(h.Deliveries, func(d Delivery) bool { return match(d.Consumers, d.ID) })
	}
	okSend := func(h *History, topic string) *Send {
		return &h.Sends[slices.IndexFunc(h.Sends, func(s Send) bool { return s.OK && s.Topic == topic && s.Tag != "B" })]
	}
	const late = int64(1) << 40
	for _, c := range []struct {
		name   string
		rule   Rule
		damage func(h *History)
	}{
		{"an acknowledged message reaches nobody", Lost, func(h *History) {
			id := okSend(h, "plain").ID
			forget(h, func(_, got string) bool { return got == id })
		}},
		{"one group misses a message", Lost, func(h *History) {
			id := okSend(h, "plain").ID
			forget(h, func(group, got string) bool { return got == id && group == "some" })
		}},
		{"a message acknowledged twice is there once", Lost, func(h *History) {
			s := *okSend(h, "plain")
			s.Offset = 999
			h.AddSends(s, s, s)
		}},
		{"a wrong body", Body, func(h *History) { h.Deliveries[9].Body++ }},
		{"a wrong tag", Body, func(h *History) { h.Deliveries[9].Tag = "AA" }},
		{"a wrong message group", Body, func(h *History) { h.Deliveries[len(h.Deliveries)-1].Group = "g9" }},
		{"a message that nobody sent", Invented, func(h *History) {
			d := h.Deliveries[0]
			d.ID, d.Offset = "ghost", 1000
			h.AddDelivery(d)
		}},
		{"a message before it was sent", Invented, func(h *History) { h.Deliveries[0].End = -1 }},
		{"a message sent once in two places", Invented, func(h *History) {
			s := *okSend(h, "plain")
			h.Sends = slices.DeleteFunc(h.Sends, func(other Send) bool { return other.ID == s.ID && other.Call != s.Call })
			for _, d := range h.Deliveries {
				if d.ID == s.ID {
					d.Offset += 1000
					h.AddDelivery(d)
				}
			}
		}},
		{"two messages in one place", Place, func(h *History) {
			d := h.Deliveries[0]
			d.ID = h.Deliveries[len(h.Deliveries)-1].ID
			h.AddDelivery(d)
		}},
		{"another offset than was told", Place, func(h *History) { okSend(h, "plain").Offset += 500 }},
		{"a message that the filter should have held back", Unwanted, func(h *History) {
			i := slices.IndexFunc(h.Deliveries, func(d Delivery) bool { return d.Tag == "B" })
			d := h.Deliveries[i]
			d.Consumers = "some"
			h.AddDelivery(d)
		}},
		{"a delivery after its acknowledgement", Redelivered, func(h *History) {
			d := h.Deliveries[of(h, acked(h, "all"))]
			d.Attempt++
			d.Begin, d.End, d.AttemptID = late, late+1, "later"
			h.AddDelivery(d)
		}},
		{"a repeated receive that returns what is acknowledged", Redelivered, func(h *History) {
			d := h.Deliveries[of(h, acked(h, "all"))]
			d.Begin, d.End = late, late+1
			h.AddDelivery(d)
		}},
		{"a redelivery beside the acknowledgement", Redelivered, func(h *History) {
			a := acked(h, "all")
			d := h.Deliveries[of(h, a)]
			d.Begin, d.End, d.Attempt, d.AttemptID = d.End+1, a.End+1, d.Attempt+1, "beside"
			h.AddDelivery(d)
		}},
		{"the same attempt twice", Attempts, func(h *History) {
			d := h.Deliveries[len(h.Deliveries)-1]
			d.Begin, d.End, d.AttemptID = d.End+1, d.End+2, "another"
			h.AddDelivery(d)
		}},
		{"attempts go back", Attempts, func(h *History) {
			d := h.Deliveries[of(h, acked(h, "all"))]
			d.Attempt += 5
			d.Begin, d.End, d.AttemptID = 1+okSend(h, "plain").Begin, 2+okSend(h, "plain").Begin, "early"
			h.AddDelivery(d)
		}},
		{"attempt 0", Attempts, func(h *History) { h.Deliveries[0].Attempt = 0 }},
		{"a message before the one before it is acknowledged", Order, func(h *History) {
			a := acked(h, "ordered")
			for i := range h.Acks {
				if h.Acks[i].Slot == a.Slot {
					h.Acks[i].Begin, h.Acks[i].End = late, late+1
				}
			}
		}},
		{"a message again after the one behind it", Order, func(h *History) {
			a := acked(h, "ordered")
			for i := range h.Acks {
				if h.Acks[i].Slot == a.Slot {
					h.Acks[i].OK = false
				}
			}
			d := h.Deliveries[of(h, a)]
			d.Attempt, d.Begin, d.End, d.AttemptID = d.Attempt+1, late, late+1, "again"
			h.AddDelivery(d)
		}},
		{"two messages of a message group stored the other way round", Stored, func(h *History) {
			var ok []int
			for i, s := range h.Sends {
				if s.OK && s.Group == "g0" {
					ok = append(ok, i)
				}
			}
			a, b := &h.Sends[ok[0]], &h.Sends[ok[3]]
			a.Offset, b.Offset = b.Offset, a.Offset
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for seed := range uint64(20) {
				h := healthy(seed)
				c.damage(h)
				r := Check(h)
				if !slices.ContainsFunc(r.Violations, func(v Violation) bool { return v.Rule == c.rule }) {
					t.Fatalf("seed %d: no %q among %v", seed, c.rule, r.Violations)
				}
				if c.rule == Lost != (r.Lost > 0) {
					t.Fatalf("seed %d: lost %d: %v", seed, r.Lost, r.Violations)
				}
			}
		})
	}
}

func TestHistoryIsWrittenOneObjectALine(t *testing.T) {
	h := healthy(1)
	var b bytes.Buffer
	if err := h.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	if n, want := strings.Count(b.String(), "\n"), len(h.Groups)+len(h.Sends)+len(h.Deliveries)+len(h.Acks); n != want {
		t.Fatalf("%d lines, want %d", n, want)
	}
}
