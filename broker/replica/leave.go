package replica

import (
	"errors"
	"slices"

	"github.com/hashicorp/raft"
)

// leave is the leader's part when a node repairs itself: it takes the node out that
// asks, by its ID, so that it is never the one that came after it under the same name.
// It may be asked again: a node that is out, for good, may go on.
func (n *Node) leave(q question) error {
	members, index := n.membership()
	i := slices.IndexFunc(members, func(m Member) bool { return m.ID == q.Node })
	if i < 0 {
		// Known to this leader alone it could be taken back: a barrier is behind it.
		return n.ask(func() raft.Future { return n.raft.Barrier(memberTimeout) })
	}
	voters := 0
	for _, m := range members {
		if m.Voter {
			voters++
		}
	}
	if members[i].Voter && voters < minRepair {
		return errTooFew
	}
	n.log.Warn("a node is damaged and taken out of the cluster, to come back as a new one", "member", q.Node)
	return n.ask(func() raft.Future { return n.raft.RemoveServer(raft.ServerID(q.Node), index, memberTimeout) })
}

// minRepair is how many voters there must be, the damaged one included. Of two, the
// other one alone is no majority: it may lack what the damaged one has.
const minRepair = 3

var errTooFew = errors.New("replica: a damaged node leaves a cluster by itself only when at least two others count")
