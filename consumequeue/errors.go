package consumequeue

import (
	"errors"
	"fmt"

	"github.com/gantry-mq/gantry/commitlog/record"
)

var (
	// ErrMissing: the snapshot names an arena that is not there, is short, is
	// another one, or has given pages to other queues since. Open an empty store
	// instead and replay the log.
	ErrMissing = errors.New("consumequeue: arena missing")
	// ErrSnapshot: the bytes are not a snapshot of this format. As ErrMissing.
	ErrSnapshot = errors.New("consumequeue: bad snapshot")
	// ErrCorrupt: an entry fails its check. Matched by a *CorruptError.
	ErrCorrupt = errors.New("consumequeue: corrupt entry")
	// ErrOutOfRange: no such offset in the queue. Matched by a *RangeError.
	ErrOutOfRange = errors.New("consumequeue: offset out of range")
	// ErrGap: the entry would not follow the queue's last one. Matched by a *GapError.
	ErrGap = errors.New("consumequeue: gap in offsets")
	// ErrInvalid: an entry without size or with an impossible offset.
	ErrInvalid = errors.New("consumequeue: invalid entry")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("consumequeue: closed")
)

// CorruptError reports an entry that is not what was written for that queue and
// offset. The store is derived data: wipe it and replay the log.
type CorruptError struct {
	Arena  string // path of the file
	At     int64  // byte offset in the file
	Key    record.QueueKey
	Offset record.QueueOffset
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%v: %s at byte %d, queue %v offset %d", ErrCorrupt, e.Arena, e.At, e.Key, e.Offset)
}

func (e *CorruptError) Unwrap() error { return ErrCorrupt }

// RangeError reports an offset outside [Min, Max] of its queue. A queue that is
// unknown has the bounds 0, 0.
type RangeError struct {
	Key      record.QueueKey
	Offset   record.QueueOffset
	Min, Max record.QueueOffset
}

func (e *RangeError) Error() string {
	return fmt.Sprintf("%v: queue %v has [%d, %d), asked for %d", ErrOutOfRange, e.Key, e.Min, e.Max, e.Offset)
}

func (e *RangeError) Unwrap() error { return ErrOutOfRange }

// GapError reports a Put that skips offsets.
type GapError struct {
	Key         record.QueueKey
	Offset, Max record.QueueOffset // Max was expected
}

func (e *GapError) Error() string {
	return fmt.Sprintf("%v: queue %v: offset %d after max %d", ErrGap, e.Key, e.Offset, e.Max)
}

func (e *GapError) Unwrap() error { return ErrGap }
