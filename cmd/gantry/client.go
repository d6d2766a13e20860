package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	gantry "github.com/gantry-mq/gantry/client"
	"github.com/gantry-mq/gantry/internal/sharding"
	"github.com/gantry-mq/gantry/proto/gantryv1"
	"github.com/gantry-mq/gantry/proto/rocketmqv2"
)

const (
	serverEnv   = "GANTRY_SERVER"
	userEnv     = "GANTRY_USER"
	secretEnv   = "GANTRY_SECRET_FILE"
	defaultAddr = "127.0.0.1:8081"

	// callTimeout bounds every call that does not wait for messages.
	callTimeout = 10 * time.Second

	// maxInbound fits the largest message with its properties.
	maxInbound = 16 << 20
)

// clientFlags are on every command that talks to a broker.
type clientFlags struct {
	server    string
	shard     int
	namespace string
	json      bool
	caller    callerFlags
}

// callerFlags say who calls.
type callerFlags struct{ user, file string }

// add defines them. Where a command has another --user, the caller is --as.
func (f *callerFlags) add(cmd *cobra.Command) {
	name := "user"
	if cmd.Flags().Lookup(name) != nil {
		name = "as"
	}
	cmd.Flags().StringVar(&f.user, name, os.Getenv(userEnv), "call as this `USER` of a broker that asks who calls (environment: "+userEnv+")")
	cmd.Flags().StringVar(&f.file, "secret-file", os.Getenv(secretEnv), "`FILE` with the user's secret, which nobody else may read (environment: "+secretEnv+")")
	cmd.MarkFlagFilename("secret-file")
}

// read returns the user and the secret, both "" when nobody is named.
func (f *callerFlags) read() (user, secret string, err error) {
	switch {
	case f.user == "" && f.file == "":
		return "", "", nil
	case f.user == "":
		return "", "", usageErrorf("--secret-file without a user: add --user, or %s in the environment", userEnv)
	case f.file == "":
		return "", "", usageErrorf("user %s without a secret: add --secret-file, or %s in the environment", f.user, secretEnv)
	}
	secret, err = privateFile(f.file, nil)
	return f.user, secret, err
}

func (f *clientFlags) add(cmd *cobra.Command) {
	server := defaultAddr
	if env := os.Getenv(serverEnv); env != "" {
		server = env
	}
	cmd.Flags().StringVar(&f.server, "server", server, "broker to talk to, as `HOST:PORT` (environment: "+serverEnv+")")
	cmd.Flags().IntVar(&f.shard, "shard", 0, "talk to shard `N` of the cluster alone: its port is that of --server and 10 more for each")
	cmd.Flags().StringVar(&f.namespace, "namespace", "", "namespace of the topics and groups that are named")
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON")
	f.caller.add(cmd)
}

// client is one connection to a broker.
type client struct {
	*clientFlags
	at   string // the broker's address: that of --server, or of another shard
	conn *grpc.ClientConn
	id   string // x-mq-client-id
}

// connect reads the address; the connection itself is made by the first call.
func (f *clientFlags) connect() (*client, error) {
	if _, _, err := splitAddr(f.server); err != nil {
		return nil, usageErrorf("--server %q: want HOST:PORT", f.server)
	}
	at, err := sharding.Address(f.server, f.shard)
	if err != nil || f.shard < 0 || f.shard >= sharding.Max {
		return nil, usageErrorf("--shard %d of %s: want 0 to %d, with a port that there is", f.shard, f.server, sharding.Max-1)
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxInbound)),
	}
	user, secret, err := f.caller.read()
	if err != nil {
		return nil, err
	}
	if user != "" {
		options = append(options, grpc.WithPerRPCCredentials(gantry.Credentials(user, secret)))
	}
	conn, err := grpc.NewClient("passthrough:///"+at, options...)
	if err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return &client{
		clientFlags: f,
		at:          at,
		conn:        conn,
		id:          fmt.Sprintf("%s@%d@cli@%s", host, os.Getpid(), rand.Text()[:8]),
	}, nil
}

func (c *client) close() { c.conn.Close() }

func (c *client) management() gantryv1.ManagementClient { return gantryv1.NewManagementClient(c.conn) }

