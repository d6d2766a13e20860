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
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gantry-mq/gantry/proto/gantryv1"
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

// Client is a connection to a broker, or to each shard of a cluster, for producers,
// consumers and readers.
type Client struct {
	opts      Options
	log       *slog.Logger
	addresses []string // of shard 0

	ctx    context.Context // ends when Close has given up waiting, or is done
	cancel context.CancelFunc

	mu     sync.Mutex
	closed bool
	open   map[part]struct{}
	shards []*shard // by number; copied when it grows
}

// part is what was made of a client.
type part interface {
	// Close is called by the client's, before it closes its connections.
	Close(context.Context) error
	// extend has it use all shards. It may be called again, also after Close.
	extend([]*shard)
}

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
// answered, or with ctx's error. The addresses are those of one shard of a cluster that
// has several; the others are found at the same ones with other ports.
func Dial(ctx context.Context, addresses []string, opts Options) (*Client, error) {
	if len(addresses) == 0 {
		return nil, errors.New("gantry: no address to dial")
	}
	c := &Client{opts: opts, log: opts.Logger, open: map[part]struct{}{}}
	if c.log == nil {
		c.log = slog.Default()
	}
	if c.opts.ID == "" {
		host, _ := os.Hostname()
		c.opts.ID = fmt.Sprintf("%s@%d@%s", host, os.Getpid(), hex.EncodeToString(binary.BigEndian.AppendUint32(nil, mathrand.Uint32())))
	}
	first, err := c.opts.connect(0, addresses)
	if err != nil {
		return nil, err
	}
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	info, err := first.ask(ctx, grpc.WaitForReady(true))
	if err == nil {
		// It may be any of the cluster's; the client counts from shard 0.
		if c.addresses, err = further(addresses, -int(info.Shard)); err == nil {
			if info.Shard == 0 {
				c.shards = []*shard{first}
			} else {
				err = first.conn.Close()
			}
			err = errors.Join(err, c.grow(max(info.Shards, 1)))
		}
	}
	if err != nil {
		c.cancel()
		for _, s := range append(c.shards, first) {
			s.conn.Close()
		}
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
	shards := c.shards
	var open []part
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
	for _, s := range shards {
		errs = append(errs, s.conn.Close())
	}
	return errors.Join(errs...)
}

// adopt makes o one of what Close closes, and has it use all shards.
func (c *Client) adopt(o part) error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return ErrClosed
	}
	c.open[o] = struct{}{}
	shards := c.shards
	c.mu.Unlock()
	o.extend(shards)
	return nil
}

func (c *Client) disown(o part) {
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
