// Package topic is the table of topics: a pure state machine over topic
// records. It has no goroutines and does no I/O.
//
// # Concurrency
//
// Apply is called by the dispatcher only. Everything else may be called
// concurrently with it and sees a consistent snapshot.
package topic

import (
	"fmt"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// Type says which messages a topic accepts. Values are part of the disk format.
type Type uint8

const (
	Normal      Type = 1
	FIFO        Type = 2
	Delay       Type = 3
	Transaction Type = 4
	Lite        Type = 5
	Priority    Type = 6
	Mixed       Type = 7
)

var typeNames = map[Type]string{
	Normal: "normal", FIFO: "fifo", Delay: "delay", Transaction: "transaction",
	Lite: "lite", Priority: "priority", Mixed: "mixed",
}

func (t Type) String() string {
	if s, ok := typeNames[t]; ok {
		return s
	}
	return fmt.Sprintf("type(%d)", uint8(t))
}

// ParseType reads what String writes.
func ParseType(s string) (Type, bool) {
	for t, name := range typeNames {
		if name == s {
			return t, true
		}
	}
	return 0, false
}

// Topic is one topic. Values handed out are copies and never change.
type Topic struct {
	ID      record.TopicID
	Name    record.Resource
	Type    Type
	Queues  uint32
	Created int64         // Unix ms
	LiteTTL time.Duration // a lite topic goes when nobody wrote to it for so long; 0 = never
}
