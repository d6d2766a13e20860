package api

import (
	"context"
	"net"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/sharding"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// A cluster may have several shards. Each is a broker of its own, with ports of its own,
// and to clients it is one of several brokers that have a topic's queues: the route
// tells them where each queue is, and whatever they do with it they do there.

// Shards is what a server knows of the shards of its cluster, from 0.
type Shards interface {
	// Own is the server's, and of how many.
	Own() (shard, of int)
	// Name is that of the broker in routes.
	Name(shard int) string
	// Route is Cluster.Route of a shard, as far as this node knows: it may be empty.
	Route(shard int) []string
	// Topic is one of a shard, as far as this node knows.
	Topic(shard int, name record.Resource) (topic.Topic, bool)
	// Recall is broker.Recall in the shard that made the handle.
	Recall(ctx context.Context, topic record.Resource, handle string) (messageID string, err error)
	// Settle waits until this node has the tables of shard 0 in all other shards, or ctx
	// is done.
	Settle(ctx context.Context)
}

// ownShard is which shard a server has, and of how many.
func ownShard(s Shards) (own, of uint32) {
	if s == nil {
		return 0, 1
	}
	shard, all := s.Own()
	return uint32(shard), uint32(all)
}

// recalling is broker.Recall, or Shards.Recall.
type recalling func(ctx context.Context, topic record.Resource, handle string) (messageID string, err error)

// cancel is where a recall goes: clients send it to any shard.
func (m *messaging) cancel() recalling {
	if m.shards != nil {
		return m.shards.Recall
	}
	return m.broker.Recall
}

// settleWait bounds how long who changes a table waits until all shards have the change.
const settleWait = 2 * time.Second

// elsewhere is why this shard does not change a table, nil for the one that does. Dead
// letters are each shard's own, and so is their topic.
func (s *Server) elsewhere(method string, req any) error {
	if s.messaging.shards == nil || !rules[method].tables {
		return nil
	}
	own, _ := s.messaging.shards.Own()
	if named, ok := req.(interface{ GetName() string }); own == 0 || ok && broker.IsDLQ(named.GetName()) {
		return nil
	}
	at := "its address"
	if r := s.messaging.shards.Route(0); len(r) > 0 {
		at = r[0]
	}
	return broker.Errorf(broker.PreconditionFailed,
		"this is shard %d: topics, groups, users, policies and quotas are changed at shard 0, at %s, and get here by themselves", own, at)
}

// settle waits until a change of a table is in all shards.
func (s *Server) settle(ctx context.Context, method string) {
	if s.messaging.shards == nil || !rules[method].tables {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	s.messaging.shards.Settle(ctx)
}

// holders are the brokers that have queues of a topic, in the same order always, and the
// topic. Dead letters and lite topics are not in all shards.
func (m *messaging) holders(ctx context.Context, asked *v2.Endpoints, name record.Resource) (topic.Topic, []*v2.Broker, error) {
	tp, err := m.broker.Route(name)
	if m.shards == nil || err != nil && broker.ReasonOf(err) != broker.TopicNotFound {
		return tp, []*v2.Broker{m.wireBroker(ctx, asked)}, err
	}
	own, of := m.shards.Own()
	has := make([]bool, of)
	has[own] = err == nil
	for i := range of {
		if i == own {
			continue
		}
		if found, ok := m.shards.Topic(i, name); ok {
			has[i] = true
			tp, err = found, nil
		}
	}
	if err != nil {
		return tp, nil, err
	}
	var all []*v2.Broker
	for i := range of {
		if has[i] || broker.InAllShards(tp) {
			all = append(all, m.wireShard(ctx, asked, i))
		}
	}
	return tp, all, nil
}

// wireShard is a shard in a route, by the rules of wireBroker.
func (m *messaging) wireShard(ctx context.Context, asked *v2.Endpoints, shard int) *v2.Broker {
	var e *v2.Endpoints
	if toldNodes(ctx, asked) {
		if e = allOf(m.shards.Route(shard)); e == nil { // every node has all shards
			own, _ := m.shards.Own()
			e = shifted(allOf(m.shards.Route(own)), shard-own)
		}
	} else {
		e = reachedBy(ctx, asked)
		e = shifted(e, shard-m.shardOf(e))
	}
	return &v2.Broker{Name: m.shards.Name(shard), Id: 0, Endpoints: e}
}

// shardOf is the shard of an address that a client used: that whose nodes have its port,
// or else the one that it was led to. Clients may ask a shard of a route for another
// one's address, the one that they were configured with.
func (m *messaging) shardOf(e *v2.Endpoints) int {
	own, of := m.shards.Own()
	port := strconv.Itoa(int(e.GetAddresses()[0].GetPort()))
	for i := range of {
		if slices.ContainsFunc(m.shards.Route(i), func(a string) bool {
			_, p, err := net.SplitHostPort(a)
			return err == nil && p == port
		}) {
			return i
		}
	}
	return own
}

// shifted is an endpoint with the ports of a shard that is so many further.
func shifted(e *v2.Endpoints, shards int) *v2.Endpoints {
	e = proto.CloneOf(e)
	for _, a := range e.GetAddresses() {
		a.Port += int32(shards * sharding.Step)
	}
	return e
}
