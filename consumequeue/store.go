package consumequeue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/bits"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile"
)

// Options configure a [Store]. The zero value works.
type Options struct {
	// FS is the file system. Nil means the operating system's.
	FS mmapfile.FS
	// ArenaSize is the size of one file in bytes, a power of two from 64 KiB to
	// 1 GiB. Zero means 64 MiB. Files are preallocated, so it is also the least a
	// store occupies. It only matters for a store without files; later the size it
	// began with holds.
	ArenaSize int64
	// MaxMapped bounds the bytes of files kept mapped; one file always may be. Zero
	// means 4 GiB. The bound costs address space and page tables, not memory: mapped
	// pages are page cache. A store whose busy part is larger maps and unmaps all
	// the time.
	MaxMapped int64
	// Logger gets what no caller can be told. Nil discards it.
	Logger *slog.Logger
	// Damaged is told, once for each arena, of an entry in it that is not what was put:
	// the next Open will find the arena missing. It must not call the store. Nil: nobody.
	Damaged func(error)
	// NoSpace is asked when the disk has no room for the next arena: it waits, and is true
	// if it is to be tried again. Nothing of the store is locked meanwhile. It is told nil
	// when there is room again. Nil: it is not tried again.
	NoSpace func(error) bool
}

func (o Options) withDefaults() (Options, error) {
	if o.FS == nil {
		o.FS = mmapfile.OS
	}
	if o.ArenaSize == 0 {
		o.ArenaSize = 64 << 20
	}
	if o.MaxMapped == 0 {
		o.MaxMapped = 4 << 30
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Damaged == nil {
		o.Damaged = func(error) {}
	}
	if o.NoSpace == nil {
		o.NoSpace = func(error) bool { return false }
	}
	var errs []error
	if s := o.ArenaSize; s < pageSize<<minPageBits || s > pageSize<<maxPageBits || s&(s-1) != 0 {
		errs = append(errs, fmt.Errorf("consumequeue: ArenaSize %d is not a power of two from 64 KiB to 1 GiB", s))
	}
	if o.MaxMapped < 0 {
		errs = append(errs, fmt.Errorf("consumequeue: MaxMapped %d is negative", o.MaxMapped))
	}
	return o, errors.Join(errs...)
}

// Store is the index of all queues. Read, Bounds, OffsetAt and Stats may be
// called from anywhere at any time. Put, PutRun, Delete, DeleteTopic, DropBefore, Trim
// and AppendSnapshot exclude each other; the one goroutine that applies the log is
// meant to call them. Flush and Persisted exclude each other only.
type Store struct {
	dir       string
	fs        mmapfile.FS
	log       *slog.Logger
	damaged   func(error)
	noSpace   func(error) bool
	arenaSize int64
	pageBits  uint // an arena has 2^pageBits pages

	mapped mappings
	table  atomic.Pointer[[]*arena] // by id, nil where there is none; replaced, never changed
	shards [1 << shardBits]shard

	entriesAdded atomic.Bool // to the directory, since the last Flush

	// writer orders the writing methods. It is held while an arena is created and
	// over page faults, so readers never take it.
	writer  sync.Mutex
	failed  error    // why nothing may be written any more
	sorted  []*queue // by key; nil when it has to be made again
	freed   []run    // these three: see alloc.go
	covered []run
	leaving []*arena
	hint    [maxOrder + 1]int // no arena below hint[o] has a free run of order o
	buf     *sealed
	batch   [64]Entry

	// checkpoint makes Flush, Persisted and Close take turns.
	checkpoint sync.Mutex
}

// Open opens the store in dir, which is made if need be. snapshot is what
// AppendSnapshot returned, as of the position at, before the last Persisted; nil
// makes an empty store. Files that the snapshot does not name are removed: they
// are of no use to anybody. The caller sees to it that only one store is open in
// dir.
//
// ErrMissing when a file that the snapshot names is not there, not the one it
// names, or no longer as an older snapshot needs it; ErrSnapshot when the snapshot
// is damaged. Then nothing was changed, and the way out is to open with nil and
// replay the whole log.
func Open(dir string, opts Options, snapshot []byte, at record.Position) (_ *Store, err error) {
	opts, err = opts.withDefaults()
	if err != nil {
		return nil, err
	}
	img := &image{}
	if snapshot != nil {
		if img, err = decodeSnapshot(snapshot); err != nil {
			return nil, err
		}
	}
	s := &Store{dir: dir, fs: opts.FS, log: opts.Logger, damaged: opts.Damaged, noSpace: opts.NoSpace, arenaSize: opts.ArenaSize, buf: new(sealed)}
	if len(img.arenas) > 0 {
		s.arenaSize = pageSize << img.pageBits
	}
	s.pageBits = uint(bits.TrailingZeros64(uint64(s.arenaSize))) - pageShift
	s.mapped.limit = max(1, int(opts.MaxMapped/s.arenaSize))
	s.mapped.log = opts.Logger
	s.table.Store(&[]*arena{})
	for i := range s.shards {
		s.shards[i].queues = make(map[record.QueueKey]*queue, len(img.queues)>>shardBits)
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if err := s.fs.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("consumequeue: %w", err)
	}
	if err := s.restore(img, at); err != nil {
		return nil, err
	}
	if err := wipe(s.fs, dir, *s.table.Load()); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Store) restore(img *image, at record.Position) error {
	var table []*arena
	for _, name := range img.arenas {
		f, err := s.openArena(name, at)
		if err != nil {
			return err
		}
		for len(table) <= int(name.id) {
			table = append(table, nil)
		}
		table[name.id] = &arena{arenaName: name, file: f, space: newSpace(s.pageBits)}
		s.table.Store(&table)
	}
	for _, q := range img.queues {
		exts := q.extents()
		for i := range exts {
			a := s.arenaOf(exts[i].page)
			if !a.space.reserve(exts[i].page&(1<<s.pageBits-1), exts[i].order) {
				return fmt.Errorf("%w: queue %v: page %d belongs to another queue too", ErrSnapshot, q.key, exts[i].page)
			}
			a.live += 1 << exts[i].order
		}
		q.cold = record.QueueOffset(q.max.Load())
		s.shard(q.key).queues[q.key] = q
	}
	if len(img.queues) > 0 {
		s.sorted = img.queues
	}
	return nil
}

func (s *Store) openArena(name arenaName, at record.Position) (mmapfile.File, error) {
	path := filepath.Join(s.dir, arenaFile(name.id))
	f, err := s.fs.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrMissing, err)
	}
	if err != nil {
		return nil, fmt.Errorf("consumequeue: %w", err)
	}
	if f.Size() != s.arenaSize {
		f.Close()
		return nil, fmt.Errorf("%w: %s has %d of %d bytes", ErrMissing, path, f.Size(), s.arenaSize)
	}
	var head [arenaHeaderLen]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("consumequeue: %s: %w", path, err)
	}
	if err := checkArenaHeader(head[:], name, s.arenaSize, at); err != nil {
		f.Close()
		return nil, fmt.Errorf("%w: %s: %w", ErrMissing, path, err)
	}
	return f, nil
}

