// Package commitlog is one ordered, checksummed, append-only log of opaque
// payload, in files of fixed size that are read through a mapping.
//
// Callers append batches of records; batches that are waiting at the same time
// share frames, one write and one fdatasync. The log knows where a record is,
// never what it means (package record does).
//
// # Three watermarks
//
//	First <= Committed <= Written
//
// Written bytes are in the page cache. Committed bytes are what readers see and
// what [Batch.Wait] waits for: in [DurabilitySync] they are on disk, in
// [DurabilityUnsafeAsync] they are merely written.
//
// # Failure
//
// The first failed write or fdatasync makes the log fail for good: nobody
// waiting is told success, Options.Fatal is called once, every later Submit
// returns ErrFailed. It is not tried again, because after a failed write-back
// the kernel forgets which pages never reached the disk. A full disk is not
// such a failure: blocks are allocated a segment ahead, so it is noticed before
// anything is written (ErrDiskFull).
//
// # Concurrency
//
// All methods of [Log] may be called concurrently, but for [Log.Scrub]. A Log runs three goroutines,
// started by Open and joined by Close:
//
//   - write orders the log: it takes everything that waits, has it sequenced,
//     and writes it (write.go);
//   - sync makes what is written durable and wakes the callers, while write
//     goes on (sync.go);
//   - prepare makes segments before they are needed and saves the checkpoint
//     from which recovery starts (prepare.go).
//
// Log.mu guards what they hand to each other and is never held during I/O.
// Reading takes no lock that an append takes: the segment list is an immutable
// slice behind an atomic pointer, and bytes below Committed never change.
package commitlog
