// Package mmapfile is the only place where Gantry touches files of fixed size:
// preallocated, mapped, written with errors that can be seen, and made durable
// on request.
//
// Everything goes through [FS] and [File], so that the same storage code runs
// over the operating system ([OS]) and over a disk in memory that can lose
// power (package crashtest).
//
// Three rules keep a mapping from killing the process with SIGBUS: a file has
// all its blocks before it is mapped (a full disk is an error of [FS.Create],
// never a fault), a file never shrinks, and a range that may have to come from
// the disk is asked for with [Mapping.Populate], which returns a media error
// instead of faulting on it.
//
// # Concurrency
//
// All methods may be called concurrently, except that one File takes one WriteV
// at a time. The package starts no goroutine.
package mmapfile

import (
	"errors"
	"fmt"
	"io"
)

// ErrNoSpace says that the file system or the quota is full. It wraps the
// system's own error.
var ErrNoSpace = errors.New("mmapfile: no space left")

// AwaitSpace calls f, and again while that fails for want of space and wait, which is
// asked each time, is true. wait is told nil when f has found space after that.
func AwaitSpace(f func() error, wait func(error) bool) error {
	for waited := false; ; waited = true {
		err := f()
		full := errors.Is(err, ErrNoSpace)
		if full && wait(err) {
			continue
		}
		if waited && !full {
			wait(nil)
		}
		return err
	}
}

// LockedError says that another process holds the lock of Dir. PID is 0 when
// the holder could not be read.
type LockedError struct {
	Dir string
	PID int
}

func (e *LockedError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("mmapfile: %s is in use by another process", e.Dir)
	}
	return fmt.Sprintf("mmapfile: %s is in use by process %d", e.Dir, e.PID)
}

// FS is a file system as storage needs it. Names are paths.
//
// Changes of a directory (Create, Rename, Remove) survive a power loss only
// after SyncDir of that directory.
type FS interface {
	// Create makes a file of size bytes, every block of it allocated, content
	// zero. The name must be free. On error (ErrNoSpace among them) no file is
	// left behind.
	Create(name string, size int64) (File, error)
	// Open opens an existing file for reading and writing. Its size is fixed from
	// then on.
	Open(name string) (File, error)
	// OpenRead opens an existing file for reading only.
	OpenRead(name string) (File, error)
	// Rename replaces newName if it exists.
	Rename(oldName, newName string) error
	Remove(name string) error
	MkdirAll(dir string) error
	// List returns the names (not paths) in dir in lexical order, directories
	// with a slash at the end.
	List(dir string) ([]string, error)
	// SyncDir makes the directory's entries durable.
	SyncDir(dir string) error
	// Lock takes the exclusive lock of dir, which must exist, until the closer is
	// closed or the process ends. A *LockedError names who has it.
	Lock(dir string) (io.Closer, error)
}

// File is an open file of fixed size.
type File interface {
	Name() string
	Size() int64
	// ReadAt is io.ReaderAt.
	ReadAt(p []byte, off int64) (int, error)
	// ReadCold is ReadAt that leaves the page cache as it is, as far as the system lets
	// it: what was not in memory before is not afterwards. It is for a File of its own,
	// of which nothing is read ahead from then on.
	ReadCold(p []byte, off int64) (int, error)
	// NextData returns the first offset from off on at which there may be anything
	// but zeros, as far as the file system knows without reading: off itself if it
	// does not, Size if there is nothing.
	NextData(off int64) (int64, error)
	// WriteAt writes all of p within the file's size, or returns an error; then
	// any part of p may have been written.
	WriteAt(p []byte, off int64) (int, error)
	// WriteV writes the buffers one after the other from off on, in as few system
	// calls as possible and without copying them. It does not change bufs. On
	// error any part may have been written. One caller at a time per File.
	WriteV(off int64, bufs [][]byte) error
	// Datasync makes everything written before the call durable, stores through a
	// writable mapping included. After its first failure nothing is known about
	// what is on disk: the caller must stop, not try again.
	Datasync() error
	// Map maps the whole file for reading: a store through it faults.
	Map() (Mapping, error)
	// MapWritable maps the whole file shared, for reading and writing.
	MapWritable() (Mapping, error)
	// Close closes the descriptor. Mappings stay valid.
	Close() error
}

// Mapping is a mapped file.
type Mapping interface {
	// Bytes is the file's content. It must not be touched after Unmap.
	Bytes() []byte
	// Populate brings [off, off+n) into memory within a system call, so that the
	// caller waits without holding up a scheduler thread, and gets an error where
	// a plain load would raise SIGBUS.
	Populate(off, n int64) error
	// Sync makes the stores to [off, off+n) durable. As with Datasync, the first
	// failure is final.
	Sync(off, n int64) error
	// Unload takes all pages out of this process's memory, not out of the page
	// cache: the next access brings its page back. It may be called beside any
	// access, and loses no store.
	Unload() error
	Unmap() error
}
