package api

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/gantry-mq/gantry/broker"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// pass is a stream that was let in. What it needs is looked at again whenever users
// or policies change, and the stream ends when it may not go on.
type pass struct {
	caller
	gate   *gate
	method string
	ctx    context.Context // ends with the stream, or when it is revoked
	cancel context.CancelFunc
	over   chan struct{} // closed when it is revoked

	mu    sync.Mutex
	needs []need
	why   error // it was refused or revoked
}

type passKey struct{}

// passOf is nil for a server that lets everybody in. All methods of a nil pass allow.
func passOf(ctx context.Context) *pass {
	p, _ := ctx.Value(passKey{}).(*pass)
	return p
}

// stream lets a stream in. The caller closes it.
func (g *gate) stream(ctx context.Context, method string, c presented) (*pass, error) {
	who, err := g.enter(ctx, method, c)
	if err != nil {
		return nil, err
	}
	p := &pass{caller: who, gate: g, method: method, over: make(chan struct{})}
	ctx, p.cancel = context.WithCancel(context.WithValue(ctx, callerKey{}, &p.caller))
	p.ctx = context.WithValue(ctx, passKey{}, p)
	g.mu.Lock()
	g.open[p] = struct{}{}
	g.mu.Unlock()
	p.look() // what changed before it was among those that are looked at
	return p, nil
}

func (p *pass) close() {
	if p == nil {
		return
	}
	p.gate.mu.Lock()
	delete(p.gate.open, p)
	p.gate.mu.Unlock()
	p.cancel()
}

// watch has open streams looked at after each change, until ctx is done.
func (g *gate) watch(ctx context.Context) {
	for {
		changed := g.table.Changed()
		g.mu.Lock()
		all := make([]*pass, 0, len(g.open))
		for p := range g.open {
			all = append(all, p)
		}
		g.mu.Unlock()
		for _, p := range all {
			p.look()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// look ends the stream if it may not go on.
func (p *pass) look() {
	who := p.gate.table.Still(p.who)
	p.mu.Lock()
	defer p.mu.Unlock()
	err := error(nil)
	if who == nil {
		err = broker.Errorf(broker.Unauthorized, "the user is disabled or gone, or has another secret")
	}
	for i := range p.needs {
		if err == nil && !p.needs[i].may(who, p.source) {
			err = p.needs[i].denied(p.who.Name())
		}
	}
	if err != nil && p.why == nil {
		p.why = err
		close(p.over)
		p.cancel()
		p.gate.audit.refused("stream revoked", p.method, p.who.Name(), p.source, err.Error(), time.Now())
	}
}

// hold checks what the stream is to do from now on, and keeps it to be looked at.
func (p *pass) hold(req any) error {
	if p == nil {
		return nil
	}
	var kept []need
	who := p.caller
	first, err := p.gate.asking(p.ctx, &who, rules[p.method], p.method, req, &kept)
	p.mu.Lock()
	if len(kept) > 0 { // else it is an answer to a command, which needs nothing
		p.needs = kept
	}
	if err != nil && p.why == nil {
		p.why = err
	}
	p.mu.Unlock()
	if err != nil {
		return err
	}
	p.look() // a change may have been between
	if err := p.refusal(); err != nil {
		return err
	}
	p.gate.done(rules[p.method], p.method, &who, first)
	return nil
}

// once checks one request of many. It allocates nothing.
func (p *pass) once(req any) error {
	if p == nil {
		return nil
	}
	now := caller{p.gate.table.Still(p.who), p.source}
	if now.who == nil {
		return errNotAuthenticated
	}
	_, err := p.gate.ask(p.ctx, &now, rules[p.method], p.method, req)
	return err
}

// errRevoked ends a handler whose stream may not go on. The client is told why instead.
var errRevoked = errors.New("api: revoked")

// revoked is closed when the stream may not go on.
func (p *pass) revoked() <-chan struct{} {
	if p == nil {
		return nil
	}
	return p.over
}

// user is who has the stream.
func (p *pass) user() string {
	if p == nil {
		return ""
	}
	return p.who.Name()
}

// refusal is why it may not go on, nil if it may.
func (p *pass) refusal() error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.why
}

// gated is a stream that was let in: each request is checked as it comes, unless the
// handler does that.
type gated struct {
	grpc.ServerStream
	pass    *pass
	handler bool // checks
	began   bool // something was sent
}

func (g *gated) Context() context.Context { return g.pass.ctx }

func (g *gated) RecvMsg(m any) error {
	if err := g.ServerStream.RecvMsg(m); err != nil || g.handler {
		return err
	}
	return g.pass.hold(m)
}

func (g *gated) SendMsg(m any) error {
	g.began = true
	return g.ServerStream.SendMsg(m)
}

// letIn serves a stream for who may have it, and tells the others why not.
func (s *Server) letIn(stream grpc.ServerStream, method string, handle func(grpc.ServerStream) error) error {
	if s.gate == nil || rules[method].open {
		return handle(stream)
	}
	if _, known := rules[method]; !known {
		return rpcError(s.log, s.gate.unruled(method))
	}
	p, why := s.gate.stream(stream.Context(), method, presentedBy(stream.Context()))
	began := false
	if why == nil {
		defer p.close()
		in := &gated{ServerStream: stream, pass: p, handler: strings.HasPrefix(method, streamsPrefix)}
		err := handle(in)
		if why = p.refusal(); why == nil {
			return err
		}
		began = in.began
	}
	if !strings.HasPrefix(method, messagingPrefix) {
		return rpcError(s.log, why)
	}
	st := statusFor(s.log, why)
	s.messaging.refused(stream.Context(), method, st)
	telemetry := method == v2.MessagingService_Telemetry_FullMethodName
	if !began || telemetry {
		if err := stream.SendMsg(refusal(method, st)); err != nil || !telemetry {
			return err
		}
	}
	return rpcError(s.log, why)
}
