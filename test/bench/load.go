package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gantry-mq/gantry/proto/gantryv1"
	"github.com/gantry-mq/gantry/proto/rocketmqv2"
)

const (
	topicName = "bench"
	queues    = 16
)

// phase is one measured kind of work.
type phase struct {
	name  string
	batch int // messages in a call
	acks  int // messages in one acknowledgement; 0 for a send phase
}

var phases = []phase{
	{name: "send, 1 message a call", batch: 1},
	{name: "send, 32 messages a call", batch: 32},
	{name: "receive 1 a call, ack it", batch: 1, acks: 1},
	{name: "receive 32 a call, ack each", batch: 32, acks: 1},
	{name: "receive 32 a call, ack 32 a call", batch: 32, acks: 32},
}

// cost is what a phase took in one run, per message where it says so.
type cost struct {
	rate   float64 // messages per second
	cpu    float64 // us of server CPU per message
	allocs float64 // heap allocations in the server per message
	bytes  float64 // heap bytes allocated in the server per message
}

// measureLoad runs every phase under both durabilities, in turns.
func measureLoad(ctx context.Context, c config, dir string, r *report) error {
	durabilities := []string{"sync", "unsafe-async"}
	costs := map[string][]cost{}
	for run := range c.repeats {
		for _, d := range durabilities {
			s, err := start(ctx, c, serverOptions{
				dir:  filepath.Join(dir, fmt.Sprintf("%s-%d", d, run)),
				args: []string{"--durability", d},
			})
			if err != nil {
				return err
			}
			err = measurePhases(ctx, c, s, func(p phase, k cost) {
				key := d + "/" + p.name
				costs[key] = append(costs[key], k)
			})
			if err != nil {
				s.kill()
				return fmt.Errorf("%w\n%s", err, s.stderr.String())
			}
			if err := s.stop(); err != nil {
				return err
			}
		}
	}
	var rows [][]string
	for _, p := range phases {
		for _, d := range durabilities {
			k := costs[d+"/"+p.name]
			column := func(of func(cost) float64) string {
				var v []float64
				for _, one := range k {
					v = append(v, of(one))
				}
				return r.spread(v)
			}
			rows = append(rows, []string{p.name, d,
				column(func(k cost) float64 { return k.rate }), column(func(k cost) float64 { return k.cpu }),
				column(func(k cost) float64 { return k.allocs }), column(func(k cost) float64 { return k.bytes })})
		}
	}
	r.table(fmt.Sprintf("%d callers on %d connections, bodies of %d bytes", c.callers, c.conns, c.size),
		[]string{"work", "durability", "messages/s", "server CPU, us/message", "allocations/message", "bytes allocated/message"}, rows)
	return nil
}

func measurePhases(ctx context.Context, c config, s *server, report func(phase, cost)) error {
	l, err := newLoad(ctx, c, s)
	if err != nil {
		return err
	}
	defer l.close()
	for _, p := range phases {
		if p.acks > 0 {
			// Something to receive, whatever the phases before left.
			if _, err := l.run(ctx, phase{batch: 64}, l.length()/2); err != nil {
				return fmt.Errorf("filling: %w", err)
			}
		}
		k, err := l.measure(ctx, p)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		report(p, k)
	}
	return nil
}

// load is a set of callers of one server.
type load struct {
	config
	server *server
	conns  []*grpc.ClientConn
	body   []byte
	left   atomic.Int64 // messages sent and not received
}

func (l *load) length() time.Duration { return time.Duration(l.seconds * float64(time.Second)) }

