package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
	"github.com/gantry-mq/gantry/test/bench/text"
)

// What a consumer waits for while others send more than can be stored. It is a process
// of its own: in that of the senders, it would wait for them, too.

// besideAfter is when the senders are at it.
const besideAfter = 500 * time.Millisecond

// waits are how long calls took, in seconds.
type waits struct {
	Receive, Ack, Heartbeat []float64
	Failed                  int
}

// text is p50 and p99 of each, in ms.
func (w *waits) text() string {
	one := func(took []float64) string {
		if len(took) == 0 {
			return "none"
		}
		slices.Sort(took)
		return fmt.Sprintf("%s, %s", text.Number(1000*took[len(took)/2]), text.Number(1000*took[len(took)*99/100]))
	}
	s := fmt.Sprintf("receive %s; ack %s; heartbeat %s (%d of each)", one(w.Receive), one(w.Ack), one(w.Heartbeat), len(w.Ack))
	if w.Failed > 0 {
		s += fmt.Sprintf("; %d failed", w.Failed)
	}
	return s
}

// watchBeside has a process of its own consume for a while, and returns who waits for it.
func watchBeside(ctx context.Context, addr string, length time.Duration) (wait func() (*waits, error), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, "-beside", addr, "-seconds", fmt.Sprint(length.Seconds()))
	cmd.Stderr = os.Stderr
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() (*waits, error) {
		w := &waits{}
		err := cmd.Wait()
		return w, errors.Join(err, json.Unmarshal(out.Bytes(), w))
	}, nil
}

// consumeBeside is that process: one call after the other.
func consumeBeside(addr string, length time.Duration) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	c := v2.NewMessagingServiceClient(conn)
	ctx = metadata.AppendToOutgoingContext(ctx, "x-mq-client-id", "beside", "x-mq-language", "GO", "x-mq-client-version", "5.1.4", "x-mq-protocol", "v2")
	group := &v2.Resource{Name: "beside"}
	topic := &v2.Resource{Name: topicName}
	w := &waits{}
	timed := func(into *[]float64, call func(context.Context) (v2.Code, error)) {
		within, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		begun := time.Now()
		code, err := call(within)
		if err != nil || code != v2.Code_OK {
			w.Failed++
			return
		}
		*into = append(*into, time.Since(begun).Seconds())
	}
	c.Heartbeat(ctx, &v2.HeartbeatRequest{Group: group, ClientType: v2.ClientType_SIMPLE_CONSUMER}) // introduces it, and is refused for that
	time.Sleep(besideAfter)
	for begun := time.Now(); time.Since(begun) < length-besideAfter; {
		var got []*v2.AckMessageEntry
		timed(&w.Receive, func(ctx context.Context) (code v2.Code, err error) {
			s, err := c.ReceiveMessage(ctx, &v2.ReceiveMessageRequest{
				Group: group, MessageQueue: &v2.MessageQueue{Topic: topic, Id: -1}, BatchSize: 1,
				FilterExpression:   &v2.FilterExpression{Type: v2.FilterType_TAG, Expression: "*"},
				InvisibleDuration:  durationpb.New(time.Minute),
				LongPollingTimeout: durationpb.New(10 * time.Second),
			})
			for err == nil {
				var r *v2.ReceiveMessageResponse
				if r, err = s.Recv(); err != nil {
					break
				}
				if st := r.GetStatus(); st != nil {
					code = st.GetCode()
				}
				if m := r.GetMessage(); m != nil {
					got = append(got, &v2.AckMessageEntry{MessageId: m.GetSystemProperties().GetMessageId(), ReceiptHandle: m.GetSystemProperties().GetReceiptHandle()})
				}
			}
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return code, err
		})
		if len(got) == 0 {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		timed(&w.Ack, func(ctx context.Context) (v2.Code, error) {
			r, err := c.AckMessage(ctx, &v2.AckMessageRequest{Group: group, Topic: topic, Entries: got})
			return r.GetStatus().GetCode(), err
		})
		timed(&w.Heartbeat, func(ctx context.Context) (v2.Code, error) {
			r, err := c.Heartbeat(ctx, &v2.HeartbeatRequest{Group: group, ClientType: v2.ClientType_SIMPLE_CONSUMER})
			return r.GetStatus().GetCode(), err
		})
	}
	return json.NewEncoder(os.Stdout).Encode(w)
}
