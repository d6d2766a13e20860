package api

import (
	"context"
	"slices"

	"google.golang.org/grpc"

	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// Messages themselves do not become protobuf objects here: the calls that carry
// them, and those made once for each, read their requests where gRPC put them
// and write their responses by themselves (proto/wire). Their handlers replace
// the generated ones in the service's description; everything else about the
// service, reflection included, is as generated.

// direct stands in for the methods that the generated interface wants of those
// calls. No call arrives by them.
type direct struct{}

func (direct) SendMessage(context.Context, *v2.SendMessageRequest) (*v2.SendMessageResponse, error) {
	panic("api: SendMessage is read on the wire format")
}

func (direct) ReceiveMessage(*v2.ReceiveMessageRequest, grpc.ServerStreamingServer[v2.ReceiveMessageResponse]) error {
	panic("api: ReceiveMessage is written on the wire format")
}

func (direct) AckMessage(context.Context, *v2.AckMessageRequest) (*v2.AckMessageResponse, error) {
	panic("api: AckMessage is read on the wire format")
}

// serveOn adds the service to s.
func (m *messaging) serveOn(s *grpc.Server) {
	d := v2.MessagingService_ServiceDesc
	d.Methods = slices.Clone(d.Methods)
	d.Streams = slices.Clone(d.Streams)
	for i := range d.Methods {
		switch method := &d.Methods[i]; method.MethodName {
		case "SendMessage":
			method.Handler = unary(m, v2.MessagingService_SendMessage_FullMethodName, newSendRequest, m.sendMessage)
		case "AckMessage":
			method.Handler = unary(m, v2.MessagingService_AckMessage_FullMethodName, newAckRequest, m.ackMessage)
		}
	}
	for i := range d.Streams {
		switch stream := &d.Streams[i]; stream.StreamName {
		case "ReceiveMessage":
			stream.Handler = func(_ any, stream grpc.ServerStream) error {
				var req receiveRequest
				if err := stream.RecvMsg(&req); err != nil {
					return err
				}
				return m.receiveMessage(&req, stream)
			}
		}
	}
	s.RegisterService(&d, m)
}

// request is a request that holds on to gRPC's buffer until it is freed.
type request interface{ free() }

// unary is the handler of a unary call. What it makes once, a generated one
// makes for each call.
func unary[R request](m *messaging, name string, blank func() R, call func(context.Context, R) *reply) grpc.MethodHandler {
	info := &grpc.UnaryServerInfo{Server: m, FullMethod: name}
	handle := func(ctx context.Context, req any) (any, error) {
		resp := call(ctx, req.(R))
		// Not deferred: after a panic the log may still be reading the bodies.
		req.(R).free()
		return resp, nil
	}
	return func(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		req := blank()
		if err := decode(req); err != nil {
			req.free()
			return nil, err
		}
		if intercept == nil {
			return handle(ctx, req)
		}
		return intercept(ctx, req, info, handle)
	}
}
