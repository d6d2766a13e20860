package replica

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// State is how far a node is, in its own words.
type State struct {
	Term      uint64 // raft's
	Last      uint64 // index of the last entry that is durable here
	Committed uint64 // index of the last that is known to be committed
	Leads     bool
	Full      bool          // it has no disk space for messages
	Contact   time.Duration // since it heard from the leader; 0 when it leads, -1 when it never did
}

// State returns how far this node is.
func (n *Node) State() State {
	s := State{Term: n.raft.CurrentTerm(), Last: n.opts.Log.LastIndex(), Committed: max(n.raft.CommitIndex(), n.opts.Log.Index())}
	s.Full = n.opts.Full != nil && n.opts.Full()
	if heard := n.raft.LastContact(); n.raft.State() == raft.Leader {
		s.Leads = true
	} else if heard.IsZero() {
		s.Contact = -1
	} else {
		s.Contact = time.Since(heard)
	}
	return s
}

// MemberState is a member, and how far it is.
type MemberState struct {
	Member
	State State  // nothing, when Err is not nil
	Lag   uint64 // entries the leader has and this one does not; 0 when one of the two did not answer
	Err   error  // why it did not answer
}

// Status asks all members how far they are, for no longer than 2 s.
func (n *Node) Status(ctx context.Context) []MemberState {
	var asking sync.WaitGroup
	var out []MemberState
	for _, m := range n.Members() {
		out = append(out, MemberState{Member: m})
	}
	for i := range out {
		s := &out[i]
		if s.ID == n.parts.id {
			s.State = n.State()
			continue
		}
		asking.Go(func() {
			a, err := n.parts.consult(ctx, s.ID, s.Peer, question{Ask: askState})
			if err == nil && a.State == nil {
				err = a.err(s.ID)
			}
			if s.Err = err; err == nil {
				s.State = *a.State
			}
		})
	}
	asking.Wait()
	for _, l := range out {
		for i := range out {
			if s := &out[i]; l.Leader && l.Err == nil && s.Err == nil && s.State.Last < l.State.Last {
				s.Lag = l.State.Last - s.State.Last
			}
		}
	}
	return out
}
