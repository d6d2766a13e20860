package replica

import "github.com/hashicorp/raft"

// Moved returns a channel that is closed when this node hears that another node leads
// than when it was asked for, or none.
func (n *Node) Moved() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.moved
}

// observe tells of new leaders. It ends with raft.
func (n *Node) observe(led <-chan raft.Observation) {
	for {
		select {
		case <-led:
		case <-n.down:
			return
		}
		n.mu.Lock()
		close(n.moved)
		n.moved = make(chan struct{})
		n.mu.Unlock()
	}
}

// leaders observes leaders. An observation that finds one waiting may be left out.
func leaders() (*raft.Observer, <-chan raft.Observation) {
	led := make(chan raft.Observation, 1)
	return raft.NewObserver(led, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	}), led
}
