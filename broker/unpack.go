package broker

import (
	"context"
	"sync"
	"time"

	"github.com/gantry-mq/gantry/broker/admission"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/compress"
)

// Bodies are stored and delivered as they came; who consumes them decompresses
// them. Only apache.rocketmq.v2, which has no name for what gantry.v1 compresses
// with, and operators get what was inside.

// unpackDoor is the one that all go through: there is one kind of them.
const unpackDoor = admission.Stream

// unpacked are the bodies that lie decompressed until they are sent.
type unpacked struct {
	*admission.Gate
	mu    sync.Mutex
	lying map[*lying]struct{} // guarded by mu
}

type lying struct {
	pass  admission.Pass
	since time.Time
	cut   func()
}

func (u *unpacked) add(pass admission.Pass, cut func()) *lying {
	l := &lying{pass, time.Now(), cut}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.lying[l] = struct{}{}
	return l
}

// remove may come late, or twice: gRPC forgets what it had to send when a connection ends.
func (u *unpacked) remove(l *lying) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, ok := u.lying[l]; ok {
		delete(u.lying, l)
		u.Leave(l.pass)
	}
}

// cutSlow makes room by ending the connections that have not taken a body for as long as
// others wait for one.
func (u *unpacked) cutSlow() {
	u.mu.Lock()
	var slow []*lying
	for l := range u.lying {
		if time.Since(l.since) >= UnpackWait {
			slow = append(slow, l)
			delete(u.lying, l)
			u.Leave(l.pass)
		}
	}
	u.mu.Unlock()
	for _, l := range slow {
		l.cut()
	}
}

// packed reports that m's body is one that Unpack decompresses.
func packed(m *record.Message) bool {
	p := m.Flags.Packing()
	return p != 0 && p != record.FlagGzip
}

// Packed reports that Unpack has something to do.
func (d *Delivered) Packed() bool { return packed(&d.Message) }

// Unpack decompresses d's body for a client that knows gzip alone, and makes d a
// message that was never compressed. Then leave is not nil, and is called when the body
// was sent: it gives room to others. When that takes longer than UnpackWait and others
// have no room, cut is called, on a goroutine of theirs: it ends whatever takes the body
// so slowly. A body of which nothing can be made is left as it came, for its consumer to
// find unreadable: a message that cannot be delivered would be in the way of others. The
// error is TooManyRequests, or ctx's end.
func (b *Broker) Unpack(ctx context.Context, d *Delivered, cut func()) (leave func(), err error) {
	if !d.Packed() {
		return nil, nil
	}
	body, pass, err := b.unpack(ctx, &d.Message)
	if body == nil {
		return nil, err
	}
	d.Message.Body, d.Unpacked = body, true
	d.Message.Flags &^= record.FlagsPacked
	l := b.unpacking.add(pass, cut)
	return func() { b.unpacking.remove(l) }, nil
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
	if !ok && ctx.Err() == nil {
		b.unpacking.cutSlow()
		pass, ok = b.unpacking.Enter(ctx, unpackDoor, 2*record.MaxBody, UnpackWait)
	}
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
