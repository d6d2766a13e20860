package broker

import (
	"context"

	"github.com/gantry-mq/gantry/broker/admission"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/compress"
)

// Bodies are stored and delivered as they came; who consumes them decompresses
// them. Only apache.rocketmq.v2, which has no name for what gantry.v1 compresses
// with, and operators get what was inside.

// unpackDoor is the one that all go through: there is one kind of them.
const unpackDoor = admission.Stream

// packed reports that m's body is one that Unpack decompresses.
func packed(m *record.Message) bool {
	p := m.Flags.Packing()
	return p != 0 && p != record.FlagGzip
}

// Unpack decompresses d's body for a client that knows gzip alone, and makes d a
// message that was never compressed. Then leave is not nil, and is called when the body
// was sent: it gives room to others. A body of which nothing can be made is left as it came, for its
// consumer to find unreadable: a message that cannot be delivered would be in the way
// of others. The error is TooManyRequests, or ctx's end.
func (b *Broker) Unpack(ctx context.Context, d *Delivered) (leave func(), err error) {
	if !packed(&d.Message) {
		return nil, nil
	}
	body, pass, err := b.unpack(ctx, &d.Message)
	if body == nil {
		return nil, err
	}
	d.Message.Body, d.Unpacked = body, true
	d.Message.Flags &^= record.FlagsPacked
	return func() { b.unpacking.Leave(pass) }, nil
}

// PlainBody returns m's body as its producer had it before it was compressed, in
// memory of its own, for operators to see; a body of which nothing can be made as it came,
// and why. The error is TooManyRequests, or ctx's end.
func (b *Broker) PlainBody(ctx context.Context, m *record.Message) (body []byte, unreadable string, err error) {
	if m.Flags.Packing() == 0 {
		return append([]byte(nil), m.Body...), "", nil
	}
	body, pass, err := b.unpack(ctx, m)
	if err != nil {
		return nil, "", err
	}
	b.unpacking.Leave(pass)
	if body == nil {
		return append([]byte(nil), m.Body...), "it does not decompress as " + m.Flags.PackingName(), nil
	}
	return body, "", nil
}

// unpack returns nil when nothing can be made of m's body.
func (b *Broker) unpack(ctx context.Context, m *record.Message) ([]byte, admission.Pass, error) {
	// What comes out is not known, and lies in twice its size while it grows.
	pass, ok := b.unpacking.Enter(ctx, unpackDoor, 2*record.MaxBody, UnpackWait)
	if !ok {
		return nil, pass, Errorf(TooManyRequests, "too many bodies are being decompressed: a client of gantry.v1 does it itself")
	}
	body, err := compress.Expand(m.Flags.Packing(), m.Body)
	if err != nil {
		b.unpacking.Leave(pass)
		b.counters.unreadable.Add(1)
		return nil, admission.Pass{}, nil
	}
	b.counters.unpacked.Add(1)
	return body, b.unpacking.Shrink(pass, len(body)), nil
}
