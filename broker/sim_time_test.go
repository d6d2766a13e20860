package broker

import (
	"time"

	"github.com/gantry-mq/gantry/broker/session"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// pass lets time pass, and clients live or die of it.
func (s *sim) pass() {
	s.sleep(time.Duration(1+s.r.Int64N(pick(s.r, []int64{5, 2_000, 20_000, 90_000}))) * time.Millisecond)
}

// passLong lets so much pass that whatever waits for time has had it.
func (s *sim) passLong() {
	s.sleep(time.Duration(1+s.r.Int64N(40*60_000)) * time.Millisecond)
}

// sleep passes time in steps that are short enough to see everything before
// retention takes it.
func (s *sim) sleep(d time.Duration) {
	silent := s.r.IntN(4) == 0
	s.logf("%v pass, clients silent: %v", d, silent)
	for d > 0 {
		if !silent {
			s.touch()
		}
		step := min(d, 50*time.Second)
		time.Sleep(step)
		d -= step
		s.look()
	}
	s.expire()
}

// touch keeps all clients that are connected so.
func (s *sim) touch() {
	for _, n := range sorted(s.clients) {
		if c := s.clients[n]; c.live {
			if !s.b.sessions.Touch(n) {
				s.failf("the client %s is not known any more", n)
			}
			c.seen = s.now()
		}
	}
}

// expire ends clients that have been silent for so long. When just now that is
// the broker's to decide, it waits until it is certain.
func (s *sim) expire() {
	const certain = 6_000 + ReleaseDelay/time.Millisecond // sessions are looked through every 5 s
	limit := ClientExpiry.Milliseconds()
	for again := true; again; {
		again = false
		for _, n := range sorted(s.clients) {
			c := s.clients[n]
			if silent := s.now() - c.seen; c.live && silent >= limit && silent < limit+int64(certain) {
				time.Sleep(time.Duration(limit+int64(certain)-silent) * time.Millisecond)
				s.look()
				again = true
			}
		}
	}
	for _, n := range sorted(s.clients) {
		if c := s.clients[n]; c.live && s.now()-c.seen >= limit {
			if s.b.sessions.Live(n) {
				s.failf("the client %s is still there", n)
			}
			s.end(c, s.now())
		}
	}
}

// end says that a client is gone, and what it held comes again by late.
func (s *sim) end(c *simClient, late int64) {
	s.logf("%s is gone", c.id)
	c.live = false
	if g := s.groups[c.group]; g != nil {
		delete(g.subs, c.id)
	}
	if g := s.groups[c.group]; g != nil {
		for _, p := range g.places {
			if p.auto && p.owner == c.id && !p.settled {
				p.auto, p.by, p.early, p.late = false, "", min(p.early, late), min(p.late, late)
			}
		}
	}
}

// client comes, goes or loses its connection.
func (s *sim) client() {
	s.touch()
	c := s.clients[pick(s.r, sorted(s.clients))]
	switch {
	case c.id == simProducer && c.live && s.r.IntN(2) == 0:
		s.look()
		s.asked.busy.Store(!s.asked.busy.Load())
		s.logf("the producer is busy: %v", s.asked.busy.Load())
	case c.id == simProducer && !c.live:
		s.b.sessions.Register(session.Client{ID: c.id, Role: session.Producer, Publishing: []record.Resource{name("tx"), name("mixed")}})
		s.b.sessions.Attach(c.id, s.asked.command)
		s.asked.busy.Store(false)
		c.live, c.seen = true, s.now()
	case !c.live:
		s.b.sessions.Register(session.Client{ID: c.id, Role: session.PushConsumer, Group: name(c.group)})
		if s.groups[c.group].ofLites {
			s.b.sessions.Attach(c.id, s.told.to(c.id))
			c.listens = true
		}
		c.live, c.seen = true, s.now()
	case s.r.IntN(2) == 0:
		s.b.sessions.Terminate(c.id)
		s.end(c, s.now()+ReleaseDelay.Milliseconds())
	default:
		s.disconnect(c)
	}
	s.logf("%s, live: %v", c.id, c.live)
}

// disconnect breaks the client's command stream: what it was handed out a moment
// ago may not have arrived.
func (s *sim) disconnect(c *simClient) {
	s.b.Disconnected(c.id)
	if g := s.groups[c.group]; g != nil {
		for _, p := range g.places {
			if p.auto && p.owner == c.id && !p.settled && s.now()-p.since < recentLease.Milliseconds() {
				p.auto, p.by = false, ""
				p.early = s.now() + defaultInvisible.Milliseconds()
				p.late = p.early
			}
		}
	}
}
