package broker

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gantry-mq/gantry/broker/lite"
	"github.com/gantry-mq/gantry/broker/session"
	"github.com/gantry-mq/gantry/broker/topic"
)

var simLites = strings.Fields("l0 l1 l2 l3")

// simSubs is what a client has subscribed to, and when it said so last.
type simSubs struct {
	has  map[string]bool
	seen int64 // Unix ms
}

// simTold is what clients were told that they lost, as "client lite-topic".
type simTold struct {
	mu   sync.Mutex
	list []string
}

// to is the command stream of a client.
func (a *simTold) to(client string) func(session.Command) error {
	return func(c session.Command) error {
		if c, ok := c.(session.UnsubscribeLite); ok {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.list = append(a.list, client+" "+c.LiteTopic)
		}
		return nil
	}
}

func (a *simTold) take() (list []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	list, a.list = a.list, nil
	slices.Sort(list)
	return list
}

func (s *sim) sendLite() {
	tp := s.topic(topic.Lite, topic.Mixed)
	var ms []*simMsg
	for range 1 + s.r.IntN(3) {
		m := s.message(tp)
		m.lite, m.group, m.prio, m.priority = pick(s.r, simLites), "", false, 0
		ms = append(ms, m)
	}
	for _, m := range s.post(tp, ms...) {
		q := tp.queues[tp.lites[m.lite]]
		if q == nil || !tp.holds(m, len(q.entries)-1) && len(ms) == 1 {
			s.failf("%s is not the last of the lite topic %s", m.id, m.lite)
		}
	}
}

// liteGroup picks a group of lite topics.
func (s *sim) liteGroup() *simGroup {
	return s.groups[pick(s.r, []string{"lites", "one-lite-each"})]
}

func (s *sim) receiveLite() {
	g := s.liteGroup()
	req := s.request(g)
	s.subscribe(g, req.ClientID)
	s.take(g, req, s.liteQueues(g, req.ClientID))
}

// liteQueues accepts the queues of the lite topics that the client has.
func (s *sim) liteQueues(g *simGroup, client string) func(uint32) bool {
	return func(q uint32) bool {
		subs, tp := g.subs[client], s.topics[g.topic]
		if subs == nil {
			return false
		}
		for n, at := range tp.lites {
			if at == q {
				return subs.has[n]
			}
		}
		return false
	}
}

// subscribe makes the client take some lite topics, give some back, or say what it
// believes it has.
func (s *sim) subscribe(g *simGroup, client string) {
	var names []string
	for _, n := range simLites {
		if s.r.IntN(2) == 0 {
			names = append(names, n)
		}
	}
	s.sync(g, client, pick(s.r, []LiteAction{LiteAdd, LiteAdd, LiteRemove, LiteReplace, LiteReplace, LiteClear}), names)
}

// sync changes a client's subscriptions, and sees who is told what of it.
func (s *sim) sync(g *simGroup, client string, action LiteAction, names []string) {
	s.forgetSubs(g)
	var from LiteOffset
	if action == LiteAdd && s.r.IntN(4) == 0 {
		from = LiteOffset{Policy: pick(s.r, []LiteOffsetPolicy{LiteKeep, LiteMin, LiteMax, LiteAt, LiteTime}), Requested: s.r.IntN(4) > 0}
		switch from.Policy {
		case LiteAt:
			from.Value = s.r.Int64N(20)
		case LiteTime:
			from.Value = s.now() - s.r.Int64N(100_000)
		}
	}
	s.touch() // whether a client is live is certain then
	s.must(s.b.SyncLite(s.t.Context(), client, name(g.name), name(g.topic), action, names, from))
	s.logf("%s: %s syncs %v %v from %+v", g.name, client, action, names, from)
	if g.subs[client] == nil {
		g.subs[client] = &simSubs{has: map[string]bool{}}
	}
	mine := g.subs[client]
	mine.seen = s.now()
	if from.Requested && from.Policy != LiteKeep {
		s.begins(g, names, from)
	}
	var told, taken []string
	lost := func(client, lite string) {
		taken = append(taken, lite)
		if s.clients[client].listens {
			told = append(told, client+" "+lite)
		}
	}
	switch action {
	case LiteRemove:
		for _, n := range names {
			delete(mine.has, n)
		}
		if g.lite.ResetLeft {
			s.begins(g, names, LiteOffset{Policy: LiteMin})
		}
	case LiteReplace, LiteClear:
		clear(mine.has)
		for _, n := range names {
			if other := g.holder(n); action == LiteClear {
			} else if other != "" && g.lite.Exclusive {
				lost(client, n)
			} else {
				mine.has[n] = true
			}
		}
	case LiteAdd:
		for _, n := range names {
			if other := g.holder(n); other != "" && other != client && g.lite.Exclusive {
				delete(g.subs[other].has, n)
				lost(other, n)
			}
			mine.has[n] = true
		}
		if g.lite.ResetTaken {
			s.begins(g, taken, LiteOffset{Policy: LiteMin})
		}
	}
	slices.Sort(told)
	if got := s.told.take(); !slices.Equal(got, told) {
		s.failf("%s: clients were told of the loss of %q, want %q", g.name, got, told)
	}
}

// holder returns a client that has a lite topic.
func (g *simGroup) holder(lite string) string {
	for _, client := range g.clients {
		if subs := g.subs[client]; subs != nil && subs.has[lite] {
			return client
		}
	}
	return ""
}

// begins moves the group in lite topics that are there.
func (s *sim) begins(g *simGroup, names []string, from LiteOffset) {
	tp := s.topics[g.topic]
	for _, n := range names {
		number, ok := tp.lites[n]
		if !ok {
			continue
		}
		q := tp.queues[number]
		to := 0
		switch from.Policy {
		case LiteMax:
			to = len(q.entries)
		case LiteAt:
			to = int(from.Value)
		case LiteTime:
			to = q.storedAt(from.Value)
		}
		g.moveTo(number, q, min(max(to, q.low), len(q.entries)))
	}
}

// forgetSubs forgets what clients have subscribed to that have not said so for
// long. When that is just now the broker's to decide, it waits until it is certain.
func (s *sim) forgetSubs(g *simGroup) {
	const certain = 2 * housekeepEvery
	for _, client := range g.clients {
		subs := g.subs[client]
		if subs == nil {
			continue
		}
		silent := time.Duration(s.now()-subs.seen) * time.Millisecond
		if silent < lite.Expiry {
			continue
		}
		if silent < lite.Expiry+certain {
			s.touch()
			time.Sleep(lite.Expiry + certain - silent)
			s.look()
		}
		s.logf("%s has no subscriptions of %s any more", g.name, client)
		delete(g.subs, client)
	}
}

func (a LiteAction) String() string {
	return [...]string{"add", "remove", "replace", "clear"}[a]
}
