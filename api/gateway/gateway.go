// Package gateway serves gRPC services as JSON over HTTP, so that a web page calls
// the same methods as the command line, and curl can:
//
//	POST /api/gantry.v1.Management/ListTopics
//	Content-Type: application/json
//	X-Gantry: 1
//
//	{}
//
// Messages are in protobuf's JSON form. A call that fails has the HTTP status that
// comes nearest and {"code": "NOT_FOUND", "message": "..."}; one that answers with a
// stream has a line {"result": ...} for each message, and {"error": ...} last when it
// fails.
//
// Who may call at all, Hosts.Calls decides; a Gateway answers everything it is given.
package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// Prefix is what the paths of calls begin with.
const Prefix = "/api/"

// Gateway is an http.Handler. Register services, as with a grpc.Server, before it
// serves.
type Gateway struct {
	unary   grpc.UnaryServerInterceptor
	stream  grpc.StreamServerInterceptor
	methods map[string]http.HandlerFunc // by path without Prefix
}

// New makes a gateway whose calls pass through the interceptors.
func New(unary grpc.UnaryServerInterceptor, stream grpc.StreamServerInterceptor) *Gateway {
	return &Gateway{unary: unary, stream: stream, methods: map[string]http.HandlerFunc{}}
}

// RegisterService implements grpc.ServiceRegistrar. Methods to which a client
// streams are left out.
func (g *Gateway) RegisterService(d *grpc.ServiceDesc, impl any) {
	for _, m := range d.Methods {
		g.methods[d.ServiceName+"/"+m.MethodName] = func(w http.ResponseWriter, r *http.Request) { g.call(w, r, m.Handler, impl) }
	}
	for _, s := range d.Streams {
		if !s.ClientStreams {
			info := &grpc.StreamServerInfo{FullMethod: "/" + d.ServiceName + "/" + s.StreamName, IsServerStream: true}
			g.methods[d.ServiceName+"/"+s.StreamName] = func(w http.ResponseWriter, r *http.Request) { g.serveStream(w, r, s.Handler, impl, info) }
		}
	}
}

func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	method := g.methods[strings.TrimPrefix(r.URL.Path, Prefix)]
	if method == nil {
		fail(w, http.StatusNotFound, status.New(codes.Unimplemented, "there is no such method"))
		return
	}
	method(w, r)
}

// decode reads the request of a call.
func decode(r *http.Request, into any) error {
	m, ok := into.(proto.Message)
	if !ok {
		return status.Errorf(codes.Internal, "a request of type %T", into)
	}
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "the request is not to be read: %v", err)
	}
	if err := protojson.Unmarshal(raw, m); err != nil {
		return status.Errorf(codes.InvalidArgument, "the request is not what the method takes: %v", err)
	}
	return nil
}

// encode shows fields that are 0 too: a page need not know what a default is.
func encode(m proto.Message) ([]byte, error) {
	return protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
}

func (g *Gateway) call(w http.ResponseWriter, r *http.Request, handle grpc.MethodHandler, impl any) {
	resp, err := handle(impl, incoming(r), func(req any) error { return decode(r, req) }, g.unary)
	if err == nil {
		var raw []byte
		if raw, err = encode(resp.(proto.Message)); err == nil {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Cache-Control", "no-store")
			w.Write(raw) // a caller that is gone will not miss it
			return
		}
	}
	st := status.Convert(err)
	fail(w, httpStatus(st.Code()), st)
}

// Basic is who a call says it is from, by HTTP's basic authentication.
type Basic struct {
	User, Secret string // "" when it does not say
	Remote       string // address and port
}

type basicKey struct{}

// BasicOf returns that of a call, false when it did not come through a Gateway.
func BasicOf(ctx context.Context) (Basic, bool) {
	b, ok := ctx.Value(basicKey{}).(Basic)
	return b, ok
}

// incoming is the context of a call; handlers read metadata from it.
func incoming(r *http.Request) context.Context {
	b := Basic{Remote: r.RemoteAddr}
	b.User, b.Secret, _ = r.BasicAuth()
	return metadata.NewIncomingContext(context.WithValue(r.Context(), basicKey{}, b), metadata.MD{})
}

