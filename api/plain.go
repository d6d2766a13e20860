package api

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/gantry-mq/gantry/proto/stream"
)

// lastWords is how long a client may take to hear how its call ended.
const lastWords = time.Second

// plainCalls are the calls of gantry.v1.Streams over connections of their own,
// without HTTP/2: see stream.Conn.
type plainCalls struct {
	sync.WaitGroup
	serve func(stream.Method, *plainCall) error

	mu     sync.Mutex
	open   map[*plainCall]struct{} // guarded by mu
	closed bool                    // guarded by mu
}

// plainCall is one of them.
type plainCall struct {
	*stream.Conn
	ctx    context.Context
	cancel context.CancelFunc
	silent *time.Timer // closes the connection, until a request comes
}

func newPlainCalls(serve func(stream.Method, *plainCall) error) *plainCalls {
	return &plainCalls{serve: serve, open: map[*plainCall]struct{}{}}
}

// take serves a call on a connection whose first byte says that it is one. It
// runs on the goroutine of the handshake, under its deadline.
func (p *plainCalls) take(c *conn) error {
	s, method, err := stream.Accept(c, c.Conn)
	if err != nil {
		return err
	}
	call := &plainCall{Conn: s, silent: time.AfterFunc(handshakeTimeout, func() { s.Close() })}
	call.ctx, call.cancel = context.WithCancel(peer.NewContext(context.Background(), &peer.Peer{Addr: c.RemoteAddr(), LocalAddr: c.LocalAddr()}))
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		call.silent.Stop()
		call.cancel()
		return net.ErrClosed
	}
	p.open[call] = struct{}{}
	p.Go(func() {
		err := p.serve(method, call)
		call.silent.Stop()
		call.cancel()
		call.End(err) // if nobody hears it, nobody does
		call.Linger(lastWords)
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.open, call)
	})
	return nil
}

// close cuts all calls off.
func (p *plainCalls) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for call := range p.open {
		call.cancel()
		call.Conn.Close()
	}
}

func (c *plainCall) Context() context.Context { return c.ctx }

// RecvMsg receives a request. A connection that breaks ends the call at once; of
// everything else the client is told.
func (c *plainCall) RecvMsg(r any) error {
	err := c.Conn.RecvMsg(r)
	if _, told := status.FromError(err); !told && !errors.Is(err, io.EOF) {
		c.cancel()
	}
	c.silent.Stop()
	return err
}

// plainStream is a call as gRPC's stream of the method.
type plainStream[Req, Resp any] struct{ *plainCall }

func (s plainStream[Req, Resp]) Send(r *Resp) error { return s.SendMsg(r) }

func (s plainStream[Req, Resp]) Recv() (*Req, error) {
	r := new(Req)
	return r, s.RecvMsg(r)
}
