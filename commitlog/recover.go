package commitlog

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile"
)

// Recovery finds the end of the log, and decides what a bad frame means.
//
// The scan starts at the manifest's checkpoint, so its length does not depend on
// the size of the log, and verifies every frame from there on: checksums, index,
// chain, time. Let X be the position where it stops.
//
//  1. X is in a segment that is not the last: corruption. A segment is durable
//     before the next one gets its name.
//  2. X is below the manifest's checkpoint or below Options.Known: corruption.
//     Somebody knew those bytes to be durable.
//  3. Some frame beyond X carries a commit hint that covers the frame missing at
//     X: corruption. It was durable when the later one was written. A later frame
//     with a lower hint proves nothing: a power loss may keep any part of what was
//     not synced, later parts too.
//  4. Otherwise X is a torn tail. Nobody was told that anything from X on is
//     committed, so it is cut.
//
// Corruption is never repaired here and never cut: Open returns a *CorruptError
// and leaves every byte as it is. What cannot be told from a torn tail is damage
// to the very last frame of a log that was not closed; the caller's Known, if
// saved often, narrows that gap, and Close leaves none.
//
// To cut means to zero, durably, up to the last thing that begins like a frame.
// Otherwise a frame that was cut could be reached again, once new frames have
// grown up to it: if they happen to be the same as those that were lost, even its
// chain would match. A crash in the middle of cutting needs no care: what is left
// of the tail has the same low hints, so the next Open finds the same X and cuts
// again.
//
// A file that is no part of a log is moved to quarantine/, not deleted.

// logEnd is where the log ends. The two differ when the last segment is empty:
// the last frame ends in the segment before, and the next will begin in the last.
// Readers are told the former. A reader that stands behind the last frame has
// seen everything, and must not have to wait to find that out.
type logEnd struct {
	frames tail // end of the last frame
	next   tail // what the next frame will follow
}

// recover opens everything in the directory and returns where the log ends. It
// sets man, segs and spares, also when it fails.
func (l *Log) recover() (logEnd, error) {
	bases, hasManifest, err := l.sortFiles()
	if err != nil {
		return logEnd{}, err
	}
	// A killed process may have left names that are not durable: a log must not be
	// built on them.
	if err := l.fs.SyncDir(l.opt.Dir); err != nil {
		return logEnd{}, fmt.Errorf("commitlog: %w", err)
	}
	manifestPath := l.path(manifestName)
	corrupt := func(path string, pos record.Position, cause error) error {
		return &CorruptError{Segment: path, Pos: pos, Cause: cause}
	}
	if hasManifest {
		file, err := l.fs.Open(manifestPath)
		if err != nil {
			return logEnd{}, fmt.Errorf("commitlog: %w", err)
		}
		m, bad := readManifest(file)
		if bad == nil {
			// A killed process may have left it written, but not durable.
			if err := file.Datasync(); err != nil {
				file.Close()
				return logEnd{}, fmt.Errorf("commitlog: %w", err)
			}
		}
		switch {
		case bad == nil:
			l.man = &manifestFile{file: file, m: m}
		case len(bases) > 0:
			file.Close()
			return logEnd{}, corrupt(manifestPath, 0, bad)
		default:
			// The making of a new log was interrupted.
			file.Close()
			if err := l.fs.Remove(manifestPath); err != nil {
				return logEnd{}, fmt.Errorf("commitlog: %w", err)
			}
			hasManifest = false
		}
	}
	if len(bases) == 0 {
		if hasManifest && l.man.m.Checkpoint.pos > 0 || l.opt.Known > 0 {
			return logEnd{}, corrupt(l.path(segmentName(0)), 0, fmt.Errorf("%w: all segments", ErrMissing))
		}
		return l.create(hasManifest)
	}
	if !hasManifest {
		return logEnd{}, corrupt(manifestPath, 0, ErrMissing)
	}
	segs, headers, err := openSegments(l.fs.Open, l.path, bases)
	if err != nil {
		return logEnd{}, err
	}
	l.segs.Store(&segs)
	return l.findEnd(&scanner{segs: segs, headers: headers})
}

// create starts an empty log.
func (l *Log) create(hasManifest bool) (logEnd, error) {
	var err error
	if !hasManifest {
		if l.man, err = createManifest(l.fs, l.path(manifestName)); err != nil {
			return logEnd{}, fmt.Errorf("commitlog: %w", diskFull(err))
		}
	}
	if len(l.spares) == 0 {
		sp, err := l.makeSpare()
		if err != nil {
			return logEnd{}, fmt.Errorf("commitlog: %w", diskFull(err))
		}
		l.spares = append(l.spares, sp)
	}
	sp := l.spares[0]
	l.spares = l.spares[1:]
	start := tail{pos: segmentHeaderLen}
	if _, err := l.startSegment(sp, 0, start); err != nil {
		sp.file.Close()
		return logEnd{}, fmt.Errorf("commitlog: %w", diskFull(err))
	}
	l.agreed = mark{tail: start}
	return logEnd{frames: start, next: start}, nil
}

