package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// TransportTimeout bounds each RPC of raft, connecting included; one with a snapshot
// has it once for every 256 KiB.
const TransportTimeout = 10 * time.Second

// maxAppend bounds the payloads of the entries in one AppendEntries, in bytes; a larger
// entry goes alone. raft counts entries only, and an entry may have 16 MiB.
const maxAppend = 16 << 20

// connsPerPeer is how many idle connections to each node are kept: raft has one RPC
// for entries, one for heartbeats and one for votes under way at a time.
const connsPerPeer = 3

// Transport is raft's network transport over an Endpoint, without what is broken in
// v1.8.0:
//
//   - Every AppendEntries reaches raft's main goroutine, heartbeats too. The short
//     cut for heartbeats changes term and state beside it, and a leader that is
//     deposed in that moment writes entries in the new leader's term
//     (hashicorp/raft#695). The price: a heartbeat waits for a follower's disk, so
//     timeouts must be longer than its slowest sync.
//   - There is no pipeline: with a failed answer at the wrong moment it stops for
//     ever while heartbeats go on (hashicorp/raft#612).
//   - An AppendEntries is bounded in bytes, not in entries alone.
//   - Nodes are dialled by name and address, so that who answers is checked.
//   - Close ends the connections, of both directions, and waits until raft has let
//     go of those that were accepted.
type Transport struct {
	*raft.NetworkTransport
	stream    *stream
	maxAppend int
}

var (
	_ raft.Transport   = (*Transport)(nil)
	_ raft.WithPreVote = (*Transport)(nil)
	_ raft.WithClose   = (*Transport)(nil)
)

// NewTransport serves one raft group on the endpoint, from now on until Close.
// A group has one at a time: close it before the next is made. Servers in raft's
// configuration have the node's ID, and its Address.
func (e *Endpoint) NewTransport(group uint64, logger hclog.Logger) *Transport {
	s := newStream(e, Purpose{Kind: Raft, Group: group})
	return &Transport{
		stream: s, maxAppend: maxAppend,
		NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream: s, MaxPool: connsPerPeer, MaxRPCsInFlight: 1, Timeout: TransportTimeout, Logger: logger,
		}),
	}
}

// SetHeartbeatHandler does nothing, which raft allows: see Transport.
func (t *Transport) SetHeartbeatHandler(func(raft.RPC)) {}

// Close ends the transport. It is called by raft's Shutdown, too.
func (t *Transport) Close() error {
	err := t.NetworkTransport.Close()
	t.NetworkTransport.CloseStreams() // those in its pool
	t.stream.wait()
	return err
}

func (t *Transport) AppendEntries(id raft.ServerID, at raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	// raft goes on behind the last entry that it finds in args afterwards.
	args.Entries = args.Entries[:within(args.Entries, t.maxAppend)]
	return t.NetworkTransport.AppendEntries(id, named(id, at), args, resp)
}

func (t *Transport) RequestVote(id raft.ServerID, at raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return t.NetworkTransport.RequestVote(id, named(id, at), args, resp)
}

func (t *Transport) RequestPreVote(id raft.ServerID, at raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return t.NetworkTransport.RequestPreVote(id, named(id, at), args, resp)
}

func (t *Transport) InstallSnapshot(id raft.ServerID, at raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	return t.NetworkTransport.InstallSnapshot(id, named(id, at), args, resp, data)
}

func (t *Transport) TimeoutNow(id raft.ServerID, at raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return t.NetworkTransport.TimeoutNow(id, named(id, at), args, resp)
}

// within returns how many of the first entries have no more than limit bytes, but at
// least 1 if there is one.
func within(entries []*raft.Log, limit int) int {
	for i, e := range entries {
		if limit -= len(e.Data); limit < 0 {
			return max(i, 1)
		}
	}
	return len(entries)
}

// named is a node's ID and address in the one string that raft passes to Dial. An
// ID has no '@'.
func named(id raft.ServerID, at raft.ServerAddress) raft.ServerAddress {
	return raft.ServerAddress(id) + "@" + at
}

// stream is the raft.StreamLayer of one group.
type stream struct {
	endpoint *Endpoint
	purpose  Purpose
	accepted chan net.Conn
	done     chan struct{}

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{} // of both directions, until their Close
	open   sync.WaitGroup        // accepted connections, until their Close
}

func newStream(e *Endpoint, p Purpose) *stream {
	s := &stream{endpoint: e, purpose: p, accepted: make(chan net.Conn), done: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	e.Handle(p, s.handle)
	return s
}

// handle is the endpoint's Handler: it waits until raft accepts.
func (s *stream) handle(conn net.Conn, _ string) {
	conn = s.keep(&limitedConn{Conn: conn, max: MaxRPC, snapshot: MaxSnapshot}, true)
	select {
	case s.accepted <- conn:
	case <-s.done:
		conn.Close()
	}
}

// keep makes Close of the stream close conn; and wait for its user to do so, if it
// was accepted.
func (s *stream) keep(conn net.Conn, accepted bool) net.Conn {
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.conns[conn] = struct{}{}
		if accepted {
			s.open.Add(1)
		}
	}
	s.mu.Unlock()
	if closed {
		conn.Close() // whoever uses it finds out
		return conn
	}
	return &trackedConn{conn, sync.OnceFunc(func() {
		s.mu.Lock()
		delete(s.conns, conn)
		s.mu.Unlock()
		if accepted {
			s.open.Done()
		}
	})}
}

func (s *stream) Accept() (net.Conn, error) {
	select {
	case conn := <-s.accepted:
		return conn, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// Dial connects to an address that named made.
func (s *stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	id, at, ok := strings.Cut(string(address), "@")
	if !ok {
		return nil, fmt.Errorf("peer: %q: want node@address", address)
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), timeout, errors.New("no answer in time"))
	defer cancel()
	conn, err := s.endpoint.Dial(ctx, ParseAddress(at).Peer, id, s.purpose)
	if err != nil {
		return nil, err
	}
	return s.keep(&limitedConn{Conn: conn, max: MaxAnswer, snapshot: MaxAnswer}, false), nil
}

// Close ends Accept and all connections.
func (s *stream) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	conns := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	s.endpoint.Handle(s.purpose, nil)
	close(s.done)
	for _, c := range conns {
		c.Close()
	}
	return nil
}

// wait returns when all accepted connections were closed by those who had them.
func (s *stream) wait() { s.open.Wait() }

// Addr is the address that raft gives to others.
func (s *stream) Addr() net.Addr { return advertised{s.endpoint.Address()} }

type advertised struct{ Address }

func (advertised) Network() string { return "tcp" }
