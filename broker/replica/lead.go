package replica

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"
)

// watch follows this node's leadership. raft waits for whoever reads NotifyCh, so
// this does nothing that could wait.
func (n *Node) watch() {
	for {
		select {
		case leads := <-n.notify:
			n.turn(leads)
		case <-n.down:
			return
		}
	}
}

func (n *Node) turn(leads bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if leads {
		close(n.leading)
		return
	}
	n.leading = make(chan struct{})
	if n.term != nil {
		n.term.end(raft.ErrLeadershipLost)
	}
}

// Lead waits until this node leads and everything that was committed before is
// committed here, too. The caller brings its state up to the log's Committed, and
// then calls Begin. It is for one goroutine; the Term before must be Over. The
// error is ErrClosed, ErrRemoved, or why ctx ended.
func (n *Node) Lead(ctx context.Context) (*Term, error) {
	for {
		n.mu.Lock()
		leading, last := n.leading, n.term
		n.mu.Unlock()
		select {
		case <-leading:
		case <-n.removed:
			return nil, ErrRemoved
		case <-n.ctx.Done():
			return nil, ErrClosed
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if last != nil {
			last.run.Wait() // raft is still to answer some of it
		}
		n.terms++
		t := newTerm(n.raft.CurrentTerm(), n.terms, n.raft, n.opts.Log)
		// A barrier is an entry of this term: when it is applied, so is all before it.
		if err := n.ask(func() raft.Future { return n.raft.Barrier(0) }); err == nil && n.hand(t, leading) {
			return t, nil
		}
		select { // leadership is gone, or being handed over: the channel will be another
		case <-time.After(10 * time.Millisecond):
		case <-n.ctx.Done():
		case <-ctx.Done():
		}
	}
}

// hand makes t the term that ends with the leadership, unless that has ended.
func (n *Node) hand(t *Term, leading chan struct{}) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || n.leading != leading {
		return false
	}
	n.term = t
	return true
}

// Verify asks a majority whether this node still leads: what it has committed when
// that was asked is all that anybody was told of. ErrNotLeading, or ErrClosed.
func (n *Node) Verify() error {
	err := n.ask(func() raft.Future { return n.raft.VerifyLeader() })
	if errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipLost) {
		return notLeading(err)
	}
	return err
}
