// Package bench puts load on a broker through gantry.v1 and measures what comes
// of it: `gantry bench`.
//
// Load is open-loop when a rate is set: each message has the time at which it
// should have been sent, and latency counts from there, so a broker that stalls
// pays for everything that came meanwhile (what is called coordinated omission
// otherwise). Without a rate each producer sends as fast as its buffer has room, and latency
// is that of a saturated system.
//
// CPU time is read from the kernel, for the server's process (when it is on
// this machine) and for this one.
package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/gantry-mq/gantry/client"
	"github.com/gantry-mq/gantry/proto/gantryv1"
)

// Options of a run.
type Options struct {
	Server    string // HOST:PORT
	User      string // that calls, "" = nobody is asked for
	Secret    string
	Shape     string // one of Shapes
	Size      int    // bytes of a body
	Count     int    // messages; 0 = until Duration
	Duration  time.Duration
	Rate      int // messages a second; 0 = flat out
	Producers int // each with a connection of its own
	Consumers int // likewise
	Topics    int
	Queues    int // of each topic
	Groups    int // of fanout
	Filter    string
	Match     float64 // share of the messages that the filter matches
	Batch     int     // bytes of a producer's batch; 0 = the client's default
	Compress  string  // none, zstd, lz4 or s2: how producers compress bodies, which then are JSON
	PID       int     // the server's; 0 = asked of the server, -1 = none
	Progress  io.Writer
}

// Shapes are what can be run, with a line on each.
var Shapes = map[string]string{
	"publish":      "producers send",
	"consume":      "readers read by offset what was sent before, with --filter",
	"receive":      "consumers receive under leases what was sent before, and acknowledge it",
	"end-to-end":   "producers send and consumers receive and acknowledge meanwhile; latency is from send to receive",
	"fanout":       "as end-to-end, to --groups groups",
	"filter":       "consume without a filter, with a tag filter and with an SQL filter, one after the other",
	"delay":        "messages that are all due at one instant; latency is how late each becomes visible",
	"transactions": "half messages, each committed",
	"topics":       "producers send to --topics topics in turn",
	"backlog":      "consumers drain what was sent before while producers go on at --rate",
}

// ShapeNames lists Shapes.
func ShapeNames() []string {
	names := make([]string, 0, len(Shapes))
	for n := range Shapes {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// Defaults of Options.
const (
	defaultSize     = 1024
	defaultDuration = 10 * time.Second
	prefill         = 1_000_000 // messages that consume, receive and backlog find there
)

// Run runs one shape and returns what was measured: one result for each phase.
func Run(ctx context.Context, o Options) ([]Result, error) {
	o.Size = cmp.Or(o.Size, defaultSize)
	o.Producers = cmp.Or(o.Producers, 1)
	o.Consumers = cmp.Or(o.Consumers, 1)
	o.Topics = cmp.Or(o.Topics, 1)
	o.Queues = cmp.Or(o.Queues, 8)
	o.Groups = cmp.Or(o.Groups, 1)
	o.Match = cmp.Or(o.Match, 1)
	if o.Count == 0 && o.Duration == 0 {
		o.Duration = defaultDuration
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	switch {
	case Shapes[o.Shape] == "":
		return nil, fmt.Errorf("there is no shape %q; there are %s", o.Shape, strings.Join(ShapeNames(), ", "))
	case o.Match < 0 || o.Match > 1:
		return nil, errors.New("the share that the filter matches is from 0 to 1")
	case !slices.Contains([]string{"", "none", "tag", "sql"}, o.Filter):
		return nil, fmt.Errorf("there is no filter %q: none, tag or sql", o.Filter)
	}
	b := &bench{Options: o, payload: newPayload(o.Size)}
	if o.Compress != "" {
		i := slices.IndexFunc(compressions, func(c client.Compression) bool { return c.String() == o.Compress })
		if i < 0 {
			return nil, fmt.Errorf("there is no compression %q: none, zstd, lz4 or s2", o.Compress)
		}
		if b.compression = compressions[i]; b.compression != client.NoCompression {
			b.payload.fillJSON()
		}
	}
	defer b.close()
	if err := b.open(ctx); err != nil {
		return nil, err
	}
	err := b.shape(ctx)
	return b.results, err
}

var compressions = []client.Compression{client.NoCompression, client.Zstd, client.LZ4, client.S2}

// bench is a run under way.
type bench struct {
	Options
	compression client.Compression
	payload     payload
	server      *process
	shards      int
	admin       gantryv1.ManagementClient
	conn        *grpc.ClientConn
	topics      []string
	mu          sync.Mutex // guards clients: producers and consumers dial side by side
	clients     []*client.Client
	results     []Result
}

func (b *bench) open(ctx context.Context) error {
	options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	if b.User != "" {
		options = append(options, grpc.WithPerRPCCredentials(client.Credentials(b.User, b.Secret)))
	}
	conn, err := grpc.NewClient("passthrough:///"+b.Server, options...)
	if err != nil {
		return err
	}
	b.conn, b.admin = conn, gantryv1.NewManagementClient(conn)
	info, err := b.admin.ServerInfo(ctx, &gantryv1.ServerInfoRequest{})
	if err != nil {
		return err
	}
	b.server, b.shards = findProcess(b.PID, info.DataDir), int(max(info.Shards, 1))
	return b.makeTopics(ctx)
}

func (b *bench) close() {
	// What a run leaves open has served its purpose: it is cut off.
	done, cancel := context.WithCancel(context.Background())
	cancel()
	for _, c := range b.clients {
		c.Close(done)
	}
	if b.conn != nil {
		b.conn.Close()
	}
}

// makeTopics makes the run's topics anew, so that runs do not see each other's
// messages.
func (b *bench) makeTopics(ctx context.Context) error {
	kind := gantryv1.TopicType_NORMAL
	switch b.Shape {
	case "delay":
		kind = gantryv1.TopicType_DELAY
	case "transactions":
		kind = gantryv1.TopicType_TRANSACTION
	}
	stamp := time.Now().UnixMilli()
	for i := range b.Topics {
		name := fmt.Sprintf("bench-%s-%d-%d", b.Shape, stamp, i)
		_, err := b.admin.CreateTopic(ctx, &gantryv1.CreateTopicRequest{Name: name, Type: kind, Queues: uint32(b.Queues)})
		if err != nil {
			return err
		}
		b.topics = append(b.topics, name)
	}
	return nil
}

// dial makes a connection that close closes.
func (b *bench) dial(ctx context.Context) (*client.Client, error) {
	c, err := client.Dial(ctx, []string{b.Server}, client.Options{User: b.User, Secret: b.Secret})
	if err == nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.clients = append(b.clients, c)
	}
	return c, err
}

func (b *bench) shape(ctx context.Context) error {
	switch b.Shape {
	case "publish", "topics", "transactions":
		return b.publish(ctx)
	case "consume":
		return b.consume(ctx, b.Filter)
	case "filter":
		for _, f := range []string{"none", "tag", "sql"} {
			if err := b.consume(ctx, f); err != nil {
				return err
			}
		}
		return nil
	case "receive":
		return b.receive(ctx)
	case "end-to-end", "fanout":
		return b.endToEnd(ctx)
	case "delay":
		return b.delay(ctx)
	}
	return b.backlog(ctx)
}

// each runs f n times at once and returns the first error, which ends the others.
func each(ctx context.Context, n int, f func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wait sync.WaitGroup
	for i := range n {
		wait.Go(func() {
			if err := f(ctx, i); err != nil {
				cancel(err)
			}
		})
	}
	wait.Wait()
	return context.Cause(ctx)
}
