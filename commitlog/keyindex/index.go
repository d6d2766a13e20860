package keyindex

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile"
)

// Options configure an [Index]. The zero value works.
type Options struct {
	// FS is the file system. Nil means the operating system's.
	FS mmapfile.FS
	// SegmentEntries is how many entries a new segment takes, 64 to 1<<26. Zero
	// means 1<<20: a file of 16 MiB, and 6 MiB of memory while it is raw.
	SegmentEntries int
	// Logger gets what no caller can be told. Nil discards it.
	Logger *slog.Logger
	// Damaged is told, once for each segment, of one that is not as it was written: the
	// next Open will find it missing. It must not call the index. Nil: nobody.
	Damaged func(error)
	// NoSpace is asked when the disk has no room for the next segment: it waits, and is
	// true if it is to be tried again. Nothing of the index is locked meanwhile. It is told
	// nil when there is room again. Nil: it is not tried again.
	NoSpace func(error) bool
}

// maxRaw is how many full segments wait for Flush before Put sorts one itself: a
// rebuild puts the whole log without a checkpoint.
const maxRaw = 2

// Index maps hashes to positions. See the package comment for who may call what.
type Index struct {
	dir     string
	fs      mmapfile.FS
	log     *slog.Logger
	damaged func(error)
	noSpace func(error) bool
	entries int

	mu       sync.Mutex
	segments []*segment // the oldest first; the last may be raw and not full
	last     record.Position
	next     uint32     // id of the next segment
	obsolete []string   // files that the next snapshot does not name
	covered  [][]string // and of each snapshot that is not persisted yet, those that it was the first not to
	failed   error      // why nothing may be put any more
	closed   bool

	checkpoint sync.Mutex // makes Flush, Persisted and a seal take turns
	created    bool       // under mu: files were made since the directory was synced
}

// Open opens the index in dir, which is made if need be. snapshot is what
// AppendSnapshot returned before the last Persisted; nil makes an empty index.
// Files that it does not name are removed. The caller sees to it that only one
// index is open in dir.
//
// ErrMissing, ErrSnapshot: the way out is to open with nil and to put everything
// again.
func Open(dir string, opts Options, snapshot []byte) (_ *Index, err error) {
	x := &Index{dir: dir, fs: opts.FS, log: opts.Logger, damaged: opts.Damaged, noSpace: opts.NoSpace, entries: opts.SegmentEntries}
	if x.fs == nil {
		x.fs = mmapfile.OS
	}
	if x.log == nil {
		x.log = slog.New(slog.DiscardHandler)
	}
	if x.damaged == nil {
		x.damaged = func(error) {}
	}
	if x.noSpace == nil {
		x.noSpace = func(error) bool { return false }
	}
	if x.entries == 0 {
		x.entries = 1 << 20
	}
	if x.entries < 64 || x.entries > maxEntries {
		return nil, fmt.Errorf("keyindex: SegmentEntries %d is not 64 to %d", x.entries, maxEntries)
	}
	img := &image{}
	if snapshot != nil {
		if img, err = parseSnapshot(snapshot); err != nil {
			return nil, err
		}
	}
	x.last, x.next = img.last, img.next
	defer func() {
		if err != nil {
			x.Close()
		}
	}()
	if err := x.fs.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("keyindex: %w", err)
	}
	for _, m := range img.segments {
		s, err := x.openSegment(m)
		if err != nil {
			return nil, err
		}
		x.segments = append(x.segments, s)
	}
	return x, x.removeOthers()
}

// removeOthers removes the files that no segment has.
func (x *Index) removeOthers() error {
	names, err := x.fs.List(x.dir)
	if err != nil {
		return fmt.Errorf("keyindex: %w", err)
	}
	for _, name := range names {
		if !strings.HasSuffix(name, ".raw") && !strings.HasSuffix(name, ".sealed") {
			continue
		}
		if slices.ContainsFunc(x.segments, func(s *segment) bool { return fileName(s.meta) == name }) {
			continue
		}
		if err := x.fs.Remove(filepath.Join(x.dir, name)); err != nil {
			return fmt.Errorf("keyindex: %w", err)
		}
	}
	return nil
}

func fileName(m meta) string {
	if m.sealed {
		return fmt.Sprintf("%08d.sealed", m.id)
	}
	return fmt.Sprintf("%08d.raw", m.id)
}

func (x *Index) path(m meta) string { return filepath.Join(x.dir, fileName(m)) }

