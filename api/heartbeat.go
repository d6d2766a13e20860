package api

import (
	"context"

	"github.com/gantry-mq/gantry/broker/session"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

var unrecognizedClient = &v2.Status{
	Code:    v2.Code_UNRECOGNIZED_CLIENT_TYPE,
	Message: "no settings are known for this client",
}

// Heartbeat keeps a client live. What the client is was said in its settings,
// which decide, not this request.
func (m *messaging) Heartbeat(ctx context.Context, req *v2.HeartbeatRequest) (*v2.HeartbeatResponse, error) {
	if refused := m.known(clientID(ctx), req.GetGroup()); refused != nil {
		if refused == unrecognizedClient {
			m.adopt(ctx, req)
		}
		return &v2.HeartbeatResponse{Status: refused}, nil
	}
	if !m.broker.Sessions().Touch(clientID(ctx)) { // gone in between
		return &v2.HeartbeatResponse{Status: unrecognizedClient}, nil
	}
	return &v2.HeartbeatResponse{Status: statusOK}, nil
}

// adopt makes a consumer live whose settings are not known. After a restart of
// the server some Go clients beat and poll for up to five minutes before they
// send settings again; what they hold must not be taken from them meanwhile.
func (m *messaging) adopt(ctx context.Context, req *v2.HeartbeatRequest) {
	role, ok := consumerRoles[req.GetClientType()]
	if !ok || m.broker.CheckGroupName(resource(req.GetGroup())) != nil {
		return
	}
	m.broker.Sessions().Register(session.Client{
		ID: clientID(ctx), User: userOf(ctx), Role: role, Group: resource(req.GetGroup()), Remote: remoteAddr(ctx),
		Language: header(ctx, headerLanguage), Version: header(ctx, headerClientVersion),
	})
}

// NotifyClientTermination gives a client's leases and registrations up at once.
func (m *messaging) NotifyClientTermination(ctx context.Context, req *v2.NotifyClientTerminationRequest) (*v2.NotifyClientTerminationResponse, error) {
	if refused := m.known(clientID(ctx), req.GetGroup()); refused != nil {
		return &v2.NotifyClientTerminationResponse{Status: refused}, nil
	}
	m.broker.Sessions().Terminate(clientID(ctx))
	return &v2.NotifyClientTerminationResponse{Status: statusOK}, nil
}

// known is nil for a client with settings that, if it consumes, names a legal
// group; otherwise it is the answer.
func (m *messaging) known(id string, group *v2.Resource) *v2.Status {
	c, ok := m.broker.Sessions().Get(id)
	if !ok {
		return unrecognizedClient
	}
	if c.Role == session.Producer {
		return nil
	}
	if err := m.broker.CheckGroupName(resource(group)); err != nil {
		return statusFor(m.log, err)
	}
	return nil
}
