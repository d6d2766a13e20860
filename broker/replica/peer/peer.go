// Package peer is how the nodes of a cluster talk: one port, on which every
// connection says first what it is for, from whom and to whom, and is checked
// before anything else reads from it. hashicorp/raft has no authentication of its
// own; whoever could speak to it would own the cluster.
//
// Outside of loopback all of it is TLS 1.3 with certificates of the cluster's own
// authority on both sides (package pki), and the names in the preamble must be
// those in the certificates.
//
// # Concurrency
//
// All methods may be called concurrently. An Endpoint's goroutines, and the
// handlers they call, have ended when its Close returns.
package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gantry-mq/gantry/internal/pki"
)

// ErrPlaintext says that certificates are needed: an address is not on loopback.
var ErrPlaintext = errors.New("peer: without certificates, nodes talk on loopback only")

// handshakeTimeout bounds the time from accepting a connection to knowing who it is.
const handshakeTimeout = 5 * time.Second

// maxUnknown bounds the connections that have not said who they are. More wait in
// the kernel, so that a flood costs no files.
const maxUnknown = 128

// Config is what an Endpoint is made of.
type Config struct {
	Node     string        // this node's ID, see NewID
	Cluster  uint64        // 0 = of none yet, see Endpoint.SetCluster
	Identity *pki.Identity // nil = plaintext, on loopback only
	// Advertise is the address under which other nodes reach this one; "" = the one
	// that is listened on.
	Advertise string
	Client    string // the address under which clients reach this node
	Logger    *slog.Logger
	// HandshakeTimeout is how long a connection may take to say who it is; 0 = 5 s.
	HandshakeTimeout time.Duration
}

// Handler owns conn and closes it. A handler may return before it does. from is the
// name of the node that dialled, checked. When the Endpoint is closed, so is conn.
type Handler func(conn net.Conn, from string)

// Endpoint is a node's side of all its connections with other nodes.
type Endpoint struct {
	cfg      Config
	listener net.Listener
	unknown  chan struct{} // one element per connection that has not said who it is
	running  sync.WaitGroup
	cluster  atomic.Uint64

	mu       sync.Mutex
	closed   bool
	handlers map[Purpose]Handler
	conns    map[net.Conn]struct{} // accepted, and not closed yet
}

// Listen starts to accept connections. Until Handle names a purpose, those for it
// are refused.
func Listen(address string, cfg Config) (*Endpoint, error) {
	if err := CheckID(cfg.Node); err != nil {
		return nil, fmt.Errorf("peer: %w", err)
	}
	var listen net.ListenConfig
	if cfg.Identity == nil {
		listen.Control = loopbackOnly
	}
	listener, err := listen.Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("peer: %w", err)
	}
	if cfg.Advertise == "" {
		cfg.Advertise = listener.Addr().String()
	}
	if cfg.HandshakeTimeout == 0 {
		cfg.HandshakeTimeout = handshakeTimeout
	}
	e := &Endpoint{
		cfg: cfg, listener: listener, unknown: make(chan struct{}, maxUnknown),
		handlers: map[Purpose]Handler{}, conns: map[net.Conn]struct{}{},
	}
	e.cluster.Store(cfg.Cluster)
	e.running.Go(e.accept)
	return e, nil
}

// SetCluster makes a node that was of no cluster one of cluster.
func (e *Endpoint) SetCluster(cluster uint64) { e.cluster.Store(cluster) }

// Address is where others reach this node.
func (e *Endpoint) Address() Address { return Address{e.cfg.Advertise, e.cfg.Client} }

// loopbackOnly is called with the address, no longer a name, before it is bound or
// connected to.
func loopbackOnly(_, address string, _ syscall.RawConn) error {
	if a, err := netip.ParseAddrPort(address); err != nil || !a.Addr().IsLoopback() {
		return fmt.Errorf("%w: %s", ErrPlaintext, address)
	}
	return nil
}

// Addr is the address that is listened on.
func (e *Endpoint) Addr() net.Addr { return e.listener.Addr() }

// Handle has f called, in a goroutine of its own, for each connection for p; nil
// ends that. A second handler replaces the first.
func (e *Endpoint) Handle(p Purpose, f Handler) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if f == nil {
		delete(e.handlers, p)
	} else {
		e.handlers[p] = f
	}
}

// Close ends the listening and all accepted connections, and waits for the
// handlers. Connections from Dial are their callers'.
func (e *Endpoint) Close() error {
	e.mu.Lock()
	e.closed = true
	err := e.listener.Close()
	for c := range e.conns {
		c.Close()
	}
	e.mu.Unlock()
	e.running.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (e *Endpoint) accept() {
	for {
		e.unknown <- struct{}{}
		conn, err := e.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of files, most likely. The next connection that ends helps; until then,
			// asking again at once would only burn CPU.
			e.cfg.Logger.Error("peer: accept", "error", err)
			time.Sleep(100 * time.Millisecond)
			<-e.unknown
			continue
		}
		e.running.Go(func() { e.serve(conn) })
	}
}

