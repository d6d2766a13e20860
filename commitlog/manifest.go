package commitlog

import (
	"errors"
	"path/filepath"

	"github.com/gantry-mq/gantry/internal/mmapfile"
)

const manifestName = "MANIFEST"

// manifestFile keeps the manifest. It is used by one goroutine at a time.
type manifestFile struct {
	file mmapfile.File
	m    manifest
}

// createManifest makes the manifest of an empty log durable. Only then may there
// be a segment: a directory with segments and no manifest is damaged, not new.
func createManifest(fs mmapfile.FS, path string) (*manifestFile, error) {
	file, err := fs.Create(path, manifestLen)
	if err != nil {
		return nil, err
	}
	mf := &manifestFile{file: file}
	if err = mf.save(); err == nil {
		err = fs.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return mf, nil
}

// readManifest returns the manifest in file, or why neither slot holds one.
func readManifest(file mmapfile.File) (manifest, error) {
	var b [manifestLen]byte
	if file.Size() != manifestLen {
		return manifest{}, ErrMalformed
	}
	if _, err := file.ReadAt(b[:], 0); err != nil {
		return manifest{}, err
	}
	m0, err0 := decodeManifest(b[:manifestSlotLen])
	m1, err1 := decodeManifest(b[manifestSlotLen:])
	switch {
	case err0 != nil && err1 != nil:
		return manifest{}, errors.Join(err0, err1)
	case err0 != nil || err1 == nil && m1.Seq > m0.Seq:
		return m1, nil
	}
	return m0, nil
}

// save writes the manifest over the older slot and makes it durable.
func (mf *manifestFile) save() error {
	next := mf.m
	next.Seq++
	if _, err := mf.file.WriteAt(next.encode(), int64(next.Seq%2)*manifestSlotLen); err != nil {
		return err
	}
	if err := mf.file.Datasync(); err != nil {
		return err
	}
	mf.m = next
	return nil
}

func (mf *manifestFile) checkpoint(m mark) error {
	if m.tail == mf.m.Checkpoint {
		return nil
	}
	mf.m.Checkpoint, mf.m.Start, mf.m.Term = m.tail, m.start, m.term
	return mf.save()
}

// checkpointable returns the last frame from which recovery may begin: everything
// up to it is on disk, and no replica can have it otherwise. It needs mu.
func (l *Log) checkpointable() mark {
	if l.opt.Replicated && l.agreed.tail.pos <= l.durable.pos {
		return l.agreed
	}
	return mark{tail: l.durable}
}
