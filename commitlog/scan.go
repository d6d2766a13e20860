package commitlog

import (
	"bytes"
	"fmt"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile"
)

// openSegment opens the file named for base and verifies its header.
func openSegment(open func(string) (mmapfile.File, error), path string, base record.Position) (*segment, segmentHeader, error) {
	bad := func(cause error) (*segment, segmentHeader, error) {
		return nil, segmentHeader{}, &CorruptError{Segment: path, Pos: base, Cause: cause}
	}
	file, err := open(path)
	if err != nil {
		return nil, segmentHeader{}, fmt.Errorf("commitlog: %w", err)
	}
	if file.Size() < segmentHeaderLen {
		file.Close()
		return bad(fmt.Errorf("%w: file of %d bytes", ErrMalformed, file.Size()))
	}
	b := make([]byte, segmentHeaderLen)
	if _, err := file.ReadAt(b, 0); err != nil {
		file.Close()
		return nil, segmentHeader{}, fmt.Errorf("commitlog: %w", err)
	}
	h, err := decodeSegmentHeader(b)
	if err == nil && h.Base != base {
		err = fmt.Errorf("%w: header of segment %d", ErrSequence, h.Base)
	}
	if err == nil && h.Size != file.Size() {
		err = fmt.Errorf("%w: file of %d bytes, header says %d", ErrMalformed, file.Size(), h.Size)
	}
	if err != nil {
		file.Close()
		return bad(err)
	}
	return newSegment(file, path, &h), h, nil
}

// openSegments opens those of bases, which are in order, and checks that each
// begins where the one before ends.
func openSegments(open func(string) (mmapfile.File, error), path func(string) string, bases []record.Position) (segs []*segment, headers []segmentHeader, err error) {
	defer func() {
		if err != nil {
			for _, s := range segs {
				s.drop()
			}
			segs = nil
		}
	}()
	for i, base := range bases {
		s, h, err := openSegment(open, path(segmentName(base)), base)
		if err != nil {
			return segs, nil, err
		}
		segs, headers = append(segs, s), append(headers, h)
		if i == 0 {
			continue
		}
		prev := segs[i-1]
		prev.endTime = h.PrevTime
		if prev.end() != base {
			return segs, nil, &CorruptError{Segment: path(segmentName(prev.end())), Pos: prev.end(), Cause: ErrMissing}
		}
	}
	return segs, headers, nil
}

// startOf is what the first frame of a segment must follow.
func startOf(h *segmentHeader) tail {
	return tail{pos: h.Base + segmentHeaderLen, index: h.BaseIndex - 1, time: h.PrevTime, chain: h.PrevChain}
}

// scanner reads segments from front to back through a buffer, not through a
// mapping: it may meet media errors, and those must be errors.
type scanner struct {
	segs    []*segment
	headers []segmentHeader
	read    func(f mmapfile.File, p []byte, off int64) (int, error) // nil: ReadAt
	buf     []byte
	seg     *segment // what buf is from
	at      int64    // and where
}

const scanChunk = 1 << 20

// peek returns n bytes at off of s, valid until the next call.
func (sc *scanner) peek(s *segment, off, n int64) ([]byte, error) {
	if s != sc.seg || off < sc.at || off+n > sc.at+int64(len(sc.buf)) {
		size := min(max(n, scanChunk), s.size-off)
		if int64(cap(sc.buf)) < size {
			sc.buf = make([]byte, size)
		}
		sc.buf, sc.seg, sc.at = sc.buf[:size], s, off
		read := sc.read
		if read == nil {
			read = mmapfile.File.ReadAt
		}
		if _, err := read(s.file, sc.buf, off); err != nil {
			sc.seg = nil
			return nil, fmt.Errorf("commitlog: read %s at %d: %w", s.path, off, err)
		}
	}
	return sc.buf[off-sc.at:][:n:n], nil
}