func (g *Gateway) serveStream(w http.ResponseWriter, r *http.Request, handle grpc.StreamHandler, impl any, info *grpc.StreamServerInfo) {
	s := &stream{ctx: incoming(r), w: w, r: r}
	err := g.stream(impl, s, info, handle)
	if err == nil {
		return
	}
	st := status.Convert(err)
	if !s.began {
		fail(w, httpStatus(st.Code()), st)
		return
	}
	s.line("error", failure(st))
}

// stream is the server's side of a call with one request and many responses.
type stream struct {
	grpc.ServerStream // nil: what is not below is not called
	ctx               context.Context
	w                 http.ResponseWriter
	r                 *http.Request
	read, began       bool
}

func (s *stream) Context() context.Context { return s.ctx }

func (s *stream) RecvMsg(m any) error {
	if s.read {
		return io.EOF
	}
	s.read = true
	return decode(s.r, m)
}

func (s *stream) SendMsg(m any) error {
	raw, err := encode(m.(proto.Message))
	if err != nil {
		return err
	}
	return s.line("result", raw)
}

func (s *stream) line(field string, raw []byte) error {
	if !s.began {
		s.w.Header().Set("Content-Type", "application/x-ndjson")
		s.w.Header().Set("Cache-Control", "no-store")
		s.began = true
	}
	_, err := fmt.Fprintf(s.w, "{%q:%s}\n", field, raw)
	return errors.Join(err, http.NewResponseController(s.w).Flush())
}

func failure(st *status.Status) []byte {
	raw, err := json.Marshal(map[string]string{"code": codeName(st.Code()), "message": st.Message()})
	if err != nil {
		return []byte(`{}`) // two strings always encode
	}
	return raw
}

// Fail answers a call that no Gateway got.
func Fail(w http.ResponseWriter, code codes.Code, why string) {
	fail(w, httpStatus(code), status.New(code, why))
}

func fail(w http.ResponseWriter, code int, st *status.Status) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if code == http.StatusUnauthorized { // a browser asks for them
		w.Header().Set("WWW-Authenticate", `Basic realm="gantry", charset="UTF-8"`)
	}
	w.WriteHeader(code)
	w.Write(failure(st))
}

// outcomes gives gRPC's codes their names in JSON, and the HTTP status nearest to
// each, as google.rpc.Code does.
var outcomes = map[codes.Code]struct {
	name string
	http int
}{
	codes.Canceled:           {"CANCELLED", 499},
	codes.InvalidArgument:    {"INVALID_ARGUMENT", http.StatusBadRequest},
	codes.DeadlineExceeded:   {"DEADLINE_EXCEEDED", http.StatusGatewayTimeout},
	codes.NotFound:           {"NOT_FOUND", http.StatusNotFound},
	codes.AlreadyExists:      {"ALREADY_EXISTS", http.StatusConflict},
	codes.PermissionDenied:   {"PERMISSION_DENIED", http.StatusForbidden},
	codes.Unauthenticated:    {"UNAUTHENTICATED", http.StatusUnauthorized},
	codes.ResourceExhausted:  {"RESOURCE_EXHAUSTED", http.StatusTooManyRequests},
	codes.FailedPrecondition: {"FAILED_PRECONDITION", http.StatusBadRequest},
	codes.OutOfRange:         {"OUT_OF_RANGE", http.StatusBadRequest},
	codes.Unimplemented:      {"UNIMPLEMENTED", http.StatusNotImplemented},
	codes.Unavailable:        {"UNAVAILABLE", http.StatusServiceUnavailable},
}

func httpStatus(c codes.Code) int {
	if o, ok := outcomes[c]; ok {
		return o.http
	}
	return http.StatusInternalServerError
}

func codeName(c codes.Code) string {
	if o, ok := outcomes[c]; ok {
		return o.name
	}
	return "INTERNAL"
}
