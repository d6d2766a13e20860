// Package faultnet is the network between the nodes of a cluster on one machine, with
// faults: each node is told a proxy's address for each other one, and what passes may
// be held back, one way or both, or slowed down.
//
// It works on connections, not on packets. Bytes that cannot pass wait, as TCP has
// them wait while packets are lost, and pass when the fault is over; a connection
// that is begun meanwhile is accepted by the machine, but hears nothing. The proxy
// knows who dials by the preamble of a connection (package peer), so the nodes must
// talk plaintext.
package faultnet

import (
	"io"
	"net"
	"sync"
	"time"

	"github.com/gantry-mq/gantry/broker/replica/peer"
)

// Link is one direction between two nodes. The zero value is a good one.
type Link struct {
	Cut   bool
	Delay time.Duration // of each piece of up to 64 KiB, one after the other
}

// Net is a network. All methods may be called concurrently.
type Net struct {
	run sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	listeners []net.Listener
	conns     map[*joined]struct{}
	links     map[direction]Link
	changed   chan struct{} // closed when links change
}

type direction struct{ from, to string }

// joined is a connection from one node to another: two, with the proxy between.
type joined struct {
	from, to         string
	dialled, forward net.Conn
}

// New returns a network without nodes and without faults.
func New() *Net {
	return &Net{conns: map[*joined]struct{}{}, links: map[direction]Link{}, changed: make(chan struct{})}
}

// Add makes the node with that name, which listens at target, reachable, and returns
// under which address.
func (n *Net) Add(name, target string) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	n.mu.Lock()
	n.listeners = append(n.listeners, l)
	n.mu.Unlock()
	n.run.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			n.run.Go(func() { n.join(conn, name, target) })
		}
	})
	return l.Addr().String(), nil
}

// Close ends everything and waits for it.
func (n *Net) Close() {
	n.mu.Lock()
	n.closed = true
	for _, l := range n.listeners {
		l.Close()
	}
	for j := range n.conns {
		j.close()
	}
	n.change()
	n.mu.Unlock()
	n.run.Wait()
}

// Set makes the link from one node to another what l is.
func (n *Net) Set(from, to string, l Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.links[direction{from, to}] = l
	n.change()
}

// Heal makes all links good.
func (n *Net) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.links)
	n.change()
}

// Reset ends all connections between two nodes, as a firewall does that forgets them.
func (n *Net) Reset(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for j := range n.conns {
		if j.from == a && j.to == b || j.from == b && j.to == a {
			j.close()
		}
	}
}

// change tells who waits. It needs mu.
func (n *Net) change() {
	close(n.changed)
	n.changed = make(chan struct{})
}

func (j *joined) close() {
	j.dialled.Close()
	if j.forward != nil {
		j.forward.Close()
	}
}

// keep returns false when the network is closed.
func (n *Net) keep(j *joined) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closed {
		n.conns[j] = struct{}{}
	}
	return !n.closed
}

func (n *Net) join(conn net.Conn, to, target string) {
	j := &joined{to: to, dialled: conn}
	defer func() {
		n.mu.Lock()
		delete(n.conns, j)
		n.mu.Unlock()
		j.close()
	}()
	if !n.keep(j) {
		return
	}
	var hello [160]byte // who dials, see package peer
	if _, err := io.ReadFull(conn, hello[:]); err != nil {
		return
	}
	forward, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	n.mu.Lock()
	j.from, j.forward = peer.NameOf(string(hello[33:33+int(hello[32])%63])), forward
	n.mu.Unlock()
	if !n.keep(j) {
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		n.pump(conn, forward, nil, direction{j.to, j.from})
		j.close()
	})
	n.pump(forward, conn, hello[:], direction{j.from, j.to})
	j.close()
	back.Wait()
}

// pump copies what is there already and then src, as the link lets it.
func (n *Net) pump(dst, src net.Conn, first []byte, d direction) {
	b := make([]byte, 64<<10)
	m := copy(b, first)
	for {
		if m > 0 {
			if !n.pass(d) {
				return
			}
			if _, err := dst.Write(b[:m]); err != nil {
				return
			}
		}
		var err error
		if m, err = src.Read(b); err != nil && m == 0 {
			return
		}
	}
}

// pass waits until a piece may go on; false when the network is closed.
func (n *Net) pass(d direction) bool {
	for delayed := false; ; {
		n.mu.Lock()
		l, changed, closed := n.links[d], n.changed, n.closed
		n.mu.Unlock()
		switch {
		case closed:
			return false
		case l.Cut:
			<-changed
		case l.Delay > 0 && !delayed:
			select {
			case <-time.After(l.Delay):
			case <-changed:
			}
			delayed = true
		default:
			return true
		}
	}
}
