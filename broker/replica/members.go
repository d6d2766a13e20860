package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/gantry-mq/gantry/broker/replica/peer"
)

// memberTimeout is how long a change of the membership may wait for the one before.
const memberTimeout = 5 * time.Second

// Member is a node of the cluster.
type Member struct {
	Name   string
	ID     string // its name and its directory
	Peer   string // its address for nodes
	Client string // and for clients
	Voter  bool   // it counts for a majority
	Leader bool   // as far as the node that was asked knows
}

// address is raft's.
func (m Member) address() string { return peer.Address{Peer: m.Peer, Client: m.Client}.String() }

// Members returns the nodes of the cluster, as far as this one knows.
func (n *Node) Members() []Member {
	out, _ := n.membership()
	return out
}

// membership also returns the index of the entry that made it so.
func (n *Node) membership() (out []Member, index uint64) {
	f := n.raft.GetConfiguration() // answered at once, by memory
	if f.Error() != nil {
		return nil, 0
	}
	_, leader := n.raft.LeaderWithID()
	for _, s := range f.Configuration().Servers {
		at := peer.ParseAddress(string(s.Address))
		out = append(out, Member{
			Name: peer.NameOf(string(s.ID)), ID: string(s.ID), Peer: at.Peer, Client: at.Client,
			Voter: s.Suffrage == raft.Voter, Leader: s.ID == leader,
		})
	}
	return out, f.Index()
}

// Leader returns the node that leads, as far as this one knows.
func (n *Node) Leader() (Member, bool) {
	for _, m := range n.Members() {
		if m.Leader {
			return m, true
		}
	}
	return Member{}, false
}

// leaderFirst returns the other members in the order in which to ask them for the
// leader.
func (n *Node) leaderFirst() []Member {
	others := slices.DeleteFunc(n.Members(), func(m Member) bool { return m.ID == n.parts.id })
	if i := slices.IndexFunc(others, func(m Member) bool { return m.Leader }); i > 0 {
		others[0], others[i] = others[i], others[0]
	}
	return others
}

func (n *Node) member(name string) (Member, error) { return named(n.Members(), name) }

func named(members []Member, name string) (Member, error) {
	for _, m := range members {
		if m.Name == name {
			return m, nil
		}
	}
	return Member{}, fmt.Errorf("%w: %s", ErrNoMember, name)
}

// Remove takes the node with that name out of the cluster; any member may be asked.
// It finds out and stops. The name is free then, for a node with a new directory.
// ErrNoMember, ErrNoLeader, or why the leader could not.
func (n *Node) Remove(ctx context.Context, name string) error {
	return n.command(ctx, question{Ask: askRemove, Node: name})
}

func (n *Node) command(ctx context.Context, q question) error {
	a, err := n.put(ctx, q)
	if err != nil {
		return err
	}
	return a.err(q.Node)
}

// decide answers what only a leader decides.
func (n *Node) decide(q question) answer {
	if n.raft.State() != raft.Leader {
		return answer{Verdict: notLeader}
	}
	var reply []byte
	var err error
	switch q.Ask {
	case askOrder:
		if n.opts.Order == nil {
			return answer{Verdict: failed, Text: "this node takes no orders"}
		}
		ctx, cancel := context.WithTimeout(n.ctx, decideTimeout)
		defer cancel()
		reply, err = n.opts.Order(ctx, q.Order)
	case askJoin, askUpdate:
		err = n.admit(q)
	case askLeave:
		err = n.leave(q)
	case askRemove:
		err = n.remove(q.Node)
	case askTransfer:
		err = n.transfer(q.Node)
	case askPromote:
		err = n.promote(q.Node)
	}
	switch {
	case err == nil:
		return answer{Verdict: granted, Cluster: n.parts.cluster, Reply: reply}
	case errors.Is(err, ErrNotLeading), errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, ErrClosed):
		return answer{Verdict: notLeader}
	}
	if errors.Is(err, errTooFew) {
		return answer{Verdict: tooFew}
	}
	for v, refusal := range refusals {
		if errors.Is(err, refusal) {
			return answer{Verdict: v}
		}
	}
	return answer{Verdict: failed, Text: err.Error()}
}

func (n *Node) remove(name string) error {
	m, err := n.member(name)
	if err != nil {
		return err
	}
	n.log.Info("a node is taken out of the cluster", "member", m.ID)
	return n.ask(func() raft.Future { return n.raft.RemoveServer(raft.ServerID(m.ID), 0, memberTimeout) })
}
