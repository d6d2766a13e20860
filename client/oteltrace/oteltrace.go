// Package oteltrace makes OpenTelemetry spans of what a client sends and processes. It
// uses OpenTelemetry's API only: which SDK records the spans, and where they go, is the
// program's to say. Programs that do not import it link none of that.
//
// The W3C trace context of a send goes with the message (trace_context), so a consumer's
// span, also one of an official RocketMQ client, and those of a broker that was started
// with --traces belong to the same trace.
package oteltrace

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/gantry-mq/gantry/client"
)

const (
	name        = "github.com/gantry-mq/gantry/client/oteltrace"
	traceparent = "traceparent" // of propagation.TraceContext
)

// Hooks returns hooks for client.Options. With a provider of nil spans go to the global
// one. A send is a span from the call to the broker's answer; processing, one from the
// handler's call to its return, a child of the send's. A message that has a TraceContext
// keeps it.
func Hooks(provider trace.TracerProvider) client.Hooks {
	if provider == nil {
		provider = otel.GetTracerProvider()
	}
	tracer := provider.Tracer(name)
	return client.Hooks{
		Send: func(ctx context.Context, m *client.Message) func(client.Result, error) {
			ctx, span := tracer.Start(ctx, "send "+m.Topic, trace.WithSpanKind(trace.SpanKindProducer),
				trace.WithAttributes(attributes("send", m.Topic, len(m.Body))...))
			if m.TraceContext == "" {
				carrier := propagation.MapCarrier{}
				propagation.TraceContext{}.Inject(ctx, carrier)
				m.TraceContext = carrier[traceparent]
			}
			return func(r client.Result, err error) {
				if err == nil {
					span.SetAttributes(attribute.String("messaging.message.id", r.MessageID()))
				}
				end(span, err)
			}
		},
		Receive: func(ctx context.Context, m *client.Delivery) (context.Context, func(error)) {
			ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{traceparent: m.TraceContext()})
			ctx, span := tracer.Start(ctx, "process "+m.Topic(), trace.WithSpanKind(trace.SpanKindConsumer),
				trace.WithAttributes(append(attributes("process", m.Topic(), len(m.Body())),
					attribute.String("messaging.message.id", m.ID()), attribute.Int("gantry.delivery.attempt", int(m.Attempt())))...))
			return ctx, func(err error) { end(span, err) }
		},
	}
}

// attributes are those of OpenTelemetry's conventions for messaging.
func attributes(operation, topic string, size int) []attribute.KeyValue {
	return []attribute.KeyValue{
		attribute.String("messaging.system", "gantry"),
		attribute.String("messaging.operation.type", operation),
		attribute.String("messaging.destination.name", topic),
		attribute.Int("messaging.message.body.size", size),
	}
}

func end(span trace.Span, err error) {
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}
