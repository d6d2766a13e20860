package node

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

// front is the port for clients of one node of a cluster. While the node leads,
// connections go to its server; while another one does, they are joined with a
// connection to that node, byte for byte, so a client may know any node. A
// connection that is joined ends when leadership moves, as this node hears: its client
// dials again, and gets to the right place. The leader before may be cut off and not
// know of it, or be unable to say so.
type front struct {
	listener net.Listener
	dial     func(context.Context) (net.Conn, error) // to the leader
	moved    func() <-chan struct{}                  // closed when there is another
	log      *slog.Logger

	ctx    context.Context // until close
	cancel context.CancelFunc
	run    sync.WaitGroup

	mu     sync.Mutex
	server *handed // nil while another node leads
	joined map[net.Conn]struct{}
}

// leaderWait is how long a connection waits for a leader: longer than an election,
// shorter than clients' patience with a connection.
const leaderWait = 8 * time.Second

// maxWait bounds the pause before a connection asks for the leader again: thousands
// of them may wait.
const maxWait = 500 * time.Millisecond

func newFront(l net.Listener, dial func(context.Context) (net.Conn, error), moved func() <-chan struct{}, log *slog.Logger) *front {
	f := &front{listener: l, dial: dial, moved: moved, log: log, joined: map[net.Conn]struct{}{}}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.run.Go(f.accept)
	f.run.Go(f.watch)
	return f
}

// close ends the listening and all joined connections.
func (f *front) close() {
	f.cancel()
	f.listener.Close()
	f.follow()
	f.run.Wait()
}

// watch cuts what is joined with a leader that leads no more.
func (f *front) watch() {
	for {
		moved := f.moved()
		select {
		case <-moved:
			f.cut()
		case <-f.ctx.Done():
			return
		}
	}
}

func (f *front) accept() {
	for f.ctx.Err() == nil {
		conn, err := f.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of files: the next connection that ends helps
			f.log.Error("accept", "error", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		f.run.Go(func() { f.take(conn) })
	}
}

func (f *front) take(conn net.Conn) {
	ctx, cancel := context.WithTimeout(f.ctx, leaderWait)
	defer cancel()
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, maxWait) {
		f.mu.Lock()
		server := f.server
		f.mu.Unlock()
		if server != nil {
			if !server.give(conn) {
				conn.Close()
			}
			return
		}
		moved := f.moved()
		leader, err := f.dial(ctx)
		if err == nil {
			f.join(conn, leader, moved)
			return
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			f.log.Warn("a client was turned away: there is no leader", "client", conn.RemoteAddr(), "error", err)
			conn.Close()
			return
		}
	}
}

// fromPeer takes a client that another node has passed on to the leader.
func (f *front) fromPeer(conn net.Conn) {
	f.mu.Lock()
	server := f.server
	f.mu.Unlock()
	if server == nil || !server.give(conn) {
		conn.Close() // it has been told wrong, or too early: it will ask again
	}
}

// join copies both ways until one side ends, or leadership has moved. Between two TCP
// connections the kernel does it.
func (f *front) join(client, leader net.Conn, moved <-chan struct{}) {
	f.mu.Lock()
	stale := f.server != nil || f.ctx.Err() != nil
	select {
	case <-moved:
		stale = true
	default:
	}
	if !stale {
		f.joined[client], f.joined[leader] = struct{}{}, struct{}{}
	}
	f.mu.Unlock()
	if !stale {
		var back sync.WaitGroup
		back.Go(func() {
			io.Copy(client, leader)
			client.Close()
		})
		io.Copy(leader, client)
		leader.Close()
		back.Wait()
	}
	f.mu.Lock()
	delete(f.joined, client)
	delete(f.joined, leader)
	f.mu.Unlock()
	client.Close()
	leader.Close()
}

// lead has connections go to whoever accepts from the result, until follow.
func (f *front) lead() net.Listener {
	h := newHanded(f.listener.Addr())
	f.mu.Lock()
	f.server = h
	f.mu.Unlock()
	f.cut()
	return h
}

// follow has connections go to the leader, elsewhere.
func (f *front) follow() {
	f.mu.Lock()
	h := f.server
	f.server = nil
	f.mu.Unlock()
	if h != nil {
		h.end()
	}
	f.cut()
}

// cut ends the joined connections: leadership has moved.
func (f *front) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.joined {
		c.Close()
	}
}

// handed is a listener whose connections were accepted by somebody else.
type handed struct {
	addr         net.Addr
	conns        chan net.Conn
	ended, shut  sync.Once
	over, closed chan struct{}
}

func newHanded(addr net.Addr) *handed {
	return &handed{addr: addr, conns: make(chan net.Conn), over: make(chan struct{}), closed: make(chan struct{})}
}

// end has no more connections come. Accept goes on waiting: it is for who accepts
// to close the listener.
func (h *handed) end() { h.ended.Do(func() { close(h.over) }) }

func (h *handed) give(c net.Conn) bool {
	select {
	case h.conns <- c:
		return true
	case <-h.over:
		return false
	}
}

func (h *handed) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

func (h *handed) Close() error {
	h.end()
	h.shut.Do(func() { close(h.closed) })
	return nil
}

func (h *handed) Addr() net.Addr { return h.addr }
