package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/gantry-mq/gantry/api/gateway"
	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/internal/logging"
	"github.com/gantry-mq/gantry/internal/tally"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
	"github.com/gantry-mq/gantry/proto/stream"
	"github.com/gantry-mq/gantry/proto/wire"
)

// Bounds of the transport, together because they only make sense together.
const (
	// maxRequestBytes bounds one request. A batch may carry far more than one
	// 4 MiB body, but the log takes 16 MiB at once; the rest is room for
	// properties, and for a body somewhat too large to be told so by its code
	// rather than by a transport error that SDKs take for an outage.
	maxRequestBytes = stream.PublishLimit

	// maxHeaderBytes bounds a call's metadata: a dozen short headers.
	maxHeaderBytes = 64 << 10

	// streamWindow and connWindow are what a client may have in flight. The stream's
	// bounds what a call can make the server hold unread. The connection's is given
	// back as soon as it is read, so it bounds what waits in sockets while senders are
	// held back: with 8 MiB a hundred connections send more than can be stored in the
	// 3 s for which they wait for answers. Over 10 ms it still takes 25 MB/s.
	streamWindow = 1 << 20
	connWindow   = 256 << 10

	// maxStreams is how many calls a connection may have at once. Its client keeps
	// further ones back, which costs the server nothing. A consumer polls once for
	// each topic it takes.
	maxStreams = 1024

	// writeBuffer is shared by the connections that write right now, so an idle
	// connection holds none.
	writeBuffer = 64 << 10

	// streamWorkers is how many goroutines wait for calls, their stacks grown
	// already: a call on a new goroutine pays for two copies of its stack, an
	// eighth of what a small call costs. A poll keeps its worker while it waits;
	// when all are busy, calls get a goroutine of their own.
	streamWorkers = 128

	// handshakeTimeout ends a connection that is silent, or slow to complete
	// TLS and the HTTP/2 preface.
	handshakeTimeout = 10 * time.Second

	// minPing is the least pause between a client's keep-alive pings. C++ pings
	// every 60 s without calls; grpc-go's default of 5 min would kill it.
	minPing = 10 * time.Second

	// pingAfter and pingTimeout find peers that vanished without a word, whose
	// polls would otherwise wait in vain.
	pingAfter   = 60 * time.Second
	pingTimeout = 20 * time.Second

	// idleTimeout closes connections without a call. A live client has its
	// command stream open, so it is not touched.
	idleTimeout = 10 * time.Minute
)

// Options of a Server. The zero value works.
type Options struct {
	// Advertise is the host:port that routes tell clients to dial. Empty: the
	// address each client came by, which is right unless something between
	// rewrites addresses.
	Advertise string

	// Cluster is nil for a broker on its own.
	Cluster Cluster

	// Shards is nil for a cluster of one.
	Shards Shards

	// Auth has calls authenticated and checked. Nil: everybody may do everything.
	Auth *Auth

	// Certificate is presented to TLS clients. Nil: a self-signed one is made at
	// start, which suits the SDKs that do not verify (Java, Go, C#, C++).
	Certificate *tls.Certificate

	// CertFile and KeyFile are read instead, and again when they change; ClientCA, if
	// given, verifies the certificates that clients show. A call's peer has them.
	CertFile, KeyFile, ClientCA string

	// Logger gets what clients are not told. Nil: slog.Default().
	Logger *slog.Logger

	// Levels are the log's, for operators to change. Nil: they cannot.
	Levels *logging.Levels

	// Calls, when not nil, counts calls by method and outcome.
	Calls *tally.Calls

	// What ServerInfo tells operators, as the binary knows it.
	Version       string
	Commit        string
	DataDir       string
	Durability    string
	FormatVersion uint32
}

// Server serves one broker over gRPC.
//
// Serve may be called for several listeners; Shutdown ends them all. The broker
// must outlive the server.
type Server struct {
	log       *slog.Logger
	grpc      *grpc.Server
	health    *health.Server
	messaging *messaging
	observe   *observe
	calls     *tally.Calls
	gate      *gate // nil: everybody is let in
	sampling  sync.Once
	pending   *pending
	plain     *plainCalls
	drain     context.CancelFunc
	invalid   error // what is wrong with the options, told by Serve
}

// messaging is apache.rocketmq.v2.MessagingService.
type messaging struct {
	v2.UnsafeMessagingServiceServer // an RPC without a method must not compile
	direct

	broker    *broker.Broker
	log       *slog.Logger
	advertise *v2.Endpoints // nil: as the client came
	cluster   Cluster       // nil: on its own
	shards    Shards        // nil: one
	calls     *tally.Calls
	draining  context.Context // done when shutdown begins
	questions questions
	readers   sync.WaitGroup // of command streams, which end with their stream; and who samples
}

