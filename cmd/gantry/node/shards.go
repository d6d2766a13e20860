package node

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gantry-mq/gantry/api"
	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/replica"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// Shards are those of a cluster in one process, which has a node of each: so each sees
// the state of all others, as far as this machine has it.
type Shards struct {
	names []string               // of their brokers, in routes
	all   []atomic.Pointer[life] // nil until it is a member
}

// NewShards returns those whose brokers have these names, for the Options of each.
func NewShards(names ...string) *Shards {
	return &Shards{names, make([]atomic.Pointer[life], len(names))}
}

// RunAll is Run for all shards of a cluster. When one cannot go on, all end; a node that
// was taken out of some shards goes on with the others, until it is of none: its vote may
// be needed to take it out of those.
func RunAll(ctx context.Context, all []Options) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(all))
	var run sync.WaitGroup
	for i, o := range all {
		run.Go(func() {
			if errs[i] = Run(ctx, o); errs[i] != nil && !errors.Is(errs[i], replica.ErrRemoved) {
				cancel()
			}
		})
	}
	run.Wait()
	return errors.Join(errs...)
}

// state is what this node has of a shard, nil before there is anything.
func (s *Shards) state(shard int) *broker.Broker {
	if l := s.all[shard].Load(); l != nil {
		return l.state.Load()
	}
	return nil
}

// shards is what the server of one of them sees.
type shards struct {
	*Shards
	own int
}

// of is the shards for the server of this one, nil if there is one alone.
func (l *life) of() api.Shards {
	if l.Shards == nil || len(l.Shards.all) == 1 {
		return nil
	}
	return shards{l.Shards, l.Shard}
}

func (s shards) Own() (shard, of int) { return s.own, len(s.all) }

func (s shards) Name(shard int) string { return s.names[shard] }

func (s shards) Route(shard int) []string {
	if l := s.all[shard].Load(); l != nil {
		return route(l.node)
	}
	return nil
}

func (s shards) Topic(shard int, name record.Resource) (topic.Topic, bool) {
	b := s.state(shard)
	if b == nil {
		return topic.Topic{}, false
	}
	tp, err := b.Route(name)
	return tp, err == nil
}

func (s shards) Recall(ctx context.Context, topic record.Resource, handle string) (messageID string, err error) {
	made := s.own
	for i := range s.all {
		if b := s.state(i); b != nil && b.MadeRecall(handle) {
			made = i
		}
	}
	r, err := s.order(ctx, made, order{Recall: &recall{topic, handle}})
	return r.MessageID, err
}

// settlePoll is how often it is looked whether there is another broker to wait for.
const settlePoll = 100 * time.Millisecond

func (s shards) Settle(ctx context.Context) {
	for i := 1; i < len(s.all); i++ {
		for ctx.Err() == nil {
			of, b := s.state(0), s.state(i)
			var changed <-chan struct{}
			if of != nil && b != nil {
				if changed = b.TablesChanged(); b.Mirrors(of.Tables()) {
					break
				}
			}
			select {
			case <-changed:
			case <-time.After(settlePoll):
			case <-ctx.Done():
			}
		}
	}
}

// newGroup has shard 0 make a group, for another one.
func (l *life) newGroup(ctx context.Context, name record.Resource) error {
	_, err := l.Shards.order(ctx, 0, order{Group: &name})
	return err
}

// mirrorPoll is how often a shard looks whether this node has opened shard 0 anew. What
// changes in it is told at once.
const mirrorPoll = 100 * time.Millisecond

// mirror makes the tables of a shard that this node leads those of shard 0, as this node
// has it, and keeps them so.
//
// What this node has of shard 0 may be older than what the leader before had: then topics
// would be deleted that have just come. So, before a broker is followed for the first
// time, it has all that was committed when the shard's leader was asked.
func (l *life) mirror(ctx context.Context, b *broker.Broker) {
	poll := time.NewTicker(mirrorPoll)
	defer poll.Stop()
	var from *broker.Broker // of shard 0
	told := false
	for {
		var changed <-chan struct{}
		err := error(nil)
		if first := l.Shards.state(0); first != nil && first != from {
			if err = l.Shards.reach(ctx, first); err == nil {
				from = first
			}
		}
		if from != nil {
			changed = from.TablesChanged()
			var n int
			if n, err = b.Mirror(ctx, from.Tables()); n > 0 {
				l.Logger.Info("this shard follows the tables of shard 0", "changes", n)
			}
		}
		if err != nil && !told && ctx.Err() == nil {
			l.Logger.Warn("this shard does not follow the tables of shard 0 at the moment", "error", err)
		}
		told = err != nil
		for again := false; !again; {
			select {
			case <-changed:
				again = true
			case <-poll.C:
				again = err != nil || l.Shards.state(0) != from
			case <-ctx.Done():
				return
			}
		}
	}
}

// reachTimeout bounds how long a shard waits for shard 0: it has a leader, or none.
const reachTimeout = 5 * time.Second

// reach waits until a broker of shard 0 has applied all that any node has seen committed.
func (s *Shards) reach(ctx context.Context, first *broker.Broker) error {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	r, err := s.order(ctx, 0, order{Reach: true})
	if err != nil {
		return err
	}
	return first.Applied(ctx, r.Position)
}

// spreadEvery is how often a leader looks whether another node is to lead.
const spreadEvery = 10 * time.Second

// heir is the node that is to lead this shard: of those that count, by name, another one
// for each shard.
func (l *life) heir() string {
	var names []string
	for _, m := range l.node.Members() {
		if m.Voter {
			names = append(names, m.Name)
		}
	}
	slices.Sort(names)
	if len(names) == 0 { // raft ends
		return ""
	}
	return names[l.Shard%len(names)]
}

// spread hands the leadership to the node that is to have it, when this one has led for
// so long that clients had time to come back.
func (l *life) spread(ctx context.Context) {
	wait := l.SpreadAfter
	for {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		wait = min(spreadEvery, l.SpreadAfter)
		heir := l.heir()
		switch handed, err := l.node.Prefer(ctx, heir); {
		case handed:
			l.Logger.Info("the leadership was handed to the node that is to lead this shard", "to", heir)
			return
		case err != nil && ctx.Err() == nil:
			l.Logger.Warn("the leadership could not be handed to the node that is to lead this shard", "to", heir, "error", err)
		}
	}
}
