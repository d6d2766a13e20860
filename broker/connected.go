package broker

import (
	"github.com/gantry-mq/gantry/broker/session"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// ConnectedClient is a client with what it holds.
type ConnectedClient struct {
	session.Client
	InFlight int                     // leases, all of them
	ByTopic  map[record.Resource]int // the same by topic; nil = none
	Lag      map[record.Resource]int64
}

// Connected returns the live clients, by id, with the leases they hold and what
// their groups have waiting in each topic. It takes time in proportion to the
// number of leases.
func (b *Broker) Connected() []ConnectedClient {
	type holding struct {
		total   int
		byTopic map[record.Resource]int
	}
	held := map[string]*holding{}
	lag := map[record.Resource]map[record.Resource]int64{}
	for _, s := range b.inflight.Subs() {
		tp, ok := b.topics.ByID(s.Key().Topic)
		g, there := b.groups.ByID(s.Key().Group)
		if !ok || !there {
			continue
		}
		for owner, n := range s.HeldBy(b.now()) {
			h := held[owner]
			if h == nil {
				h = &holding{byTopic: map[record.Resource]int{}}
				held[owner] = h
			}
			h.total += n
			h.byTopic[tp.Name] += n
		}
		queues, _ := b.subStatus(s)
		if lag[g.Name] == nil {
			lag[g.Name] = map[record.Resource]int64{}
		}
		for _, q := range queues {
			lag[g.Name][tp.Name] += int64(q.Max-q.Cursor) + int64(q.Ready)
		}
	}
	live := b.sessions.List()
	out := make([]ConnectedClient, 0, len(live))
	for _, c := range live {
		one := ConnectedClient{Client: c}
		if h := held[c.ID]; h != nil {
			one.InFlight, one.ByTopic = h.total, h.byTopic
		}
		if c.Role != session.Producer {
			one.Lag = lag[c.Group]
		}
		out = append(out, one)
	}
	return out
}
