package history

import (
	"context"
	"flag"
	"fmt"
	"os/exec"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/gantry-mq/gantry/proto/gantryv1"
	"github.com/gantry-mq/gantry/proto/rocketmqv2"
)

var failovers = flag.Int("failovers", 0, "how often TestHowLongSendsWait kills the leader, and has it hand over")

// How long a producer waits for an answer when the leader is killed, and when it
// hands over. It prints what it sees and asserts nothing of it.
func TestHowLongSendsWait(t *testing.T) {
	if *failovers == 0 {
		t.Skip("a measurement: -failovers N")
	}
	c := newCluster(t, build(t))
	_, err := gantryv1.NewManagementClient(c.dial(t)).CreateTopic(t.Context(), &gantryv1.CreateTopicRequest{Name: plainTopic, Type: gantryv1.TopicType_NORMAL, Queues: 1})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last atomic.Int64 // Unix ns of the last answer
	var longest atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		send(ctx, rocketmqv2.NewMessagingServiceClient(c.dial(t)), &last, &longest)
	}()
	measure := func(what string, f func()) {
		var gaps []time.Duration
		for range *failovers {
			c.await(c.settled)
			longest.Store(0)
			f()
			c.await(c.settled)
			time.Sleep(100 * time.Millisecond)
			gaps = append(gaps, time.Duration(max(longest.Load(), time.Now().UnixNano()-last.Load())))
		}
		slices.Sort(gaps)
		at := func(q float64) time.Duration { return gaps[int(q*float64(len(gaps)-1))].Round(time.Millisecond) }
		t.Logf("%s, %d times: the longest wait for an answer was p50 %v, p90 %v, p99 %v, at most %v", what, len(gaps), at(.5), at(.9), at(.99), at(1))
	}
	measure("leadership handed over", func() {
		if out, err := exec.Command(c.nodes[0].binary, "cluster", "transfer", "--server", c.nodes[0].addr).CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
	})
	measure("leader killed", func() {
		s := c.nodes[c.leader()]
		must(t, s.kill())
		time.Sleep(6 * time.Second) // it is not what ends the wait
		must(t, s.start())
		must(t, s.await())
	})
	cancel()
	<-ended
}

// send sends one message after the other, each until it is answered, and notes the
// longest time between two answers.
func send(ctx context.Context, stub rocketmqv2.MessagingServiceClient, last, longest *atomic.Int64) {
	ctx = metadata.AppendToOutgoingContext(ctx, "x-mq-client-id", "failover", "x-mq-language", "GO", "x-mq-client-version", "5.1.4", "x-mq-protocol", "v2")
	last.Store(time.Now().UnixNano())
	for n := 0; ctx.Err() == nil; {
		call, cancel := context.WithTimeout(ctx, 3*time.Second) // as the official clients do
		r, err := stub.SendMessage(call, &rocketmqv2.SendMessageRequest{Messages: []*rocketmqv2.Message{{
			Topic: &rocketmqv2.Resource{Name: plainTopic}, Body: []byte("x"),
			SystemProperties: &rocketmqv2.SystemProperties{MessageId: fmt.Sprint("failover-", n), MessageType: rocketmqv2.MessageType_NORMAL},
		}}})
		cancel()
		if err != nil || r.GetStatus().GetCode() != rocketmqv2.Code_OK {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		n++
		now := time.Now().UnixNano()
		if gap := now - last.Load(); gap > longest.Load() {
			longest.Store(gap)
		}
		last.Store(now)
		time.Sleep(time.Millisecond)
	}
}
