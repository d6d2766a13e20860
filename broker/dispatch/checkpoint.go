package dispatch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gantry-mq/gantry/commitlog/record"
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
// The newest two are kept. The consume queues' files are flushed before a
// checkpoint that describes them is written.
const (
	checkpointMagic   = "GNTRYCKP"
	checkpointVersion = 1
	checkpointHeader  = 24
	checkpointsKept   = 2
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

// WriteCheckpoint makes c durable in dir and removes older ones than are kept.
func WriteCheckpoint(dir string, c Checkpoint) error {
	name := filepath.Join(dir, fmt.Sprintf("%020d%s", c.Position, checkpointSuffix))
	tmp := name + ".tmp"
	// Not for other users: it holds the secret of receipt handles.
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("dispatch: %w", err)
	}
	_, err = f.Write(AppendCheckpoint(nil, c))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, name)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("dispatch: write checkpoint: %w", err)
	}
	names, err := checkpoints(dir)
	if err != nil {
		return err
	}
	for _, old := range names[min(len(names), checkpointsKept):] {
		if err := os.Remove(filepath.Join(dir, old)); err != nil {
			return fmt.Errorf("dispatch: %w", err)
		}
	}
	return nil
}

// ReadCheckpoint returns the newest checkpoint that passes its checks. found is
// false when there is none at all; skipped names newer ones that were bad.
func ReadCheckpoint(dir string) (c Checkpoint, found bool, skipped []error, err error) {
	names, err := checkpoints(dir)
	if err != nil {
		return Checkpoint{}, false, nil, err
	}
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(dir, name))
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
func checkpoints(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("dispatch: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), checkpointSuffix) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	slices.Reverse(names)
	return names, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
