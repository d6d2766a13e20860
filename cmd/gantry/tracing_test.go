package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	v1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	gantry "github.com/gantry-mq/gantry/client"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

const (
	sampled   = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	unsampled = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
)

// collected is what a collector was sent.
type collected struct {
	mu    sync.Mutex
	spans []*v1.Span
}

func (c *collected) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	var req collector.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(raw, &req)
	}
	if err != nil || r.URL.Path != "/v1/traces" {
		http.Error(out, "not a trace", http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rs := range req.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			c.spans = append(c.spans, ss.Spans...)
		}
	}
}

func attributes(s *v1.Span) map[string]string {
	all := map[string]string{}
	for _, a := range s.Attributes {
		all[a.Key] = a.Value.GetStringValue()
	}
	return all
}

func TestTracedMessagesLeaveSpansOfEachStepThroughBothDoors(t *testing.T) {
	c := &collected{}
	endpoint := httptest.NewServer(c)
	defer endpoint.Close()
	s := serve(t, t.TempDir(), "--traces", endpoint.URL)
	s.run(t, "topic", "create", "rmq", "--queues", "1")
	s.run(t, "topic", "create", "ours", "--queues", "1")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()

	conn, err := grpc.NewClient(s.server, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	rmq, as := v2.NewMessagingServiceClient(conn), metadata.AppendToOutgoingContext(ctx, "x-mq-client-id", "c1")
	for id, trace := range map[string]string{"m1": sampled, "m2": unsampled} {
		_, err := rmq.SendMessage(as, &v2.SendMessageRequest{Messages: []*v2.Message{{
			Topic: &v2.Resource{Name: "rmq"}, Body: []byte("x"), SystemProperties: &v2.SystemProperties{MessageId: id, TraceContext: &trace},
		}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	group := &v2.Resource{Name: "g"}
	stream, err := rmq.ReceiveMessage(as, &v2.ReceiveMessageRequest{
		Group: group, MessageQueue: &v2.MessageQueue{Topic: &v2.Resource{Name: "rmq"}, Id: -1}, BatchSize: 2,
		InvisibleDuration: durationpb.New(30 * time.Second), LongPollingTimeout: durationpb.New(10 * time.Second),
	})
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	for r, err := stream.Recv(); err == nil; r, err = stream.Recv() {
		m := r.GetMessage()
		if m == nil {
			continue
		}
		got++
		if want := map[string]string{"m1": sampled, "m2": unsampled}[m.SystemProperties.MessageId]; m.SystemProperties.GetTraceContext() != want {
			t.Errorf("delivered with the context %q", m.SystemProperties.GetTraceContext())
		}
		_, err := rmq.AckMessage(as, &v2.AckMessageRequest{Group: group, Topic: m.Topic, Entries: []*v2.AckMessageEntry{
			{MessageId: m.SystemProperties.MessageId, ReceiptHandle: m.SystemProperties.GetReceiptHandle()},
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	if got != 2 {
		t.Fatalf("%d messages", got)
	}

	ours, err := gantry.Dial(ctx, []string{s.server}, gantry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close(ctx)
	p, err := ours.NewProducer(gantry.ProducerOptions{Topic: "ours"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Send(ctx, &gantry.Message{Body: []byte("x"), ID: "m3", TraceContext: sampled}); err != nil {
		t.Fatal(err)
	}
	consumer, err := ours.NewConsumer(gantry.ConsumerOptions{Topic: "ours", Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	handled, stop := context.WithCancel(ctx)
	consumer.Run(handled, func(context.Context, *gantry.Delivery) error { stop(); return nil }, gantry.RunOptions{})
	consumer.Close(ctx)
	p.Close(ctx)
	s.stop() // sends what there is

	c.mu.Lock()
	defer c.mu.Unlock()
	seen := map[string]*v1.Span{}
	for _, span := range c.spans {
		if id := attributes(span)["messaging.message.id"]; id == "m2" {
			t.Errorf("a trace that is not sampled was recorded: %v", span)
		} else {
			seen[span.Name+" "+id] = span
		}
		const traceID, parent = "\x0a\xf7\x65\x19\x16\xcd\x43\xdd\x84\x48\xeb\x21\x1c\x80\x31\x9c", "\xb7\xad\x6b\x71\x69\x20\x33\x31"
		if string(span.TraceId) != traceID || string(span.ParentSpanId) != parent || span.EndTimeUnixNano < span.StartTimeUnixNano {
			t.Errorf("not a child of the producer's span: %v", span)
		}
	}
	for _, name := range []string{"store rmq m1", "deliver rmq m1", "settle rmq m1", "store ours m3", "deliver ours m3", "settle ours m3"} {
		if seen[name] == nil {
			t.Errorf("no span %q among %d", name, len(c.spans))
		}
	}
	if len(c.spans) != 6 {
		t.Errorf("%d spans", len(c.spans))
	}
	if a := attributes(seen["settle rmq m1"]); a["gantry.settle.outcome"] != "acknowledged" || a["messaging.consumer.group.name"] != "g" || a["messaging.client.id"] != "c1" {
		t.Errorf("settled with %v", a)
	}
}

func TestTracesAreOffUnlessSomethingSaysWhereTo(t *testing.T) {
	for _, c := range []struct {
		flag string
		env  map[string]string
		on   bool
	}{
		{"", nil, false},
		{"http://127.0.0.1:4318", nil, true},
		{"", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, true},
		{"", map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/x"}, true},
		{"", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_TRACES_EXPORTER": "none"}, false},
		{"http://127.0.0.1:4318", map[string]string{"OTEL_SDK_DISABLED": "true"}, false},
	} {
		t.Run("", func(t *testing.T) {
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			tracing, err := startTracing(c.flag, "", slog.New(slog.DiscardHandler))
			if err != nil || (tracing != nil) != c.on || (tracing.step() != nil) != c.on {
				t.Errorf("%q with %v: %v, %v", c.flag, c.env, tracing, err)
			}
			tracing.close()
		})
	}
	if _, err := startTracing("127.0.0.1:4318", "", slog.New(slog.DiscardHandler)); err == nil {
		t.Error("an address without a scheme was taken")
	}
}
