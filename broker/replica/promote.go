package replica

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// Promote lets the node with that name count for a majority, which one that joined as
// a learner does not by itself; any member may be asked. It is refused while the node
// lacks more of the log than it is sent in a moment: until it has that, a majority
// might have to wait for it. Other errors are as Remove's.
func (n *Node) Promote(ctx context.Context, name string) error {
	return n.command(ctx, question{Ask: askPromote, Node: name})
}

// promote is the leader's part.
func (n *Node) promote(name string) error {
	members, index := n.membership() // raft refuses when it has changed since
	m, err := named(members, name)
	if err != nil || m.Voter {
		return err
	}
	return n.count(m, index, "a node counts from now on, as it was told to")
}

var errBehind = errors.New("replica: the node does not have all of the log yet")

// count lets a member count that has caught up, unless the membership has changed since
// index; else errBehind. The member is asked after a look at the log: what it says of
// itself unasked is as old as its way here, and of a busy log as much as caughtUp behind.
func (n *Node) count(m Member, index uint64, why string) error {
	last := n.opts.Log.LastIndex()
	a, err := n.parts.consult(n.ctx, m.ID, m.Peer, question{Ask: askState})
	switch {
	case err != nil:
		return fmt.Errorf("%s does not answer: %w", m.Name, err)
	case a.State == nil:
		return a.err(m.ID)
	case a.State.Last+caughtUp < last:
		return fmt.Errorf("%w: %s has %d of %d entries", errBehind, m.Name, a.State.Last, last)
	}
	n.log.Info(why, "member", m.ID)
	return n.ask(func() raft.Future {
		return n.raft.AddVoter(raft.ServerID(m.ID), raft.ServerAddress(m.address()), index, memberTimeout)
	})
}
