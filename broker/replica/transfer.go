package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"
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

// HoldFor is how long after Hold no leader hands over to the node that is to lead.
const HoldFor = 5 * time.Minute

// Hold has the leadership stay where the next Transfer puts it, for HoldFor: no member
// that hears of it hands over by Prefer. Those that do not answer soon do not count.
func (n *Node) Hold(ctx context.Context) {
	n.hold()
	ctx, cancel := context.WithTimeout(ctx, heirTimeout)
	defer cancel()
	var telling sync.WaitGroup
	for _, m := range n.Members() {
		if m.ID != n.parts.id {
			telling.Go(func() { n.parts.consult(ctx, m.ID, m.Peer, question{Ask: askHold}) })
		}
	}
	telling.Wait()
}

func (n *Node) hold() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.held = time.Now().Add(HoldFor)
}

// Prefer hands the leadership to the node with that name, when this one leads and that
// one could at once: it counts, answers, has nearly all of the log, and disk space, and
// nobody asked for a Hold. It is to be asked from time to time, and reports whether it
// did so.
func (n *Node) Prefer(ctx context.Context, name string) (bool, error) {
	n.mu.Lock()
	held := time.Now().Before(n.held)
	n.mu.Unlock()
	if held || !n.State().Leads {
		return false, nil
	}
	for _, m := range n.Status(ctx) {
		if m.Name != name || m.ID == n.parts.id || !m.Voter || m.Err != nil || m.State.Full || m.Lag > caughtUp {
			continue
		}
		err := n.ask(func() raft.Future { return n.handOver(m.Member) })
		return err == nil, err
	}
	return false, nil
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
