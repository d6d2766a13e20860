package api

import (
	"cmp"
	"context"
	"slices"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/access"
	"github.com/gantry-mq/gantry/broker/quota"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
)

// namespaceOps is gantry.v1.Namespaces.
type namespaceOps struct {
	gantryv1.UnsafeNamespacesServer // an RPC without a method must not compile

	broker *broker.Broker
}

func (s *namespaceOps) List(ctx context.Context, _ *gantryv1.ListNamespacesRequest) (*gantryv1.ListNamespacesResponse, error) {
	found := map[string]*gantryv1.Namespace{}
	in := func(name string) *gantryv1.Namespace {
		n := found[name]
		if n == nil {
			n = &gantryv1.Namespace{Name: name}
			found[name] = n
		}
		return n
	}
	stats := s.broker.Stats()
	for _, t := range stats.Topics {
		if mayList(ctx, access.Topic, t.Name) {
			n := in(t.Name.Namespace)
			n.Topics++
			n.MessagesIn += t.MessagesIn
			n.BytesIn += t.BytesIn
		}
	}
	for _, g := range s.broker.Groups() {
		if mayList(ctx, access.Group, g.Name) {
			in(g.Name.Namespace).Groups++
		}
	}
	for _, g := range stats.Groups {
		if mayList(ctx, access.Group, g.Group) {
			n := in(g.Group.Namespace)
			n.MessagesOut += g.MessagesOut
			n.Lag += uint64(max(0, g.Lag)) + uint64(g.InFlight+g.Ready)
		}
	}
	for _, q := range s.broker.Quotas().List() {
		name := q.Namespace
		switch q.Kind {
		case quota.Namespace:
			name = q.Name
		case quota.Client, quota.User:
			continue
		}
		if n := found[name]; n != nil {
			n.Quotas++
		}
	}
	resp := &gantryv1.ListNamespacesResponse{}
	for _, n := range found {
		resp.Namespaces = append(resp.Namespaces, n)
	}
	slices.SortFunc(resp.Namespaces, func(a, b *gantryv1.Namespace) int { return cmp.Compare(a.Name, b.Name) })
	return resp, nil
}
