// Package crashtest is a file system in memory that can lose power.
//
// It tells apart what a program wrote and what a disk would still have: bytes
// are durable after Datasync (or Mapping.Sync), names after SyncDir. [FS.Crash]
// returns the file system as a machine might find it after a power loss: what
// was durable, and of the rest, sector by sector, whatever the [Survival] says.
// Stores through a writable mapping count as writes; so the crash rung of
// testing reaches mapped files too, which no wrapper of file calls can.
//
// A failed Datasync (see [FS.Hook]) behaves as it does on Linux: the pages
// count as clean from then on, a later Datasync succeeds, and the data is not
// durable all the same; but each file that was open then has one Datasync fail.
//
// # Concurrency
//
// All methods may be called concurrently, but stores through a writable mapping
// must not run at the same time as Crash or a sync of the same file.
package crashtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gantry-mq/gantry/internal/mmapfile"
)

// sectorLen is what a disk writes atomically.
const sectorLen = 512

// Survival says what a crash leaves of what was not made durable.
type Survival int

const (
	None   Survival = iota // nothing
	All                    // everything, as after kill -9
	Prefix                 // of each file, the changed sectors up to a random one
	Subset                 // each changed sector or not, at random
	Sparse                 // nearly every changed sector is lost
	Dense                  // nearly every changed sector survives
)

// Survivals lists all of them.
var Survivals = []Survival{None, All, Prefix, Subset, Sparse, Dense}

func (s Survival) String() string {
	return [...]string{"none", "all", "prefix", "subset", "sparse", "dense"}[s]
}

// Op is a kind of call that can fail or be a place to crash.
type Op string

const (
	Create  Op = "create"
	Open    Op = "open"
	Read    Op = "read"
	Write   Op = "write"
	Sync    Op = "sync"
	Map     Op = "map"
	Rename  Op = "rename"
	Remove  Op = "remove"
	SyncDir Op = "syncdir"
)

// Call is one call, before it has any effect.
type Call struct {
	N    int // 1 for the first call of the file system
	Op   Op
	Name string
}

// FS implements mmapfile.FS. Make one with New.
type FS struct {
	hookMu sync.Mutex
	hook   func(Call) error
	calls  int

	syncTime atomic.Int64 // a time.Duration

	mu       sync.Mutex
	off      bool
	dirs     map[string]*dir
	locks    map[string]bool
	capacity int64 // of all files; 0 means no bound
}

// dir is a directory: its names now, the names on disk, and the changes between
// the two, in the order in which a journal would have them.
type dir struct {
	names, durable map[string]*inode
	pending        []func(names map[string]*inode)
}

// inode is a file: what a reader sees, what the kernel takes to be written back,
// and what the disk holds. durableSize is 0 until the first sync.
type inode struct {
	cur, clean, durable []byte
	durableSize         int64
	failed              int // syncs that failed
}

// ErrPowerOff: the call came after PowerOff.
var ErrPowerOff = errors.New("crashtest: the power is off")

// New returns an empty file system.
func New() *FS {
	return &FS{dirs: map[string]*dir{}, locks: map[string]bool{}}
}

// Hook has f called before every call that Op names, one at a time, and outside
// of all locks of the file system, so that it may Crash it. An error from f is
// the call's result: the call has no effect, except that a failed Sync loses
// what it should have written.
func (s *FS) Hook(f func(Call) error) {
	s.hookMu.Lock()
	defer s.hookMu.Unlock()
	s.hook = f
}

// Calls is the number of calls so far.
func (s *FS) Calls() int {
	s.hookMu.Lock()
	defer s.hookMu.Unlock()
	return s.calls
}

// SetCapacity bounds the bytes of all files; 0 lifts the bound.
func (s *FS) SetCapacity(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.capacity = n
}

// SetSyncTime has each Sync take so long from now on. Several may at one time, and
// nothing is locked meanwhile: in a bubble of testing/synctest time passes.
func (s *FS) SetSyncTime(d time.Duration) { s.syncTime.Store(int64(d)) }

func (s *FS) call(op Op, name string) error {
	if d := s.syncTime.Load(); op == Sync && d > 0 {
		time.Sleep(time.Duration(d))
	}
	s.hookMu.Lock()
	defer s.hookMu.Unlock()
	s.calls++
	if s.hook == nil {
		return nil
	}
	return s.hook(Call{N: s.calls, Op: op, Name: name})
}

// Crash returns what a power loss at this moment may leave. s itself goes on
// unharmed. The result holds no locks, has no hook, and shares nothing with s.
func (s *FS) Crash(survival Survival, rng *rand.Rand) *FS {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.crash(survival, rng)
}

