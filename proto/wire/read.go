package wire

import (
	"errors"
	"unicode/utf8"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// What a message on the wire can have wrong with it. Protobuf's own decoder
// refuses the same bytes.
var (
	ErrMalformed = errors.New("wire: bytes that are not a protobuf message")
	ErrUTF8      = errors.New("wire: a string field is not UTF-8")
)

// Reader walks the fields of one message where they lie. It follows protobuf's
// rules: a field that the caller does not know, or that has another wire type
// than the caller reads it as, is passed over; the first failure ends the walk.
//
//	for r := wire.NewReader(b); r.Next(); {
//		switch r.Field() {
//		case 1:
//			if s, ok := r.String(); ok { ... }
//		default:
//			r.Skip()
//		}
//	}
//	return r.Err()
//
// Each turn reads its field exactly once, by Skip or one of the others.
type Reader struct {
	b     []byte
	field Number
	typ   protowire.Type
	err   error
}

// NewReader reads the message whose bytes are b. What it returns aliases b.
func NewReader(b []byte) *Reader { return &Reader{b: b} }

// Next reports whether there is another field, and moves to it.
func (r *Reader) Next() bool {
	if len(r.b) == 0 {
		return false
	}
	tag := uint64(r.b[0])
	n := 1
	if tag >= 0x80 {
		tag, n = protowire.ConsumeVarint(r.b)
	}
	field, typ := protowire.DecodeTag(tag)
	if n < 0 || field < protowire.MinValidNumber || field > protowire.MaxValidNumber {
		r.Fail(ErrMalformed)
		return false
	}
	r.b, r.field, r.typ = r.b[n:], field, typ
	return true
}

// Field is the number of the field that Next moved to.
func (r *Reader) Field() Number { return r.field }

// Err returns what ended the walk early.
func (r *Reader) Err() error { return r.err }

// Fail ends the walk. The first failure counts; nil is none.
func (r *Reader) Fail(err error) {
	if err != nil && r.err == nil {
		r.err = err
		r.b = nil
	}
}

// Skip passes over the field.
func (r *Reader) Skip() {
	n := protowire.ConsumeFieldValue(r.field, r.typ, r.b)
	if n < 0 {
		r.Fail(ErrMalformed)
		return
	}
	r.b = r.b[n:]
}

// Varint reads an integer, a bool or an enum. Of more bits than the field's
// type has, the upper ones count for nothing.
func (r *Reader) Varint() (v uint64, ok bool) {
	if r.typ != protowire.VarintType {
		r.Skip()
		return 0, false
	}
	v, n := protowire.ConsumeVarint(r.b)
	if n < 0 {
		r.Fail(ErrMalformed)
		return 0, false
	}
	r.b = r.b[n:]
	return v, true
}

// Varints reads a repeated integer or enum that nobody wants to know, packed or
// not.
func (r *Reader) Varints() {
	if r.typ != protowire.BytesType {
		r.Varint()
		return
	}
	v, _ := r.Bytes()
	for len(v) > 0 {
		_, n := protowire.ConsumeVarint(v)
		if n < 0 {
			r.Fail(ErrMalformed)
			return
		}
		v = v[n:]
	}
}

// Bytes reads a bytes field or the encoding of a message.
func (r *Reader) Bytes() (v []byte, ok bool) {
	if r.typ != protowire.BytesType {
		r.Skip()
		return nil, false
	}
	v, n := protowire.ConsumeBytes(r.b)
	if n < 0 {
		r.Fail(ErrMalformed)
		return nil, false
	}
	r.b = r.b[n:]
	return v[:len(v):len(v)], true
}

// String reads a string field. The string aliases the input: it lasts as long
// as those bytes stay where and as they are.
func (r *Reader) String() (s string, ok bool) {
	v, ok := r.Bytes()
	if !ok {
		return "", false
	}
	if !utf8.Valid(v) {
		r.Fail(ErrUTF8)
		return "", false
	}
	return unsafe.String(unsafe.SliceData(v), len(v)), true
}

// Check reads a message that nobody wants to know, for its faults only.
func (r *Reader) Check(m proto.Message) {
	if v, ok := r.Bytes(); ok {
		r.Fail(proto.Unmarshal(v, m))
	}
}
