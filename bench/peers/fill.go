package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	fillPiece = 128 << 10 // what the kernel reads ahead at once, by default
	fillLeave = 1 << 30   // free memory at which the cache is taken to be full
	diskLeave = 20 << 30  // free space that the brokers need
)

// filler fills the page cache with pages of a file that nobody needs, as a machine
// that has run for some days has it full: what a broker writes and maps then comes
// from pages that are in use already. Memory that is free is a virtual machine's
// own only when it is written to, at 5 to 10 times what a page costs later, and
// goes back to the host when it was free for some seconds (free page
// reporting): whoever runs on free memory measures the host.
type filler struct {
	file *os.File
	size int64
}

// newFiller writes the file, into dir, which its caller removes.
func newFiller(dir string) (*filler, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return nil, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return nil, err
	}
	size := min(int64(info.Totalram)*int64(info.Unit), int64(fs.Bavail)*fs.Bsize-diskLeave)
	if size <= 0 {
		return nil, fmt.Errorf("%s: too little space for a file that fills the page cache", dir)
	}
	file, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		return nil, err
	}
	f := &filler{file: file, size: size}
	if err := f.write(); err != nil {
		file.Close()
		return nil, err
	}
	return f, nil
}

func (f *filler) write() error {
	begun := time.Now()
	piece := make([]byte, 1<<20)
	for i := range piece {
		piece[i] = byte(i)
	}
	for at := int64(0); at < f.size; at += int64(len(piece)) {
		if _, err := f.file.Write(piece); err != nil {
			return err
		}
	}
	logf("wrote %.1f GiB to fill the page cache with, in %.0f s", float64(f.size)/(1<<30), time.Since(begun).Seconds())
	return f.file.Sync()
}

// fill reads as much of the file ahead as there is free memory. Pages that were
// only read ahead are the first that the kernel takes back.
func (f *filler) fill(ctx context.Context) error {
	begun := time.Now()
	var at int64
	for ; at < f.size; at += fillPiece {
		var info unix.Sysinfo_t
		if err := unix.Sysinfo(&info); err != nil {
			return err
		}
		if int64(info.Freeram)*int64(info.Unit) < fillLeave {
			break
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		_, _, errno := unix.Syscall(unix.SYS_READAHEAD, f.file.Fd(), uintptr(at), fillPiece)
		if errno != 0 {
			return fmt.Errorf("reading ahead of %s: %w", f.file.Name(), errno)
		}
	}
	logf("filled the page cache in %.1f s, %.1f GiB into the file", time.Since(begun).Seconds(), float64(at)/(1<<30))
	return nil
}
