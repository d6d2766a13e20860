package main

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gantry-mq/gantry/proto/gantryv1"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
	"github.com/gantry-mq/gantry/test/bench/meter"
)

// What those cost who are there and wait.

// idleWait is how long a consumer asks to wait, again and again.
const idleWait = 20 * time.Second

// measureIdle counts the server's memory without connections, with connections that
// did one call, and with consumers that wait for a first message.
func measureIdle(ctx context.Context, c config, dir string, r *report) error {
	var rows [][]string
	for _, k := range []struct {
		what         string
		conns, polls int // polls of each connection
	}{
		{"connections, one call made", c.idle, 0},
		{"consumers that wait, on a connection each", c.idle, 1},
		{"consumers that wait, 100 on a connection", c.idle / 100, 100},
	} {
		s, err := start(ctx, c, serverOptions{dir: filepath.Join(dir, fmt.Sprint(k.conns, "-", k.polls))})
		if err != nil {
			return err
		}
		before, after, err := idle(ctx, s, k.conns, k.polls)
		if err != nil {
			s.kill()
			return fmt.Errorf("%s: %w\n%s", k.what, err, s.stderr.String())
		}
		if err := s.stop(); err != nil {
			return err
		}
		n := k.conns * max(k.polls, 1)
		rows = append(rows, []string{
			k.what, fmt.Sprint(n), mib(before), mib(after), fmt.Sprintf("%.1f", float64(after-before)/1024/float64(n)),
		})
	}
	r.table("Those who wait", []string{"what", "how many", "server's anonymous memory before, MiB", "with them, MiB", "KiB for each"}, rows)
	return nil
}

// idle returns the server's anonymous memory without and with those who wait.
func idle(ctx context.Context, s *server, conns, polls int) (before, after int64, err error) {
	admin, err := s.dial()
	if err != nil {
		return 0, 0, err
	}
	defer admin.Close()
	if _, err := gantryv1.NewManagementClient(admin).CreateTopic(ctx, &gantryv1.CreateTopicRequest{Name: topicName, Queues: queues}); err != nil {
		return 0, 0, err
	}
	if before, err = anonymous(s); err != nil {
		return 0, 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer cancel()
	ended := make(chan error, conns*max(polls, 1))
	for i := range conns {
		conn, err := grpc.NewClient(s.clients, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithReadBufferSize(1<<10), grpc.WithWriteBufferSize(1<<10))
		if err != nil {
			return 0, 0, err
		}
		defer conn.Close()
		m := v2.NewMessagingServiceClient(conn)
		route, err := m.QueryRoute(named(ctx, i), &v2.QueryRouteRequest{Topic: &v2.Resource{Name: topicName}, Endpoints: &v2.Endpoints{}})
		if err != nil || route.GetStatus().GetCode() != v2.Code_OK {
			return 0, 0, fmt.Errorf("connection %d: %v, %w", i, route.GetStatus(), err)
		}
		for j := range polls {
			n := i*polls + j
			req := &v2.ReceiveMessageRequest{
				Group: &v2.Resource{Name: "idle"}, MessageQueue: &v2.MessageQueue{Topic: &v2.Resource{Name: topicName}, Id: int32(n % queues)},
				FilterExpression: &v2.FilterExpression{Type: v2.FilterType_TAG, Expression: "*"}, BatchSize: 32,
				InvisibleDuration: durationpb.New(time.Minute), LongPollingTimeout: durationpb.New(idleWait),
			}
			waiting.Go(func() {
				for ctx.Err() == nil {
					stream, err := m.ReceiveMessage(named(ctx, n), req)
					if err == nil {
						var answer *v2.ReceiveMessageResponse
						if answer, err = stream.Recv(); answer.GetStatus().GetCode() == v2.Code_MESSAGE_NOT_FOUND {
							continue
						}
					}
					ended <- fmt.Errorf("a consumer does not wait: %w", err)
					return
				}
			})
		}
	}
	select { // until all are parked
	case err := <-ended:
		return 0, 0, err
	case <-time.After(3 * time.Second):
	}
	after, err = anonymous(s)
	if len(ended) > 0 {
		err = <-ended
	}
	return before, after, err
}

// named is a context of a client's calls.
func named(ctx context.Context, client int) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "x-mq-client-id", fmt.Sprint("c", client), "x-mq-language", "GO", "x-mq-protocol", "v2", "x-mq-client-version", "5.1.0")
}

// anonymous is what the server has of its own: what it maps of the log can be dropped.
func anonymous(s *server) (int64, error) {
	_, anon, err := meter.Memory(s.cmd.Process.Pid)
	return anon, err
}
