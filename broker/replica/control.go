package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/gantry-mq/gantry/broker/replica/peer"
)

// Nodes ask each other small questions, one to a connection of peer.Control: a
// question and its answer, both JSON. What only the leader can decide is answered
// with who leads by everybody else.

// question is what a node asks another.
type question struct {
	Ask asked
	// Node is who it is about: for a join, an update and a leave the ID of who asks, for
	// the others a name.
	Node    string `json:",omitempty"`
	Address string `json:",omitempty"` // of who asks, for nodes and clients
	Last    uint64 `json:",omitempty"` // index of the last entry of who asks, or of the one that is asked about
	Segment int64  `json:",omitempty"` // size of the segments of who asks
	At      uint64 `json:",omitempty"` // a position in the log
	Learner bool   `json:",omitempty"` // who asks does not want to count
	Cluster uint64 `json:",omitempty"` // for a join and a leave: the only one that is meant, 0 = any
	Order   []byte `json:",omitempty"` // see Options.Order
}

type asked string

const (
	askState    asked = "state"    // how far are you
	askJoin     asked = "join"     // make me a member
	askUpdate   asked = "update"   // I am here, and so far
	askChain    asked = "chain"    // which chain value has frame Last
	askDigest   asked = "digest"   // what is your state At a position, and the chain of frame Last
	askLeave    asked = "leave"    // take me, as the Node that I was, out
	askRemove   asked = "remove"   // the leader is to take Node out
	askTransfer asked = "transfer" // the leader is to hand over to Node, "" = to whom it likes
	askPromote  asked = "promote"  // the leader is to let Node count
	askOrder    asked = "order"    // the leader's broker is to do something
	askHold     asked = "hold"     // the leadership stays where it is put, for a while
)

type answer struct {
	Verdict verdict
	Text    string `json:",omitempty"` // for people, with failed
	// Who leads: with notLeader, if the node that was asked knows, and to a join.
	Leader, LeaderAddress string `json:",omitempty"`
	Cluster               uint64 `json:",omitempty"`
	Chain                 uint32 `json:",omitempty"`
	State                 *State `json:",omitempty"`
	Digest                Digest `json:",omitempty"`
	Reply                 []byte `json:",omitempty"` // to an order
}

type verdict string

const (
	granted   verdict = "granted"
	notLeader verdict = "not leader"
	nameTaken verdict = "name taken"
	noMember  verdict = "no member"
	trimmed   verdict = "trimmed"
	otherSize verdict = "other segment size"
	tooFew    verdict = "too few" // may be otherwise soon
	failed    verdict = "failed"
)

// refusals are the verdicts that asking again does not change.
var refusals = map[verdict]error{nameTaken: ErrNameTaken, noMember: ErrNoMember, trimmed: ErrTrimmed, otherSize: ErrSegmentSize}

var (
	// ErrNoLeader: nobody who could be reached leads. It may be otherwise soon.
	ErrNoLeader = errors.New("replica: no node that could be reached leads")
	// ErrNameTaken: there is a member with this name and another directory, which may be
	// at work: it is elsewhere, or not three count. When it is lost, it has to be removed.
	ErrNameTaken = errors.New("replica: the cluster has a node of this name, at another address or one of two; if it is lost, remove it first")
	// ErrRemoved: this node is no member of its cluster any more. Its directory is of
	// no use: it may join again, as a new node, with an empty one.
	ErrRemoved = errors.New("replica: this node was removed from its cluster")
	// ErrNoMember: a node of this name is not in the cluster, or this one in none.
	ErrNoMember = errors.New("replica: no member of a cluster")
	// ErrTrimmed: the node would have to be sent entries that retention has taken, and
	// has no Store to fetch the log into.
	ErrTrimmed = errors.New("replica: retention has taken the beginning of the leader's log: a node can not join without fetching it")
	// ErrSegmentSize: positions would mean something else in this node's log.
	ErrSegmentSize = errors.New("replica: the segments of the leader's log have another size than this node's")
)

// err is what an answer means to who asked about node.
func (a answer) err(node string) error {
	switch a.Verdict {
	case granted:
		return nil
	case notLeader:
		return ErrNoLeader
	case tooFew:
		return errTooFew
	}
	if err := refusals[a.Verdict]; err != nil {
		return fmt.Errorf("%w: %s", err, peer.NameOf(node))
	}
	return fmt.Errorf("replica: the other node answers: %s", a.Text)
}

