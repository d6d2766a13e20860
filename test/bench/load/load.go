// Package load drives an endpoint of apache.rocketmq.v2 the way official clients
// do: settings over a command stream first, the route asked for, then unary
// sends and streamed receives. It knows nothing of who answers, so that the same
// callers can be pointed at Gantry and at Apache RocketMQ's proxy.
//
// Topics must exist: making them is not part of the public contract.
package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// Options say where to and how much. All fields are required.
type Options struct {
	Addr    string   // HOST:PORT, plaintext
	Topics  []string // written and read in turn
	Group   string   // of the consumers
	Callers int      // calls under way at any time
	Conns   int      // connections they share; one client each
	Size    int      // bytes of a body, at least 8
}

// Work is what every caller repeats.
type Work struct {
	Batch int // messages in a call; a receive asks for at most so many
	Acks  int // 0 to send; else to receive, with so many messages in one acknowledgement
}

// Done is what came of it.
type Done struct {
	Messages int64
	Took     time.Duration
	Refused  int64 // calls answered TOO_MANY_REQUESTS, repeated after a pause and not counted above
}

// Load is a set of callers of one endpoint. Its methods must not run at the same
// time.
type Load struct {
	Options
	conns   []*grpc.ClientConn
	broker  string // name the route gave
	body    []byte
	left    atomic.Int64 // messages sent and not received
	calls   atomic.Int64
	refused atomic.Int64

	stop     func() // ends the clients' command streams and heartbeats
	sessions sync.WaitGroup
}

// Dial connects, asks for the route, and registers a producer and a consumer for
// each connection.
func Dial(ctx context.Context, o Options) (*Load, error) {
	l := &Load{Options: o, body: bytes.Repeat([]byte("gantry-bench "), o.Size/13+1)[:o.Size]}
	live, stop := context.WithCancel(context.WithoutCancel(ctx))
	l.stop = stop
	if err := l.dial(ctx, live); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Load) dial(ctx, live context.Context) error {
	for range l.Conns {
		conn, err := grpc.NewClient("passthrough:///"+l.Addr,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
		if err != nil {
			return err
		}
		l.conns = append(l.conns, conn)
	}
	if err := l.askRoute(ctx); err != nil {
		return err
	}
	for i, conn := range l.conns {
		for _, role := range []v2.ClientType{v2.ClientType_PRODUCER, v2.ClientType_SIMPLE_CONSUMER} {
			if err := l.register(live, v2.NewMessagingServiceClient(conn), role, i); err != nil {
				return fmt.Errorf("settings of a %v: %w", role, err)
			}
		}
	}
	return nil
}

// Close ends the clients and their connections.
func (l *Load) Close() error {
	l.stop()
	l.sessions.Wait()
	var errs []error
	for _, c := range l.conns {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// Run has every caller repeat w until limit is over or, receiving, all that this
// Load sent was received.
func (l *Load) Run(ctx context.Context, w Work, limit time.Duration) (Done, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	polls, drained := context.WithCancel(ctx)
	defer drained()
	var (
		done  atomic.Int64
		wait  sync.WaitGroup
		once  sync.Once
		first error
	)
	refused, begun := l.refused.Load(), time.Now()
	for i := range l.Callers {
		wait.Go(func() {
			c := l.caller(ctx, i)
			for ctx.Err() == nil && time.Since(begun) < limit {
				var n int64
				var err error
				if w.Acks == 0 {
					n, err = c.send(w.Batch)
				} else {
					n, err = c.receive(polls, drained, w)
				}
				done.Add(n)
				if errors.Is(err, errDrained) {
					return
				}
				if err != nil {
					once.Do(func() { first = err; cancel() })
					return
				}
			}
		})
	}
	wait.Wait()
	if first == nil {
		first = ctx.Err()
	}
	return Done{Messages: done.Load(), Took: time.Since(begun), Refused: l.refused.Load() - refused}, first
}

// Left is how many messages this Load sent and did not receive.
func (l *Load) Left() int64 { return l.left.Load() }

// Send sends total messages, batch in a call.
func (l *Load) Send(ctx context.Context, total int64, batch int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wait sync.WaitGroup
	var left atomic.Int64
	left.Store(total)
	for i := range l.Callers {
		wait.Go(func() {
			c := l.caller(ctx, i)
			for ctx.Err() == nil && left.Add(-int64(batch)) > -int64(batch) {
				n, err := c.send(batch)
				if err != nil {
					cancel(err)
				} else if n == 0 {
					left.Add(int64(batch)) // refused: again
				}
			}
		})
	}
	wait.Wait()
	return context.Cause(ctx)
}
