package api

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

const messagingPrefix = "/apache.rocketmq.v2.MessagingService/"

var clientIDRequired = &v2.Status{
	Code:    v2.Code_CLIENT_ID_REQUIRED,
	Message: "metadata " + headerClientID + " is missing or blank",
}

// unary guards every unary call: a panic in one handler must not end the
// process, and a messaging call must say who is calling. Neither may surface as
// a gRPC error to a messaging client: the Go SDK is known to send heartbeats
// without headers, and has to get an ordinary answer.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
	messaging := strings.HasPrefix(info.FullMethod, messagingPrefix)
	defer func() {
		if p := recover(); p != nil {
			failure := s.panicked(info.FullMethod, p)
			if messaging {
				resp, err = refusal(info.FullMethod, statusFor(s.log, failure)), nil
			} else {
				resp, err = nil, rpcError(s.log, failure)
			}
		}
	}()
	if messaging && clientID(ctx) == "" {
		return refusal(info.FullMethod, clientIDRequired), nil
	}
	return handle(ctx, req)
}

// stream does the same for streams. After a panic nothing is known of what was
// already sent, so the stream ends with a gRPC error.
func (s *Server) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.panicked(info.FullMethod, p)
			err = status.Error(codes.Internal, "internal error, the server's log has the reason")
		}
	}()
	if strings.HasPrefix(info.FullMethod, messagingPrefix) && clientID(stream.Context()) == "" {
		return stream.SendMsg(refusal(info.FullMethod, clientIDRequired))
	}
	return handle(srv, stream)
}

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
	typ, err := protoregistry.GlobalTypes.FindMessageByName(output.FullName())
	if err != nil {
		panic(err) // the type is linked in with the service that names it
	}
	m := typ.New()
	m.Set(output.Fields().ByName("status"), protoreflect.ValueOfMessage(st.ProtoReflect()))
	return m.Interface()
}
