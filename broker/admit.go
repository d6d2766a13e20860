package broker

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/gantry-mq/gantry/broker/admission"
)

// Resource is what there was not enough of when a send was refused.
type Resource int

const (
	Memory      Resource = iota // everything else keeps up: the processor is what is short
	DiskFlush                   // what is written waits for the disk
	Replication                 // or for the other nodes
	DiskSpace
	resources
)

func (r Resource) String() string {
	return [...]string{"memory", "disk flush", "replication", "disk space"}[r]
}

// Admission is what Stats says of sends that are under way and of those that
// were refused.
type Admission struct {
	Bytes, Sends, Limit int64
	HeldBack            time.Duration     // of all connections that send together
	Refused             [resources]uint64 // by Resource
}

// gate is what a send passes before anything is done for it.
type gate struct {
	*admission.Gate
	refused  [resources]atomic.Uint64
	short    atomic.Int32 // Resource, as of lookedAt
	lookedAt atomic.Int64 // Unix ns
}

// lookAgain is how long what is short is taken for the same: refusing must stay
// cheap.
const lookAgain = 50 * time.Millisecond

// streamPatience is how long a batch waits for room: its stream is held back
// meanwhile, which is what its client understands best.
const streamPatience = 3 * time.Second

// admit lets a send of n bytes in. What it returns must be given to b.gate.Leave.
func (b *Broker) admit(n int) (admission.Pass, error) {
	if b.diskShort.Load() || b.indexShort.Load() {
		return admission.Pass{}, b.noSpace()
	}
	p, ok := b.gate.TryEnter(admission.Unary, n)
	if !ok {
		return admission.Pass{}, b.saturated()
	}
	return p, nil
}

// admitWaiting is admit for a batch of a stream.
func (b *Broker) admitWaiting(ctx context.Context, n int) (admission.Pass, error) {
	if b.diskShort.Load() || b.indexShort.Load() {
		return admission.Pass{}, b.noSpace()
	}
	p, ok := b.gate.Enter(ctx, admission.Stream, n, streamPatience)
	if !ok {
		if err := ctx.Err(); err != nil {
			return admission.Pass{}, err
		}
		return admission.Pass{}, b.saturated()
	}
	return p, nil
}

// HoldSender is called before more is read of a connection that sends. It waits while
// enough is under way, and reports whether little is to be read at a time.
func (b *Broker) HoldSender() (crowded bool) { return b.gate.Hold() }

// saturated is why there is no room now.
func (b *Broker) saturated() error {
	short := b.shortOf()
	b.gate.refused[short].Add(1)
	bytes, sends := b.gate.Held()
	return &Error{Reason: TooManyRequests, Message: fmt.Sprintf("%v is saturated: %d sends with %d bytes are under way, the limits are %d and %d; try again in %v",
		short, sends, bytes, b.gate.Calls(), b.gate.Limit(), max(b.gate.Took(), 10*time.Millisecond).Round(10*time.Millisecond))}
}

// shortOf looks at what the sends that are under way wait for.
func (b *Broker) shortOf() Resource {
	now := time.Now().UnixNano()
	if at := b.gate.lookedAt.Load(); now-at < int64(lookAgain) || !b.gate.lookedAt.CompareAndSwap(at, now) {
		return Resource(b.gate.short.Load())
	}
	short := Memory
	if st := b.wal.Stats(); st.Written > st.Committed || st.QueueBytes > 0 {
		if short = DiskFlush; b.term != nil {
			short = Replication
		}
	}
	b.gate.short.Store(int32(short))
	return short
}

func (b *Broker) admissionStats() (a Admission) {
	a.Bytes, a.Sends = b.gate.Held()
	a.Limit, a.HeldBack = b.gate.Limit(), b.gate.HeldBack()
	for i := range a.Refused {
		a.Refused[i] = b.gate.refused[i].Load()
	}
	return a
}