// run verifies all frames from t on and calls f for each. It returns where the
// log ends and what it found there instead of a frame of the last segment. Any
// other bad frame is a *CorruptError.
func (sc *scanner) run(t tail, f func(pos record.Position, h *frameHeader, payload []byte) error) (end tail, cause error, err error) {
	for i, s := range sc.segs {
		if s.end() <= t.pos {
			continue
		}
		last := i == len(sc.segs)-1
		for {
			next := t
			h, payload, bad, err := sc.frame(s, &next)
			if err != nil {
				return t, nil, err
			}
			if bad == nil && h.Type == segmentEnd && last {
				bad = fmt.Errorf("%w: segment after %s", ErrMissing, s.path)
			}
			if bad != nil {
				if last {
					return t, bad, nil
				}
				return t, nil, &CorruptError{Segment: s.path, Pos: t.pos, Cause: bad}
			}
			if h.Type == segmentEnd {
				want := startOf(&sc.headers[i+1])
				next.pos = want.pos
				if next != want {
					return t, nil, &CorruptError{Segment: sc.segs[i+1].path, Pos: s.end(),
						Cause: fmt.Errorf("%w: header says %+v, the segment before ends with %+v", ErrSequence, want, next)}
				}
				t = next
				break
			}
			if err := f(t.pos, &h, payload); err != nil {
				return t, nil, err
			}
			t = next
		}
	}
	return t, nil, nil
}

// frame reads and verifies the frame that follows t, and moves t past it. bad
// says why there is none.
func (sc *scanner) frame(s *segment, t *tail) (h frameHeader, payload []byte, bad, err error) {
	off := int64(t.pos - s.base)
	room := s.size - off
	if room < frameHeaderLen {
		return h, nil, fmt.Errorf("%w: no room for a frame", ErrMalformed), nil
	}
	b, err := sc.peek(s, off, frameHeaderLen)
	if err != nil {
		return h, nil, nil, err
	}
	if h, bad = decodeFrameHeader(b, s.nonce, room); bad != nil {
		return h, nil, bad, nil
	}
	if payload, err = sc.peek(s, off+frameHeaderLen, int64(h.Length)); err != nil {
		return h, nil, nil, err
	}
	return h, payload, t.follow(&h, payload), nil
}

// lookAhead searches what is beyond the end t of the log for frame headers of
// this life of the segment. It returns the end of the last one, or t.pos if
// there is none, and an error if one of them says that the frame which should be
// at t was committed.
func (sc *scanner) lookAhead(t tail) (end record.Position, proof error, err error) {
	s := sc.segs[len(sc.segs)-1]
	end = t.pos
	magic := le.AppendUint32(nil, magicOf(s.nonce))
	off := int64(t.pos - s.base)
	for until := min(off+lookAheadBytes, s.size); off+frameHeaderLen <= until; {
		// What was never written is not read: it is nearly all, and a start has to wait
		// for it.
		if off, err = s.file.NextData(off); err != nil {
			return 0, nil, err
		}
		if off &^= record.Align - 1; off+frameHeaderLen > until {
			break
		}
		b, err := sc.peek(s, off, min(scanChunk, until-off))
		if err != nil {
			return 0, nil, err
		}
		i := bytes.Index(b, magic)
		if i < 0 {
			off += int64(len(b)) // chunks and frames are aligned: no magic spans two
			continue
		}
		off += int64(i)
		if off%record.Align != 0 || off+frameHeaderLen > s.size {
			off = (off + record.Align) &^ (record.Align - 1)
			continue
		}
		end = s.base + record.Position(off) + frameHeaderLen
		if b, err = sc.peek(s, off, frameHeaderLen); err != nil {
			return 0, nil, err
		}
		h, bad := decodeFrameHeader(b, s.nonce, s.size-off)
		if bad == nil && h.Hint > t.index && proof == nil {
			proof = fmt.Errorf("%w: frame %d at position %d was written when frame %d was durable",
				ErrSequence, h.Index, s.base+record.Position(off), h.Hint)
		}
		off += record.Align
	}
	return end, proof, nil
}

// lookAheadBytes is what can be written and not durable at one time, with the
// default options: asyncUnsynced, and one queue on top.
const lookAheadBytes = asyncUnsynced + 32<<20 + defaultMaxBatch
