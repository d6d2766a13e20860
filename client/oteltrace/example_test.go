package oteltrace_test

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/gantry-mq/gantry/client"
	"github.com/gantry-mq/gantry/client/oteltrace"
	"github.com/gantry-mq/gantry/internal/brokertest"
	"github.com/gantry-mq/gantry/proto/gantryv1"
)

func ExampleHooks() {
	s, stop := brokertest.StartExample() // a program has one at 127.0.0.1:8081
	defer stop()
	s.CreateTopic("orders", gantryv1.TopicType_NORMAL, 1)
	ctx := context.Background()

	// A program has an exporter here, such as otlptracehttp.
	spans := tracetest.NewInMemoryExporter()
	provider := trace.NewTracerProvider(trace.WithSyncer(spans))

	c, err := client.Dial(ctx, []string{s.Addr}, client.Options{Hooks: oteltrace.Hooks(provider)})
	if err != nil {
		panic(err)
	}
	defer c.Close(ctx)
	p, err := c.NewProducer(client.ProducerOptions{Topic: "orders"})
	if err != nil {
		panic(err)
	}
	if _, err := p.Send(ctx, &client.Message{Body: []byte("one espresso")}); err != nil {
		panic(err)
	}

	co, err := c.NewConsumer(client.ConsumerOptions{Group: "baristas", Topic: "orders"})
	if err != nil {
		panic(err)
	}
	running, done := context.WithCancel(ctx)
	if err := co.Run(running, func(ctx context.Context, m *client.Delivery) error {
		done() // one is enough
		return nil
	}, client.RunOptions{}); err != nil && running.Err() == nil {
		panic(err)
	}

	got := spans.GetSpans()
	for _, s := range got {
		fmt.Println(s.SpanKind, s.Name)
	}
	fmt.Println("one trace:", got[0].SpanContext.TraceID() == got[1].SpanContext.TraceID(), got[1].Parent.SpanID() == got[0].SpanContext.SpanID())
	// Output:
	// producer send orders
	// consumer process orders
	// one trace: true true
}
