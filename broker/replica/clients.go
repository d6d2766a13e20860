package replica

import (
	"context"
	"fmt"
	"net"

	"github.com/gantry-mq/gantry/broker/replica/peer"
)

// A client may come to any node. One that does not lead passes the connection on
// to the leader's peer port: there, it cannot be taken for one that came to that
// node itself and be passed on again, round and round, while the two disagree
// about who leads.

var (
	clients   = peer.Purpose{Kind: peer.Client}
	operators = peer.Purpose{Kind: peer.Operator}
)

// DialLeader connects a client with the node that leads, as far as this one knows.
// ErrNoLeader: there is none, or it is this one.
func (n *Node) DialLeader(ctx context.Context) (net.Conn, error) { return n.dialLeader(ctx, clients) }

// DialOperator is DialLeader for an operator's calls by HTTP.
func (n *Node) DialOperator(ctx context.Context) (net.Conn, error) {
	return n.dialLeader(ctx, operators)
}

func (n *Node) dialLeader(ctx context.Context, to peer.Purpose) (net.Conn, error) {
	l, ok := n.Leader()
	if !ok || l.ID == n.parts.id {
		return nil, ErrNoLeader
	}
	conn, err := n.parts.endpoint.Dial(ctx, l.Peer, l.ID, to)
	if err != nil {
		return nil, fmt.Errorf("replica: the leader, %s at %s: %w", l.ID, l.Peer, err)
	}
	return conn, nil
}

// HandleClients has f called for each connection of a client that another node has
// passed on. f closes it; Close does, too.
func (n *Node) HandleClients(f func(net.Conn)) { n.handle(clients, f) }

// HandleOperators is HandleClients for connections of DialOperator.
func (n *Node) HandleOperators(f func(net.Conn)) { n.handle(operators, f) }

func (n *Node) handle(from peer.Purpose, f func(net.Conn)) {
	n.parts.endpoint.Handle(from, func(conn net.Conn, _ string) { f(conn) })
}