// PowerOff is Crash of a machine that other machines talk to: from this moment
// on nothing that changes s succeeds, so what is still running on it can not tell
// anybody of more than the result may hold. What was open can still be read.
func (s *FS) PowerOff(survival Survival, rng *rand.Rand) *FS {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.off = true
	return s.crash(survival, rng)
}

// power needs mu. Who changes something asks when it holds that: a call that began
// before PowerOff and goes on behind it has no effect either.
func (s *FS) power() error {
	if s.off {
		return ErrPowerOff
	}
	return nil
}

func (s *FS) crash(survival Survival, rng *rand.Rand) *FS {
	c := New()
	c.capacity = s.capacity
	copies := map[*inode]*inode{} // a file keeps its identity under two names
	for _, path := range slices.Sorted(maps.Keys(s.dirs)) {
		d := s.dirs[path]
		names := maps.Clone(d.durable)
		for _, apply := range d.pending[:survivors(len(d.pending), survival, rng)] {
			apply(names)
		}
		cd := newDir()
		for _, name := range slices.Sorted(maps.Keys(names)) {
			n := names[name]
			if copies[n] == nil {
				copies[n] = n.crash(survival, rng)
			}
			cd.names[name] = copies[n]
		}
		cd.durable = maps.Clone(cd.names)
		c.dirs[path] = cd
	}
	return c
}

// survivors is how many of n changes in order are on disk.
func survivors(n int, survival Survival, rng *rand.Rand) int {
	switch survival {
	case None:
		return 0
	case All:
		return n
	}
	return rng.IntN(n + 1)
}

// Kill returns what the next process finds after kill -9: everything, but what
// was not durable still is not, and a later Crash may take it. s itself goes on
// unharmed.
func (s *FS) Kill() *FS {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := New()
	c.capacity = s.capacity
	copies := map[*inode]*inode{}
	clone := func(names map[string]*inode) map[string]*inode {
		out := map[string]*inode{}
		for name, n := range names {
			if copies[n] == nil {
				copies[n] = &inode{cur: bytes.Clone(n.cur), clean: bytes.Clone(n.clean), durable: bytes.Clone(n.durable), durableSize: n.durableSize}
			}
			out[name] = copies[n]
		}
		return out
	}
	for path, d := range s.dirs {
		cd := newDir()
		cd.names, cd.durable = clone(d.names), clone(d.durable)
		if len(d.pending) > 0 {
			// The order is lost, so it is all or nothing: one more legal outcome.
			names := maps.Clone(cd.names)
			cd.pending = append(cd.pending, func(durable map[string]*inode) {
				clear(durable)
				maps.Copy(durable, names)
			})
		}
		c.dirs[path] = cd
	}
	return c
}

func (n *inode) crash(survival Survival, rng *rand.Rand) *inode {
	out := bytes.Clone(n.durable)
	var changed []int
	for off := 0; off < len(out); off += sectorLen {
		end := min(off+sectorLen, len(out))
		if !bytes.Equal(n.cur[off:end], n.durable[off:end]) {
			changed = append(changed, off)
		}
	}
	keep := func(int) bool { return true }
	switch survival {
	case None:
		keep = func(int) bool { return false }
	case Prefix:
		k := rng.IntN(len(changed) + 1)
		keep = func(i int) bool { return i < k }
	case Subset:
		keep = func(int) bool { return rng.IntN(2) == 0 }
	case Sparse:
		keep = func(int) bool { return rng.IntN(8) == 0 }
	case Dense:
		keep = func(int) bool { return rng.IntN(8) != 0 }
	}
	for i, off := range changed {
		if keep(i) {
			end := min(off+sectorLen, len(out))
			copy(out[off:end], n.cur[off:end])
		}
	}
	if n.durableSize == 0 && (survival == None || survival != All && rng.IntN(2) == 0) {
		out = nil // the size never reached the disk either
	}
	return &inode{cur: out, clean: bytes.Clone(out), durable: bytes.Clone(out), durableSize: int64(len(out))}
}

