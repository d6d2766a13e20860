package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/gantry-mq/gantry/api/gateway"
	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/access"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/logging"
)

// Auth of a server: who calls is authenticated, and may do what its policies say.
// There is no way to have the one without the other.
type Auth struct {
	// Clock says which dates in signatures are good.
	Clock access.Clock
}

// gate lets calls in. A server without one lets everybody in.
type gate struct {
	broker  *broker.Broker
	table   *access.Table
	clock   access.Clock
	lockout access.Lockout
	audit   audit

	mu   sync.Mutex
	open map[*pass]struct{} // streams, to be looked at when something changes
}

func newGate(b *broker.Broker, a *Auth, log *slog.Logger) *gate {
	if a == nil {
		return nil
	}
	return &gate{broker: b, table: b.Access(), clock: a.Clock, audit: audit{log: log.With(logging.Component, "audit")}, open: map[*pass]struct{}{}}
}

// caller is who makes a call, and where from.
type caller struct {
	who    *access.Principal
	source netip.Addr
}

type callerKey struct{}

// callerOf is nil for a server that lets everybody in.
func callerOf(ctx context.Context) *caller {
	c, _ := ctx.Value(callerKey{}).(*caller)
	return c
}

// userOf is the caller's name, "" when nobody is authenticated.
func userOf(ctx context.Context) string {
	if c := callerOf(ctx); c != nil {
		return c.who.Name()
	}
	return ""
}

// mayList reports whether a list shows the caller the resource.
func mayList(ctx context.Context, t access.Type, r record.Resource) bool {
	c := callerOf(ctx)
	return c == nil || c.who.Decide(access.Object{Type: t, Resource: r}, access.List, c.source).Allowed
}

// errNotAuthenticated is all that a client is told: not whether there is the user.
var errNotAuthenticated = broker.Errorf(broker.Unauthorized, "authentication failed: the user, the secret or the signature is wrong")

// presented is what a call says of who makes it.
type presented struct {
	authorization, date string
	basic               gateway.Basic // by HTTP, instead
}

func presentedBy(ctx context.Context) presented {
	if b, ok := gateway.BasicOf(ctx); ok {
		return presented{basic: b}
	}
	return presented{authorization: header(ctx, headerAuthorization), date: header(ctx, headerDateTime)}
}

// enter authenticates a call.
func (g *gate) enter(ctx context.Context, method string, c presented) (caller, error) {
	source, now := sourceOf(ctx, c.basic), time.Now()
	if name := certified(ctx); name != "" && c.authorization == "" && c.basic.Remote == "" {
		who, err := g.table.VerifyCertified(name)
		if err == nil {
			return caller{who, source}, nil
		}
		g.audit.refused("authentication failed", method, name, source, "its certificate is good, but "+err.Error(), now)
		return caller{}, errNotAuthenticated
	}
	var who *access.Principal
	var s access.Signature
	user, err, byHTTP := c.basic.User, error(nil), c.basic.Remote != ""
	switch {
	case !byHTTP:
		s, err = access.ParseSignature(c.authorization, c.date)
		user = s.User
	case user == "":
		err = access.ErrNoSignature
	}
	switch {
	case err != nil:
	case g.lockout.Locked(source, user, now):
		err = errLockedOut
	case byHTTP:
		who, err = g.table.VerifySecret(user, c.basic.Secret)
	default:
		who, err = g.table.Verify(&s, g.clock, now)
	}
	if err == nil {
		return caller{who, source}, nil
	}
	if access.Guessed(err) && g.lockout.Failed(source, user, now) {
		err = fmt.Errorf("%w; it is locked out for a while now", err)
	}
	g.audit.refused("authentication failed", method, user, source, err.Error(), now)
	return caller{}, errNotAuthenticated
}

// certified is the common name of the caller's certificate, "" when it showed none that
// the clients' authorities have signed.
func certified(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ""
	}
	on, _ := p.AuthInfo.(onConn)
	if info, ok := on.AuthInfo.(credentials.TLSInfo); ok && len(info.State.VerifiedChains) > 0 {
		return info.State.VerifiedChains[0][0].Subject.CommonName
	}
	return ""
}

var errLockedOut = errors.New("it has failed too often: it is locked out")

// sourceOf is the address that a call comes from.
func sourceOf(ctx context.Context, b gateway.Basic) netip.Addr {
	if b.Remote != "" {
		at, _ := netip.ParseAddrPort(b.Remote)
		return at.Addr().Unmap().WithZone("")
	}
	if p, ok := peer.FromContext(ctx); ok {
		if t, ok := p.Addr.(*net.TCPAddr); ok {
			return t.AddrPort().Addr().Unmap().WithZone("")
		}
	}
	return netip.Addr{}
}