// serve finds out who is there and hands over.
func (e *Endpoint) serve(raw net.Conn) {
	conn := e.track(raw)
	handler, p, err := e.admit(conn)
	<-e.unknown
	if err != nil {
		raw.Close()
		if e.forget(raw) {
			e.cfg.Logger.Warn("peer: a connection was turned away", "from", raw.RemoteAddr().String(), "error", err)
		}
		return
	}
	handler(conn, p.Sender)
}

// trackedConn is forgotten by its endpoint, or its stream, when it is closed.
type trackedConn struct {
	net.Conn
	closed func()
}

func (c *trackedConn) Close() error {
	err := c.Conn.Close()
	c.closed()
	return err
}

// track makes Close of the endpoint close the connection.
func (e *Endpoint) track(raw net.Conn) net.Conn {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		raw.Close() // all that is done with it fails from here on
	}
	e.conns[raw] = struct{}{}
	conn := raw
	if e.cfg.Identity != nil {
		conn = tls.Server(raw, e.cfg.Identity.Server())
	}
	return &trackedConn{conn, func() { e.forget(raw) }}
}

// forget reports whether the endpoint is still open.
func (e *Endpoint) forget(raw net.Conn) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.conns, raw)
	return !e.closed
}

// admit decides about a connection and tells the other side.
func (e *Endpoint) admit(conn net.Conn) (Handler, preamble, error) {
	if err := conn.SetDeadline(time.Now().Add(e.cfg.HandshakeTimeout)); err != nil {
		return nil, preamble{}, err
	}
	var state *tls.ConnectionState // nil = plaintext
	if t, ok := conn.(*trackedConn).Conn.(*tls.Conn); ok {
		if err := t.Handshake(); err != nil {
			return nil, preamble{}, err
		}
		s := t.ConnectionState()
		state = &s
	}
	p, err := readPreamble(conn)
	var h Handler
	if err == nil {
		h, err = e.check(p, state)
	}
	var no *RefusedError
	if errors.As(err, &no) {
		if lost := writeAnswer(conn, no.Reason, no.Text); lost != nil {
			return nil, p, errors.Join(err, lost)
		}
		// The other side closes once it has read that. Closing before, with some of its
		// preamble unread, would be a reset, and could overtake the answer.
		io.CopyN(io.Discard, conn, 4<<10)
		return nil, p, err
	}
	if err == nil {
		err = writeAnswer(conn, accepted, "")
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	return h, p, err
}

// check returns who is to have the connection, or a *RefusedError.
func (e *Endpoint) check(p preamble, state *tls.ConnectionState) (Handler, error) {
	if state != nil {
		if err := pki.CheckPeer(state.PeerCertificates[0], NameOf(p.Sender)); err != nil {
			return nil, refuse(WrongSender, "%v", err)
		}
	}
	switch own := e.cluster.Load(); {
	case own == 0:
		return nil, refuse(WrongCluster, "this node is of no cluster yet")
	case p.Cluster == 0 && p.Target == "" && p.Purpose.Kind == Control: // it wants to join
	case p.Cluster != own:
		return nil, refuse(WrongCluster, "this is cluster %016x, not %016x", own, p.Cluster)
	case p.Target != e.cfg.Node:
		return nil, refuse(WrongTarget, "this is node %q, not %q", e.cfg.Node, p.Target)
	}
	if p.Sender == e.cfg.Node {
		return nil, refuse(WrongSender, "%q is this node's own name", p.Sender)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	h := e.handlers[p.Purpose]
	if h == nil {
		return nil, refuse(NotServed, "nothing here serves %s", p.Purpose)
	}
	return h, nil
}

// Dial connects to node target at address, until ctx ends. A *RefusedError says
// that the other side is there and does not want this connection. A node that is of
// no cluster yet may dial whoever is at the address, target "", for Control.
func (e *Endpoint) Dial(ctx context.Context, address, target string, p Purpose) (net.Conn, error) {
	conn, err := e.dial(ctx, address, target, p)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("peer: node %q at %s: %w", target, address, err)
	}
	return conn, nil
}

func (e *Endpoint) dial(ctx context.Context, address, target string, p Purpose) (net.Conn, error) {
	var d net.Dialer
	if e.cfg.Identity == nil {
		d.Control = loopbackOnly
	}
	raw, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	conn, err := e.introduce(ctx, raw, target, p)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}

// introduce is the dialling side of admit.
func (e *Endpoint) introduce(ctx context.Context, raw net.Conn, target string, p Purpose) (net.Conn, error) {
	conn := raw
	if e.cfg.Identity != nil {
		conf := e.cfg.Identity.ClientOfAny()
		if target != "" {
			conf = e.cfg.Identity.Client(NameOf(target))
		}
		t := tls.Client(raw, conf)
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		conn = t
	}
	hello := preamble{Purpose: p, Cluster: e.cluster.Load(), Sender: e.cfg.Node, Target: target}
	if _, err := conn.Write(hello.encode()); err != nil {
		return nil, err
	}
	if err := readAnswer(conn); err != nil {
		return nil, err
	}
	return conn, nil
}
