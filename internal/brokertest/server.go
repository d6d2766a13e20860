// Package brokertest starts a whole broker, with its gRPC server on a port of the
// loopback interface, inside a test of something that is a client of it.
package brokertest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/gantry-mq/gantry/api"
	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/access"
	"github.com/gantry-mq/gantry/proto/gantryv1"
)

// Server is a broker that is up, until the test ends.
type Server struct {
	// Addr stays the same over a Restart.
	Addr  string
	Admin gantryv1.ManagementClient

	t       tester
	options broker.Options
	broker  *broker.Broker
	api     *api.Server
	served  chan error
}

// tester is what is needed of a testing.TB.
type tester interface {
	Helper()
	Fatal(...any)
	Errorf(string, ...any)
	Cleanup(func())
	TempDir() string
}

// example stands in for a test in a runnable example.
type example struct{ cleanups []func() }

func (*example) Helper()                      {}
func (*example) Fatal(args ...any)            { panic(fmt.Sprint(args...)) }
func (*example) Errorf(f string, args ...any) { panic(fmt.Sprintf(f, args...)) }
func (e *example) Cleanup(f func())           { e.cleanups = append(e.cleanups, f) }
func (e *example) TempDir() string {
	dir, err := os.MkdirTemp("", "gantry-example")
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// StartExample starts a broker for a runnable example, until stop.
func StartExample() (s *Server, stop func()) {
	e := &example{}
	return Start(e, broker.Options{}), func() {
		for _, f := range slices.Backward(e.cleanups) {
			f()
		}
	}
}

// Start starts a broker on an empty directory. Of o, everything may be zero. With a
// MasterKey it asks who calls; Admin is refused then.
func Start(t tester, o broker.Options) *Server {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.SegmentSize == 0 {
		o.SegmentSize = 16 << 20
	}
	o.AutoCreateGroups = true
	s := &Server{t: t, options: o, Addr: "127.0.0.1:0"}
	s.up()
	t.Cleanup(s.down)
	conn, err := grpc.NewClient("passthrough:///"+s.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	s.Admin = gantryv1.NewManagementClient(conn)
	return s
}

// Broker is the broker behind it, until the next Restart.
func (s *Server) Broker() *broker.Broker { return s.broker }

// CreateTopic makes a topic with the given number of queues.
func (s *Server) CreateTopic(name string, kind gantryv1.TopicType, queues uint32) {
	s.t.Helper()
	_, err := s.Admin.CreateTopic(context.Background(), &gantryv1.CreateTopicRequest{Name: name, Type: kind, Queues: queues}, grpc.WaitForReady(true))
	if err != nil {
		s.t.Fatal(err)
	}
}

// Restart ends the broker and starts it again on its directory and its port.
func (s *Server) Restart() {
	s.t.Helper()
	s.down()
	s.up()
}

func (s *Server) up() {
	s.t.Helper()
	var err error
	if s.broker, err = broker.Open(context.Background(), s.options); err != nil {
		s.t.Fatal(err)
	}
	l, err := net.Listen("tcp", s.Addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.Addr = l.Addr().String()
	serving := api.Options{Logger: slog.New(slog.DiscardHandler), DataDir: s.options.Dir}
	if s.options.MasterKey != nil {
		serving.Auth = &api.Auth{Clock: access.Clock{Skew: 5 * time.Minute}}
	}
	s.api = api.New(s.broker, serving)
	s.served = make(chan error, 1)
	served, server := s.served, s.api
	go func() { served <- server.Serve(l) }()
}

// drainTime is how long clients that stay connected keep a server from ending.
const drainTime = 100 * time.Millisecond

func (s *Server) down() {
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	s.api.Shutdown(ctx) // its error says that clients were cut off
	if err := <-s.served; err != nil {
		s.t.Errorf("Serve: %v", err)
	}
	if err := s.broker.Close(); err != nil {
		s.t.Errorf("Close: %v", err)
	}
}

// Proxy passes connections on to a server and can break them.
type Proxy struct {
	Addr string

	to       string
	listener net.Listener
	wait     sync.WaitGroup
	mu       sync.Mutex
	conns    map[net.Conn]struct{}
	closed   bool
}

// NewProxy listens in front of the server at to.
func NewProxy(t tester, to string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr().String(), to: to, listener: l, conns: map[net.Conn]struct{}{}}
	p.wait.Go(p.accept)
	t.Cleanup(p.Close)
	return p
}

// Close breaks all connections and takes no new ones.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.listener.Close()
	p.Cut()
	p.wait.Wait()
}

// Cut breaks all connections. New ones are taken.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

func (p *Proxy) accept() {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", p.to)
		if err != nil {
			in.Close()
			continue
		}
		if !p.add(in, out) {
			return
		}
		p.wait.Go(func() { p.pass(in, out) })
		p.wait.Go(func() { p.pass(out, in) })
	}
}

func (p *Proxy) add(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		if p.closed {
			c.Close()
		}
		p.conns[c] = struct{}{}
	}
	return !p.closed
}

func (p *Proxy) pass(to, from net.Conn) {
	io.Copy(to, from)
	to.Close()
	from.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, from)
}
