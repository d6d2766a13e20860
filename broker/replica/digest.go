package replica

import (
	"context"
	"fmt"
	"sync"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// Digest is the state of a node in checksums, part by part.
type Digest []Section

// Section is a part of the state.
type Section struct {
	Name string
	Sum  string
	Size int
}

// MemberDigest is what a member says of its state.
type MemberDigest struct {
	Name   string
	Digest Digest
	Err    error // why it says nothing
}

// Digests asks all members for the digest of their state at a position, and for the
// chain of the frame with that index, which this node has committed.
func (n *Node) Digests(ctx context.Context, at record.Position, index uint64) []MemberDigest {
	q := question{Ask: askDigest, At: uint64(at), Last: index}
	members := n.Members()
	out := make([]MemberDigest, len(members))
	var asking sync.WaitGroup
	for i, m := range members {
		asking.Go(func() {
			var a answer
			var err error
			if m.ID == n.parts.id {
				a = n.digest(ctx, q)
			} else {
				a, err = n.parts.consult(ctx, m.ID, m.Peer, q)
			}
			if err == nil {
				err = a.err(m.ID)
			}
			out[i] = MemberDigest{Name: m.Name, Digest: a.Digest, Err: err}
		})
	}
	asking.Wait()
	return out
}

func (n *Node) digest(ctx context.Context, q question) answer {
	if n.opts.Digest == nil {
		return answer{Verdict: failed, Text: "this node has no state"}
	}
	ctx, cancel := context.WithTimeout(ctx, digestTimeout)
	defer cancel()
	d, err := n.opts.Digest(ctx, record.Position(q.At))
	if err != nil {
		return answer{Verdict: failed, Text: err.Error()}
	}
	a := n.chain(q.Last)
	a.Digest = append(d, Section{Name: "log", Sum: fmt.Sprintf("%08x", a.Chain)})
	return a
}
