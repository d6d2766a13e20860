// Package api is the gRPC edge: it reads requests, calls the broker, and writes
// the answers as the official RocketMQ 5 clients expect them.
//
// Two services share one port, apache.rocketmq.v2.MessagingService for clients
// and gantry.v1.Management for operators, beside gRPC's own health and
// reflection. TLS and plaintext share it too: the first byte decides.
//
// # Two levels of errors
//
// To SDKs a gRPC error means that the server is unreachable: they isolate it
// and reconnect. So everything a messaging client should understand is a
// Status inside an ordinary response, and only Telemetry, whose stream has to
// end somehow, ends with a gRPC status. Management follows gRPC's own custom.
// status.go holds the one table from the broker's reasons to both.
//
// # Whose bytes
//
// Bodies are not copied here: what goes to the broker aliases the request, what
// comes from it aliases the mapped log until the Delivery is released, which is
// after gRPC has encoded the last message.
package api
