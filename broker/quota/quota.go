// Package quota bounds what may be sent and received. What the bounds are is a state
// machine over records; how much of them is used up is memory of the one who leads.
// It has no goroutines and does no I/O.
//
// # Rates
//
// Each rate has a bucket that holds one second's worth and is full at the start. A send
// is taken or refused whole: when there is as much in the bucket as it takes, or the
// bucket is full, for a send may be larger than a second's worth. What it takes beyond is
// owed, and later ones wait until that is paid. A receive does not know beforehand what
// it will find: it goes ahead when there is anything in the bucket, looks for no more
// than that, and pays for what it found. So several at one time may take somewhat more
// than a second's worth, and the time after that is quieter; in the long run the rate
// holds.
//
// # Messages in flight
//
// are those that a group has leased and neither acknowledged nor lost to time. That bound
// is never passed: a receive reserves what it may lease before it looks.
//
// # Concurrency
//
// Apply, Restore and AppendSnapshot are called by the dispatcher. Everything else may
// be called concurrently with them. While there is no quota, Active is one atomic load,
// and nothing else is to be called.
package quota

import (
	"cmp"
	"fmt"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// Kind of what a quota is of. The numbers are part of the disk format and of gantry.v1.
type Kind uint8

const (
	Topic     Kind = 1
	Group     Kind = 2
	Client    Kind = 3 // by its id
	User      Kind = 4
	Namespace Kind = 5 // all topics in it together
	Kinds     Kind = 6 // one more than there are
)

func (k Kind) String() string {
	return [...]string{"", "topic", "group", "client", "user", "namespace"}[k]
}

// Each, as a name, is every one of the kind that has no quota of its own, by itself; of
// topics and groups those in the namespace.
const Each = "*"

// Subject is what a quota is of.
type Subject struct {
	Kind            Kind
	record.Resource // Namespace is of topics and groups only
}

func (s Subject) String() string { return fmt.Sprintf("%v %q", s.Kind, s.Resource.String()) }

func compare(a, b Subject) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// Limit is one of the bounds of a quota. The numbers are part of the disk format.
type Limit uint8

const (
	SendMessages    Limit = iota // a second
	SendBytes                    // a second, of records: body, properties and a head of some 100 bytes
	ReceiveMessages              // a second, each delivery counted
	ReceiveBytes
	InFlight // of a group
	limits

	rates = InFlight
)

// Limits are the bounds of a quota by Limit; 0 = none.
type Limits [limits]uint64

// Names are the limits', as commands and metrics have them.
var Names = [limits]string{"send-messages", "send-bytes", "receive-messages", "receive-bytes", "in-flight"}

// MaxLimit bounds each.
const MaxLimit = 1e12

// Quota is what a subject may use.
type Quota struct {
	Subject
	Limits
}

// Excess is why something has to wait.
type Excess struct {
	Of    Subject
	Limit Limit
	Max   uint64
	Retry time.Duration // then it can be tried again
	// Either may be ready earlier: a message is not in flight any more, which one of
	// those that wait is told, and a quota was changed.
	Freed, Changed <-chan struct{}
}

func (e *Excess) Error() string {
	what := [limits]string{"messages/s sent", "bytes/s sent", "messages/s received", "bytes/s received", "messages in flight"}[e.Limit]
	return fmt.Sprintf("the quota of %v is %d %s; try again in %v", e.Of, e.Max, what, max(e.Retry, time.Millisecond).Round(time.Millisecond))
}
