package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/gantry-mq/gantry/broker/replica/peer"
)

// caughtUp is how many entries a node may lack when it begins to count: so many are
// sent in a moment, and a busy leader is always a few ahead.
const caughtUp = 64

// persuade asks whoever is at the addresses, which commas part, and the leaders they
// name, until one grants it, all refuse it for good, or ctx ends. One that refuses may
// be a leader that was deposed and has not heard.
func (p *parts) persuade(ctx context.Context, addresses string, q question, pause time.Duration, logger *slog.Logger) (answer, error) {
	for {
		var no answer
		var refused, failed error
		for address := range strings.SplitSeq(addresses, ",") {
			a, err := p.consult(ctx, "", address, q)
			if err == nil && a.Verdict == notLeader && a.LeaderAddress != "" {
				a, err = p.consult(ctx, "", a.LeaderAddress, q)
			}
			if err == nil {
				err = a.err(p.id)
			}
			switch {
			case err == nil || errors.Is(err, ErrTrimmed):
				return a, err
			case final(a, err):
				no, refused = a, err
			default:
				failed = err
				logger.Warn("not taken yet", "asked", q.Ask, "at", address, "error", err)
			}
		}
		if failed == nil {
			return no, refused
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return no, fmt.Errorf("replica: not taken: %w: %w", context.Cause(ctx), errors.Join(failed, refused))
		}
	}
}

// final reports whether it is of no use to ask again. A node that is no member yet
// itself, or just starts, may be one soon.
func final(a answer, err error) bool {
	var refused *peer.RefusedError
	if errors.As(err, &refused) {
		return refused.Reason != peer.NotServed && refused.Reason != peer.WrongCluster
	}
	return refusals[a.Verdict] != nil
}

// admit is the leader's part: it makes the node that asks a member, keeps its
// address, and lets it count when it has caught up.
func (n *Node) admit(q question) error {
	if err := checkAddress(peer.ParseAddress(q.Address)); err != nil {
		return err
	}
	members, index := n.membership()
	// raft refuses a change when index is not the last: nobody changes the membership
	// between this look at it and what follows from it.
	add := func(how func(raft.ServerID, raft.ServerAddress, uint64, time.Duration) raft.IndexFuture, why string) error {
		n.log.Info(why, "member", q.Node, "at", q.Address)
		return n.ask(func() raft.Future {
			return how(raft.ServerID(q.Node), raft.ServerAddress(q.Address), index, memberTimeout)
		})
	}
	i := slices.IndexFunc(members, func(m Member) bool { return m.Name == peer.NameOf(q.Node) })
	another := i >= 0 && members[i].ID != q.Node // of its name
	switch {
	case (i < 0 || another) && q.Ask == askJoin && q.Segment != n.opts.Log.SegmentSize():
		return ErrSegmentSize
	case another && q.Ask == askJoin:
		if err := n.replace(members, members[i], q, index); err != nil {
			return err
		}
		return n.admit(q)
	case another: // it was replaced
	case q.Ask == askJoin && (i < 0 || !members[i].Voter) && q.Last+1 < n.opts.Log.FirstIndex():
		return ErrTrimmed
	case i < 0 && q.Ask == askJoin:
		return add(n.raft.AddNonvoter, "a node joins")
	case i < 0: // it was removed
	case members[i].address() != q.Address:
		return add(n.raft.AddNonvoter, "a node has moved") // which leaves a voter one
	case !members[i].Voter && !q.Learner && q.Ask == askUpdate:
		err := n.count(members[i], index, "a node has caught up and counts from now on")
		if errors.Is(err, errBehind) {
			return nil // it asks again
		}
		return err
	default:
		return nil
	}
	// Whoever hears this stops for good, so it must not come from one that only
	// thinks it leads and does not know of the latest members.
	if err := n.Verify(); err != nil {
		return err
	}
	return ErrNoMember
}

// report tells the leader, now and then, what it should know of this node: where it
// is, and, until it counts, how far it is. It also writes down whom it knows. One that
// hears of no leader asks, too: it may have been removed while it was away. It ends with
// the node.
func (n *Node) report() {
	for {
		select {
		case <-time.After(n.opts.Timing.Heartbeat / 2):
		case <-n.ctx.Done():
			return
		}
		n.noteMembers()
		if n.settled() || len(n.Members()) == 0 {
			continue
		}
		a, err := n.put(n.ctx, question{Ask: askUpdate, Node: n.parts.id, Address: n.parts.address, Last: n.opts.Log.LastIndex(), Learner: n.opts.Learner})
		switch {
		case err != nil:
			n.log.Debug("the leader does not know of this node's state yet", "error", err)
		case a.Verdict == noMember:
			n.log.Error("this node was removed from the cluster")
			close(n.removed)
			return
		case a.Verdict != granted:
			n.log.Warn("the leader does not take this node as it is", "error", a.err(n.parts.id))
		}
	}
}

// settled reports whether the leader knows all it should.
func (n *Node) settled() bool {
	heard := n.raft.State() == raft.Leader || time.Since(n.raft.LastContact()) < 3*n.opts.Timing.Heartbeat
	for _, m := range n.Members() {
		if m.ID == n.parts.id {
			return heard && (m.Voter || n.opts.Learner) && m.address() == n.parts.address
		}
	}
	return false
}
