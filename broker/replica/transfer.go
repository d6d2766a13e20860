package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// heirTimeout is how long a leader that hands over waits for the others to say how
// far they are. One that does not answer would not take over either.
const heirTimeout = 300 * time.Millisecond

// Transfer hands the leadership to the node with that name, or to the one that is
// furthest for ""; any member may be asked. Errors are as Remove's.
func (n *Node) Transfer(ctx context.Context, name string) error {
	return n.command(ctx, question{Ask: askTransfer, Node: name})
}

// transfer is the leader's part.
func (n *Node) transfer(name string) error {
	var to Member
	var err error
	if name == "" {
		to, _, err = n.heir()
	} else {
		to, err = n.member(name)
	}
	switch {
	case err != nil:
		return err
	case to.ID == n.parts.id:
		return nil // it leads
	case !to.Voter:
		return fmt.Errorf("%s does not have all of the log yet", name)
	}
	return n.ask(func() raft.Future { return n.handOver(to) })
}

func (n *Node) handOver(to Member) raft.Future {
	return n.raft.LeadershipTransferToServer(raft.ServerID(to.ID), raft.ServerAddress(to.address()))
}

// heir returns the node to hand the leadership to: of those that answer, the one
// that is furthest, and rather one that has disk space. raft itself would take one
// that is down as well, and wait.
func (n *Node) heir() (to Member, full bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), heirTimeout)
	defer cancel()
	furthest := uint64(0)
	for _, m := range n.Status(ctx) {
		if !m.Voter || m.ID == n.parts.id || m.Err != nil {
			continue
		}
		if furthest == 0 || full && !m.State.Full || full == m.State.Full && m.State.Last > furthest {
			to, full, furthest = m.Member, m.State.Full, m.State.Last
		}
	}
	if furthest == 0 {
		return to, full, errors.New("no other node that counts answers")
	}
	return to, full, nil
}

// Relieve hands the leadership over when this node leads and has no disk space for
// messages, while another has: clients are refused by a leader that has none. It is
// to be asked from time to time, and reports whether it did so.
func (n *Node) Relieve() (bool, error) {
	if s := n.State(); !s.Leads || !s.Full {
		return false, nil
	}
	to, full, err := n.heir()
	if err != nil || full {
		return false, err
	}
	if err := n.ask(func() raft.Future { return n.handOver(to) }); err != nil {
		return false, err
	}
	return true, nil
}

// abdicate hands the leadership over, if this node has it and there is somebody.
// raft may not be asked anything else any more.
func (n *Node) abdicate() {
	if n.raft.State() != raft.Leader || len(n.Members()) == 1 {
		return
	}
	to, _, err := n.heir()
	if err == nil {
		err = n.handOver(to).Error()
	}
	if err != nil {
		n.log.Warn("leadership could not be handed over", "error", err)
	}
}
