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
	"strings"
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
	Retention
	Dedup
}

// Retention is how long a topic keeps its messages. Zero: as long as the log
// does. With a bound of its own the topic keeps them for that, shorter or longer.
type Retention struct {
	RetainAge  time.Duration // from when a message entered its queue; 0 = no bound by age
	RetainSize int64         // bytes of records in all queues together; 0 = no bound by size
}

// OwnRetention reports whether the log's retention does not apply.
func (r Retention) OwnRetention() bool { return r != Retention{} }

// Dedup is the deduplication of what is sent to a topic.
type Dedup struct {
	DedupWindow time.Duration // how long a message is remembered; 0 = no deduplication
	DedupKey    DedupKey      // "" without deduplication
	DedupMax    uint32        // how many are remembered at most
}

// DedupKey says which messages are the same one sent again: "id", those with one
// message id; "key", those with the same message keys; "property:NAME", those
// with the same value of a user property. A message without it is like no other.
type DedupKey string

const (
	DedupByID  DedupKey = "id"
	DedupByKey DedupKey = "key"

	dedupProperty = "property:"
)

// Property returns the user property that k names; ok is false for other keys.
func (k DedupKey) Property() (name string, ok bool) {
	return strings.CutPrefix(string(k), dedupProperty)
}

// Valid reports whether k is one of the three.
func (k DedupKey) Valid() bool {
	name, ok := k.Property()
	return k == DedupByID || k == DedupByKey || ok && name != ""
}