// AppendSnapshot appends to dst what Open needs to come back to the present
// state: some 20 bytes a segment.
func (x *Index) AppendSnapshot(dst []byte) []byte {
	x.mu.Lock()
	defer x.mu.Unlock()
	img := &image{last: x.last, next: x.next}
	for _, s := range x.segments {
		if s.count == 0 {
			continue // nothing was put since it was made
		}
		s.sum()
		img.segments = append(img.segments, s.meta)
	}
	x.covered = append(x.covered, x.obsolete)
	x.obsolete = nil
	return appendSnapshot(dst, img)
}

// Flush makes durable what was put before the call, and sorts full segments.
// After an error the index takes no more: what is on disk is unknown.
func (x *Index) Flush() error {
	x.checkpoint.Lock()
	defer x.checkpoint.Unlock()
	x.mu.Lock()
	err := x.failed
	created := x.created
	x.created = false
	var full, growing []*segment
	for _, s := range x.segments {
		switch {
		case s.sealed:
			continue
		case s.full:
			full = append(full, s)
		default:
			growing = append(growing, s)
		}
		s.refs++
	}
	x.mu.Unlock()
	defer x.release(append(full, growing...)...)
	if err != nil {
		return err
	}
	for _, s := range full {
		if err := x.seal(s); err != nil {
			return x.fail(err)
		}
	}
	for _, s := range growing {
		if err := s.file.Datasync(); err != nil {
			return x.fail(err)
		}
	}
	if created {
		if err := x.fs.SyncDir(x.dir); err != nil {
			return x.fail(err)
		}
	}
	return nil
}

// Persisted says that the oldest snapshot of which it was not said yet is durable,
// and those before it will not be used again. An error means that a file could
// not be removed; the next Persisted tries again.
func (x *Index) Persisted() error {
	x.checkpoint.Lock()
	defer x.checkpoint.Unlock()
	x.mu.Lock()
	if len(x.covered) == 0 {
		x.mu.Unlock()
		return nil
	}
	covered := x.covered[0]
	x.covered = x.covered[1:]
	x.mu.Unlock()
	var errs []error
	for _, name := range covered {
		if err := x.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("keyindex: %w", err))
			x.mu.Lock()
			x.obsolete = append(x.obsolete, name)
			x.mu.Unlock()
		}
	}
	return errors.Join(errs...)
}

// DropBefore forgets whole segments of which all positions are below pos. Their
// files go when the next snapshot is persisted.
func (x *Index) DropBefore(pos record.Position) {
	x.mu.Lock()
	n := 0
	for n < len(x.segments) && x.segments[n].full && x.segments[n].last < pos {
		x.obsolete = append(x.obsolete, x.path(x.segments[n].meta))
		n++
	}
	gone := slices.Clone(x.segments[:n])
	x.segments = slices.Delete(x.segments, 0, n)
	x.mu.Unlock()
	x.release(gone...)
}

// Stats is a picture of an index for its operator.
type Stats struct {
	Segments int
	Raw      int   // of these, not sorted yet
	Entries  int64 //
	Memory   int64 // bytes, mappings excluded
}

// Stats returns the present figures.
func (x *Index) Stats() Stats {
	x.mu.Lock()
	defer x.mu.Unlock()
	st := Stats{Segments: len(x.segments)}
	for _, s := range x.segments {
		st.Entries += int64(s.count)
		st.Memory += int64(4*len(s.heads) + 4*len(s.chain) + entryLen*len(s.fence))
		if !s.sealed {
			st.Raw++
		}
	}
	return st
}

// Close closes the files as soon as the last call that uses them returns. It
// flushes nothing.
func (x *Index) Close() error {
	x.checkpoint.Lock()
	defer x.checkpoint.Unlock()
	x.mu.Lock()
	segments := x.segments
	x.segments, x.closed = nil, true
	if x.failed == nil {
		x.failed = ErrClosed
	}
	x.mu.Unlock()
	x.release(segments...)
	return nil
}

func (x *Index) fail(err error) error {
	err = fmt.Errorf("keyindex: %w", err)
	x.mu.Lock()
	if x.failed == nil {
		x.failed = err
	}
	x.mu.Unlock()
	return err
}

// hold returns the segments, each of which the caller releases. mu is held.
func (x *Index) hold() []*segment {
	for _, s := range x.segments {
		s.refs++
	}
	return slices.Clone(x.segments)
}

// release gives segments back. The last one to do so closes the file.
func (x *Index) release(segments ...*segment) {
	var done []*segment
	x.mu.Lock()
	for _, s := range segments {
		if s.refs--; s.refs == 0 {
			done = append(done, s)
		}
	}
	x.mu.Unlock()
	for _, s := range done {
		if err := s.close(); err != nil {
			x.log.Error("close a segment of the key index", "file", s.file.Name(), "error", err)
		}
	}
}