// unary lets a unary call in, or says why not.
func (g *gate) unary(ctx context.Context, method string, req any) (context.Context, error) {
	r, known := rules[method]
	switch {
	case !known:
		return ctx, g.unruled(method)
	case r.open:
		return ctx, nil
	}
	c, err := g.enter(ctx, method, presentedBy(ctx))
	if err != nil {
		return ctx, err
	}
	first, err := g.ask(ctx, &c, r, method, req)
	if err != nil {
		return ctx, err
	}
	if !r.anonymous || g.broker.Quotas().Active() {
		told := c
		ctx = context.WithValue(ctx, callerKey{}, &told)
	}
	g.done(r, method, &c, first)
	return ctx, nil
}

// done writes down what an operator is let do.
func (g *gate) done(r rule, method string, c *caller, n need) {
	if r.operator && n.action&(access.Create|access.Update|access.Delete) != 0 {
		g.audit.done(method, c, n)
	}
}

// unruled refuses a method that nobody has thought of. A test finds it first.
func (g *gate) unruled(method string) error {
	return broker.Errorf(broker.Forbidden, "nobody may call %s", method)
}

// need is a permission that a request takes: one action of either set.
type need struct {
	object     access.Object
	action, or access.Actions
	super      bool
}

// asking is the check of one request: its rule says, one by one, what it takes.
type asking struct {
	gate  *gate
	ctx   context.Context
	who   *access.Principal
	from  netip.Addr
	first need
	kept  *[]need // nil: not kept
	err   error   // why not
}

var askings = sync.Pool{New: func() any { return new(asking) }}

// ask checks a request, and returns the first thing that it takes.
func (g *gate) ask(ctx context.Context, c *caller, r rule, method string, req any) (need, error) {
	return g.asking(ctx, c, r, method, req, nil)
}

func (g *gate) asking(ctx context.Context, c *caller, r rule, method string, req any, keep *[]need) (need, error) {
	if r.needs == nil { // to be known is enough
		return need{}, nil
	}
	a := askings.Get().(*asking)
	*a = asking{gate: g, ctx: ctx, who: c.who, from: c.source, kept: keep}
	r.needs(a, req)
	first, err := a.first, a.err
	*a = asking{}
	askings.Put(a)
	if err != nil {
		g.audit.refused("permission denied", method, c.who.Name(), c.source, err.Error(), time.Now())
	}
	return first, err
}

// may reports whether a permission is there.
func (n *need) may(who *access.Principal, from netip.Addr) bool {
	if n.super {
		return who.Super()
	}
	return who.Decide(n.object, n.action, from).Allowed || n.or != 0 && who.Decide(n.object, n.or, from).Allowed
}

func (a *asking) need(n need) {
	if a.first.action == 0 {
		a.first = n
	}
	if a.kept != nil {
		*a.kept = append(*a.kept, n)
	}
	if a.err == nil && !n.may(a.who, a.from) {
		a.err = n.denied(a.who.Name())
	}
}

func (n *need) denied(user string) error {
	if n.super {
		return broker.Errorf(broker.Forbidden, "user %q is no super user", user)
	}
	what := n.action.String()
	if n.or != 0 {
		what += " or " + n.or.String()
	}
	return broker.Errorf(broker.Forbidden, "user %q may not %s %v", user, what, n.object)
}

func (a *asking) topic(r record.Resource, action access.Actions) {
	a.need(need{object: access.Object{Type: access.Topic, Resource: r}, action: action})
}

// group asks about a group, if one is named.
func (a *asking) group(r record.Resource, action access.Actions) {
	if r != (record.Resource{}) {
		a.need(need{object: access.Object{Type: access.Group, Resource: r}, action: action})
	}
}

func (a *asking) cluster(action access.Actions) {
	a.need(need{object: access.Object{Type: access.Cluster}, action: action})
}

func (a *asking) super() { a.need(need{super: true, action: access.Update}) }

// self refuses to act for a client that belongs to somebody else.
func (a *asking) self() {
	id := clientID(a.ctx)
	if c, ok := a.gate.broker.Sessions().Get(id); ok && c.User != a.who.Name() && a.err == nil {
		a.err = broker.Errorf(broker.Forbidden, "the client id is another user's")
	}
}

// audit writes down who was refused what, not more often than a log can take, and what
// operators did.
type audit struct {
	log *slog.Logger

	mu     sync.Mutex
	second time.Time // that is being counted
	lines  int
	left   int // out, since the last line
}

const auditLinesPerSecond = 10

func (a *audit) refused(what, method, user string, source netip.Addr, why string, now time.Time) {
	a.mu.Lock()
	if now.Sub(a.second) >= time.Second {
		a.second, a.lines = now, 0
	}
	a.lines++
	quiet := a.lines > auditLinesPerSecond
	left := a.left
	if quiet {
		a.left++
	} else {
		a.left = 0
	}
	a.mu.Unlock()
	if quiet {
		return
	}
	if len(user) > access.MaxUserName {
		user = user[:access.MaxUserName] + "..."
	}
	a.log.Warn(what, "method", method, "user", user, "source", source, "reason", why, "left_out", left)
}

func (a *audit) done(method string, c *caller, n need) {
	on := n.object.String()
	if n.super {
		on = "users"
	}
	a.log.Info("operator's call", "method", method, "user", c.who.Name(), "source", c.source, "on", on)
}
