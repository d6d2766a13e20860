package dispatch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile"
)

// A checkpoint is the whole state as of one position of the log, so that a
// restart replays only what came after it. It is a file state/<position>.ckpt:
//
//	off size
//	 0   8   magic "GNTRYCKP"
//	 8   4   format version, 1
//	12   4   CRC-32C of everything after this field
//	16   8   position: everything below is applied
//	24   n   sections: each uvarint length and that many bytes
//
// The newest and the one before it are kept. The consume queues' files are flushed
// before a checkpoint that describes them is written.
const (
	checkpointMagic   = "GNTRYCKP"
	checkpointVersion = 1
	checkpointHeader  = 24
)

// Checkpoint is a decoded checkpoint. Sections alias the file's bytes.
type Checkpoint struct {
	Position record.Position
	Sections [][]byte
}

// ErrBadCheckpoint reports a checkpoint file that fails its checks.
var ErrBadCheckpoint = errors.New("dispatch: bad checkpoint")

// AppendCheckpoint encodes a checkpoint.
func AppendCheckpoint(dst []byte, c Checkpoint) []byte {
	start := len(dst)
	dst = append(dst, checkpointMagic...)
	dst = binary.LittleEndian.AppendUint32(dst, checkpointVersion)
	dst = binary.LittleEndian.AppendUint32(dst, 0)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(c.Position))
	for _, s := range c.Sections {
		dst = record.AppendBytes(dst, s)
	}
	binary.LittleEndian.PutUint32(dst[start+12:], record.CRC(dst[start+16:]))
	return dst
}

// ParseCheckpoint decodes what AppendCheckpoint wrote.
func ParseCheckpoint(b []byte) (Checkpoint, error) {
	if len(b) < checkpointHeader || string(b[:8]) != checkpointMagic {
		return Checkpoint{}, fmt.Errorf("%w: not a checkpoint", ErrBadCheckpoint)
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != checkpointVersion {
		return Checkpoint{}, fmt.Errorf("%w: format version %d, this build reads %d", ErrBadCheckpoint, v, checkpointVersion)
	}
	if record.CRC(b[16:]) != binary.LittleEndian.Uint32(b[12:]) {
		return Checkpoint{}, fmt.Errorf("%w: checksum mismatch", ErrBadCheckpoint)
	}
	c := Checkpoint{Position: record.Position(binary.LittleEndian.Uint64(b[16:]))}
	d := record.NewDecoder(b[checkpointHeader:])
	for d.Len() > 0 {
		c.Sections = append(c.Sections, d.Bytes())
	}
	if d.Failed() {
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrBadCheckpoint, d.Err())
	}
	return c, nil
}

const checkpointSuffix = ".ckpt"

func checkpointFile(at record.Position) string { return fmt.Sprintf("%020d%s", at, checkpointSuffix) }

// WriteCheckpoint makes c durable in dir and removes all others but the one at
// before, which is known to be good: a file that is damaged must not count.
func WriteCheckpoint(fsys mmapfile.FS, dir string, c Checkpoint, before record.Position) error {
	kept := []string{checkpointFile(c.Position), checkpointFile(before)}
	if err := mmapfile.WriteFile(fsys, filepath.Join(dir, kept[0]), AppendCheckpoint(nil, c)); err != nil {
		return fmt.Errorf("dispatch: write checkpoint: %w", err)
	}
	names, err := checkpoints(fsys, dir)
	if err != nil {
		return err
	}
	for _, old := range names {
		if slices.Contains(kept, old) {
			continue
		}
		if err := fsys.Remove(filepath.Join(dir, old)); err != nil {
			return fmt.Errorf("dispatch: %w", err)
		}
	}
	return nil
}

// ReadCheckpoint returns the newest checkpoint that passes its checks. found is
// false when there is none at all; skipped names newer ones that were bad.
func ReadCheckpoint(fsys mmapfile.FS, dir string) (c Checkpoint, found bool, skipped []error, err error) {
	names, err := checkpoints(fsys, dir)
	if err != nil {
		return Checkpoint{}, false, nil, err
	}
	for _, name := range names {
		b, err := mmapfile.ReadFile(fsys, filepath.Join(dir, name))
		if err == nil {
			if c, err = ParseCheckpoint(b); err == nil {
				return c, true, skipped, nil
			}
		}
		skipped = append(skipped, fmt.Errorf("%s: %w", name, err))
	}
	return Checkpoint{}, false, skipped, nil
}

// checkpoints lists checkpoint files, newest first.
func checkpoints(fsys mmapfile.FS, dir string) ([]string, error) {
	names, err := fsys.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("dispatch: %w", err)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasSuffix(n, checkpointSuffix) })
	slices.Reverse(names)
	return names, nil
}