// New makes a server of b. It starts nothing; mistakes in o are told by Serve.
func New(b *broker.Broker, o Options) *Server {
	s := &Server{log: o.Logger, calls: o.Calls, health: health.NewServer()}
	s.pending = newPending(b.HoldSender, func(r receiver, silent time.Duration) {
		if s.messaging.draining.Err() == nil { // after a start such leases end anyway
			b.LostConnection(r.client, r.group, silent)
		}
	})
	if s.log == nil {
		s.log = slog.Default()
	}
	s.gate = newGate(b, o.Auth, s.log)
	s.log = s.log.With(logging.Component, "api")
	s.messaging = &messaging{broker: b, log: s.log, cluster: o.Cluster, shards: o.Shards, calls: s.calls}
	s.messaging.draining, s.drain = context.WithCancel(context.Background())
	if o.Advertise != "" {
		e, err := parseEndpoint(o.Advertise)
		if err != nil {
			s.invalid = fmt.Errorf("api: advertised address: %w", err)
		}
		s.messaging.advertise = e
	}
	certificate := o.Certificate
	if certificate == nil {
		var err error
		if certificate, err = selfSigned(time.Now()); err != nil {
			s.invalid = errors.Join(s.invalid, err)
			certificate = &tls.Certificate{}
		}
	}
	config := serverTLS(certificate)
	if o.CertFile != "" {
		files, err := openCertFiles(o.CertFile, o.KeyFile, o.ClientCA, s.log)
		s.invalid = errors.Join(s.invalid, err)
		config.GetConfigForClient = files.config
	}

	streams := &streams{
		broker: b, gate: s.gate, log: s.log, draining: s.messaging.draining, readers: &s.messaging.readers, cancel: s.messaging.cancel(),
	}
	_, streams.of = ownShard(o.Shards)
	s.plain = newPlainCalls(func(m stream.Method, c *plainCall) error {
		method := streamsPrefix + string(m)
		defer s.calls.Ended(method)
		err := s.guard(method, func() error {
			if m == stream.Publish {
				return streams.publish(plainStream[gantryv1.PublishRequest, gantryv1.PublishResponse]{c})
			}
			return streams.consume(plainStream[gantryv1.ConsumeRequest, gantryv1.ConsumeResponse]{c})
		})
		s.failed(method, err)
		return err
	})
	s.grpc = grpc.NewServer(
		grpc.ForceServerCodecV2(wire.Codec{}),
		grpc.Creds(newSniffer(config, s.plain)),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.MaxRecvMsgSize(maxRequestBytes),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connWindow),
		grpc.WriteBufferSize(writeBuffer),
		grpc.NumStreamWorkers(streamWorkers),
		experimental.BufferPool(wire.Buffers),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: idleTimeout, Time: pingAfter, Timeout: pingTimeout,
		}),
		grpc.WaitForHandlers(true),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
	)
	s.messaging.serveOn(s.grpc)
	s.observe = &observe{broker: b, log: s.log, management: newManagement(b, s.log, o)}
	s.operations(s.grpc)
	v2.RegisterAdminServer(s.grpc, &admin{broker: b, log: s.log, messaging: s.messaging, observe: s.observe, levels: o.Levels})
	gantryv1.RegisterStreamsServer(s.grpc, streams)
	healthpb.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	for service, info := range s.grpc.GetServiceInfo() {
		for _, m := range info.Methods {
			s.calls.Add("/" + service + "/" + m.Name)
		}
	}
	return s
}

// HTTP returns the handler of /api/: what operators do, as JSON (api/gateway). Who may
// call it at all is for gateway.Hosts to decide.
func (s *Server) HTTP() http.Handler {
	g := gateway.New(s.unary, s.stream)
	s.operations(g)
	return g
}

// operations registers the services of gantry.v1 that operators use: all of them but
// Streams.
func (s *Server) operations(r grpc.ServiceRegistrar) {
	b := s.messaging.broker
	gantryv1.RegisterManagementServer(r, s.observe.management)
	gantryv1.RegisterDeadLettersServer(r, &deadLetters{broker: b, log: s.log})
	gantryv1.RegisterMessagesServer(r, &messages{broker: b, log: s.log})
	gantryv1.RegisterFiltersServer(r, &filters{broker: b, log: s.log})
	gantryv1.RegisterGroupOpsServer(r, &groupOps{broker: b, log: s.log})
	gantryv1.RegisterTopicOpsServer(r, &topicOps{broker: b, log: s.log})
	gantryv1.RegisterObserveServer(r, s.observe)
	gantryv1.RegisterLoggingServer(r, &logLevels{levels: s.observe.management.options.Levels})
	gantryv1.RegisterAccessServer(r, &accessOps{broker: b, log: s.log})
	gantryv1.RegisterQuotasServer(r, &quotaOps{broker: b, log: s.log})
	gantryv1.RegisterNamespacesServer(r, &namespaceOps{broker: b})
	gantryv1.RegisterClusterServer(r, &clusterOps{cluster: s.messaging.cluster})
}

// Serve accepts connections on l, TLS and plaintext alike, until Shutdown, and
// then returns nil. It closes l.
func (s *Server) Serve(l net.Listener) error {
	if s.invalid != nil {
		l.Close()
		return s.invalid
	}
	s.sampling.Do(func() {
		s.messaging.readers.Go(func() { s.observe.history.run(s.messaging.draining, s.messaging.broker.Stats) })
		if s.gate != nil {
			s.messaging.readers.Go(func() { s.gate.watch(s.messaging.draining) })
		}
	})
	err := s.grpc.Serve(&listener{Listener: l, pending: s.pending})
	if err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("api: serve %v: %w", l.Addr(), err)
	}
	return nil
}

// Shutdown stops accepting, ends polls and command streams, and lets other calls
// finish. When ctx is done first it cuts them off and returns ctx's error. No
// goroutine of the server is left when it returns.
func (s *Server) Shutdown(ctx context.Context) error {
	s.health.Shutdown()
	s.drain()
	s.pending.close()
	drained := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		s.plain.Wait() // none is taken any more
		close(drained)
	}()
	var err error
	select {
	case <-drained:
	case <-ctx.Done():
		err = ctx.Err()
		s.grpc.Stop()
		s.plain.close()
		<-drained
	}
	s.messaging.readers.Wait()
	return err
}
