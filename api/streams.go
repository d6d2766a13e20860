package api

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/session"
	"github.com/gantry-mq/gantry/commitlog/record"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// streamTouch is how often a stream says for its client that it lives.
const streamTouch = broker.ClientExpiry / 4

// streams is gantry.v1.Streams. Each call has two goroutines: the handler's,
// which alone writes, and one that reads, because a read ends only with the
// stream itself and the server must be able to end it.
type streams struct {
	gantryv1.UnsafeStreamsServer

	broker   *broker.Broker
	gate     *gate // nil: everybody is let in
	log      *slog.Logger
	draining context.Context
	readers  *sync.WaitGroup
	of       uint32 // how many shards there are
	cancel   recalling

	publishers atomic.Int64 // Publish calls under way
	opened     atomic.Uint64
}

var errDraining = status.Error(codes.Unavailable, "the server is shutting down")

// sessionID names a stream among the sessions: two of one client are two.
func (s *streams) sessionID(client string) string {
	return fmt.Sprintf("%s#%d", client, s.opened.Add(1))
}

// opening is the first request of a call, which has its credentials where there are no
// headers.
type opening interface {
	GetAuthorization() string
	GetDateTime() string
}

// letIn lets a call in whose first request is first and that wants what is in wants.
func (s *streams) letIn(ctx context.Context, method string, first opening, wants any) (p *pass, done func(), err error) {
	done = func() {}
	if s.gate == nil {
		return nil, done, nil
	}
	if p = passOf(ctx); p == nil { // no interceptor saw it: it came without HTTP/2
		p, err = s.gate.stream(ctx, method, presented{authorization: first.GetAuthorization(), date: first.GetDateTime()})
		if err != nil {
			return nil, done, err
		}
		done = p.close
	}
	if err := p.hold(wants); err != nil {
		done()
		return nil, nil, err
	}
	return p, done, nil
}

// streamClient is what is known of whoever opened a stream.
func streamClient(ctx context.Context, id string, a *gantryv1.ClientAgent) session.Client {
	return session.Client{
		ID: id, User: userOf(ctx), Language: a.GetLanguage(), Version: a.GetVersion(), Host: a.GetHost(), Remote: remoteAddr(ctx),
	}
}

// Limits of what a stream's client says of itself.
const (
	maxAgentWord = 64
	maxAgentHost = 255
)

func checkStreamClient(id string, a *gantryv1.ClientAgent) error {
	switch {
	case id == "" || len(id) > broker.MaxClientID:
		return status.Errorf(codes.InvalidArgument, "client_id has %d bytes, it must be 1 to %d", len(id), broker.MaxClientID)
	case len(a.GetLanguage()) > maxAgentWord, len(a.GetVersion()) > maxAgentWord, len(a.GetHost()) > maxAgentHost:
		return status.Errorf(codes.InvalidArgument, "agent: language and version have at most %d bytes, host %d", maxAgentWord, maxAgentHost)
	}
	return nil
}

// streamStatus is err as a client of a stream sees it: nil for nil.
func streamStatus(log *slog.Logger, err error) *gantryv1.StreamStatus {
	if err == nil {
		return nil
	}
	st := statusFor(log, err)
	return &gantryv1.StreamStatus{Code: int32(st.Code), Message: st.Message}
}

// lost is the end of a stream whose node takes no writes any more, nil for any other
// error. What was under way may have been done: who leads next knows, so the client is
// not answered, but connects again and asks once more.
func (s *streams) lost(err error) error {
	if broker.ReasonOf(err) != broker.Unavailable {
		return nil
	}
	return rpcError(s.log, err)
}

// told is streamStatus for a client that is connected, where operators see it too.
func (s *streams) told(client, method string, err error) *gantryv1.StreamStatus {
	st := streamStatus(s.log, err)
	if st != nil {
		noteRefusal(s.broker.Sessions(), client, method, v2.Code(st.Code), st.Message)
	}
	return st
}

func streamResource(r *gantryv1.StreamResource) record.Resource {
	return record.Resource{Namespace: r.GetNamespace(), Name: r.GetName()}
}

func wireStreamResource(r record.Resource) *gantryv1.StreamResource {
	return &gantryv1.StreamResource{Namespace: r.Namespace, Name: r.Name}
}
