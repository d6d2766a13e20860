package api

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/netip"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/access"
	"github.com/gantry-mq/gantry/commitlog/record"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
)

// accessOps is gantry.v1.Access.
type accessOps struct {
	gantryv1.UnsafeAccessServer // an RPC without a method must not compile

	broker *broker.Broker
	log    *slog.Logger
}

func (s *accessOps) CreateUser(ctx context.Context, req *gantryv1.CreateUserRequest) (*gantryv1.CreateUserResponse, error) {
	secret, made := req.GetSecret(), ""
	if secret == "" {
		made = rand.Text()
		secret = made
	}
	u, err := s.broker.CreateUser(ctx, access.User{Name: req.GetName(), Super: req.GetSuper(), Enabled: true}, secret)
	if err != nil {
		return nil, rpcError(s.log, err)
	}
	return &gantryv1.CreateUserResponse{User: wireUser(u), Secret: made}, nil
}

func (s *accessOps) UpdateUser(ctx context.Context, req *gantryv1.UpdateUserRequest) (*gantryv1.UpdateUserResponse, error) {
	c, made := broker.UserChange{Super: req.Super, Enabled: req.Enabled, Secret: req.Secret}, ""
	if req.GetNewSecret() {
		if req.Secret != nil {
			return nil, rpcError(s.log, broker.Errorf(broker.BadRequest, "there is a secret, and new_secret"))
		}
		made = rand.Text()
		c.Secret = &made
	}
	u, err := s.broker.UpdateUser(ctx, req.GetName(), c)
	if err != nil {
		return nil, rpcError(s.log, err)
	}
	return &gantryv1.UpdateUserResponse{User: wireUser(u), Secret: made}, nil
}

func (s *accessOps) DeleteUser(ctx context.Context, req *gantryv1.DeleteUserRequest) (*gantryv1.DeleteUserResponse, error) {
	if err := s.broker.DeleteUser(ctx, req.GetName()); err != nil {
		return nil, rpcError(s.log, err)
	}
	return &gantryv1.DeleteUserResponse{}, nil
}

func (s *accessOps) ResealUsers(ctx context.Context, _ *gantryv1.ResealUsersRequest) (*gantryv1.ResealUsersResponse, error) {
	n, err := s.broker.ResealUsers(ctx)
	if err != nil {
		return nil, rpcError(s.log, err)
	}
	return &gantryv1.ResealUsersResponse{Users: uint32(n)}, nil
}

// named is the user of a request: the caller unless another is named.
func (s *accessOps) named(ctx context.Context, name string) (access.User, error) {
	if name == "" {
		name = userOf(ctx)
	}
	u, ok := s.broker.Access().User(name)
	switch {
	case name == "":
		return u, rpcError(s.log, broker.Errorf(broker.BadRequest, "no user is named, and nobody is authenticated"))
	case !ok:
		return u, rpcError(s.log, broker.Errorf(broker.UserNotFound, "the user %q does not exist", name))
	}
	return u, nil
}

