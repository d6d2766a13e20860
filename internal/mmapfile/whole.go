package mmapfile

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

// WriteFile makes b, which is not empty, the content of the file name: a crash
// leaves the old content or the new, never a part. It is durable on return. A
// name that ends in ".tmp" is used on the way.
func WriteFile(fsys FS, name string, b []byte) error {
	tmp := name + ".tmp"
	if err := fsys.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := fsys.Create(tmp, int64(len(b)))
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(b, 0); err == nil {
		err = f.Datasync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fsys.Rename(tmp, name); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(name))
}

// MoveAll moves what has these names in the directory dir to the directory to, which is
// made if it is not there and on the same file system. What is missing, or was moved
// before, is passed over. It is durable on return.
func MoveAll(fsys FS, dir, to string, names ...string) error {
	if err := fsys.MkdirAll(to); err != nil {
		return err
	}
	for _, name := range names {
		err := fsys.Rename(filepath.Join(dir, name), filepath.Join(to, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, d := range []string{to, filepath.Dir(to), dir} {
		if err := fsys.SyncDir(d); err != nil {
			return err
		}
	}
	return nil
}

// ReadFile returns the content of the file name.
func ReadFile(fsys FS, name string) ([]byte, error) {
	f, err := fsys.OpenRead(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, f.Size())
	if n, err := f.ReadAt(b, 0); n < len(b) {
		return nil, fmt.Errorf("mmapfile: read %s: %w", name, err)
	}
	return b, nil
}
