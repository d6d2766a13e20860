// Package stream reads and writes the two messages of gantry.v1.Streams that carry
// records, for client and server alike: the records stay in one piece of pooled
// memory when they arrive and where they are when they leave. All other messages
// are the generated ones of package gantryv1.
//
// The types go where gRPC takes any message: SendMsg and RecvMsg of a stream
// whose codec is package wire's. On the wire nobody can tell them from the
// generated ones. What the records are is package record's to say (pack.go
// there); docs/stream.md draws it all.
package stream
