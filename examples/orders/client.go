package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
	"github.com/apache/rocketmq-clients/golang/v5/credentials"
)

func config(group string) *rmq.Config {
	return &rmq.Config{Endpoint: os.Getenv("GANTRY_SERVER"), ConsumerGroup: group, Credentials: &credentials.SessionCredentials{}}
}

// clients are the clients of this program. When a step fails the program ends without stopping them.
type clients struct {
	running []interface{ GracefulStop() error }
}

func (c *clients) add(client interface{ GracefulStop() error }) {
	c.running = append(c.running, client)
}

// stop stops all clients. A push consumer waits for its receives, which the broker holds for up to 20 s; so they stop side by side.
func (c *clients) stop() error {
	stopped := make(chan error)
	for _, client := range c.running {
		go func() { stopped <- client.GracefulStop() }()
	}
	var err error
	for range c.running {
		err = errors.Join(err, <-stopped)
	}
	return err
}

func (c *clients) produce(options ...rmq.ProducerOption) (rmq.Producer, error) {
	p, err := rmq.NewProducer(config(""), options...)
	if err == nil {
		c.add(p)
		err = p.Start()
	}
	return p, err
}

// subscribe runs a push consumer. handle says whether the message is done; when it is not, it comes again.
func (c *clients) subscribe(group, topic string, filter *rmq.FilterExpression, handle func(*rmq.MessageView) bool) error {
	p, err := rmq.NewPushConsumer(config(group),
		rmq.WithPushSubscriptionExpressions(map[string]*rmq.FilterExpression{topic: filter}),
		// One message group must not wait for another that came in the same batch; without this the client takes a batch one by one.
		rmq.WithPushEnableFifoConsumeAccelerator(true),
		rmq.WithPushMessageListener(&rmq.FuncMessageListener{Consume: func(mv *rmq.MessageView) rmq.ConsumerResult {
			if handle(mv) {
				return rmq.SUCCESS
			}
			return rmq.FAILURE
		}}))
	if err == nil {
		c.add(p)
		err = p.Start()
	}
	return err
}

// A journal is what a consumer has seen. Deliveries are at least once, so it counts each message a single time.
type journal struct {
	mu      sync.Mutex
	entries []string       // in the order of their first delivery
	times   map[string]int // deliveries of each
	faults  []error        // what must not happen
}

// add notes an entry and says whether it is new.
func (j *journal) add(entry string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.times == nil {
		j.times = map[string]int{}
	}
	if j.times[entry]++; j.times[entry] > 1 {
		return false
	}
	j.entries = append(j.entries, entry)
	return true
}

func (j *journal) fault(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.faults = append(j.faults, fmt.Errorf(format, args...))
}

// seen returns the entries in order, and the first fault.
func (j *journal) seen() ([]string, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.faults) > 0 {
		return nil, j.faults[0]
	}
	return slices.Clone(j.entries), nil
}

// settle waits until all of want (sorted) were seen, then watches for a further time that nothing else comes.
func (j *journal) settle(ctx context.Context, want []string, further time.Duration) error {
	for {
		got, err := j.seen()
		if err != nil {
			return err
		}
		if len(got) >= len(want) {
			break
		}
		if !pause(ctx, 20*time.Millisecond) {
			slices.Sort(got)
			return fmt.Errorf("saw %d of %d: %q, want %q", len(got), len(want), got, want)
		}
	}
	pause(ctx, further)
	got, err := j.seen()
	slices.Sort(got)
	if err == nil && !slices.Equal(got, want) {
		err = fmt.Errorf("saw %q, want %q", got, want)
	}
	return err
}

// pause waits, and says whether it was until the end and not until that of ctx.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
