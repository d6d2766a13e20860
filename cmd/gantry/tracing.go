package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/internal/logging"
)

// traceDrain is how long the last spans have to be sent when the broker stops.
const traceDrain = 5 * time.Second

// tracing sends the steps of messages that carry a sampled W3C trace context as
// OpenTelemetry spans, by OTLP over HTTP. A span is a child of the one whose context
// the producer put into the message. What the collector does not take in time is
// dropped: nobody waits for it.
type tracing struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

// startTracing returns nil when nothing says where to: neither endpoint, which is
// --traces, nor the environment. The variables are OpenTelemetry's own.
func startTracing(endpoint, node string, logger *slog.Logger) (*tracing, error) {
	logger = logger.With(logging.Component, "traces")
	var options []otlptracehttp.Option
	switch {
	case os.Getenv("OTEL_SDK_DISABLED") == "true":
		return nil, nil
	case endpoint != "":
		if !strings.HasPrefix(endpoint, "http://") && !strings.HasPrefix(endpoint, "https://") {
			return nil, usageErrorf("--traces %q: want a URL like http://127.0.0.1:4318", endpoint)
		}
		if !strings.Contains(strings.SplitN(endpoint, "://", 2)[1], "/") {
			endpoint += "/v1/traces"
		}
		options = append(options, otlptracehttp.WithEndpointURL(endpoint))
	case os.Getenv("OTEL_TRACES_EXPORTER") == "none":
		return nil, nil
	case os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "":
		return nil, nil
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { logger.Warn("spans were not sent", "error", err) }))
	exporter, err := otlptracehttp.New(context.Background(), options...) // connects when there is something to send
	if err != nil {
		return nil, fmt.Errorf("--traces: %w", err)
	}
	about, err := resource.New(context.Background(),
		resource.WithAttributes(attribute.String("service.name", "gantry"), attribute.String("service.version", readBuild().version), attribute.String("service.instance.id", node)),
		resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("--traces: %w", err)
	}
	t := &tracing{provider: sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))}
	t.tracer = t.provider.Tracer("github.com/gantry-mq/gantry")
	return t, nil
}

// step is what the broker tells of a message: nil when there is no tracing.
func (t *tracing) step() func(broker.Step) {
	if t == nil {
		return nil
	}
	return t.span
}

var stepNames = map[broker.StepKind]string{broker.StepStore: "store", broker.StepDeliver: "deliver", broker.StepSettle: "settle"}

func (t *tracing) span(s broker.Step) {
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": s.Trace})
	about := []attribute.KeyValue{
		attribute.String("messaging.system", "gantry"),
		attribute.String("messaging.operation.name", stepNames[s.Kind]),
		attribute.String("messaging.destination.name", s.Topic.String()),
		attribute.String("messaging.message.id", s.MessageID),
	}
	if s.Kind != broker.StepStore {
		about = append(about,
			attribute.String("messaging.consumer.group.name", s.Group.String()),
			attribute.String("messaging.client.id", s.Client),
			attribute.Int64("messaging.destination.partition.id", int64(s.Queue)),
			attribute.Int64("gantry.message.offset", int64(s.Offset)),
			attribute.Int64("gantry.delivery.attempt", int64(s.Attempt)))
	}
	if s.Kind == broker.StepSettle {
		about = append(about, attribute.String("gantry.settle.outcome", s.Outcome), attribute.Float64("gantry.delivery.held_seconds", s.Held.Seconds()))
	}
	_, span := t.tracer.Start(ctx, stepNames[s.Kind]+" "+s.Topic.String(),
		trace.WithTimestamp(s.Began), trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(about...))
	span.End(trace.WithTimestamp(s.Ended))
}

// close sends what there is still.
func (t *tracing) close() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), traceDrain)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		otel.Handle(err)
	}
}
