package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/proto/stream"
)

// maxPending bounds connections that have not completed their handshake. More
// are closed at once, so silent ones cannot take all descriptors; they make room
// after handshakeTimeout.
const maxPending = 4096

// tlsHandshake is the first byte of a TLS ClientHello. An HTTP/2 connection
// begins with 'P'.
const tlsHandshake = 0x16

// listener hands connections to gRPC, which gives each a goroutine and a
// deadline for its handshake, so that nothing a client does delays Accept.
type listener struct {
	net.Listener
	pending *pending
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if wrapped := l.pending.add(c); wrapped != nil {
			return wrapped, nil
		}
		c.Close()
	}
}

// pending is the set of connections in their handshake. gRPC waits for those
// when it stops and offers no way to end them, so shutdown closes them here.
type pending struct {
	hold func() (crowded bool)         // broker.HoldSender
	lost func(receiver, time.Duration) // by a connection that ends, from which nothing had come for so long

	mu     sync.Mutex
	conns  map[*conn]struct{} // guarded by mu; nil after close
	closed bool               // guarded by mu
}

func newPending(hold func() bool, lost func(receiver, time.Duration)) *pending {
	return &pending{hold: hold, lost: lost, conns: make(map[*conn]struct{})}
}

// add returns nil when c cannot be served.
func (p *pending) add(c net.Conn) *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.conns) >= maxPending {
		return nil
	}
	wrapped := &conn{Conn: c, pending: p, hold: p.hold}
	p.conns[wrapped] = struct{}{}
	return wrapped
}

func (p *pending) remove(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *pending) close() {
	p.mu.Lock()
	p.closed = true
	conns := p.conns
	p.conns = nil
	p.mu.Unlock()
	for c := range conns {
		c.Conn.Close()
	}
}

func (p *pending) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// crowdedRead is what is read at a time of a connection that sends while many sends are
// under way: 32 KiB would be calls for milliseconds, and a hundred connections send.
const crowdedRead = 8 << 10

// conn is a connection whose first byte was read and put back, and which is not read
// while enough of what came by it and others waits to be stored.
type conn struct {
	net.Conn
	pending *pending
	hold    func() (crowded bool)
	sends   atomic.Int32 // calls of SendMessage that it has under way
	sender  atomic.Bool  // it had one

	mu        sync.Mutex
	heard     time.Time             // guarded by mu; when something came last
	receivers map[receiver]struct{} // guarded by mu

	// Touched by one reader at a time.
	first  [1]byte
	unread bool // first is still to be read
	full   bool // there was more than the last read took
}

// peek reads the first byte without taking it from what Read returns.
func (c *conn) peek() (byte, error) {
	if _, err := io.ReadFull(c.Conn, c.first[:]); err != nil {
		return 0, err
	}
	c.unread = true
	return c.first[0], nil
}

func (c *conn) Read(b []byte) (int, error) {
	if c.unread && len(b) > 0 {
		c.unread = false
		b[0] = c.first[0]
		return 1, nil
	}
	if c.full && c.sender.Load() {
		runtime.Gosched() // what was read becomes calls before there is more of it
	}
	if c.sends.Load() > 0 && c.hold() {
		b = b[:min(len(b), crowdedRead)]
	}
	n, err := c.Conn.Read(b)
	if c.full = n == len(b); err == nil {
		now := time.Now()
		c.mu.Lock()
		c.heard = now
		c.mu.Unlock()
	}
	return n, err
}

// SetDeadline watches for gRPC lifting the deadline it set on accepting, which
// it does when the handshake is complete.
func (c *conn) SetDeadline(t time.Time) error {
	if t.IsZero() {
		c.pending.remove(c)
	}
	return c.Conn.SetDeadline(t)
}

func (c *conn) Close() error {
	c.pending.remove(c)
	err := c.Conn.Close()
	c.mu.Lock()
	receivers, silent := c.receivers, time.Since(c.heard)
	c.receivers = nil
	c.mu.Unlock()
	for r := range receivers {
		c.pending.lost(r, silent)
	}
	return err
}

// receiver is a client that holds what it receives for as long as it lives. Nobody else
// tells when an answer to it is lost: it may have no command stream for minutes.
type receiver struct {
	client string
	group  record.Resource
}

// receives notes who receives by c.
func (c *conn) receives(r receiver) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.receivers == nil {
		c.receivers = map[receiver]struct{}{}
	}
	c.receivers[r] = struct{}{}
}

// sniffer is the transport security of a port that serves TLS, plaintext and calls
// without HTTP/2: the client's first byte decides, and nothing is sent before it
// came.
type sniffer struct {
	tls, plain credentials.TransportCredentials
	calls      *plainCalls // over connections of their own
}

func newSniffer(config *tls.Config, calls *plainCalls) credentials.TransportCredentials {
	return sniffer{
		tls:   credentials.NewTLS(config),
		plain: insecure.NewCredentials(),
		calls: calls,
	}
}

// ServerHandshake runs on the connection's own goroutine, under gRPC's deadline.
func (s sniffer) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, ok := raw.(*conn)
	if !ok {
		return nil, nil, fmt.Errorf("api: connection from a foreign listener: %T", raw)
	}
	first, err := c.peek()
	if err != nil {
		return nil, nil, fmt.Errorf("api: connection ended before its first byte: %w", err)
	}
	switch first {
	case tlsHandshake:
		return secured(c, s.tls)
	case stream.OpeningByte:
		if err := s.calls.take(c); err != nil {
			return nil, nil, err
		}
		return nil, nil, credentials.ErrConnDispatched
	}
	return secured(c, s.plain)
}

// onConn is the peer's AuthInfo: it leads handlers to the connection that a call is on.
type onConn struct {
	credentials.AuthInfo
	conn *conn
}

func secured(c *conn, by credentials.TransportCredentials) (net.Conn, credentials.AuthInfo, error) {
	s, info, err := by.ServerHandshake(c)
	return s, onConn{info, c}, err
}

// connOf is the connection of a call. A call by HTTP has none.
func connOf(ctx context.Context) *conn {
	if p, ok := peer.FromContext(ctx); ok {
		if on, ok := p.AuthInfo.(onConn); ok {
			return on.conn
		}
	}
	return nil
}

// endConn ends the connection of a call, with all others on it.
func endConn(ctx context.Context) {
	if c := connOf(ctx); c != nil {
		c.Conn.Close()
	}
}

func (s sniffer) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, fmt.Errorf("api: server credentials used by a client")
}

func (s sniffer) Info() credentials.ProtocolInfo          { return s.tls.Info() }
func (s sniffer) Clone() credentials.TransportCredentials { return s }
func (s sniffer) OverrideServerName(string) error         { return nil }

// selfSigned makes a certificate for this host that lives in memory only.
func selfSigned(now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("api: self-signed certificate: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("api: self-signed certificate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "gantry", Organization: []string{"Gantry, self-signed at start"}},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.AddDate(10, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	if host, err := os.Hostname(); err == nil && host != "localhost" {
		template.DNSNames = append(template.DNSNames, host)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("api: self-signed certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
