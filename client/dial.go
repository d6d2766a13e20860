package client

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	mathrand "math/rand/v2"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"github.com/gantry-mq/gantry/proto/gantryv1"
	"github.com/gantry-mq/gantry/proto/wire"
)

// Options of a client. The zero value works.
type Options struct {
	// TLS, when not nil, is how the broker is spoken to. Nil is plaintext; the
	// broker takes both on one port.
	TLS *tls.Config
	// User and Secret, for a broker that asks who calls. Each call is signed; the
	// secret itself is not sent. But a signature is good for some minutes, whoever has
	// it: use TLS where others can listen.
	User, Secret string
	// Namespace of every topic and group.
	Namespace string
	// ID names the client to operators. "" = host@pid@random.
	ID string
	// Logger is told of broken connections. Nil: slog.Default().
	Logger *slog.Logger
	// Hooks watch messages go by.
	Hooks Hooks
	// DialOptions are added to those of the gRPC connection. With any, as with TLS,
	// consumers and readers use that connection, and not a faster one of their own.
	DialOptions []grpc.DialOption
}

// Client is a connection to a broker, for producers, consumers and readers.
type Client struct {
	opts Options
	log  *slog.Logger
	conn *grpc.ClientConn

	ctx    context.Context // ends when Close has given up waiting, or is done
	cancel context.CancelFunc

	http2 atomic.Bool // whoever answers takes no call without it

	mu     sync.Mutex
	closed bool
	open   map[closer]struct{}
}

// closer is what Close closes first.
type closer interface{ Close(context.Context) error }

// Transport settings. The windows let a frame of 1 MiB be under way while the
// one before it is read.
const (
	streamWindow = 4 << 20
	connWindow   = 16 << 20
	ioBuffer     = 128 << 10
	maxMessage   = 32 << 20
)

// Dial connects to a broker at one of the addresses ("host:port"); which, it finds
// out, again after every loss of the connection. It returns when the broker has
// answered, or with ctx's error.
func Dial(ctx context.Context, addresses []string, opts Options) (*Client, error) {
	if len(addresses) == 0 {
		return nil, errors.New("gantry: no address to dial")
	}
	c := &Client{opts: opts, log: opts.Logger, open: map[closer]struct{}{}}
	if c.log == nil {
		c.log = slog.Default()
	}
	if c.opts.ID == "" {
		host, _ := os.Hostname()
		c.opts.ID = fmt.Sprintf("%s@%d@%s", host, os.Getpid(), hex.EncodeToString(binary.BigEndian.AppendUint32(nil, mathrand.Uint32())))
	}
	addrs := manual.NewBuilderWithScheme("gantry")
	state := resolver.State{}
	for _, a := range addresses {
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: a}}})
	}
	addrs.InitialState(state)
	var transport credentials.TransportCredentials = insecure.NewCredentials()
	if opts.TLS != nil {
		transport = credentials.NewTLS(opts.TLS)
	}
	own := opts.DialOptions
	if opts.User != "" {
		own = append([]grpc.DialOption{grpc.WithPerRPCCredentials(Credentials(opts.User, opts.Secret))}, own...)
	}
	var err error
	c.conn, err = grpc.NewClient("gantry:///", append([]grpc.DialOption{
		grpc.WithResolvers(addrs),
		grpc.WithTransportCredentials(transport),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithReadBufferSize(ioBuffer),
		grpc.WithWriteBufferSize(ioBuffer),
		experimental.WithBufferPool(wire.Buffers),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(wire.Codec{}),
			grpc.MaxCallRecvMsgSize(maxMessage),
			grpc.MaxCallSendMsgSize(maxMessage),
		),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstPause, Multiplier: 1.6, Jitter: 0.2, MaxDelay: lastPause},
			MinConnectTimeout: 3 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second, PermitWithoutStream: true}),
	}, own...)...)
	if err != nil {
		return nil, fmt.Errorf("gantry: dial %v: %w", addresses, err)
	}
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if _, err := gantryv1.NewManagementClient(c.conn).ServerInfo(ctx, &gantryv1.ServerInfoRequest{}, grpc.WaitForReady(true)); err != nil {
		c.cancel()
		c.conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		} else if told := refused(err); told != nil {
			err = told
		}
		return nil, fmt.Errorf("gantry: dial %v: %w", addresses, err)
	}
	return c, nil
}

// agent says with each stream what its client is, for operators to see.
var agent = sync.OnceValue(func() *gantryv1.ClientAgent {
	host, _ := os.Hostname()
	return &gantryv1.ClientAgent{Language: "GO", Version: version(), Host: host}
})

// version is that of this module in the program it is part of.
func version() string {
	const module = "github.com/gantry-mq/gantry"
	v := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range append(info.Deps, &info.Main) {
			if m.Path == module {
				v = m.Version
			}
		}
	}
	return strings.TrimSpace("gantry " + v)
}

// Close closes everything made of the client, as its own Close would, and the
// connection. When ctx is done first it stops waiting and returns ctx's error.
func (c *Client) Close(ctx context.Context) error {
	c.mu.Lock()
	c.closed = true
	var open []closer
	for o := range c.open {
		open = append(open, o)
	}
	c.mu.Unlock()
	errs := make([]error, len(open))
	var wait sync.WaitGroup
	for i, o := range open {
		wait.Go(func() { errs[i] = o.Close(ctx) })
	}
	wait.Wait()
	c.cancel()
	return errors.Join(append(errs, c.conn.Close())...)
}

// adopt makes o one of what Close closes.
func (c *Client) adopt(o closer) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	c.open[o] = struct{}{}
	return nil
}

func (c *Client) disown(o closer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, o)
}

func (c *Client) resource(name string) *gantryv1.StreamResource {
	return &gantryv1.StreamResource{Namespace: c.opts.Namespace, Name: name}
}

// Pauses between attempts to open a stream.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 2 * time.Second
)

// pause waits before attempt n, from 0, to open a stream again; false when ctx is
// done first.
func pause(ctx context.Context, n int) bool {
	d := time.Duration(math.Min(float64(firstPause)*math.Pow(1.6, float64(n)), float64(lastPause)))
	d = time.Duration(float64(d) * (0.8 + 0.4*mathrand.Float64()))
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// refused reports whether a stream ended because of what this client did, so that
// trying again would end the same way; as what the broker said.
func refused(err error) error {
	if e := new(Error); errors.As(err, &e) && !e.Temporary() {
		return e
	}
	switch s := status.Convert(err); s.Code() {
	case codes.InvalidArgument, codes.Unimplemented, codes.Unauthenticated, codes.PermissionDenied:
		code := map[codes.Code]Code{codes.Unimplemented: CodeNotImplemented, codes.Unauthenticated: CodeUnauthorized, codes.PermissionDenied: CodeForbidden}[s.Code()]
		if code == 0 {
			code = 40000
		}
		return &Error{Code: code, Message: s.Message()}
	}
	return nil
}

func randomID() uint64 {
	for {
		var b [8]byte
		rand.Read(b[:]) // never fails
		if id := binary.LittleEndian.Uint64(b[:]); id != 0 {
			return id
		}
	}
}
