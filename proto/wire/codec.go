// Package wire is the gRPC codec of both doors. A message that knows its own
// wire format is read and written by itself, so that bodies stay where they
// are; every other message goes through protobuf as usual.
package wire

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// Marshaler is a message that writes itself. The returned slices are handed to
// gRPC, which frees them when they are on their way to the socket: whatever
// they alias must stay put until then, so each brings a [mem.Buffer] whose Free
// says so.
type Marshaler interface {
	MarshalWire() (mem.BufferSlice, error)
}

// Unmarshaler is a message that reads itself. data is gRPC's and is freed when
// UnmarshalWire returns: a message that keeps slices of it takes a reference
// ([mem.Buffer.Ref]) and gives it back when it is done.
type Unmarshaler interface {
	UnmarshalWire(data mem.BufferSlice) error
}

// Codec is protobuf's wire format with the exceptions above. Its name is
// "proto": on the wire nobody can tell the two apart.
type Codec struct{}

var fallback = encoding.GetCodecV2(proto.Name)

func (Codec) Name() string { return proto.Name }

func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	if m, ok := v.(Marshaler); ok {
		return m.MarshalWire()
	}
	return fallback.Marshal(v)
}

func (Codec) Unmarshal(data mem.BufferSlice, v any) error {
	if m, ok := v.(Unmarshaler); ok {
		return m.UnmarshalWire(data)
	}
	return fallback.Unmarshal(data, v)
}
