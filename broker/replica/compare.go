package replica

import (
	"errors"
	"fmt"
	"time"
)

// ErrDiverged: this node's log has other frames than the leader's where both are
// committed. That is a bug or a disk that lies, and nothing that this node says of
// the log can be relied on.
var ErrDiverged = errors.New("replica: this node's log differs from the leader's")

// compare holds this node's log against the leader's, now and then: what the chain
// of the last frame that is committed here is there. A node that has diverged ends,
// and says where it began. It ends with the node.
func (n *Node) compare() {
	for {
		select {
		case <-time.After(n.opts.Timing.Compare):
		case <-n.ctx.Done():
			return
		}
		leader, ok := n.Leader()
		if index := n.opts.Log.Index(); ok && leader.ID != n.parts.id && index > 0 {
			if err := n.compareWith(leader, index); errors.Is(err, ErrDiverged) {
				n.fatal(err)
				return
			} else if err != nil {
				n.log.Debug("not compared with the leader", "error", err)
			}
		}
	}
}

func (n *Node) compareWith(leader Member, index uint64) error {
	same, err := n.same(leader, index)
	if same || err != nil {
		return err
	}
	// The oldest frames are taken to be equal: if they are not, the first differs.
	equal, differs := n.opts.Log.FirstIndex()-1, index
	for differs-equal > 1 {
		middle := equal + (differs-equal)/2
		same, err := n.same(leader, middle)
		switch {
		case err != nil:
			return fmt.Errorf("%w: somewhere in frames %d to %d; %s leads", ErrDiverged, equal+1, differs, leader.ID)
		case same:
			equal = middle
		default:
			differs = middle
		}
	}
	return fmt.Errorf("%w: from frame %d on; %s leads", ErrDiverged, differs, leader.ID)
}

// same reports whether this node and the leader agree about all frames up to index.
func (n *Node) same(leader Member, index uint64) (bool, error) {
	own, err := n.opts.Log.Chain(index)
	if err != nil {
		return false, err
	}
	a, err := n.parts.consult(n.ctx, leader.ID, leader.Peer, question{Ask: askChain, Last: index})
	if err == nil {
		err = a.err(leader.ID)
	}
	return a.Chain == own, err
}

// chain answers which chain value a committed frame has here.
func (n *Node) chain(index uint64) answer {
	if index > n.opts.Log.Index() {
		return answer{Verdict: failed, Text: fmt.Sprintf("frame %d is not known to be committed here", index)}
	}
	chain, err := n.opts.Log.Chain(index)
	if err != nil {
		return answer{Verdict: failed, Text: err.Error()}
	}
	return answer{Verdict: granted, Chain: chain}
}