// sync writes back what the kernel takes to be dirty; failed says that the disk
// did not take it. The kernel reads a mapping while the process writes to it,
// unseen by the race detector; so this has loops of its own, for bytes.Equal and
// copy are instrumented wherever they are called from.
//
//go:norace
func (n *inode) sync(off, end int64, failed bool) {
	off = off &^ (sectorLen - 1)
	for ; off < end; off += sectorLen {
		cur := n.cur[off:min(off+sectorLen, int64(len(n.cur)))]
		clean := n.clean[off:][:len(cur)]
		durable := n.durable[off:][:len(cur)]
		dirty := false
		for i := range cur {
			dirty = dirty || cur[i] != clean[i]
		}
		if !dirty {
			continue
		}
		for i := range cur {
			clean[i] = cur[i]
			if !failed {
				durable[i] = clean[i]
			}
		}
	}
	if !failed {
		n.durableSize = int64(len(n.cur))
	}
}

func newDir() *dir {
	return &dir{names: map[string]*inode{}, durable: map[string]*inode{}}
}

// change applies f now, and to the durable names when they are synced.
func (d *dir) change(f func(names map[string]*inode)) {
	f(d.names)
	d.pending = append(d.pending, f)
}

func pathError(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// lookup needs mu.
func (s *FS) lookup(op, name string) (*dir, *inode, error) {
	d := s.dirs[filepath.Dir(name)]
	if d == nil {
		return nil, nil, pathError(op, name, fs.ErrNotExist)
	}
	n := d.names[filepath.Base(name)]
	if n == nil {
		return d, nil, pathError(op, name, fs.ErrNotExist)
	}
	return d, n, nil
}

func (s *FS) used() (total int64) {
	for _, d := range s.dirs {
		for _, n := range d.names {
			total += int64(len(n.cur))
		}
	}
	return total
}

func (s *FS) Create(name string, size int64) (mmapfile.File, error) {
	if err := s.call(Create, name); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.power(); err != nil {
		return nil, err
	}
	d, n, err := s.lookup("create", name)
	if d == nil {
		return nil, err
	}
	if n != nil {
		return nil, pathError("create", name, fs.ErrExist)
	}
	if s.capacity > 0 && s.used()+size > s.capacity {
		return nil, pathError("create", name, mmapfile.ErrNoSpace)
	}
	n = &inode{cur: make([]byte, size), clean: make([]byte, size), durable: make([]byte, size)}
	base := filepath.Base(name)
	d.change(func(names map[string]*inode) { names[base] = n })
	return &file{fs: s, n: n, name: name, writable: true}, nil
}

func (s *FS) Open(name string) (mmapfile.File, error)     { return s.open(name, true) }
func (s *FS) OpenRead(name string) (mmapfile.File, error) { return s.open(name, false) }

func (s *FS) open(name string, writable bool) (mmapfile.File, error) {
	if err := s.call(Open, name); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, n, err := s.lookup("open", name)
	if err != nil {
		return nil, err
	}
	return &file{fs: s, n: n, name: name, writable: writable, told: n.failed}, nil
}

// Rename works within one directory and between two; between two, a crash may
// leave both names or, if only the old directory was synced, none.
func (s *FS) Rename(oldName, newName string) error {
	if err := s.call(Rename, newName); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.power(); err != nil {
		return err
	}
	from, n, err := s.lookup("rename", oldName)
	if err != nil {
		return err
	}
	to := s.dirs[filepath.Dir(newName)]
	if to == nil {
		return pathError("rename", newName, fs.ErrNotExist)
	}
	oldBase, newBase := filepath.Base(oldName), filepath.Base(newName)
	if from == to {
		from.change(func(names map[string]*inode) {
			delete(names, oldBase)
			names[newBase] = n
		})
		return nil
	}
	to.change(func(names map[string]*inode) { names[newBase] = n })
	from.change(func(names map[string]*inode) { delete(names, oldBase) })
	return nil
}

func (s *FS) Remove(name string) error {
	if err := s.call(Remove, name); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.power(); err != nil {
		return err
	}
	d, _, err := s.lookup("remove", name)
	if err != nil {
		return err
	}
	base := filepath.Base(name)
	d.change(func(names map[string]*inode) { delete(names, base) })
	return nil
}

// MkdirAll makes directories that are durable at once.
func (s *FS) MkdirAll(path string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if s.dirs[path] == nil {
			s.dirs[path] = newDir()
		}
		parent := filepath.Dir(path)
		if parent == path {
			return nil
		}
		path = parent
	}
}

func (s *FS) List(path string) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.dirs[path]
	if d == nil {
		return nil, pathError("list", path, fs.ErrNotExist)
	}
	names := slices.Collect(maps.Keys(d.names))
	for sub := range s.dirs {
		if sub != path && filepath.Dir(sub) == path {
			names = append(names, filepath.Base(sub)+"/")
		}
	}
	slices.Sort(names)
	return names, nil
}

