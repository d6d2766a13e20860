package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/gantry-mq/gantry/internal/sharding"
	"github.com/gantry-mq/gantry/proto/gantryv1"
	"github.com/gantry-mq/gantry/proto/wire"
)

// A cluster may have several shards, each a broker of its own with some queues of every
// topic. A client has a connection to each, a producer sends to each, a consumer and a
// reader are fed by each. A broker that is alone is the only shard of its cluster.

// shard is a connection to one of them.
type shard struct {
	number uint32
	conn   *grpc.ClientConn
	http2  atomic.Bool // whoever answers takes no call without it
}

// queueBits are those of a queue's number in its shard; a topic has far fewer.
const queueBits = 24

// Queue is how this package names the queue of a shard that has that number there: that
// of shard 0 by its number alone.
func Queue(shard, number uint32) uint32 { return shard<<queueBits | number }

// ShardOf is the shard of a queue that [Queue] names, and its number there.
func ShardOf(queue uint32) (shard, number uint32) {
	return queue >> queueBits, queue & (1<<queueBits - 1)
}

func (s *shard) queue(number uint32) uint32 { return Queue(s.number, number) }

// connect makes a connection to a broker at one of the addresses.
func (o *Options) connect(number uint32, addresses []string) (*shard, error) {
	addrs := manual.NewBuilderWithScheme("gantry")
	state := resolver.State{}
	for _, a := range addresses {
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: a}}})
	}
	addrs.InitialState(state)
	var transport credentials.TransportCredentials = insecure.NewCredentials()
	if o.TLS != nil {
		transport = credentials.NewTLS(o.TLS)
	}
	own := o.DialOptions
	if o.User != "" {
		own = append([]grpc.DialOption{grpc.WithPerRPCCredentials(Credentials(o.User, o.Secret))}, own...)
	}
	conn, err := grpc.NewClient("gantry:///", append([]grpc.DialOption{
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
	return &shard{number: number, conn: conn}, nil
}

// ask waits until the broker answers who it is.
func (s *shard) ask(ctx context.Context, options ...grpc.CallOption) (*gantryv1.ServerInfoResponse, error) {
	return gantryv1.NewManagementClient(s.conn).ServerInfo(ctx, &gantryv1.ServerInfoRequest{}, options...)
}

// further are the addresses of a shard that is so many further.
func further(addresses []string, shards int) (all []string, err error) {
	for _, a := range addresses {
		a, err = sharding.Address(a, shards)
		if err != nil {
			return nil, fmt.Errorf("gantry: dial %v: %w", addresses, err)
		}
		all = append(all, a)
	}
	return all, nil
}

// grow makes connections to the shards that the cluster has and the client has not, and
// has everything that is open use them. A broker says how many there are when a stream is
// opened: one that is restarted with more has its streams opened anew.
func (c *Client) grow(of uint32) error {
	c.mu.Lock()
	before := len(c.shards)
	for n := uint32(before); n < of && !c.closed; n++ {
		addresses, err := further(c.addresses, int(n))
		var s *shard
		if err == nil {
			s, err = c.opts.connect(n, addresses)
		}
		if err != nil {
			c.mu.Unlock()
			return err
		}
		c.shards = append(slices.Clip(c.shards), s)
	}
	all := c.shards
	var open []part
	if len(all) > before {
		for o := range c.open {
			open = append(open, o)
		}
	}
	c.mu.Unlock()
	for _, o := range open {
		o.extend(all)
	}
	return nil
}

// count is how many shards the client knows.
func (c *Client) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.shards)
}

// feeds are the subscriptions of one consumer or reader, with all shards.
type feeds struct {
	mu     sync.Mutex
	all    []*feed
	shards int  // so many were asked for one
	closed bool // takes no more
}

// extend adds a feed from each shard that was not asked before; newFeed may return none.
func (f *feeds) extend(shards []*shard, newFeed func(at *shard, late bool) *feed) {
	f.mu.Lock()
	defer f.mu.Unlock()
	late := f.shards > 0
	for ; f.shards < len(shards) && !f.closed; f.shards++ {
		if one := newFeed(shards[f.shards], late); one != nil {
			one.of = f
			f.all = append(f.all, one)
			one.start()
		}
	}
}

func (f *feeds) list() []*feed {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all
}

// close has no more come.
func (f *feeds) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
}

// stop ends all feeds.
func (f *feeds) stop() {
	f.close()
	all := f.list()
	for _, one := range all {
		one.stop()
	}
	for _, one := range all {
		<-one.done
	}
}

// elsewhere reports whether a refusal by one shard may be none by another one: topics of
// dead letters and lite topics are not in all shards, and new ones come into all but one a
// moment later.
func (f *feed) elsewhere(err error) bool {
	f.absent.Store(errors.Is(err, ErrTopicNotFound) || errors.Is(err, errGroupNotFound))
	return f.absent.Load() && slices.ContainsFunc(f.of.list(), func(o *feed) bool { return !o.absent.Load() })
}
