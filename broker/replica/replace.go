package replica

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/gantry-mq/gantry/broker/replica/peer"
)

// replace is the leader's part when a node asks to join whose name a member has: one
// that has lost its directory comes back as another node. The member is taken out if
//
//   - the node that asks is where the member was, and is answered there: so the member
//     is not at work at that address any more, and has not told of another;
//   - three count. Of two, the other one alone is no majority: see minRepair;
//   - a majority still follows this leader, the member not among it.
//
// Else that stays an operator's decision. What the lost node alone had stored beside
// this leader is not lost: whoever commits that it is out has all that came before.
func (n *Node) replace(members []Member, old Member, q question, index uint64) error {
	voters := 0
	for _, m := range members {
		if m.Voter {
			voters++
		}
	}
	if old.ID == n.parts.id || old.Peer != peer.ParseAddress(q.Address).Peer || len(members) < minRepair {
		return ErrNameTaken
	}
	if old.Voter && voters < minRepair {
		return errTooFew // as yet
	}
	_, err := n.parts.consult(n.ctx, old.ID, old.Peer, question{Ask: askState})
	var another *peer.RefusedError
	switch {
	case err == nil:
		return ErrNameTaken
	case !errors.As(err, &another) || another.Reason != peer.WrongCluster && another.Reason != peer.WrongTarget:
		return fmt.Errorf("replica: it is not known who is at %s: %w", old.Peer, err)
	}
	if err := n.Verify(); err != nil {
		return err
	}
	n.log.Warn("a member has lost its directory and is taken out, for the one that has come under its name", "member", old.ID, "for", q.Node, "at", q.Address)
	return n.ask(func() raft.Future { return n.raft.RemoveServer(raft.ServerID(old.ID), index, memberTimeout) })
}