func (s *FS) SyncDir(path string) error {
	if err := s.call(SyncDir, path); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.power(); err != nil {
		return err
	}
	d := s.dirs[path]
	if d == nil {
		return pathError("sync", path, fs.ErrNotExist)
	}
	for _, apply := range d.pending {
		apply(d.durable)
	}
	d.pending = nil
	return nil
}

func (s *FS) Lock(path string) (io.Closer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dirs[path] == nil {
		return nil, pathError("lock", path, fs.ErrNotExist)
	}
	if s.locks[path] {
		return nil, &mmapfile.LockedError{Dir: path}
	}
	s.locks[path] = true
	return &lock{fs: s, path: path}, nil
}

type lock struct {
	fs   *FS
	path string
}

func (l *lock) Close() error {
	l.fs.mu.Lock()
	defer l.fs.mu.Unlock()
	delete(l.fs.locks, l.path)
	return nil
}

type file struct {
	fs       *FS
	n        *inode
	name     string
	writable bool
	told     int // of inode.failed, under fs.mu

	mu     sync.Mutex
	closed bool
}

func (f *file) Name() string { return f.name }
func (f *file) Size() int64  { return int64(len(f.n.cur)) }

func (f *file) begin(op Op) error {
	if err := f.fs.call(op, f.name); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return pathError(string(op), f.name, fs.ErrClosed)
	}
	return nil
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if err := f.begin(Read); err != nil {
		return 0, err
	}
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if off < 0 || off > int64(len(f.n.cur)) {
		return 0, io.EOF
	}
	n := copy(p, f.n.cur[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) ReadCold(p []byte, off int64) (int, error) { return f.ReadAt(p, off) }

// NextData looks, which a real file system need not.
func (f *file) NextData(off int64) (int64, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	for off < int64(len(f.n.cur)) && f.n.cur[off] == 0 {
		off++
	}
	return min(off, int64(len(f.n.cur))), nil
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	if err := f.WriteV(off, [][]byte{p}); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f *file) WriteV(off int64, bufs [][]byte) error {
	if err := f.begin(Write); err != nil {
		return err
	}
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.power(); err != nil {
		return err
	}
	total := int64(0)
	for _, b := range bufs {
		total += int64(len(b))
	}
	if !f.writable || off < 0 || total > int64(len(f.n.cur))-off {
		return pathError("write", f.name, fmt.Errorf("%d bytes at %d of %d, writable %v", total, off, len(f.n.cur), f.writable))
	}
	for _, b := range bufs {
		off += int64(copy(f.n.cur[off:], b))
	}
	return nil
}

func (f *file) Datasync() error { return f.sync(0, f.Size()) }

func (f *file) sync(off, end int64) error {
	err := f.begin(Sync)
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err == nil {
		err = f.fs.power()
	}
	f.n.sync(off, end, err != nil)
	if err != nil {
		f.n.failed++
	} else if f.told != f.n.failed {
		err = pathError("sync", f.name, syscall.EIO)
	}
	f.told = f.n.failed
	return err
}

func (f *file) Map() (mmapfile.Mapping, error) {
	if err := f.begin(Map); err != nil {
		return nil, err
	}
	return &mapping{f: f}, nil
}

func (f *file) MapWritable() (mmapfile.Mapping, error) {
	if !f.writable {
		return nil, pathError("map", f.name, fs.ErrPermission)
	}
	return f.Map()
}

func (f *file) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return nil
}

// mapping shows the file's current bytes themselves. It works beyond the file's
// Close, as a real one does.
type mapping struct{ f *file }

func (m *mapping) Bytes() []byte { return m.f.n.cur }

func (m *mapping) Populate(off, n int64) error {
	if err := m.f.fs.call(Read, m.f.name); err != nil {
		return err
	}
	if off < 0 || n < 0 || n > int64(len(m.f.n.cur))-off {
		return pathError("populate", m.f.name, io.ErrUnexpectedEOF)
	}
	return nil
}

func (m *mapping) Sync(off, n int64) error {
	if off < 0 || n < 0 || n > int64(len(m.f.n.cur))-off {
		return pathError("msync", m.f.name, io.ErrUnexpectedEOF)
	}
	err := m.f.fs.call(Sync, m.f.name)
	m.f.fs.mu.Lock()
	defer m.f.fs.mu.Unlock()
	if err == nil {
		err = m.f.fs.power()
	}
	m.f.n.sync(off, off+n, err != nil)
	return err
}

func (m *mapping) Unload() error { return nil }
func (m *mapping) Unmap() error  { return nil }