const (
	// decideTimeout bounds a question that takes a majority to answer.
	decideTimeout = 15 * time.Second
	// stateTimeout bounds one that takes the other node alone.
	stateTimeout = 2 * time.Second
	// digestTimeout is how long a node waits until it has applied what it is asked about.
	digestTimeout = 10 * time.Second
	// maxQuestion bounds a question and an answer, in bytes.
	maxQuestion = 64 << 10
)

var control = peer.Purpose{Kind: peer.Control}

// consult asks the node with that ID at a peer address.
func consult(ctx context.Context, e *peer.Endpoint, id, address string, q question) (answer, error) {
	timeout := decideTimeout
	if q.Ask == askState || q.Ask == askChain || q.Ask == askHold {
		timeout = stateTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := e.Dial(ctx, address, id, control)
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var a answer
	if err = json.NewEncoder(conn).Encode(q); err == nil {
		err = json.NewDecoder(io.LimitReader(conn, maxQuestion)).Decode(&a)
	}
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return answer{}, fmt.Errorf("replica: asking %q at %s: %w", id, address, err)
	}
	return a, nil
}

// serve is the endpoint's handler for questions.
func (n *Node) serve(conn net.Conn, from string) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(decideTimeout))
	var q question
	if err := json.NewDecoder(io.LimitReader(conn, maxQuestion)).Decode(&q); err != nil {
		n.log.Warn("a question from another node could not be read", "from", from, "error", err)
		return
	}
	json.NewEncoder(conn).Encode(n.answer(q, from)) // who asked may be gone: nothing to do about it
}

// answer answers a question from the node with that ID.
func (n *Node) answer(q question, from string) answer {
	switch q.Ask {
	case askState:
		s := n.State()
		return answer{Verdict: granted, State: &s}
	case askChain:
		return n.chain(q.Last)
	case askDigest:
		return n.digest(n.ctx, q)
	case askJoin, askUpdate:
		if q.Node != from {
			return answer{Verdict: failed, Text: "a node asks for itself alone"}
		}
	case askLeave: // under its old ID or a later one
		if peer.NameOf(q.Node) != peer.NameOf(from) {
			return answer{Verdict: failed, Text: "a node asks for itself alone"}
		}
	case askRemove, askTransfer, askPromote, askOrder, askHold:
		if _, err := n.member(peer.NameOf(from)); err != nil {
			return answer{Verdict: failed, Text: "only a member may ask for this"}
		}
	default:
		return answer{Verdict: failed, Text: fmt.Sprintf("this node does not understand the question %q", q.Ask)}
	}
	if q.Ask == askHold {
		n.hold()
		return answer{Verdict: granted}
	}
	if q.Cluster != 0 && q.Cluster != n.parts.cluster {
		return answer{Verdict: failed, Text: fmt.Sprintf("this is cluster %016x, not %016x", n.parts.cluster, q.Cluster)}
	}
	a := n.decide(q)
	switch l, ok := n.Leader(); {
	case a.Verdict == notLeader && ok && l.ID != n.parts.id:
		a.Leader, a.LeaderAddress = l.ID, l.Peer
	case q.Ask == askJoin && (a.Verdict == granted || a.Verdict == trimmed): // who has the log
		a.Cluster, a.Leader, a.LeaderAddress = n.parts.cluster, n.parts.id, peer.ParseAddress(n.parts.address).Peer
	}
	return a
}

// put has the leader decide about a question: this node, or the one that the others
// say leads.
func (n *Node) put(ctx context.Context, q question) (answer, error) {
	if a := n.decide(q); a.Verdict != notLeader {
		return a, nil
	}
	var err error
	for _, m := range n.leaderFirst() {
		a, e := n.parts.consult(ctx, m.ID, m.Peer, q)
		if e == nil && a.Verdict == notLeader && a.Leader != "" {
			a, e = n.parts.consult(ctx, a.Leader, a.LeaderAddress, q)
		}
		if e == nil && a.Verdict != notLeader {
			return a, nil
		}
		err = errors.Join(err, e)
	}
	return answer{}, errors.Join(ErrNoLeader, err)
}
