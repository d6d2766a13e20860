package commitlog

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile"
)

// Report is what Check found.
type Report struct {
	Segments    int
	Frames      uint64
	First, End  record.Position
	Index       uint64 // of the last frame
	Bytes       int64  // of frames, headers included
	TornBytes   int64  // beyond End, what Open would cut
	Checkpoint  record.Position
	LastTime    int64 // Unix ms of the last frame
	StoppedWith error // what is at End instead of a frame: mostly that nothing is
}

// Scan calls f for every frame from a position on (0 means the first), in order,
// with its checksums verified, until the log ends or f returns an error, which
// Scan returns. It reads the files of a log that may be open in another process,
// and changes nothing; there, it ends somewhere near the written end, and may
// find frames that are not committed yet. The payload is valid during the call.
// A bad frame in the middle is a *CorruptError; ErrOutOfRange says that
// retention has overtaken the scan.
func Scan(dir string, from record.Position, f func(Frame) error) error {
	_, err := scanDir(mmapfile.OS, dir, from, f)
	return err
}

// Check verifies every frame of the log in dir, and that it reaches the
// checkpoint in its manifest. It returns a *CorruptError where Open would, and
// also for damage in old segments, which Open does not look at. As Scan, it may
// be used beside a running log.
func Check(dir string) (Report, error) {
	return checkDir(mmapfile.OS, dir)
}

// openDir opens all segments for reading. Retention may be at work: of what it
// removes between the listing and the opening, the oldest is left out each time.
func openDir(fsys mmapfile.FS, dir string) (*scanner, error) {
	for tries := 0; ; tries++ {
		names, err := fsys.List(dir)
		if err != nil {
			return nil, fmt.Errorf("commitlog: %w", err)
		}
		var bases []record.Position
		for _, name := range names {
			if base, ok := parseSegmentName(name); ok {
				bases = append(bases, base)
			}
		}
		if len(bases) == 0 {
			return nil, fmt.Errorf("commitlog: %s: %w: no segments", dir, ErrMissing)
		}
		for ; len(bases) > 0; bases = bases[1:] {
			segs, headers, err := openSegments(fsys.OpenRead, func(name string) string { return filepath.Join(dir, name) }, bases)
			if !errors.Is(err, fs.ErrNotExist) || len(bases) == 1 && tries == 10 {
				return &scanner{segs: segs, headers: headers}, err
			}
		}
	}
}

func (sc *scanner) close() {
	for _, s := range sc.segs {
		s.drop()
	}
}

func scanDir(fsys mmapfile.FS, dir string, from record.Position, f func(Frame) error) (Report, error) {
	sc, err := openDir(fsys, dir)
	if err != nil {
		return Report{}, err
	}
	defer sc.close()
	rep := Report{Segments: len(sc.segs), First: sc.segs[0].start()}
	// A frame can only be verified against what is before it, so the scan starts
	// at the beginning of from's segment and keeps what is before from to itself.
	end := startOf(&sc.headers[0])
	for i := range sc.headers {
		if t := startOf(&sc.headers[i]); t.pos <= from {
			end = t
		}
	}
	for {
		var cause error
		start := end
		end, cause, err = sc.run(start, func(pos record.Position, h *frameHeader, payload []byte) error {
			if pos < from {
				return nil
			}
			rep.Frames++
			rep.Bytes += h.size()
			if h.Type != FrameRecords {
				payload = nil
			}
			return f(Frame{
				Position: pos, End: pos + record.Position(h.size()),
				Index: h.Index, Term: h.Term, Time: h.Time / 1e6, Payload: payload,
			})
		})
		rep.End, rep.Index, rep.LastTime, rep.StoppedWith = end.pos, end.index, end.time/1e6, cause
		if err != nil {
			return rep, sc.excuse(err)
		}
		cutEnd, proof, err := sc.lookAhead(end)
		rep.TornBytes = int64(cutEnd - end.pos)
		if err != nil || proof == nil {
			return rep, err
		}
		// Either damage, or the log has grown since the scan stopped: then what was
		// missing is there now.
		if rep.StoppedWith = fmt.Errorf("%w; %w", cause, proof); end == start {
			last := sc.segs[len(sc.segs)-1]
			return rep, sc.excuse(&CorruptError{Segment: last.path, Pos: end.pos, Cause: rep.StoppedWith})
		}
		sc.seg = nil // read anew
	}
}

// excuse returns err, or ErrOutOfRange if the bad bytes are those of a file that
// retention has meanwhile taken for a new segment.
func (sc *scanner) excuse(err error) error {
	var corrupt *CorruptError
	if errors.As(err, &corrupt) {
		for _, s := range sc.segs {
			b := make([]byte, segmentHeaderLen)
			if s.path != corrupt.Segment {
				continue
			}
			if _, rerr := s.file.ReadAt(b, 0); rerr != nil {
				continue
			}
			if h, herr := decodeSegmentHeader(b); herr == nil && h.Nonce != s.nonce {
				return ErrOutOfRange
			}
		}
	}
	return err
}

func checkDir(fsys mmapfile.FS, dir string) (Report, error) {
	// The manifest first: in a log that is in use the checkpoint only moves on.
	path := filepath.Join(dir, manifestName)
	file, err := fsys.OpenRead(path)
	if err != nil {
		return Report{}, fmt.Errorf("commitlog: %w", err)
	}
	m, bad := readManifest(file)
	file.Close()
	if bad != nil {
		return Report{}, &CorruptError{Segment: path, Cause: bad}
	}
	rep, err := scanDir(fsys, dir, 0, func(Frame) error { return nil })
	rep.Checkpoint = m.Checkpoint.pos
	if err == nil && rep.End < m.Checkpoint.pos {
		err = &CorruptError{Segment: path, Pos: rep.End, Cause: fmt.Errorf("%w: log ends before the checkpoint at %d: %w", ErrMissing, m.Checkpoint.pos, rep.StoppedWith)}
	}
	return rep, err
}