func newLoad(ctx context.Context, c config, s *server) (*load, error) {
	l := &load{config: c, server: s, body: bytes.Repeat([]byte("gantry-bench "), c.size/13+1)[:c.size]}
	for range c.conns {
		conn, err := s.dial()
		if err != nil {
			return nil, errors.Join(err, l.close())
		}
		l.conns = append(l.conns, conn)
	}
	_, err := gantryv1.NewManagementClient(l.conns[0]).CreateTopic(ctx, &gantryv1.CreateTopicRequest{Name: topicName, Queues: queues})
	if err != nil && status.Code(err) != codes.AlreadyExists {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

func (l *load) close() error {
	var errs []error
	for _, c := range l.conns {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// measure runs p and reads the server's meters around it.
func (l *load) measure(ctx context.Context, p phase) (cost, error) {
	read := func() (cpu time.Duration, mallocs, heap float64, err error) {
		mallocs, err1 := l.server.metric("go_memstats_mallocs_total")
		heap, err2 := l.server.metric("go_memstats_alloc_bytes_total")
		cpu, err3 := l.server.cpu()
		return cpu, mallocs, heap, errors.Join(err1, err2, err3)
	}
	cpu0, mallocs0, heap0, err := read()
	if err != nil {
		return cost{}, err
	}
	begun := time.Now()
	n, err := l.run(ctx, p, l.length())
	took := time.Since(begun)
	if err != nil {
		return cost{}, err
	}
	cpu1, mallocs1, heap1, err := read()
	if err != nil {
		return cost{}, err
	}
	if n == 0 {
		return cost{}, errors.New("no message got through")
	}
	per := float64(n)
	return cost{
		rate:   per / took.Seconds(),
		cpu:    float64(cpu1-cpu0) / float64(time.Microsecond) / per,
		allocs: (mallocs1 - mallocs0) / per,
		bytes:  (heap1 - heap0) / per,
	}, nil
}

// run has every caller work on p until time is up or, receiving, nothing is
// left. It returns how many messages were done with.
func (l *load) run(ctx context.Context, p phase, limit time.Duration) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	polls, drained := context.WithCancel(ctx)
	defer drained()
	stop := make(chan struct{})
	timer := time.AfterFunc(limit, func() { close(stop) })
	defer timer.Stop()

	var (
		done  atomic.Int64
		wait  sync.WaitGroup
		once  sync.Once
		first error
	)
	for i := range l.callers {
		wait.Go(func() {
			caller := l.caller(ctx, i)
			for {
				select {
				case <-stop:
					return
				case <-ctx.Done():
					return
				default:
				}
				var n int64
				var err error
				if p.acks == 0 {
					n, err = caller.send(p.batch)
				} else {
					n, err = caller.receive(polls, drained, p.batch, p.acks)
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
	if first == nil && ctx.Err() != nil {
		first = ctx.Err()
	}
	return done.Load(), first
}

var errDrained = errors.New("nothing left")

type caller struct {
	*load
	header metadata.MD
	ctx    context.Context
	client rocketmqv2.MessagingServiceClient
}

func (l *load) caller(ctx context.Context, i int) *caller {
	header := metadata.Pairs("x-mq-client-id", fmt.Sprintf("bench@%d", i),
		"x-mq-language", "GO", "x-mq-client-version", "5.1.4", "x-mq-protocol", "v2")
	return &caller{
		load:   l,
		header: header,
		ctx:    metadata.NewOutgoingContext(ctx, header),
		client: rocketmqv2.NewMessagingServiceClient(l.conns[i%len(l.conns)]),
	}
}

func (c *caller) send(batch int) (int64, error) {
	messages := make([]*rocketmqv2.Message, batch)
	for i := range messages {
		messages[i] = &rocketmqv2.Message{
			Topic: &rocketmqv2.Resource{Name: topicName},
			Body:  c.body,
			SystemProperties: &rocketmqv2.SystemProperties{
				MessageId: "01BENCH00000000000000000000000000", MessageType: rocketmqv2.MessageType_NORMAL,
				BodyEncoding: rocketmqv2.Encoding_IDENTITY, BornHost: "bench",
			},
		}
	}
	r, err := c.client.SendMessage(c.ctx, &rocketmqv2.SendMessageRequest{Messages: messages})
	if err != nil {
		return 0, err
	}
	if r.GetStatus().GetCode() != rocketmqv2.Code_OK {
		return 0, fmt.Errorf("send: %v", r.GetStatus())
	}
	c.left.Add(int64(batch))
	return int64(batch), nil
}

// receive takes up to batch messages and acknowledges them, acks in a call. The
// last message ends everybody's polls by calling drained: callers that wait for
// more would only measure the wait.
func (c *caller) receive(polls context.Context, drained func(), batch, acks int) (int64, error) {
	if c.left.Load() <= 0 {
		return 0, errDrained
	}
	group, topic := &rocketmqv2.Resource{Name: "bench-readers"}, &rocketmqv2.Resource{Name: topicName}
	stream, err := c.client.ReceiveMessage(metadata.NewOutgoingContext(polls, c.header), &rocketmqv2.ReceiveMessageRequest{
		Group: group,
		MessageQueue: &rocketmqv2.MessageQueue{Topic: topic, Id: -1, Permission: rocketmqv2.Permission_READ_WRITE,
			Broker: &rocketmqv2.Broker{Name: "gantry"}},
		FilterExpression:   &rocketmqv2.FilterExpression{Type: rocketmqv2.FilterType_TAG, Expression: "*"},
		BatchSize:          int32(batch),
		InvisibleDuration:  durationpb.New(time.Minute),
		LongPollingTimeout: durationpb.New(5 * time.Second),
	})
	if err != nil {
		return 0, orDrained(polls, err)
	}
	var entries []*rocketmqv2.AckMessageEntry
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, orDrained(polls, err)
		}
		if m := r.GetMessage(); m != nil {
			if !bytes.Equal(m.GetBody(), c.body) {
				return 0, errors.New("receive: a body came back changed")
			}
			entries = append(entries, &rocketmqv2.AckMessageEntry{
				MessageId: m.GetSystemProperties().GetMessageId(), ReceiptHandle: m.GetSystemProperties().GetReceiptHandle(),
			})
		}
		if st := r.GetStatus(); st != nil && st.GetCode() != rocketmqv2.Code_OK && st.GetCode() != rocketmqv2.Code_MESSAGE_NOT_FOUND {
			return 0, fmt.Errorf("receive: %v", st)
		}
	}
	if c.left.Add(-int64(len(entries))) <= 0 {
		drained()
	}
	for at := 0; at < len(entries); at += acks {
		r, err := c.client.AckMessage(c.ctx, &rocketmqv2.AckMessageRequest{
			Group: group, Topic: topic, Entries: entries[at:min(at+acks, len(entries))],
		})
		if err != nil {
			return int64(at), err
		}
		if r.GetStatus().GetCode() != rocketmqv2.Code_OK {
			return int64(at), fmt.Errorf("ack: %v", r.GetStatus())
		}
	}
	return int64(len(entries)), nil
}

func orDrained(polls context.Context, err error) error {
	if polls.Err() != nil {
		return errDrained
	}
	return err
}
