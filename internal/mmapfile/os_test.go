package mmapfile

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func create(t *testing.T, size int64) File {
	t.Helper()
	f, err := OS.Create(filepath.Join(t.TempDir(), "file"), size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestAFileHasAllItsBlocksBeforeItIsWritten(t *testing.T) {
	const size = 1 << 20
	f := create(t, size)
	info, err := os.Stat(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	if blocks := info.Sys().(*syscall.Stat_t).Blocks * 512; info.Size() != size || blocks < size || f.Size() != size {
		t.Errorf("size %d, %d bytes allocated, want %d of each", info.Size(), blocks, size)
	}
	if _, err := OS.Create(f.Name(), size); !errors.Is(err, os.ErrExist) {
		t.Errorf("made a second time: %v", err)
	}
}

func TestMoreThanTheDiskHoldsIsAnErrorAndLeavesNoFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	if _, err := OS.Create(name, 1<<43); !errors.Is(err, ErrNoSpace) {
		t.Skipf("the file system has another answer for 8 TiB: %v", err)
	}
	if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
}

func TestWriteVWritesAnyNumberOfBuffersInOrder(t *testing.T) {
	for name, tt := range map[string]struct{ count, size int }{
		"none":                 {0, 0},
		"one":                  {1, 100},
		"as many as one call":  {maxIovecs, 3},
		"more than one call":   {maxIovecs + 1, 3},
		"many, some are empty": {5000, 1},
	} {
		f := create(t, 1<<20)
		var bufs [][]byte
		var want []byte
		for i := range tt.count {
			b := bytes.Repeat([]byte{byte(i), byte(i >> 8)}, tt.size)
			bufs = append(bufs, b, nil)
			want = append(want, b...)
		}
		if err := f.WriteV(123, bufs); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got := make([]byte, len(want))
		if _, err := f.ReadAt(got, 123); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: other bytes, %v", name, err)
		}
		if tt.count > 0 && len(bufs[0]) != 2*tt.size {
			t.Errorf("%s: the buffers were changed", name)
		}
	}
}

func TestAWriteBeyondTheSizeIsRefused(t *testing.T) {
	f := create(t, 4096)
	if _, err := f.WriteAt(make([]byte, 10), 4090); err == nil {
		t.Error("WriteAt grew the file")
	}
	if err := f.WriteV(4090, [][]byte{make([]byte, 5), make([]byte, 5)}); err == nil {
		t.Error("WriteV grew the file")
	}
	if info, err := os.Stat(f.Name()); err != nil || info.Size() != 4096 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestNextDataPassesOverNothingThatWasWritten(t *testing.T) {
	const size = 8 << 20
	f := create(t, size)
	look := func(off, data int64) {
		t.Helper()
		// How much is passed over is the file system's business.
		if next, err := f.NextData(off); err != nil || next < off || next > data {
			t.Errorf("from %d on: %d, %v; there is data at %d", off, next, err, data)
		}
	}
	look(0, size)
	written := []int64{5000, 1 << 20, 1<<20 + 4096, size - 1}
	for _, off := range written {
		if _, err := f.WriteAt([]byte{1}, off); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		from := int64(0)
		for _, off := range written {
			look(from, off)
			look(off, off)
			from = off + 1
		}
		look(size, size)
		if err := f.Datasync(); err != nil { // and once more when it is on the disk
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.NextData(0); err == nil {
		t.Error("a closed file has data")
	}
}

func TestAMappingShowsWritesAndAWritableOneMakesThem(t *testing.T) {
	f := create(t, 64<<10)
	r, err := f.Map()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Unmap()
	w, err := f.MapWritable()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Unmap()
	if err := f.WriteV(5000, [][]byte{[]byte("by "), []byte("call")}); err != nil {
		t.Fatal(err)
	}
	copy(w.Bytes()[9000:], "by store")
	if err := w.Sync(9000, 8); err != nil {
		t.Error(err)
	}
	if err := f.Datasync(); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil { // mappings outlive it
		t.Error(err)
	}
	if err := r.Populate(5000, 5000); err != nil {
		t.Error(err)
	}
	for _, m := range []Mapping{r, w} {
		if got := string(m.Bytes()[5000:5007]) + ", " + string(m.Bytes()[9000:9008]); got != "by call, by store" {
			t.Errorf("%q", got)
		}
	}
	for _, bad := range [][2]int64{{-1, 1}, {0, 64<<10 + 1}, {64 << 10, 1}, {0, -1}} {
		if r.Populate(bad[0], bad[1]) == nil || w.Sync(bad[0], bad[1]) == nil {
			t.Errorf("range %v was accepted", bad)
		}
	}
}

// A file that was cut short under its mapping is what a media error looks like
// to a reader: a page that cannot be had.
func TestPopulateReportsAPageThatCannotBeRead(t *testing.T) {
	f := create(t, 64<<10)
	m, err := f.Map()
	if err != nil {
		t.Fatal(err)
	}
	defer m.Unmap()
	if err := os.Truncate(f.Name(), 4096); err != nil {
		t.Fatal(err)
	}
	if err := m.Populate(0, 4096); err != nil {
		t.Errorf("the page that is there: %v", err)
	}
	if err := m.Populate(0, 64<<10); err == nil {
		t.Error("MADV_POPULATE_READ: no error")
	}
	if err := touch(m.Bytes()[:4096], "file"); err != nil {
		t.Errorf("touch, the page that is there: %v", err)
	}
	if err := touch(m.Bytes(), "file"); err == nil {
		t.Error("touch: no error")
	}
}

// What is read so takes no room in the page cache from what others read.
func TestAColdReadLeavesThePageCacheAsItIs(t *testing.T) {
	const pages = 256
	page := os.Getpagesize()
	f := create(t, int64(pages*page)).(*osFile)
	want := bytes.Repeat([]byte("0123456789abcdef"), pages*page/16)
	if _, err := f.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Datasync(); err != nil {
		t.Fatal(err)
	}
	fd := int(f.f.Fd())
	forget := func() {
		if err := unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED); err != nil {
			t.Fatal(err)
		}
	}
	cached := func() (at []int) {
		b, known := resident(fd, 0, int64(pages*page))
		if !known {
			t.Skip("the system does not tell what is cached")
		}
		for i, c := range b {
			if c&1 != 0 {
				at = append(at, i)
			}
		}
		return at
	}
	forget()
	if len(cached()) > 0 {
		t.Skip("the file system keeps all its pages")
	}
	hot, err := os.Open(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer hot.Close()
	unix.Fadvise(int(hot.Fd()), 0, 0, unix.FADV_RANDOM)
	for i := 10; i < pages; i += 50 {
		if _, err := hot.ReadAt(make([]byte, 3*page), int64(i*page)); err != nil {
			t.Fatal(err)
		}
	}
	before := cached()
	got := make([]byte, pages*page-200)
	if _, err := f.ReadCold(got, 100); err != nil || !bytes.Equal(got, want[100:len(want)-100]) {
		t.Errorf("read other bytes, %v", err)
	}
	if after := cached(); !slices.Equal(after, before) || len(after) == 0 {
		t.Errorf("pages %v are cached, want %v", after, before)
	}
}

func TestTheLockIsExclusiveNamesItsHolderAndEnds(t *testing.T) {
	dir := t.TempDir()
	l, err := OS.Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = OS.Lock(dir)
	var held *LockedError
	if !errors.As(err, &held) || held.Dir != dir || held.PID != os.Getpid() {
		t.Errorf("%v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = OS.Lock(dir); err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func BenchmarkWriteV(b *testing.B) {
	f, err := OS.Create(filepath.Join(b.TempDir(), "file"), 1<<20)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	bufs := make([][]byte, 64)
	for i := range bufs {
		bufs[i] = make([]byte, 1024)
	}
	b.SetBytes(64 << 10)
	b.ReportAllocs()
	for b.Loop() {
		if err := f.WriteV(0, bufs); err != nil {
			b.Fatal(err)
		}
	}
}
