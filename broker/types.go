package broker

import (
	"sync"
	"time"

	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// Property is one user property, in the producer's order.
type Property struct{ Key, Value string }

// Outgoing is one message to send. Strings and the body may alias the request:
// the body must stay unchanged until Send returns, nothing is kept afterwards.
type Outgoing struct {
	Topic           record.Resource
	ID              string
	Unnamed         bool // has no id: its position names it
	Body            []byte
	Packing         record.Flags // how the body is compressed: one of record.FlagsPacked, or 0
	Tag             string       // "" = none
	Keys            []string
	User            []Property
	Group           string // message group; "" = none
	HasGroup        bool
	BornTime        int64 // Unix ms, 0 = now
	BornHost        string
	Trace           string
	DueTime         int64 // Unix ms, 0 = none
	HasPriority     bool
	Priority        int32
	LiteTopic       string
	Transaction     bool
	RecoverySeconds int64
}

// Sent is what became of one message of a Send.
type Sent struct {
	MessageID     string
	TransactionID string
	Offset        record.QueueOffset
	RecallHandle  string
	Err           error // nil when it is stored
}

// FilterType is the language of a filter expression.
type FilterType int

const (
	FilterTag FilterType = iota
	FilterSQL
)

// ReceiveRequest asks for messages under a lease.
type ReceiveRequest struct {
	ClientID   string
	Group      record.Resource
	Topic      record.Resource
	Queue      int32 // a hint where to look first; -1 = anywhere
	FilterType FilterType
	Filter     string
	Batch      int           // capped at MaxReceiveBatch
	Invisible  time.Duration // 10 s .. 12 h; ignored with AutoRenew
	AutoRenew  bool          // the lease lives as long as the client, at most MaxHold
	Wait       time.Duration // how long to wait for a first message
	AttemptID  string        // "" = none
	From       Caller
	// Stop ends the wait early, as if it were over. nil = never.
	Stop <-chan struct{}
}

// Delivered is one message handed out. Message aliases the log until the
// Delivery is released.
type Delivered struct {
	Message  record.Message
	Topic    record.Resource // as subscribed
	Queue    uint32
	Offset   record.QueueOffset
	ID       string // of a message that came without one; "" when it is among its properties
	Handle   string // "" when pulled
	Attempt  int32  // from 1; 0 when pulled
	Origin   *Origin
	Unpacked bool // Message's body was replaced by Unpack, and is not in the log
	view     View
	leaseRef leaseRef
}

// View is a counted slice of the log's mapping.
type View = commitlog.View

// Hold returns a view of the message's bytes that outlives the Delivery; it
// needs a Release of its own.
func (d *Delivered) Hold() View {
	d.view.Retain()
	return d.view
}

// Origin says where a dead letter came from.
type Origin struct {
	Topic     string
	MessageID string
}

// Delivery is the answer to a receive or a pull. Release it exactly once, when
// its bytes have been sent.
type Delivery struct {
	Messages   []Delivered        // none after Release
	NextOffset record.QueueOffset // of a pull: where to go on

	room *deliveredRoom // where Messages are, if they are of a receive
}

// deliveredRoom is room for what one receive hands out.
type deliveredRoom [MaxReceiveBatch]Delivered

var deliveredRooms = sync.Pool{New: func() any { return new(deliveredRoom) }}

// newDelivery returns a Delivery of n messages, which are to be filled in.
func newDelivery(n int) *Delivery {
	if n > MaxReceiveBatch { // of several receives with one attempt id, resumed
		return &Delivery{Messages: make([]Delivered, n)}
	}
	room := deliveredRooms.Get().(*deliveredRoom)
	return &Delivery{Messages: room[:n], room: room}
}

// Release gives the mapped bytes back.
func (d *Delivery) Release() {
	for i := range d.Messages {
		d.Messages[i].view.Release()
	}
	if d.room != nil {
		clear(d.Messages)
		deliveredRooms.Put(d.room)
	}
	d.Messages, d.room = nil, nil
}

// AckEntry names one delivered message.
type AckEntry struct {
	MessageID string
	Handle    string
}

// PullRequest reads messages of one queue by offset, without a lease.
type PullRequest struct {
	Group      record.Resource
	Topic      record.Resource
	Queue      int32
	Offset     record.QueueOffset
	Batch      int
	FilterType FilterType
	Filter     string
	Wait       time.Duration
	Stop       <-chan struct{} // ends the wait early; nil = never
	From       Caller
}

// OffsetPolicy says which offset QueryOffset looks for.
type OffsetPolicy int

const (
	OffsetBeginning OffsetPolicy = iota
	OffsetEnd
	OffsetTimestamp
	OffsetExact // of ResetOffset only
)

// QueueStatus is one queue of a topic as it stands.
type QueueStatus struct {
	Queue    uint32
	Min, Max record.QueueOffset
}

// TopicStatus is a topic with its queues.
type TopicStatus struct {
	topic.Topic
	Queues []QueueStatus
}

// GroupQueueStatus is how far a group is in one queue.
type GroupQueueStatus struct {
	Topic    record.Resource
	Queue    uint32
	Cursor   record.QueueOffset // next to hand out for the first time
	Max      record.QueueOffset
	InFlight int                // handed out and neither acknowledged nor expired
	Ready    int                // waiting to be handed out again
	Oldest   record.QueueOffset // that is not acknowledged
}
