// Package group is the table of consumer groups: a pure state machine over
// group records. It has no goroutines and does no I/O.
//
// # Concurrency
//
// Apply is called by the dispatcher only. Everything else may be called
// concurrently with it and sees a consistent snapshot.
package group

import (
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// Group is one consumer group. Values handed out are copies and never change.
type Group struct {
	ID          record.GroupID
	Name        record.Resource
	FIFO        bool
	MaxAttempts int32 // deliveries before a message is a dead letter, at least 1
	Retry       Retry
	LiteTopic   string // parent topic of a lite group; "" = any
	Lite        Lite
	Created     int64 // Unix ms
	Paused      bool  // it is handed nothing; what it holds it may settle
}

// Lite says how a group takes lite topics.
type Lite struct {
	Exclusive  bool   // a lite topic is for one client at a time: the last one to subscribe
	Shared     bool   // all lite topics are for all clients, who subscribe to none by name
	ResetTaken bool   // one that is taken over begins at its first message
	ResetLeft  bool   // and so does one that a client unsubscribes from
	Quota      uint32 // lite topics of one client; 0 = the default
}

// Retry says how long a message waits before attempt n+1.
type Retry struct {
	Steps      []time.Duration // customised: step n-1 after attempt n, the last one for ever
	Initial    time.Duration   // exponential, when Steps is empty
	Max        time.Duration
	Multiplier float64
}

// DefaultSteps are the reference's: wire-contract 3.4.
func DefaultSteps() []time.Duration {
	return []time.Duration{
		1 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second,
		1 * time.Minute, 2 * time.Minute, 3 * time.Minute, 4 * time.Minute, 5 * time.Minute,
		6 * time.Minute, 7 * time.Minute, 8 * time.Minute, 9 * time.Minute, 10 * time.Minute,
		20 * time.Minute, 30 * time.Minute, 1 * time.Hour, 2 * time.Hour,
	}
}
