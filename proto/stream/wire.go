package stream

import (
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// marshal writes a message without records.
func marshal(m proto.Message) (mem.BufferSlice, error) {
	b, err := proto.Marshal(m)
	return mem.BufferSlice{mem.SliceBuffer(b)}, err
}

// content returns the bytes of field num of p, if that is all there is in p.
func content(p []byte, num protowire.Number) ([]byte, bool) { return message(p, num, len(p)) }

// message is content of something with size bytes that begins with p.
func message(p []byte, num protowire.Number, size int) ([]byte, bool) {
	got, typ, n := protowire.ConsumeTag(p)
	if n < 0 || got != num || typ != protowire.BytesType {
		return nil, false
	}
	inner, m := protowire.ConsumeVarint(p[n:])
	if n += m; m < 0 || inner != uint64(size-n) {
		return nil, false
	}
	return p[n:], true
}

// envelop puts h, which is followed by tail more bytes, into field num.
func envelop(h []byte, num protowire.Number, tail int) []byte {
	size := uint64(len(h) + tail)
	n := protowire.SizeTag(num) + protowire.SizeVarint(size)
	h = append(h, make([]byte, n)...)
	copy(h[n:], h)
	protowire.AppendVarint(protowire.AppendTag(h[:0], num, protowire.BytesType), size)
	return h
}

func appendUint(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

func sizeUint(num protowire.Number, v uint64) int {
	if v == 0 {
		return 0
	}
	return protowire.SizeTag(num) + protowire.SizeVarint(v)
}

func appendString(b []byte, num protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), s)
}

func sizeString(num protowire.Number, s string) int {
	if s == "" {
		return 0
	}
	return protowire.SizeTag(num) + protowire.SizeBytes(len(s))
}

// fields walks the fields of p. It ends with false when one of the functions does,
// for a field of another type, and for what is no message.
func fields(p []byte, number func(protowire.Number, uint64) bool, bytes func(protowire.Number, []byte) bool) bool {
	for len(p) > 0 {
		num, typ, n := protowire.ConsumeTag(p)
		if n < 0 {
			return false
		}
		p = p[n:]
		var ok bool
		switch typ {
		case protowire.VarintType:
			var v uint64
			v, n = protowire.ConsumeVarint(p)
			ok = n > 0 && number(num, v)
		case protowire.BytesType:
			var v []byte
			v, n = protowire.ConsumeBytes(p)
			ok = n > 0 && bytes(num, v)
		}
		if !ok {
			return false
		}
		p = p[n:]
	}
	return true
}