func (s *accessOps) DescribeUser(ctx context.Context, req *gantryv1.DescribeUserRequest) (*gantryv1.DescribeUserResponse, error) {
	u, err := s.named(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	return &gantryv1.DescribeUserResponse{User: wireUser(u), Policies: wirePolicies(s.broker.Access().Policies(u.Name))}, nil
}

func (s *accessOps) ListUsers(context.Context, *gantryv1.ListUsersRequest) (*gantryv1.ListUsersResponse, error) {
	resp := &gantryv1.ListUsersResponse{}
	for _, u := range s.broker.Access().Users() {
		resp.Users = append(resp.Users, wireUser(u))
	}
	return resp, nil
}

func (s *accessOps) Grant(ctx context.Context, req *gantryv1.GrantRequest) (*gantryv1.GrantResponse, error) {
	p, err := readPolicy(req.GetPolicy())
	if err == nil {
		p, err = s.broker.Grant(ctx, p)
	}
	if err != nil {
		return nil, rpcError(s.log, err)
	}
	return &gantryv1.GrantResponse{Policy: wirePolicy(&p)}, nil
}

func (s *accessOps) Revoke(ctx context.Context, req *gantryv1.RevokeRequest) (*gantryv1.RevokeResponse, error) {
	p, err := s.broker.Revoke(ctx, req.GetId())
	if err != nil {
		return nil, rpcError(s.log, err)
	}
	return &gantryv1.RevokeResponse{Policy: wirePolicy(&p)}, nil
}

func (s *accessOps) ListPolicies(_ context.Context, req *gantryv1.ListPoliciesRequest) (*gantryv1.ListPoliciesResponse, error) {
	return &gantryv1.ListPoliciesResponse{Policies: wirePolicies(s.broker.Access().Policies(req.GetUser()))}, nil
}

func (s *accessOps) Test(ctx context.Context, req *gantryv1.TestAccessRequest) (*gantryv1.TestAccessResponse, error) {
	u, err := s.named(ctx, req.GetUser())
	if err != nil {
		return nil, err
	}
	action, err := access.ParseActions(req.GetAction())
	if err == nil && action == access.All {
		err = broker.Errorf(broker.BadRequest, "all is not one action")
	}
	source := netip.Addr{}
	if err == nil && req.GetSource() != "" {
		source, err = netip.ParseAddr(req.GetSource())
	}
	if t := req.GetType(); err == nil && (t < gantryv1.ResourceType_RESOURCE_TOPIC || t > gantryv1.ResourceType_RESOURCE_NAMESPACE) {
		err = broker.Errorf(broker.BadRequest, "the resource type %d is none that a call can be about", t)
	}
	o := access.Object{Type: access.Type(req.GetType()), Resource: record.Resource{Namespace: req.GetNamespace(), Name: req.GetName()}} // numbered alike
	if o.Type == access.Namespace {                                                                                                     // its name is where a topic has its namespace
		o.Resource = record.Resource{Namespace: req.GetName()}
	}
	if err != nil {
		return nil, rpcError(s.log, broker.Errorf(broker.BadRequest, "%w", err))
	}
	p := s.broker.Access().Lookup(u.Name)
	if p == nil || !u.Enabled {
		return &gantryv1.TestAccessResponse{Reason: "denied: the user is disabled"}, nil
	}
	d := p.Decide(o, action, source.Unmap())
	resp := &gantryv1.TestAccessResponse{Allowed: d.Allowed, Reason: d.String()}
	if d.Policy != nil {
		resp.Policy = wirePolicy(d.Policy)
	}
	return resp, nil
}

func wireUser(u access.User) *gantryv1.User {
	return &gantryv1.User{
		Name: u.Name, Super: u.Super, Enabled: u.Enabled,
		Created: timestamppb.New(time.UnixMilli(u.Created)), SecretChanged: timestamppb.New(time.UnixMilli(u.Changed)),
	}
}

func wirePolicies(list []access.Policy) (out []*gantryv1.Policy) {
	for i := range list {
		out = append(out, wirePolicy(&list[i]))
	}
	return out
}

func wirePolicy(p *access.Policy) *gantryv1.Policy {
	w := &gantryv1.Policy{
		Id: p.ID, User: p.User, Actions: p.Actions.Names(), Deny: p.Deny, Created: timestamppb.New(time.UnixMilli(p.Created)),
		Resource: &gantryv1.ResourcePattern{
			Type: gantryv1.ResourceType(p.Resource.Type), Match: gantryv1.ResourceMatch(p.Resource.Match), // numbered alike
			Namespace: p.Resource.Namespace, Name: p.Resource.Name,
		},
	}
	for _, s := range p.Sources {
		w.Sources = append(w.Sources, s.String())
	}
	return w
}

func readPolicy(w *gantryv1.Policy) (access.Policy, error) {
	r := w.GetResource()
	if r.GetType() < 0 || r.GetType() > gantryv1.ResourceType_RESOURCE_NAMESPACE || r.GetMatch() < 0 || r.GetMatch() > gantryv1.ResourceMatch_MATCH_ANY {
		return access.Policy{}, broker.Errorf(broker.BadRequest, "the resource's type %d or match %d is unknown", r.GetType(), r.GetMatch())
	}
	p := access.Policy{User: w.GetUser(), Deny: w.GetDeny(), Resource: access.Pattern{
		Type: access.Type(r.GetType()), Match: access.Match(r.GetMatch()), Namespace: r.GetNamespace(), Name: r.GetName(),
	}}
	var err error
	if p.Actions, err = access.ParseActions(w.GetActions()...); err != nil {
		return p, broker.Errorf(broker.BadRequest, "%w", err)
	}
	for _, text := range w.GetSources() {
		n, err := netip.ParsePrefix(text)
		if addr, single := netip.ParseAddr(text); single == nil {
			n, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil {
			return p, broker.Errorf(broker.BadRequest, "the source is not a network like 10.0.0.0/8: %w", err)
		}
		p.Sources = append(p.Sources, n)
	}
	return p, nil
}
