package api

import (
	"runtime"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/mem"

	"github.com/gantry-mq/gantry/broker"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
	"github.com/gantry-mq/gantry/proto/wire"
)

const (
	// replyBytes is what a reply begins with. It must be more than 1 KiB: gRPC does
	// not say when it is done with a smaller buffer.
	replyBytes = 2 << 10

	// replyKeep bounds what a reply keeps for its next use.
	replyKeep = 16 << 10

	// replyRoom is left before a message for what is only known when it is
	// complete: the tag and the length of the field that it is.
	replyRoom = 1 + 5

	// sliceBody is the size from which a body goes out as a slice of the log's
	// mapping. gRPC copies all it sends once, into its write buffer; a smaller body
	// is copied behind its head before that, which costs less than to count a view
	// and to have gRPC walk another buffer. See BenchmarkDelivery.
	sliceBody = 4 << 10
)

// reply is a message on its way out: encoded, in memory that is used again when
// gRPC has sent it.
type reply struct {
	buf   []byte // what goes out first; its start may be skipped
	start int

	out   []byte // buf[start:]
	parts [2]mem.Buffer
	open  atomic.Int32 // of parts, not freed yet
	kept  *kept
}

// kept is the body of a reply where it is not in buf. It is a piece of memory of
// its own because of leaks: gRPC forgets what is still to be sent when a
// connection or a stream ends at the wrong moment. Plain memory is none the
// worse for that, but a view would pin its segment for ever. So when the garbage
// collector finds that nobody can send a reply any more, it gives the view back.
type kept struct {
	body  []byte
	view  broker.View
	leave func() // nil, or gives back the room that body takes
}

func (k *kept) release() {
	k.view.Release()
	if k.leave != nil {
		k.leave()
	}
}

var replies = sync.Pool{New: func() any {
	r := &reply{buf: make([]byte, 0, replyBytes), kept: &kept{}}
	runtime.AddCleanup(r, (*kept).release, r.kept)
	return r
}}

func newReply() *reply { return replies.Get().(*reply) }

// MarshalWire hands the reply over: from now on it is gRPC's.
func (r *reply) MarshalWire() (mem.BufferSlice, error) {
	r.out = r.buf[r.start:]
	r.parts[0] = mem.NewBuffer(&r.out, (*replyPart)(r))
	if r.kept.body == nil {
		r.open.Store(1)
		return r.parts[:1], nil
	}
	r.parts[1] = mem.NewBuffer(&r.kept.body, (*replyPart)(r))
	r.open.Store(2)
	return r.parts[:2], nil
}

// free gives the reply back. gRPC's part of it must be over.
func (r *reply) free() {
	r.kept.release()
	*r.kept = kept{}
	r.parts = [2]mem.Buffer{}
	r.start = 0
	if r.buf = r.buf[:0]; cap(r.buf) <= replyKeep {
		replies.Put(r)
	}
}

// replyPart is where the buffers of a reply come back to.
type replyPart reply

func (*replyPart) Get(int) *[]byte { panic("api: a reply lends no buffers") }

func (p *replyPart) Put(*[]byte) {
	if r := (*reply)(p); r.open.Add(-1) == 0 {
		r.free()
	}
}

// fixed is a reply that is always the same.
type fixed mem.BufferSlice

func (f fixed) MarshalWire() (mem.BufferSlice, error) { return mem.BufferSlice(f), nil }

// appendStatus appends a Status as a field of the message around it.
func appendStatus(b []byte, field wire.Number, st *v2.Status) []byte {
	b, start := wire.Begin(b, field)
	b = wire.AppendInt(b, 1, int64(st.Code))
	b = wire.AppendString(b, 2, st.Message)
	return wire.End(b, start)
}
