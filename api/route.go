package api

import (
	"context"
	"net"
	"net/netip"
	"strconv"

	"github.com/gantry-mq/gantry/broker/topic"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// QueryRoute lists a topic's queues, in the same order every time: SDKs compare
// routes by position and start anew when one changed. Each shard has as many of them,
// numbered by itself.
func (m *messaging) QueryRoute(ctx context.Context, req *v2.QueryRouteRequest) (*v2.QueryRouteResponse, error) {
	t, brokers, err := m.holders(ctx, req.GetEndpoints(), resource(req.GetTopic()))
	if err != nil {
		return &v2.QueryRouteResponse{Status: statusFor(m.log, err)}, nil
	}
	resp := &v2.QueryRouteResponse{Status: statusOK}
	for _, b := range brokers {
		for i := range t.Queues {
			resp.MessageQueues = append(resp.MessageQueues, &v2.MessageQueue{
				Topic:              req.GetTopic(), // as sent: clients compare it with their own
				Id:                 int32(i),
				Permission:         v2.Permission_READ_WRITE,
				Broker:             b,
				AcceptMessageTypes: accepts[t.Type],
			})
		}
	}
	return resp, nil
}

// QueryAssignment tells every member of a group the same: messages are shared
// out one by one when they are received, not by queue.
func (m *messaging) QueryAssignment(ctx context.Context, req *v2.QueryAssignmentRequest) (*v2.QueryAssignmentResponse, error) {
	t, brokers, err := m.holders(ctx, req.GetEndpoints(), resource(req.GetTopic()))
	var queues []int32
	if err == nil {
		queues, err = m.broker.Assignment(t, resource(req.GetGroup()))
	}
	if err != nil {
		return &v2.QueryAssignmentResponse{Status: statusFor(m.log, err)}, nil
	}
	resp := &v2.QueryAssignmentResponse{Status: statusOK}
	for _, b := range brokers {
		for _, id := range queues {
			resp.Assignments = append(resp.Assignments, &v2.Assignment{MessageQueue: &v2.MessageQueue{
				Topic:      req.GetTopic(),
				Id:         id,
				Permission: v2.Permission_READ_WRITE,
				Broker:     b,
			}})
		}
	}
	return resp, nil
}

// accepts is what clients check a message's type against before they send it.
var accepts = map[topic.Type][]v2.MessageType{
	topic.Normal:      {v2.MessageType_NORMAL},
	topic.FIFO:        {v2.MessageType_FIFO},
	topic.Delay:       {v2.MessageType_DELAY},
	topic.Transaction: {v2.MessageType_TRANSACTION},
	topic.Lite:        {v2.MessageType_LITE},
	topic.Priority:    {v2.MessageType_PRIORITY},
	topic.Mixed: {
		v2.MessageType_NORMAL, v2.MessageType_FIFO, v2.MessageType_DELAY, v2.MessageType_TRANSACTION,
	},
}

// wireBroker is this server in a route. Its id is 0: clients talk to no other.
func (m *messaging) wireBroker(ctx context.Context, asked *v2.Endpoints) *v2.Broker {
	endpoints := m.advertise
	switch {
	case m.cluster != nil && toldNodes(ctx, asked):
		endpoints = allOf(m.cluster.Route())
	case m.cluster != nil, endpoints == nil:
		endpoints = reachedBy(ctx, asked) // any node leads to this one
	}
	return &v2.Broker{Name: m.broker.Name(), Id: 0, Endpoints: endpoints}
}

// toldNodes reports whether a client of a cluster is told the addresses of all nodes, not
// the one by which it came, or its own list of them.
func toldNodes(ctx context.Context, asked *v2.Endpoints) bool {
	return triesSeveral[header(ctx, headerLanguage)] && !(len(asked.GetAddresses()) > 1 && dialable(asked))
}

// triesSeveral are the SDKs that were seen to go on with the next address of an
// endpoint. That of Node.js takes several for the name of one host.
var triesSeveral = map[string]bool{"JAVA": true, "GO": true, "PYTHON": true}

// allOf is several addresses as one endpoint: clients try them in this order. SDKs
// throw on several domain names, so then it is the first alone.
func allOf(addresses []string) *v2.Endpoints {
	var all *v2.Endpoints
	for _, a := range addresses {
		e, err := parseEndpoint(a)
		switch {
		case err != nil: // was checked when its node became a member
		case all == nil:
			all = e
		case all.Scheme == e.Scheme && e.Scheme != v2.AddressScheme_DOMAIN_NAME:
			all.Addresses = append(all.Addresses, e.Addresses...)
		}
	}
	return all
}

// reachedBy is the address by which the client came, because that one is known
// to work from where it is: what it was configured with, else the authority of
// its call, else our side of the connection. Java asks for assignments only
// where the route equals its own configuration, so that is returned unchanged.
func reachedBy(ctx context.Context, asked *v2.Endpoints) *v2.Endpoints {
	if dialable(asked) {
		return asked
	}
	if e, err := parseEndpoint(header(ctx, headerAuthority)); err == nil {
		return e
	}
	if e, err := parseEndpoint(localAddr(ctx)); err == nil {
		return e
	}
	return &v2.Endpoints{Scheme: v2.AddressScheme_DOMAIN_NAME, Addresses: []*v2.Address{{Host: "localhost", Port: 8081}}}
}

// dialable reports whether SDKs can do something with e: they throw on an
// unspecified scheme and on a domain name with more than one address.
func dialable(e *v2.Endpoints) bool {
	switch e.GetScheme() {
	case v2.AddressScheme_IPv4, v2.AddressScheme_IPv6:
	case v2.AddressScheme_DOMAIN_NAME:
		if len(e.GetAddresses()) > 1 {
			return false
		}
	default:
		return false
	}
	for _, a := range e.GetAddresses() {
		if a.GetHost() == "" || a.GetPort() < 1 || a.GetPort() > 65535 {
			return false
		}
	}
	return len(e.GetAddresses()) > 0
}

// parseEndpoint reads host:port.
func parseEndpoint(hostport string) (*v2.Endpoints, error) {
	host, portText, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 || host == "" {
		return nil, &net.AddrError{Err: "want host:port with a port of 1 to 65535", Addr: hostport}
	}
	scheme := v2.AddressScheme_DOMAIN_NAME
	if ip, err := netip.ParseAddr(host); err == nil {
		scheme = v2.AddressScheme_IPv6
		if ip = ip.Unmap(); ip.Is4() {
			scheme = v2.AddressScheme_IPv4
		}
		host = ip.String()
	}
	return &v2.Endpoints{Scheme: scheme, Addresses: []*v2.Address{{Host: host, Port: int32(port)}}}, nil
}
