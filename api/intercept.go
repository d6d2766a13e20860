package api

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/gantry-mq/gantry/broker"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

const (
	messagingPrefix = "/apache.rocketmq.v2.MessagingService/"
	streamsPrefix   = "/gantry.v1.Streams/"
)

// identify returns nil for a call that says who makes it, and otherwise the
// answer to it.
func identify(ctx context.Context) *v2.Status {
	switch id := clientID(ctx); {
	case id == "":
		return &v2.Status{Code: v2.Code_CLIENT_ID_REQUIRED, Message: "metadata " + headerClientID + " is missing or blank"}
	case len(id) > broker.MaxClientID:
		return &v2.Status{Code: v2.Code_BAD_REQUEST, Message: fmt.Sprintf("metadata %s has %d bytes, the limit is %d", headerClientID, len(id), broker.MaxClientID)}
	}
	return nil
}

// unary guards every unary call: a panic in one handler must not end the
// process, and a messaging call must say who is calling. Neither may surface as
// a gRPC error to a messaging client: the Go SDK is known to send heartbeats
// without headers, and has to get an ordinary answer.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
	messaging := strings.HasPrefix(info.FullMethod, messagingPrefix)
	began := time.Now()
	defer func() {
		if p := recover(); p != nil {
			failure := s.panicked(info.FullMethod, p)
			if messaging {
				st := statusFor(s.log, failure)
				s.calls.Refused(info.FullMethod, int32(st.Code))
				resp, err = refusal(info.FullMethod, st), nil
			} else {
				resp, err = nil, rpcError(s.log, failure)
			}
		}
		s.calls.Done(info.FullMethod, time.Since(began))
		s.failed(info.FullMethod, err)
	}()
	if messaging {
		if refused := identify(ctx); refused != nil {
			s.calls.Refused(info.FullMethod, int32(refused.Code))
			return refusal(info.FullMethod, refused), nil
		}
	}
	var why error
	if strings.HasPrefix(info.FullMethod, contractPrefix) {
		if other := fillNamespace(req, header(ctx, headerNamespace)); other != nil {
			why = other
		}
	}
	if s.gate != nil && why == nil {
		ctx, why = s.gate.unary(ctx, info.FullMethod, req)
	}
	if why == nil {
		why = s.elsewhere(info.FullMethod, req)
	}
	if why != nil {
		if r, held := req.(request); held {
			r.free()
		}
		if !messaging {
			return nil, rpcError(s.log, why)
		}
		st := statusFor(s.log, why)
		s.messaging.refused(ctx, info.FullMethod, st)
		return refusal(info.FullMethod, st), nil
	}
	resp, err = handle(ctx, req)
	if err == nil {
		s.settle(ctx, info.FullMethod)
	}
	if cluster := s.messaging.cluster; cluster != nil && rules[info.FullMethod].verified {
		if v := cluster.Verify(); v != nil {
			why := broker.Errorf(broker.Unavailable, "this node does not lead any more; what was asked for may have been done: %w", v)
			if !messaging {
				return nil, rpcError(s.log, why)
			}
			resp, err = refusal(info.FullMethod, statusFor(s.log, why)), nil
		}
	}
	if told, ok := resp.(interface{ GetStatus() *v2.Status }); ok && messaging { // the others note it themselves
		s.messaging.refused(ctx, info.FullMethod, told.GetStatus())
	}
	return resp, err
}

// failed counts a call that ended with a gRPC error. Its codes are below the contract's.
func (s *Server) failed(method string, err error) {
	if err != nil {
		s.calls.Refused(method, int32(status.Code(err)))
	}
}

// stream does the same for streams. After a panic nothing is known of what was
// already sent, so the stream ends with a gRPC error. Streams of other services,
// such as a health watch, end when the server begins to shut down.
func (s *Server) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	began := time.Now()
	err := s.guard(info.FullMethod, func() error { return s.handleStream(srv, stream, info, handle) })
	if info.IsClientStream { // it lasts as long as its client likes
		s.calls.Ended(info.FullMethod)
	} else {
		s.calls.Done(info.FullMethod, time.Since(began))
	}
	s.failed(info.FullMethod, err)
	return err
}

// guard makes an error of a panic in handle.
func (s *Server) guard(method string, handle func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.panicked(method, p)
			err = status.Error(codes.Internal, "internal error, the server's log has the reason")
		}
	}()
	return handle()
}

func (s *Server) handleStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	if strings.HasPrefix(info.FullMethod, messagingPrefix) {
		if refused := identify(stream.Context()); refused != nil {
			s.calls.Refused(info.FullMethod, int32(refused.Code))
			return stream.SendMsg(refusal(info.FullMethod, refused))
		}
	}
	return s.inNamespace(stream, info.FullMethod, func(stream grpc.ServerStream) error {
		return s.letIn(stream, info.FullMethod, func(in grpc.ServerStream) error { return s.serveStream(srv, in, info, handle) })
	})
}

func (s *Server) serveStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	if strings.HasPrefix(info.FullMethod, messagingPrefix) || strings.HasPrefix(info.FullMethod, streamsPrefix) { // which answer what they have first
		return handle(srv, stream)
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(s.messaging.draining, cancel)()
	return handle(srv, drained{stream, ctx})
}

// drained is a stream with a context that ends when shutdown begins.
type drained struct {
	grpc.ServerStream
	ctx context.Context
}

func (d drained) Context() context.Context { return d.ctx }

func (s *Server) panicked(method string, value any) error {
	s.log.Error("panic in a handler", "method", method, "panic", value, "stack", string(debug.Stack()))
	return fmt.Errorf("api: panic in %s: %v", method, value)
}

// refusal is the response of a messaging method that carries nothing but st.
// Every response of the service has a field named status, a stream's inside its
// oneof, so one function serves them all.
func refusal(fullMethod string, st *v2.Status) proto.Message {
	name := protoreflect.Name(strings.TrimPrefix(fullMethod, messagingPrefix))
	output := v2.File_apache_rocketmq_v2_service_proto.Services().ByName("MessagingService").Methods().ByName(name).Output()
	m := typeOf(output.FullName()).New()
	m.Set(output.Fields().ByName("status"), protoreflect.ValueOfMessage(st.ProtoReflect()))
	return m.Interface()
}

func typeOf(name protoreflect.FullName) protoreflect.MessageType {
	typ, err := protoregistry.GlobalTypes.FindMessageByName(name)
	if err != nil {
		panic(err) // the type is linked in with the service that names it
	}
	return typ
}
