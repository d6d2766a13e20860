package replica

import (
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// memberTimeout is how long a change of the membership may wait for a majority.
const memberTimeout = 10 * time.Second

// Member is a node of the cluster.
type Member struct {
	ID, Address string
	Voter       bool // it counts for a majority
	Leader      bool
}

// Bootstrap makes the node with opts the first and only member of a new cluster.
// Its log may hold what was written before there was a cluster. A node that has
// been a member already is refused.
func Bootstrap(opts Options) error {
	snaps, err := opts.Snapshots.List()
	if err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	term, err := opts.Stable.GetUint64([]byte("CurrentTerm"))
	if err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	if term > 0 || len(snaps) > 0 {
		return fmt.Errorf("replica: %s: %w", opts.ID, raft.ErrCantBootstrap)
	}
	servers := raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(opts.ID), Address: opts.Transport.LocalAddr()}}}
	last := opts.Log.LastIndex()
	if last == 0 {
		n := Node{opts: opts}
		c := raft.DefaultConfig()
		c.LocalID = raft.ServerID(opts.ID)
		if err := raft.BootstrapCluster(c, &logStore{log: opts.Log, fatal: n.fatal}, opts.Stable, opts.Snapshots, opts.Transport, servers); err != nil {
			return fmt.Errorf("replica: %w", err)
		}
		return nil
	}
	// All that is there is committed: the membership begins behind it.
	e, err := opts.Log.Entry(last)
	if err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	if committed := opts.Log.Index(); committed != last {
		return fmt.Errorf("replica: the log has %d entries, of which only %d are known to be committed", last, committed)
	}
	sink, err := opts.Snapshots.Create(1, last, e.Term, servers, last, opts.Transport)
	if err == nil {
		err = sink.Close()
	}
	// The term is what says that this node is a member, so it comes last.
	if err == nil {
		err = opts.Stable.SetUint64([]byte("CurrentTerm"), e.Term)
	}
	if err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	return nil
}

// Members returns the nodes of the cluster, as far as this one knows.
func (n *Node) Members() (out []Member) {
	f := n.raft.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	_, leader := n.raft.LeaderWithID()
	for _, s := range f.Configuration().Servers {
		out = append(out, Member{ID: string(s.ID), Address: string(s.Address), Voter: s.Suffrage == raft.Voter, Leader: s.ID == leader})
	}
	return out
}

// Leader returns the node that leads, as far as this one knows; "" for none.
func (n *Node) Leader() (id, address string) {
	a, i := n.raft.LeaderWithID()
	return string(i), string(a)
}

// voters is how many members count.
func (n *Node) voters() (count int) {
	for _, m := range n.Members() {
		if m.Voter {
			count++
		}
	}
	return count
}

// Add makes a node a member that is sent the log and does not count for a
// majority: see Promote. The leader does it.
func (n *Node) Add(id, address string) error {
	return n.change(func() raft.Future {
		return n.raft.AddNonvoter(raft.ServerID(id), raft.ServerAddress(address), 0, memberTimeout)
	})
}

// Promote lets a member count. It should hold all of the log: until it does, no
// majority that needs it is reached.
func (n *Node) Promote(id string) error {
	m, err := n.member(id)
	if err != nil {
		return err
	}
	return n.change(func() raft.Future {
		return n.raft.AddVoter(raft.ServerID(id), raft.ServerAddress(m.Address), 0, memberTimeout)
	})
}

// Remove takes a node out of the cluster. Under its name it never comes back.
func (n *Node) Remove(id string) error {
	return n.change(func() raft.Future { return n.raft.RemoveServer(raft.ServerID(id), 0, memberTimeout) })
}

// Transfer hands the leadership to another node: to id, or to the one that is
// furthest for "".
func (n *Node) Transfer(id string) error {
	if id == "" {
		return n.change(func() raft.Future { return n.raft.LeadershipTransfer() })
	}
	m, err := n.member(id)
	if err != nil {
		return err
	}
	return n.change(func() raft.Future {
		return n.raft.LeadershipTransferToServer(raft.ServerID(id), raft.ServerAddress(m.Address))
	})
}

func (n *Node) member(id string) (Member, error) {
	for _, m := range n.Members() {
		if m.ID == id {
			return m, nil
		}
	}
	return Member{}, fmt.Errorf("replica: %s is no member", id)
}

func (n *Node) change(f func() raft.Future) error {
	err := n.ask(f)
	if errors.Is(err, raft.ErrNotLeader) {
		return ErrNotLeading
	}
	if err != nil && !errors.Is(err, ErrClosed) {
		return fmt.Errorf("replica: %w", err)
	}
	return err
}
