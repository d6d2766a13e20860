package wire

import "google.golang.org/protobuf/encoding/protowire"

// Number is the number of a field.
type Number = protowire.Number

// AppendString appends a string field unless it is "", as proto3 does with
// fields without presence.
func AppendString[T string | []byte](b []byte, field Number, s T) []byte {
	if len(s) == 0 {
		return b
	}
	return AppendBytes(b, field, s)
}

// AppendBytes appends a string or bytes field, also when it is empty.
func AppendBytes[T string | []byte](b []byte, field Number, s T) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(len(s)))
	return append(b, s...)
}

// AppendInt appends an integer field unless it is 0.
func AppendInt(b []byte, field Number, v int64) []byte {
	if v == 0 {
		return b
	}
	return AppendPresentInt(b, field, v)
}

// AppendPresentInt appends an integer field, also when it is 0.
func AppendPresentInt(b []byte, field Number, v int64) []byte {
	b = protowire.AppendTag(b, field, protowire.VarintType)
	return protowire.AppendVarint(b, uint64(v))
}

// Begin starts a message inside of another. The caller appends its fields and
// then calls End with the value of start.
func Begin(b []byte, field Number) (_ []byte, start int) {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return append(b, 0), len(b) + 1
}

// End completes the message begun at start. Its length takes the one byte that
// Begin left for it, or moves the message by what it needs beyond that.
func End(b []byte, start int) []byte {
	n := uint64(len(b) - start)
	if n < 0x80 {
		b[start-1] = byte(n)
		return b
	}
	extra := protowire.SizeVarint(n) - 1
	b = append(b, "\x00\x00\x00\x00"[:extra]...)
	copy(b[start+extra:], b[start:])
	protowire.AppendVarint(b[:start-1], n)
	return b
}
