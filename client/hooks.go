package client

import "context"

// Hooks watch messages go by, for tracing and metrics. Each may be nil. Package
// client/oteltrace has some that make OpenTelemetry's spans.
type Hooks struct {
	// Send is called with each message, its topic filled in, before it is packed, and may change it:
	// put a W3C trace context into TraceContext. The function that it returns, if
	// any, is called with the outcome.
	Send func(ctx context.Context, m *Message) func(Result, error)
	// Receive is called with each message before the handler of [Consumer.Run] is,
	// and returns the context that the handler gets. The function that it returns,
	// if any, is called with what the handler returned.
	Receive func(ctx context.Context, m *Delivery) (context.Context, func(error))
}
