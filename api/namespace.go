package api

import (
	"strings"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/commitlog/record"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// The namespace of a topic or group is that of the resource in a request. Node.js says
// its namespace in the header alone, the others in both places: so where a resource has
// none, the header's counts, and two that differ are refused, for nobody could say which
// is meant.

// contractPrefix begins the names of the contract's services.
const contractPrefix = "/apache.rocketmq.v2."

// fillNamespace gives the resources of a request the namespace of the caller's header.
func fillNamespace(req any, namespace string) *broker.Error {
	if namespace == "" {
		return nil
	}
	switch r := req.(type) {
	case *sendRequest:
		for i := range r.messages {
			if err := inNamespace(&r.messages[i].Topic, namespace); err != nil {
				return err
			}
		}
		return nil
	case *ackRequest:
		return bothIn(&r.topic, &r.group, namespace)
	case *receiveRequest:
		return bothIn(&r.topic, &r.group, namespace)
	case proto.Message:
		return fillMessage(r.ProtoReflect(), namespace)
	}
	return nil
}

func bothIn(a, b *record.Resource, namespace string) *broker.Error {
	if err := inNamespace(a, namespace); err != nil {
		return err
	}
	return inNamespace(b, namespace)
}

func inNamespace(r *record.Resource, namespace string) *broker.Error {
	switch r.Namespace {
	case namespace:
	case "":
		if r.Name != "" { // else it is not there
			r.Namespace = namespace
		}
	default:
		return broker.Errorf(broker.BadRequest, "the header %s says %q, the request names %.300q", headerNamespace, namespace, r.String())
	}
	return nil
}

// fillMessage does so for all resources in a message.
func fillMessage(m protoreflect.Message, namespace string) (err *broker.Error) {
	if r, ok := m.Interface().(*v2.Resource); ok {
		in := resource(r)
		if err := inNamespace(&in, namespace); err != nil {
			return err
		}
		r.ResourceNamespace = in.Namespace
		return nil
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Message() == nil || f.IsMap():
		case f.IsList():
			for i := 0; i < v.List().Len() && err == nil; i++ {
				err = fillMessage(v.List().Get(i).Message(), namespace)
			}
		default:
			err = fillMessage(v.Message(), namespace)
		}
		return err == nil
	})
	return err
}

// spaced is a stream of a caller with a namespace.
type spaced struct {
	grpc.ServerStream
	namespace string
	began     atomic.Bool
	why       atomic.Pointer[broker.Error] // a request was refused
}

func (s *spaced) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	if err := fillNamespace(m, s.namespace); err != nil {
		s.why.Store(err)
		return err
	}
	return nil
}

func (s *spaced) SendMsg(m any) error {
	s.began.Store(true)
	return s.ServerStream.SendMsg(m)
}

// inNamespace serves a stream of a caller that may have a namespace, and tells it when
// the stream ends because its requests name another.
func (s *Server) inNamespace(stream grpc.ServerStream, method string, serve func(grpc.ServerStream) error) error {
	namespace := ""
	if strings.HasPrefix(method, contractPrefix) {
		namespace = header(stream.Context(), headerNamespace)
	}
	if namespace == "" {
		return serve(stream)
	}
	in := &spaced{ServerStream: stream, namespace: namespace}
	err := serve(in)
	why := in.why.Load()
	if why == nil {
		return err
	}
	telemetry := method == v2.MessagingService_Telemetry_FullMethodName
	if !in.began.Load() || telemetry {
		st := statusFor(s.log, why)
		s.messaging.refused(stream.Context(), method, st)
		if err := stream.SendMsg(refusal(method, st)); err != nil || !telemetry {
			return err
		}
	}
	return rpcError(s.log, why)
}
