package replica

import (
	"context"
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
	a, err := n.parts.consult(n.ctx, m.ID, m.Peer, question{Ask: askState})
	switch {
	case err != nil:
		return fmt.Errorf("%s does not answer: %w", name, err)
	case a.State == nil:
		return a.err(m.ID)
	}
	if last := n.opts.Log.LastIndex(); a.State.Last+caughtUp < last {
		return fmt.Errorf("%s does not have all of the log yet: %d of %d entries", name, a.State.Last, last)
	}
	n.log.Info("a node counts from now on, as it was told to", "member", m.ID)
	return n.ask(func() raft.Future {
		return n.raft.AddVoter(raft.ServerID(m.ID), raft.ServerAddress(m.address()), index, memberTimeout)
	})
}
