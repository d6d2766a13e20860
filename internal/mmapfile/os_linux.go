package mmapfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/edsrzf/mmap-go"
	"golang.org/x/sys/unix"
)

// OS is the operating system's file system.
var OS FS = osFS{}

type osFS struct{}

// noSpace marks the errors that mean "full" so that callers need not know the
// system's numbers.
func noSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// retry repeats f while a signal interrupts it: the Go runtime preempts with
// signals, so slow system calls do get EINTR.
func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

func (osFS) Create(name string, size int64) (File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, noSpace(err)
	}
	if err := allocate(f, size); err != nil {
		f.Close()
		os.Remove(name)
		return nil, fmt.Errorf("mmapfile: allocate %d bytes for %s: %w", size, name, noSpace(err))
	}
	return &osFile{f: f, size: size}, nil
}

// allocate gives f all its blocks. A file system without fallocate gets real
// zeros: slower, but as little sparse.
func allocate(f *os.File, size int64) error {
	err := retry(func() error { return unix.Fallocate(int(f.Fd()), 0, 0, size) })
	if err != unix.EOPNOTSUPP && err != unix.ENOSYS {
		return err
	}
	zeros := make([]byte, 1<<20)
	for off := int64(0); off < size; {
		n, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-off)], off)
		if err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}

func (osFS) Open(name string) (File, error)     { return open(name, os.O_RDWR) }
func (osFS) OpenRead(name string) (File, error) { return open(name, os.O_RDONLY) }