// wipe removes the arenas in dir that keep does not have at their id.
func wipe(fsys mmapfile.FS, dir string, keep []*arena) error {
	names, err := fsys.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("consumequeue: %w", err)
	}
	kept := make(map[string]bool)
	for _, a := range keep {
		if a != nil {
			kept[arenaFile(a.id)] = true
		}
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".arena") && !kept[name] {
			if err := fsys.Remove(filepath.Join(dir, name)); err != nil {
				return fmt.Errorf("consumequeue: %w", err)
			}
		}
	}
	return nil
}

// AppendSnapshot appends to dst what Open needs to come back to the present
// state: some 30 bytes a queue. Equal states give equal bytes. To make a
// checkpoint, take the snapshot in the goroutine that calls Put; then, while Puts
// go on, call Flush, make the snapshot durable, and call Persisted. A snapshot is
// good only until the next one is persisted, and only one is made at a time.
func (s *Store) AppendSnapshot(dst []byte) []byte {
	s.writer.Lock()
	defer s.writer.Unlock()
	img := &image{pageBits: s.pageBits, queues: s.inOrder()}
	for _, a := range *s.table.Load() {
		switch {
		case a == nil || a.leaving:
		case a.live == 0:
			a.leaving = true
			s.leaving = append(s.leaving, a)
		default:
			img.arenas = append(img.arenas, a.arenaName)
		}
	}
	s.covered = append(s.covered, s.freed...)
	s.freed = nil
	return appendSnapshot(dst, img)
}

// AppendEnds appends where each queue that ever held an entry ends, in order of key:
// uvarint key - previous key, uvarint max. In stores that were given the same entries
// these are equal bytes, whatever each has dropped since.
func (s *Store) AppendEnds(dst []byte) []byte {
	s.writer.Lock()
	defer s.writer.Unlock()
	var key record.QueueKey
	for _, q := range s.inOrder() {
		if end := q.max.Load(); end > 0 {
			dst = binary.AppendUvarint(dst, uint64(q.key-key))
			dst = binary.AppendUvarint(dst, uint64(end))
			key = q.key
		}
	}
	return dst
}