func (c *client) messaging() rocketmqv2.MessagingServiceClient {
	return rocketmqv2.NewMessagingServiceClient(c.conn)
}

// header adds what the contract wants on every call.
func (c *client) header(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx,
		"x-mq-client-id", c.id,
		"x-mq-language", "GO",
		"x-mq-client-version", "gantry",
		"x-mq-protocol", "v2",
		"x-mq-namespace", c.namespace,
		"x-mq-request-id", rand.Text())
}

// call makes the context of one short call.
func (c *client) call(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.header(ctx), callTimeout)
}

func (c *client) resource(name string) *rocketmqv2.Resource {
	return &rocketmqv2.Resource{ResourceNamespace: c.namespace, Name: name}
}

// endpoints says how this client dials the broker, so that a route answers with
// the same.
func (c *client) endpoints() *rocketmqv2.Endpoints {
	host, port, err := splitAddr(c.at)
	if err != nil {
		return nil
	}
	scheme := rocketmqv2.AddressScheme_DOMAIN_NAME
	if ip := net.ParseIP(host); ip.To4() != nil {
		scheme = rocketmqv2.AddressScheme_IPv4
	} else if ip != nil {
		scheme = rocketmqv2.AddressScheme_IPv6
	}
	return &rocketmqv2.Endpoints{Scheme: scheme, Addresses: []*rocketmqv2.Address{{Host: host, Port: int32(port)}}}
}

// route asks where topic is; it never answers with no queue.
func (c *client) route(ctx context.Context, topic string) ([]*rocketmqv2.MessageQueue, error) {
	ctx, cancel := c.call(ctx)
	defer cancel()
	r, err := c.messaging().QueryRoute(ctx, &rocketmqv2.QueryRouteRequest{Topic: c.resource(topic), Endpoints: c.endpoints()})
	if err := c.outcome(r.GetStatus(), err); err != nil {
		return nil, err
	}
	if len(r.GetMessageQueues()) == 0 {
		return nil, fmt.Errorf("topic %s has no queue", topic)
	}
	return r.GetMessageQueues(), nil
}

// outcome turns both levels of failure, gRPC's and the contract's, into one
// error that a person can act on.
func (c *client) outcome(st *rocketmqv2.Status, err error) error {
	if err != nil {
		return c.explain(err)
	}
	if st.GetCode() != rocketmqv2.Code_OK {
		return &codeError{st.GetCode(), st.GetMessage()}
	}
	return nil
}

// codeError is a failure in the contract's terms.
type codeError struct {
	code    rocketmqv2.Code
	message string
}

func (e *codeError) Error() string {
	if e.message == "" || e.message == e.code.String() {
		return e.code.String()
	}
	return fmt.Sprintf("%s (%s)", e.message, e.code)
}

// explain says what a gRPC failure means here.
func (c *client) explain(err error) error {
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted")
	}
	st, _ := status.FromError(err)
	switch st.Code() {
	case codes.Canceled:
		return errors.New("interrupted")
	case codes.Unavailable:
		why := st.Message()
		if i := strings.LastIndex(why, "dial tcp "); i >= 0 { // gRPC says it in three layers
			why = strings.TrimSuffix(why[i:], `"`)
		}
		return fmt.Errorf("no broker answers at %s (%s); start one with `gantry serve`, or name another with --server", c.at, why)
	case codes.DeadlineExceeded:
		return fmt.Errorf("the broker at %s did not answer in time", c.at)
	case codes.Unauthenticated:
		return fmt.Errorf("%s; name a user with --user and --secret-file, or with %s and %s", st.Message(), userEnv, secretEnv)
	case codes.Unimplemented:
		return fmt.Errorf("the server at %s does not know this call: %s", c.at, st.Message())
	}
	return errors.New(st.Message())
}

func splitAddr(addr string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(p, 10, 16)
	return host, int(n), err
}

// clientCommand is a command that needs a connection; f runs with one.
func clientCommand(cmd *cobra.Command, f commandFunc) *cobra.Command {
	flags := &clientFlags{}
	flags.add(cmd)
	cmd.RunE = run(func(cmd *cobra.Command, args []string) error {
		c, err := flags.connect()
		if err != nil {
			return err
		}
		defer c.close()
		return f(cmd.Context(), cmd, c, args)
	})
	return cmd
}
