package history

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/gantry-mq/gantry/proto/rocketmqv2"
	"github.com/gantry-mq/gantry/test/history/check"
)

const (
	callLimit = 30 * time.Second // of one call: longer than any restart
	lease     = 10 * time.Second // the shortest that a receive may ask for
)

// recorder is a history and its clock.
type recorder struct {
	check.History
	began time.Time
	calls atomic.Int64
}

func (r *recorder) now() int64 { return int64(time.Since(r.began)) }

// client is what producers and consumers have in common. It belongs to one
// goroutine.
type client struct {
	*recorder
	*rand.Rand
	name string
	stub rocketmqv2.MessagingServiceClient
}

func newClient(r *recorder, conn *grpc.ClientConn, name string, seed uint64) client {
	return client{recorder: r, name: name, stub: rocketmqv2.NewMessagingServiceClient(conn), Rand: rand.New(rand.NewPCG(seed, check.Sum([]byte(name))))}
}

func (c *client) call(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	return metadata.AppendToOutgoingContext(ctx, "x-mq-client-id", c.name,
		"x-mq-language", "GO", "x-mq-client-version", "5.1.4", "x-mq-protocol", "v2"), cancel
}

// pace spreads the load: what matters happens around a kill, and the checker
// looks at everything.
func (c *client) pace(done <-chan struct{}) {
	select {
	case <-done:
	case <-time.After(time.Duration(c.Int64N(int64(10 * time.Millisecond)))):
	}
}
