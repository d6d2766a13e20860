package commitlog

import (
	"errors"
	"fmt"

	"github.com/gantry-mq/gantry/commitlog/record"
)

var (
	// ErrClosed: the log was closed.
	ErrClosed = errors.New("commitlog: closed")
	// ErrFailed: a write or fdatasync failed earlier; the outcome of what was
	// waiting then is unknown, and nothing more is accepted.
	ErrFailed = errors.New("commitlog: failed")
	// ErrDiskFull: refused before anything was written; the log goes on, and
	// accepts again once there is space.
	ErrDiskFull = errors.New("commitlog: disk full")
	// ErrBatchTooLarge: the batch exceeds Options.MaxBatch.
	ErrBatchTooLarge = errors.New("commitlog: batch too large")
	// ErrBatchState: the batch is empty, or still waits from an earlier Submit.
	ErrBatchState = errors.New("commitlog: batch empty or in use")
	// ErrOutOfRange: the position is below First or not committed.
	ErrOutOfRange = errors.New("commitlog: position out of range")
	// ErrCorrupt is wrapped by every CorruptError.
	ErrCorrupt = errors.New("commitlog: corrupt")

	// What is wrong with a header or a frame. CorruptError says where.
	ErrMagic     = errors.New("commitlog: not what should be here")
	ErrVersion   = errors.New("commitlog: format version this build does not read")
	ErrChecksum  = errors.New("commitlog: checksum mismatch")
	ErrMalformed = errors.New("commitlog: impossible field")
	ErrSequence  = errors.New("commitlog: does not follow what is before it")
	ErrMissing   = errors.New("commitlog: missing")
)

// CorruptError reports bytes that fail verification although they were known to
// be durable. A torn tail is not corruption: Open cuts it and carries on.
// Nothing is repaired or removed when this error is returned.
type CorruptError struct {
	Segment string          // path of the file
	Pos     record.Position // where the bad bytes begin
	Cause   error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("commitlog: %s: corrupt at position %d: %v", e.Segment, e.Pos, e.Cause)
}

func (e *CorruptError) Unwrap() []error { return []error{ErrCorrupt, e.Cause} }
