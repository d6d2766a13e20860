package replica

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// ErrDiverged: this node's log has other frames than a majority's where both are
// committed. That is a bug or a disk that lies, and nothing that this node says of
// the log can be relied on.
var ErrDiverged = errors.New("replica: this node's log differs from that of a majority")

// compare holds this node's log against the others', now and then: what the chain of
// a frame that is committed here is there. A node that a majority contradicts ends,
// and says where it began. Who leads has no say of its own in this: raft lets a node
// lead that has as many entries as the others, whatever is in them, and those that
// follow it would end one by one. It ends with the node.
func (n *Node) compare() {
	for {
		index := n.opts.Log.Index() // the others have heard by then that it is committed
		select {
		case <-time.After(n.opts.Timing.Compare):
		case <-n.ctx.Done():
			return
		}
		if index == 0 {
			continue
		}
		if err := n.compareAt(index); errors.Is(err, ErrDiverged) {
			n.fatal(err)
			return
		} else if err != nil {
			n.log.Debug("not compared with the others", "error", err)
		}
	}
}

// chained is what a voter says of a frame.
type chained struct {
	Member
	chain uint32
	err   error
}

// compareAt returns ErrDiverged when a majority of the voters has one other chain at a
// frame that is committed here.
func (n *Node) compareAt(index uint64) error {
	own, err := n.opts.Log.Chain(index)
	if err != nil {
		return err
	}
	voters := slices.DeleteFunc(n.Members(), func(m Member) bool { return !m.Voter })
	said := make([]chained, len(voters))
	var asking sync.WaitGroup
	for i, m := range voters {
		if said[i] = (chained{Member: m, chain: own}); m.ID != n.parts.id {
			asking.Go(func() { said[i].chain, said[i].err = n.chainOf(m, index) })
		}
	}
	asking.Wait()
	votes := map[uint32]int{}
	for _, s := range said {
		if s.err == nil {
			votes[s.chain]++
		}
		err = errors.Join(err, s.err)
	}
	agreed := votes[own] > len(voters)/2
	for _, s := range said {
		switch {
		case s.err != nil || s.chain == own:
		case votes[s.chain] > len(voters)/2:
			return n.diverged(s.Member, index)
		case agreed:
			n.log.Error("the log of another node differs from that of a majority", "member", s.ID, "index", index)
		default:
			n.log.Error("the logs of two nodes differ, and no majority says which is right", "member", s.ID, "index", index)
		}
	}
	return err
}

// diverged finds where this node's log begins to differ from that of one of the
// majority.
func (n *Node) diverged(from Member, index uint64) error {
	// The oldest frames are taken to be equal: if they are not, the first differs.
	equal, differs := n.opts.Log.FirstIndex()-1, index
	for differs-equal > 1 {
		middle := equal + (differs-equal)/2
		own, err := n.opts.Log.Chain(middle)
		chain, asked := n.chainOf(from, middle)
		switch {
		case cmp.Or(err, asked) != nil:
			return fmt.Errorf("%w: somewhere in frames %d to %d; %s is of the majority", ErrDiverged, equal+1, differs, from.ID)
		case chain == own:
			equal = middle
		default:
			differs = middle
		}
	}
	return fmt.Errorf("%w: from frame %d on; %s is of the majority", ErrDiverged, differs, from.ID)
}

// chainOf asks another node for the chain up to a frame.
func (n *Node) chainOf(m Member, index uint64) (uint32, error) {
	a, err := n.parts.consult(n.ctx, m.ID, m.Peer, question{Ask: askChain, Last: index})
	if err == nil {
		err = a.err(m.ID)
	}
	return a.Chain, err
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
