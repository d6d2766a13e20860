package replica

import (
	"context"

	"github.com/hashicorp/raft"
)

// Order has the node that leads do what only its broker can: it calls Options.Order
// there, here if this node leads, and returns what that returns. An order may have been
// carried out when there is an error: the answer may be lost. ErrNoLeader, or why the
// leader could not.
func (n *Node) Order(ctx context.Context, order []byte) ([]byte, error) {
	a, err := n.put(ctx, question{Ask: askOrder, Order: order})
	if err != nil {
		return nil, err
	}
	return a.Reply, a.err("")
}

// Barrier returns when all that any node may have seen committed before is in this
// node's Log().Committed(). ErrNotLeading, or ErrClosed.
func (n *Node) Barrier() error {
	err := n.ask(func() raft.Future { return n.raft.Barrier(0) })
	if err != nil && err != ErrClosed {
		return notLeading(err)
	}
	return err
}
