package broker

import "github.com/gantry-mq/gantry/broker/topic"

func (s *sim) replayRange() { s.replayTo(s.group()) }

// replayTo hands messages that came in some time, and that the group has done with,
// to the group again.
func (s *sim) replayTo(g *simGroup) {
	s.look()
	tp := s.topics[g.topic]
	if tp == nil || tp.Type == topic.Lite {
		return
	}
	f := g.filter
	if s.r.IntN(4) == 0 {
		f = pick(s.r, simFilters)
	}
	span := pick(s.r, []int64{2_000, 100_000, 5 * 3_600_000})
	req := ReplayRequest{From: s.now() - s.r.Int64N(span), FilterType: f.kind, Filter: f.text}
	to := s.now()
	if s.r.IntN(2) == 0 {
		req.To = req.From + 1 + s.r.Int64N(span)
		to = req.To
	}
	for n, q := range tp.queues {
		if q.low > 0 && !g.begun[n] {
			return // where the group begins then is the broker's to say
		}
	}
	var dry ReplayProgress
	if s.r.IntN(2) == 0 {
		var err error
		req.DryRun = true
		dry, err = s.b.Replay(s.t.Context(), name(g.name), name(g.topic), req, nil)
		s.must(err)
		req.DryRun = false
	}
	total, least, most := 0, 0, 0
	var again []*simEntry
	for n, q := range tp.queues {
		in := 0
		for _, e := range q.entries[q.low:] {
			if e.stored >= req.From && e.stored < to {
				in++
			}
		}
		if total += in; in == 0 {
			continue
		}
		g.begin(n, q, 0)
		for _, e := range q.entries[q.low:] {
			if e.stored < req.From || e.stored >= to || e.gone() || e.deleted || !f.wants(e.m) {
				continue
			}
			switch p := g.places[e]; {
			case p == nil && g.wants(e): // it comes anyway
			case p == nil:
				most++ // if the group has come to it
				g.strays = true
			case p.settled:
				least++
				most++
				if !g.wants(e) {
					g.strays = true
				} else {
					again = append(again, e)
				}
			}
		}
	}
	p, err := s.b.Replay(s.t.Context(), name(g.name), name(g.topic), req, nil)
	s.must(err)
	s.logf("%s, replay of [%d, %d) ms, %q: %+v", g.name, req.From-s.now(), to-s.now(), f.text, p)
	if int(p.Total) != total || p.Passed != p.Total || int(p.Done) < least || int(p.Done) > most {
		s.failf("replay to %s: %+v; %d are there, want %d to %d", g.name, p, total, least, most)
	}
	if dry.Total > 0 && dry != p {
		s.failf("replay to %s: %+v, as a dry run %+v", g.name, p, dry)
	}
	for _, e := range again {
		place := &simPlace{}
		place.until(s.now())
		g.places[e] = place
	}
}