func (l *Log) findEnd(sc *scanner) (logEnd, error) {
	last := sc.segs[len(sc.segs)-1]
	start := l.man.m.Checkpoint
	if first := startOf(&sc.headers[0]); start.pos < first.pos {
		start = first
	}
	if start.pos > last.end() {
		return logEnd{}, &CorruptError{Segment: last.path, Pos: last.end(), Cause: fmt.Errorf("%w: log ends before the checkpoint at %d", ErrMissing, start.pos)}
	}
	found := logEnd{frames: start}
	l.agreed = mark{tail: start}
	if start == l.man.m.Checkpoint {
		l.agreed.start, l.agreed.term = l.man.m.Start, l.man.m.Term
	}
	end, cause, err := sc.run(start, func(pos record.Position, h *frameHeader, _ []byte) error {
		found.frames = tail{pos: pos + record.Position(h.size()), index: h.Index, time: h.Time, chain: h.Chain}
		if l.opt.Replicated {
			l.marks.add(mark{tail: found.frames, start: pos, term: h.Term})
			l.marks.hint = max(l.marks.hint, h.Hint)
		}
		return nil
	})
	found.next = end
	if err != nil {
		return logEnd{}, err
	}
	if end.pos < l.opt.Known {
		return logEnd{}, &CorruptError{Segment: last.path, Pos: end.pos, Cause: fmt.Errorf("%w: log should reach %d: %w", ErrMissing, l.opt.Known, cause)}
	}
	cutEnd, proof, err := sc.lookAhead(end)
	if err != nil {
		return logEnd{}, err
	}
	if proof != nil {
		return logEnd{}, &CorruptError{Segment: last.path, Pos: end.pos, Cause: fmt.Errorf("%w; %w", cause, proof)}
	}
	if cutEnd > end.pos {
		l.opt.Logger.Warn("commit log: cutting a torn tail, nothing in it was committed",
			"segment", last.path, "position", end.pos, "bytes", cutEnd-end.pos, "cause", cause)
		if err := zero(last, end.pos, cutEnd); err != nil {
			return logEnd{}, fmt.Errorf("commitlog: %w", err)
		}
	}
	// This makes the cut durable, and what the scan found: if only the process was
	// killed, that may be in the page cache only.
	if err := last.file.Datasync(); err != nil {
		return logEnd{}, fmt.Errorf("commitlog: %w", err)
	}
	last.zeroed.Store(int64(end.pos - last.base))
	return found, nil
}

// zero writes zeros over [from, end) of s.
func zero(s *segment, from, end record.Position) error {
	for off, until := int64(from-s.base), int64(end-s.base); off < until; {
		n, err := s.file.WriteAt(zeros[:min(until-off, int64(len(zeros)))], off)
		if err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}

// zeros is shared and only read.
var zeros = make([]byte, 256<<10)

const quarantine = "quarantine"

// sortFiles looks through the directory: it returns the bases of the segments,
// takes spares over, and moves strangers out of the way.
func (l *Log) sortFiles() (bases []record.Position, hasManifest bool, err error) {
	names, err := l.fs.List(l.opt.Dir)
	if err != nil {
		return nil, false, fmt.Errorf("commitlog: %w", err)
	}
	var strangers []string
	for _, name := range names {
		if base, ok := parseSegmentName(name); ok {
			bases = append(bases, base)
			continue
		}
		var n int
		switch _, err := fmt.Sscanf(name, sparePattern, &n); {
		case name == manifestName:
			hasManifest = true
		case name == "LOCK" || name == quarantine+"/":
		case err == nil && name == fmt.Sprintf(sparePattern, n):
			l.nextSpare = max(l.nextSpare, n+1)
			if err := l.adoptSpare(l.path(name)); err != nil {
				return nil, false, err
			}
		default:
			strangers = append(strangers, name)
		}
	}
	return bases, hasManifest, l.isolate(strangers)
}

// adoptSpare takes over a spare of an earlier run, or removes it if it has not
// the right size: there was never anything in it.
func (l *Log) adoptSpare(path string) error {
	file, err := l.fs.Open(path)
	if err != nil {
		return fmt.Errorf("commitlog: %w", err)
	}
	if file.Size() == l.opt.SegmentSize && len(l.spares) == 0 {
		l.spares = append(l.spares, spare{path: path, file: file})
		return nil
	}
	file.Close()
	if err := l.fs.Remove(path); err != nil {
		return fmt.Errorf("commitlog: %w", err)
	}
	return nil
}

func (l *Log) isolate(strangers []string) error {
	if len(strangers) == 0 {
		return nil
	}
	dir := l.path(quarantine)
	if err := l.fs.MkdirAll(dir); err != nil {
		return fmt.Errorf("commitlog: %w", err)
	}
	taken := map[string]bool{}
	names, err := l.fs.List(dir)
	if err != nil {
		return fmt.Errorf("commitlog: %w", err)
	}
	for _, name := range names {
		taken[strings.TrimSuffix(name, "/")] = true
	}
	for _, name := range strangers {
		name = strings.TrimSuffix(name, "/")
		to := name
		for i := 1; taken[to]; i++ {
			to = fmt.Sprintf("%s.%d", name, i)
		}
		taken[to] = true
		l.opt.Logger.Warn("commit log: moving a file that is no part of it to quarantine", "file", l.path(name))
		if err := l.fs.Rename(l.path(name), filepath.Join(dir, to)); err != nil {
			return fmt.Errorf("commitlog: %w", err)
		}
	}
	if err := l.fs.SyncDir(dir); err != nil {
		return fmt.Errorf("commitlog: %w", err)
	}
	if err := l.fs.SyncDir(l.opt.Dir); err != nil {
		return fmt.Errorf("commitlog: %w", err)
	}
	return nil
}

// diskFull gives a full disk the name this package uses for it.
func diskFull(err error) error {
	if errors.Is(err, mmapfile.ErrNoSpace) {
		return fmt.Errorf("%w: %w", ErrDiskFull, err)
	}
	return err
}
