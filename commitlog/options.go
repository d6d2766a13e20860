package commitlog

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile"
)

// Durability says when a batch counts as committed.
type Durability int

const (
	// DurabilitySync: after fdatasync. Survives power loss.
	DurabilitySync Durability = iota
	// DurabilityUnsafeAsync: after the write to the page cache; a background sync
	// begins within SyncEvery or 64 MiB. Survives the death of the process (kill
	// -9), not of the machine: a power loss takes back acknowledged batches, those
	// of the last 5 times SyncEvery or 256 MiB at most (one queue more of bytes),
	// because callers wait for a disk that is so far behind.
	DurabilityUnsafeAsync
)

// Retention says when [Log.Retain] may drop old segments.
type Retention struct {
	// Age drops segments whose last frame is older. Zero keeps them.
	Age time.Duration
	// Size drops the oldest segments while the log's files take more bytes. Zero
	// means no bound.
	Size int64
}

// Options configure a log. Only Dir is required.
type Options struct {
	// Dir holds the log's files and nothing else. It is made if missing, and
	// locked against other processes while the log is open.
	Dir string

	// FS is the file system. Nil means the operating system's.
	FS mmapfile.FS

	// SegmentSize is the size of a file in bytes: zero means 1 GiB, at least 64
	// KiB, a multiple of 4 KiB. Disk space is taken, and given back by
	// retention, in this unit; up to two more files than the log needs exist.
	// Existing files keep their size.
	SegmentSize int64

	// Durability is DurabilitySync unless something weaker is asked for.
	Durability Durability

	// SyncEvery is, in DurabilityUnsafeAsync, after what time a sync begins. Zero
	// means 200ms.
	SyncEvery time.Duration

	// FrameBytes is the payload after which a frame is closed and the next batch
	// starts another. Zero means 512 KiB. A batch is never split, so a frame with
	// one larger batch is larger.
	FrameBytes int

	// MaxBatch is the payload of the largest batch, in bytes. Zero means 16 MiB, or
	// what fits a segment if that is less.
	MaxBatch int

	// MaxQueue bounds the bytes of submitted batches that wait to be written: beyond
	// it Submit blocks. Zero means 32 MiB. One batch is always accepted.
	MaxQueue int64

	// MaxMapped bounds the bytes of segments kept mapped. Zero means 16 GiB. It
	// costs address space, and 2 MiB of page tables for every GiB that is read.
	// Segments with open views stay mapped beyond it.
	MaxMapped int64

	Retention Retention

	// Sequence is called for every batch in log order, by the one goroutine that
	// orders the log, just before the batch is checksummed and written. It may
	// change bytes of the heads in place. now is in Unix milliseconds and never
	// decreases, not even across restarts. Every batch it sees is written, or the
	// log fails.
	Sequence func(now int64, b *Batch)

	// Replicated says that others order the log: see store.go. Submit is refused, and
	// Sequence and Now are not used.
	Replicated bool

	// Now is the clock of the log, in Unix nanoseconds. Frames get its time, or that
	// of the frame before where it went back. Nil means the system's.
	Now func() int64

	// Known is a position below which the caller knows everything to be durable
	// (from its checkpoint). If the log turns out to end before it, Open refuses
	// with a CorruptError.
	Known record.Position

	// Logger gets what an operator should know. Nil means slog.Default().
	Logger *slog.Logger

	// Fatal is called once, with the first failed write or sync, after all waiting
	// callers got their error. It must not wait for Close. Nil logs and exits the
	// process with status 1: what the disk holds is unknown, and only a recovery
	// finds out.
	Fatal func(error)
}

const (
	defaultSegmentSize = 1 << 30
	minSegmentSize     = 64 << 10
	defaultMaxBatch    = 16 << 20
)

// withDefaults returns a complete copy, or every field that is wrong.
func (o Options) withDefaults() (Options, error) {
	var errs []error
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("commitlog: option "+format, args...))
		}
	}
	if o.FS == nil {
		o.FS = mmapfile.OS
	}
	if o.SegmentSize == 0 {
		o.SegmentSize = defaultSegmentSize
	}
	if o.SyncEvery == 0 {
		o.SyncEvery = 200 * time.Millisecond
	}
	if o.FrameBytes == 0 {
		o.FrameBytes = 512 << 10
	}
	largest := o.SegmentSize - segmentHeaderLen - 2*frameHeaderLen
	if o.MaxBatch == 0 {
		o.MaxBatch = int(min(defaultMaxBatch, largest))
	}
	if o.MaxQueue == 0 {
		o.MaxQueue = 32 << 20
	}
	if o.MaxMapped == 0 {
		o.MaxMapped = 16 << 30
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = func() int64 { return time.Now().UnixNano() }
	}
	if o.Sequence == nil {
		o.Sequence = func(int64, *Batch) {}
	}
	if o.Fatal == nil {
		logger := o.Logger
		o.Fatal = func(err error) {
			logger.Error("commit log failed, exiting", "err", err)
			os.Exit(1)
		}
	}
	bad(o.Dir != "", "Dir is missing")
	bad(o.SegmentSize >= minSegmentSize && o.SegmentSize%4096 == 0, "SegmentSize %d: want a multiple of 4096, at least %d", o.SegmentSize, minSegmentSize)
	bad(o.Durability == DurabilitySync || o.Durability == DurabilityUnsafeAsync, "Durability %d is unknown", o.Durability)
	bad(o.SyncEvery > 0, "SyncEvery %v: want more than 0", o.SyncEvery)
	bad(o.FrameBytes > 0, "FrameBytes %d: want more than 0", o.FrameBytes)
	bad(o.MaxBatch > 0 && int64(o.MaxBatch) <= largest && o.MaxBatch <= maxPayload, "MaxBatch %d: want 1 to %d", o.MaxBatch, min(largest, maxPayload))
	bad(o.MaxQueue > 0, "MaxQueue %d: want more than 0", o.MaxQueue)
	bad(o.MaxMapped > 0, "MaxMapped %d: want more than 0", o.MaxMapped)
	bad(o.Retention.Age >= 0 && o.Retention.Size >= 0, "Retention %+v: want 0 or more", o.Retention)
	return o, errors.Join(errs...)
}