func open(name string, flag int) (File, error) {
	f, err := os.OpenFile(name, flag, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &osFile{f: f, size: info.Size()}, nil
}

func (osFS) Rename(oldName, newName string) error { return noSpace(os.Rename(oldName, newName)) }
func (osFS) Remove(name string) error             { return os.Remove(name) }
func (osFS) MkdirAll(dir string) error            { return noSpace(os.MkdirAll(dir, 0o700)) }

func (osFS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name()+"/")
		} else {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

func (osFS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

func (osFS) Lock(dir string) (io.Closer, error) {
	name := filepath.Join(dir, "LOCK")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, noSpace(err)
	}
	err = retry(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
	if err == unix.EWOULDBLOCK {
		held := &LockedError{Dir: dir}
		if b, rerr := io.ReadAll(io.LimitReader(f, 32)); rerr == nil {
			held.PID, _ = strconv.Atoi(strings.TrimSpace(string(b)))
		}
		f.Close()
		return nil, held
	}
	if err == nil {
		// The pid only helps whoever is refused; failing to write it must not keep
		// a store from opening on a full disk.
		f.Truncate(0)
		f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
		return f, nil
	}
	f.Close()
	return nil, fmt.Errorf("mmapfile: lock %s: %w", dir, err)
}

type osFile struct {
	f    *os.File
	size int64
	// iovecs is reused by WriteV, which has one caller at a time. It must hold Go
	// pointers, not numbers, so that the buffers stay alive during the call.
	iovecs []unix.Iovec
}

func (f *osFile) Name() string                            { return f.f.Name() }
func (f *osFile) Size() int64                             { return f.size }
func (f *osFile) ReadAt(p []byte, off int64) (int, error) { return f.f.ReadAt(p, off) }
func (f *osFile) Close() error                            { return f.f.Close() }

func (f *osFile) ReadCold(p []byte, off int64) (int, error) {
	fd := int(f.f.Fd())
	page := int64(os.Getpagesize())
	first := off &^ (page - 1)
	length := off + int64(len(p)) - first
	unix.Fadvise(fd, 0, 0, unix.FADV_RANDOM)
	cached, known := resident(fd, first, length)
	n, err := f.f.ReadAt(p, off)
	for i := 0; known && i < len(cached); {
		from := i
		for i < len(cached) && cached[i]&1 == 0 {
			i++
		}
		if i > from {
			unix.Fadvise(fd, first+int64(from)*page, int64(i-from)*page, unix.FADV_DONTNEED)
		}
		for i < len(cached) && cached[i]&1 != 0 {
			i++
		}
	}
	return n, err
}

// resident says of each page of a range of a file whether it is in the page cache, in
// the lowest bit of a byte; known is false when the system does not tell.
func resident(fd int, first, length int64) (pages []byte, known bool) {
	b, err := unix.Mmap(fd, first, int(length), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, false
	}
	defer unix.Munmap(b)
	pages = make([]byte, (length+int64(os.Getpagesize())-1)/int64(os.Getpagesize()))
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(length), uintptr(unsafe.Pointer(unsafe.SliceData(pages))))
	return pages, errno == 0
}

func (f *osFile) NextData(off int64) (int64, error) {
	if off >= f.size {
		return f.size, nil
	}
	next, err := unix.Seek(int(f.f.Fd()), off, unix.SEEK_DATA)
	switch err {
	case nil:
		return next, nil
	case unix.ENXIO: // a hole until the end
		return f.size, nil
	case unix.EINVAL, unix.EOPNOTSUPP:
		return off, nil
	}
	return 0, fmt.Errorf("mmapfile: look for data in %s at %d: %w", f.Name(), off, err)
}

func (f *osFile) Datasync() error {
	if err := retry(func() error { return unix.Fdatasync(int(f.f.Fd())) }); err != nil {
		return fmt.Errorf("mmapfile: fdatasync %s: %w", f.Name(), noSpace(err))
	}
	return nil
}

// inside refuses a write that would grow the file: it would get blocks that
// were not allocated beforehand.
func (f *osFile) inside(off, n int64) error {
	if off < 0 || n > f.size-off {
		return fmt.Errorf("mmapfile: write of %d bytes at %d beyond the %d of %s", n, off, f.size, f.Name())
	}
	return nil
}

func (f *osFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.inside(off, int64(len(p))); err != nil {
		return 0, err
	}
	n, err := f.f.WriteAt(p, off)
	return n, noSpace(err)
}

const maxIovecs = 1024 // IOV_MAX of Linux

func (f *osFile) WriteV(off int64, bufs [][]byte) error {
	total := int64(0)
	for _, b := range bufs {
		total += int64(len(b))
	}
	if err := f.inside(off, total); err != nil {
		return err
	}
	skip := 0 // bytes of bufs[0] that are written already
	for {
		for len(bufs) > 0 && skip == len(bufs[0]) {
			bufs, skip = bufs[1:], 0
		}
		if len(bufs) == 0 {
			clear(f.iovecs[:cap(f.iovecs)])
			return nil
		}
		vecs := f.iovecs[:0]
		for i, b := range bufs {
			if len(vecs) == maxIovecs {
				break
			}
			if i == 0 {
				b = b[skip:]
			}
			if len(b) > 0 {
				v := unix.Iovec{Base: unsafe.SliceData(b)}
				v.SetLen(len(b))
				vecs = append(vecs, v)
			}
		}
		f.iovecs = vecs
		n, err := f.pwritev(vecs, off)
		if err == unix.EINTR {
			continue
		}
		if err == nil && n == 0 {
			err = io.ErrShortWrite
		}
		if err != nil {
			return fmt.Errorf("mmapfile: write %s at %d: %w", f.Name(), off, noSpace(err))
		}
		off += int64(n)
		for skip += n; len(bufs) > 0 && skip >= len(bufs[0]); {
			skip -= len(bufs[0])
			bufs = bufs[1:]
		}
	}
}

// pwritev is unix.Pwritev over iovecs that are reused instead of made anew for
// each call: this is the hottest system call of the broker.
func (f *osFile) pwritev(vecs []unix.Iovec, off int64) (int, error) {
	n, _, errno := unix.Syscall6(unix.SYS_PWRITEV, f.f.Fd(), uintptr(unsafe.Pointer(unsafe.SliceData(vecs))),
		uintptr(len(vecs)), uintptr(off), uintptr(uint64(off)>>32), 0)
	runtime.KeepAlive(vecs)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func (f *osFile) Map() (Mapping, error)         { return f.mapped(mmap.RDONLY) }
func (f *osFile) MapWritable() (Mapping, error) { return f.mapped(mmap.RDWR) }

// mapped has a fault of a writable mapping bring its page alone. What the kernel reads
// ahead it puts into larger folios, and the first store to any page of a folio makes all
// of it dirty (ext4_page_mkwrite, Linux 6.18): index entries of 32 bytes, flushed as
// often as checkpoints do it, had the disk write 173 bytes each.
func (f *osFile) mapped(prot int) (Mapping, error) {
	b, err := mmap.MapRegion(f.f, int(f.size), prot, 0, 0)
	if err != nil {
		return nil, fmt.Errorf("mmapfile: map %s: %w", f.Name(), err)
	}
	m := &osMapping{m: b, name: f.Name()}
	if prot == mmap.RDWR {
		m.alone = unix.Madvise(b, unix.MADV_RANDOM) == nil // advice: without it all is as correct
	}
	return m, nil
}

type osMapping struct {
	m     mmap.MMap
	name  string
	alone bool // a fault brings its page alone
}

func (m *osMapping) Bytes() []byte { return m.m }

// pages widens [off, off+n) to whole pages, which madvise and msync ask for.
func (m *osMapping) pages(off, n int64) ([]byte, error) {
	if off < 0 || n < 0 || n > int64(len(m.m))-off {
		return nil, fmt.Errorf("mmapfile: range %d+%d outside the %d bytes of %s", off, n, len(m.m), m.name)
	}
	page := int64(os.Getpagesize())
	first := off &^ (page - 1)
	return m.m[first : off+n], nil
}

// Where a fault would not read ahead, aheadBytes are asked for at each aheadStep that is
// come by: to ask costs as much as reading 40 index entries.
const (
	aheadBytes = 64 << 10
	aheadStep  = 16 << 10
)

func (m *osMapping) Populate(off, n int64) error {
	b, err := m.pages(off, n)
	if err != nil || len(b) == 0 {
		return err
	}
	if m.alone && (off+aheadStep-1)&^(aheadStep-1) < off+n {
		first := off &^ (aheadStep - 1)
		unix.Madvise(m.m[first:min(first+max(n, aheadBytes), int64(len(m.m)))], unix.MADV_WILLNEED) // errors come below
	}
	err = retry(func() error { return unix.Madvise(b, unix.MADV_POPULATE_READ) })
	if err == unix.EINVAL {
		// A kernel before 5.14: a read into scratch brings the pages in just as
		// well, only with a copy.
		return touch(b, m.name)
	}
	if err != nil {
		return fmt.Errorf("mmapfile: read %s at %d: %w", m.name, off, err)
	}
	return nil
}

func (m *osMapping) Sync(off, n int64) error {
	b, err := m.pages(off, n)
	if err != nil || len(b) == 0 {
		return err
	}
	if err := retry(func() error { return unix.Msync(b, unix.MS_SYNC) }); err != nil {
		return fmt.Errorf("mmapfile: msync %s at %d: %w", m.name, off, noSpace(err))
	}
	return nil
}

// Unload relies on what madvise(2) says of shared file mappings: MADV_DONTNEED
// only gives up the page table's entries, dirty ones are marked in the page cache.
func (m *osMapping) Unload() error {
	if err := retry(func() error { return unix.Madvise(m.m, unix.MADV_DONTNEED) }); err != nil {
		return fmt.Errorf("mmapfile: unload %s: %w", m.name, err)
	}
	return nil
}

func (m *osMapping) Unmap() error { return m.m.Unmap() }

// Resident is how many bytes of mapped files this process has in its memory: they
// count as its RSS, though the page cache would keep them anyway.
func Resident() (int64, error) {
	const name = "/proc/self/statm" // proc(5): pages, of them resident, of them shared, ...
	raw, err := os.ReadFile(name)
	if err != nil {
		return 0, fmt.Errorf("mmapfile: %w", err)
	}
	var size, resident, shared int64
	if _, err := fmt.Sscan(string(raw), &size, &resident, &shared); err != nil {
		return 0, fmt.Errorf("mmapfile: %s: %w", name, err)
	}
	return shared * int64(os.Getpagesize()), nil
}

// touch makes the kernel read b itself: process_vm_readv on our own memory
// copies within a system call and reports a bad page as EFAULT.
func touch(b []byte, name string) error {
	scratch := make([]byte, 64<<10)
	for len(b) > 0 {
		n := min(len(b), len(scratch))
		local := unix.Iovec{Base: unsafe.SliceData(scratch)}
		local.SetLen(n)
		remote := unix.RemoteIovec{Base: uintptr(unsafe.Pointer(unsafe.SliceData(b))), Len: n}
		got, err := unix.ProcessVMReadv(os.Getpid(), []unix.Iovec{local}, []unix.RemoteIovec{remote}, 0)
		if err != nil {
			return fmt.Errorf("mmapfile: read %s: %w", name, err)
		}
		if got != n {
			return fmt.Errorf("mmapfile: read %s: %w", name, unix.EFAULT)
		}
		b = b[n:]
	}
	return nil
}