// Flush makes durable every entry put before the call. After an error the store
// takes no more entries: what is on disk is unknown, so the process should end
// without persisting the snapshot.
func (s *Store) Flush() error {
	s.checkpoint.Lock()
	defer s.checkpoint.Unlock()
	s.writer.Lock()
	failed := s.failed
	s.writer.Unlock()
	if failed != nil {
		return failed
	}
	if err := s.sync(); err != nil {
		err = fmt.Errorf("consumequeue: %w", err)
		s.writer.Lock()
		s.failed = err
		s.writer.Unlock()
		return err
	}
	return nil
}

func (s *Store) sync() error {
	for _, a := range *s.table.Load() {
		if a != nil && a.dirty.Swap(false) {
			if err := a.file.Datasync(); err != nil {
				return err
			}
		}
	}
	if s.entriesAdded.Swap(false) {
		return s.fs.SyncDir(s.dir)
	}
	return nil
}

// Persisted says that the snapshot appended last is durable, as of the position
// at, and that those before it will not be needed again. Pages that it does not
// name can be given to other queues from here on, and files that it does not name
// are removed: Open refuses older snapshots then. An error of a removal is of no
// consequence, the next Persisted tries again; any other is as of Flush.
func (s *Store) Persisted(at record.Position) error {
	s.checkpoint.Lock()
	defer s.checkpoint.Unlock()
	s.writer.Lock()
	if err := s.failed; err != nil {
		s.writer.Unlock()
		return err
	}
	var reused []*arena
	for _, r := range s.covered {
		if a := s.arenaOf(r.page); !a.leaving && !slices.Contains(reused, a) {
			reused = append(reused, a)
		}
	}
	s.writer.Unlock()
	err := s.raiseFloor(reused, at)
	s.writer.Lock()
	if err != nil {
		err = fmt.Errorf("consumequeue: %w", err)
		s.failed = err
		s.writer.Unlock()
		return err
	}
	for _, r := range s.covered {
		if !s.arenaOf(r.page).leaving {
			s.giveBack(r)
		}
	}
	s.covered = nil
	leaving := s.leaving
	s.leaving = nil
	s.writer.Unlock()

	var errs []error
	for _, a := range leaving {
		// The file goes before the id is free, so that its name is too.
		err := s.fs.Remove(a.file.Name())
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("consumequeue: %w", err))
			s.writer.Lock()
			s.leaving = append(s.leaving, a)
			s.writer.Unlock()
			continue
		}
		s.writer.Lock()
		s.setArena(int(a.id), nil)
		s.writer.Unlock()
		s.mapped.remove(a)
		s.log.Debug("removed index arena", "arena", a.file.Name())
	}
	return errors.Join(errs...)
}

// raiseFloor makes it durable that snapshots from before at do not fit arenas any
// more.
func (s *Store) raiseFloor(arenas []*arena, at record.Position) error {
	for _, a := range arenas {
		var head [arenaHeaderLen]byte
		encodeArenaHeader(head[:], a.arenaName, s.arenaSize, at)
		if _, err := a.file.WriteAt(head[:], 0); err != nil {
			return err
		}
		if err := a.file.Datasync(); err != nil {
			return err
		}
	}
	return nil
}

// Stats is a picture of a store for its operator.
type Stats struct {
	Queues      int
	Arenas      int   // files
	ArenaSize   int64 // bytes
	Mapped      int   // files that are mapped
	LivePages   int   // 4 KiB pages that belong to queues
	FreePages   int   // that can be given to a queue
	ParkedPages int   // that become free once snapshots are persisted
}

// Unload takes what is mapped of the index out of this process's memory. The page
// cache keeps it. It may be called at any time, by anyone.
func (s *Store) Unload() error { return s.mapped.unload() }

// Stats returns the present figures. It waits for a Put that is under way.
func (s *Store) Stats() Stats {
	s.writer.Lock()
	defer s.writer.Unlock()
	st := Stats{Queues: s.count(), ArenaSize: s.arenaSize, Mapped: s.mapped.len()}
	for _, a := range *s.table.Load() {
		if a == nil {
			continue
		}
		st.Arenas++
		st.LivePages += a.live
		if !a.leaving {
			st.FreePages += a.space.pages()
		}
	}
	st.ParkedPages = st.Arenas*(1<<s.pageBits-1) - st.LivePages - st.FreePages
	return st
}

// Close unmaps and closes the files, as soon as the last call that uses them
// returns. It flushes nothing: what the last persisted snapshot does not cover,
// replay brings back.
func (s *Store) Close() error {
	s.checkpoint.Lock()
	defer s.checkpoint.Unlock()
	s.writer.Lock()
	defer s.writer.Unlock()
	if errors.Is(s.failed, ErrClosed) {
		return nil
	}
	s.failed = ErrClosed
	for _, a := range *s.table.Load() {
		if a != nil {
			s.mapped.remove(a)
		}
	}
	return nil
}
