package commitlog

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile"
)

// A replica whose log is empty can be given that of another as it is on disk. What
// is sent are whole segments from the first on, each as far as it is written:
//
//	segment header | frame ... | segment end
//
// and of the last one only the frames up to the end that was agreed on before. A
// [Held] sends; a [Receiver] verifies, before a byte gets its name, that each frame
// follows the one before, so it can go on after a cut behind any whole segment,
// and from another replica.

// Held is what was committed of a log when Hold was called. Retention may take the
// names of its segments meanwhile, but their bytes stay until Close, and so does
// the room they take. It is for one goroutine.
type Held struct {
	segs []*segment
	end  tail
}

// Hold is for a replicated log.
func (l *Log) Hold() *Held {
	for {
		l.mu.Lock()
		h := &Held{end: l.agreed.tail}
		l.mu.Unlock()
		segs := *l.segs.Load()
		for len(h.segs) < len(segs) && segs[len(h.segs)].hold() {
			h.segs = segs[:len(h.segs)+1]
		}
		if len(h.segs) == len(segs) {
			return h
		}
		h.Close() // retention was faster
	}
}

// Close lets retention have the bytes.
func (h *Held) Close() {
	for _, s := range h.segs {
		s.drop()
	}
	h.segs = nil
}

// First is where the oldest frame begins, and FirstIndex its index.
func (h *Held) First() record.Position { return h.segs[0].start() }
func (h *Held) FirstIndex() uint64     { return h.segs[0].first }

// End is where the newest frame ends, and Index its index.
func (h *Held) End() record.Position { return h.end.pos }
func (h *Held) Index() uint64        { return h.end.index }

// Base returns the base of the segment to begin with for a Receiver whose Next is
// at: at itself if a segment begins there or will, or that of the first.
func (h *Held) Base(at record.Position) record.Position {
	for _, s := range h.segs {
		if s.end() == at {
			return at
		}
	}
	return h.segs[0].base
}

// Send writes the segments from base on to w, and verifies what it sends: damage
// is a *CorruptError here, and does not spread.
func (h *Held) Send(w io.Writer, base record.Position) error {
	sc := &scanner{}
	head := make([]byte, segmentHeaderLen)
	for _, s := range h.segs {
		if s.base < base || s.base >= h.end.pos {
			continue
		}
		if _, err := s.file.ReadAt(head, 0); err != nil {
			return fmt.Errorf("commitlog: %s: %w", s.path, err)
		}
		header, err := decodeSegmentHeader(head)
		if err != nil {
			return &CorruptError{Segment: s.path, Pos: s.base, Cause: err}
		}
		if _, err := w.Write(head); err != nil {
			return err
		}
		for t, over := startOf(&header), false; !over && t.pos < h.end.pos; {
			at := t.pos
			f, payload, bad, err := sc.frame(s, &t)
			if err != nil {
				return err
			}
			if bad != nil {
				return &CorruptError{Segment: s.path, Pos: at, Cause: bad}
			}
			f.encode(head, s.nonce)
			if _, err := w.Write(head[:frameHeaderLen]); err != nil {
				return err
			}
			if _, err := w.Write(payload); err != nil {
				return err
			}
			over = f.Type == segmentEnd
		}
	}
	return nil
}

// Receiver makes a log of what a Held sends. Until Finish there is no log: Open
// refuses the directory. It is for one goroutine, and locks the directory.
type Receiver struct {
	fs   mmapfile.FS
	dir  string
	lock io.Closer
	segs []record.Position // bases of the whole segments that are there
	next tail              // what the next frame follows; its pos does not count segment ends
	base record.Position   // of the next segment; 0 with no segs: any
	last mark              // the newest frame
}

// incoming is a segment that is being received. Open would put it to quarantine.
const incoming = "incoming.tmp"

// NewReceiver takes up what an earlier one has received into dir: all whole
// segments. Whatever else is there of a log is removed.
func NewReceiver(fsys mmapfile.FS, dir string) (*Receiver, error) {
	r := &Receiver{fs: fsys, dir: dir}
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("commitlog: %w", err)
	}
	var err error
	if r.lock, err = fsys.Lock(dir); err != nil {
		return nil, fmt.Errorf("commitlog: %w", err)
	}
	if err := r.takeUp(); err != nil {
		r.lock.Close()
		return nil, err
	}
	return r, nil
}

// Close keeps what is there for the next one.
func (r *Receiver) Close() error { return r.lock.Close() }

// Next is the base of the segment that Receive goes on with; 0 when it begins.
func (r *Receiver) Next() record.Position { return r.base }

// takeUp keeps whole segments: one without its end is sent again.
func (r *Receiver) takeUp() error {
	names, err := r.fs.List(r.dir)
	if err != nil {
		return fmt.Errorf("commitlog: %w", err)
	}
	for _, name := range names {
		if base, ok := parseSegmentName(name); ok {
			r.segs = append(r.segs, base)
		} else if name == manifestName || name == incoming {
			if err := r.remove(name); err != nil {
				return err
			}
		}
	}
	for len(r.segs) > 0 {
		whole, err := r.verifyLast()
		if whole || err != nil {
			return err
		}
		if err := r.removeLast(); err != nil {
			return err
		}
	}
	return nil
}

// verifyLast reports whether the last segment is whole and follows the one before,
// and takes over where it ends.
func (r *Receiver) verifyLast() (bool, error) {
	from := max(0, len(r.segs)-2)
	segs, headers, err := openSegments(r.fs.OpenRead, r.path, r.segs[from:])
	sc := &scanner{segs: segs, headers: headers}
	defer sc.close()
	var bad *CorruptError
	if errors.As(err, &bad) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	s := segs[len(segs)-1]
	r.next, r.last = startOf(&headers[len(headers)-1]), mark{}
	for {
		at := r.next.pos
		h, _, bad, err := sc.frame(s, &r.next)
		if err != nil || bad != nil {
			return false, err
		}
		r.passed(at, &h)
		if h.Type == segmentEnd {
			r.base = s.end()
			return true, nil
		}
	}
}

// passed remembers the frame at a position, if it is one that has an index.
func (r *Receiver) passed(at record.Position, h *frameHeader) {
	if h.Type != segmentEnd {
		r.last = mark{tail: r.next, start: at, term: h.Term}
	}
}

// Reset forgets all that was received: it does not go on with what is sent.
func (r *Receiver) Reset() error {
	for len(r.segs) > 0 {
		if err := r.removeLast(); err != nil {
			return err
		}
	}
	return nil
}

func (r *Receiver) removeLast() error {
	last := len(r.segs) - 1
	if err := r.remove(segmentName(r.segs[last])); err != nil {
		return err
	}
	r.segs, r.next, r.last, r.base = r.segs[:last], tail{}, mark{}, 0
	return nil
}

func (r *Receiver) remove(name string) error {
	if err := r.fs.Remove(r.path(name)); err != nil {
		return fmt.Errorf("commitlog: %w", err)
	}
	if err := r.fs.SyncDir(r.dir); err != nil {
		return fmt.Errorf("commitlog: %w", err)
	}
	return nil
}

func (r *Receiver) path(name string) string { return filepath.Join(r.dir, name) }

// Receive reads segments up to until, the End of who sends. A *CorruptError says
// that what came is not what follows; all whole segments before it are kept.
func (r *Receiver) Receive(src io.Reader, until record.Position) error {
	in := bufio.NewReaderSize(src, scanChunk)
	for r.last.tail.pos < until {
		if err := r.segment(in, until); err != nil {
			return err
		}
	}
	return nil
}

func (r *Receiver) segment(in io.Reader, until record.Position) (err error) {
	bad := func(pos record.Position, cause error) error {
		return &CorruptError{Segment: r.path(incoming), Pos: pos, Cause: cause}
	}
	b := make([]byte, segmentHeaderLen, 2*scanChunk)
	if _, err := io.ReadFull(in, b); err != nil {
		return fmt.Errorf("commitlog: segment %d did not arrive: %w", r.base, err)
	}
	header, err := decodeSegmentHeader(b)
	if err != nil {
		return bad(r.base, err)
	}
	start, want := startOf(&header), r.next
	if want.pos = r.base + segmentHeaderLen; len(r.segs) > 0 && start != want {
		return bad(r.base, fmt.Errorf("%w: header says %+v, the segment before ends with %+v", ErrSequence, start, want))
	}
	file, err := r.fs.Create(r.path(incoming), header.Size)
	if err != nil {
		return fmt.Errorf("commitlog: %w", diskFull(err))
	}
	next, last := r.next, r.last
	defer func() {
		file.Close()
		if err != nil {
			r.next, r.last = next, last
			err = errors.Join(err, r.remove(incoming))
		}
	}()
	r.next = start
	off := int64(0) // of b in the file
	over := false
	for !over && r.next.pos < until {
		at := len(b)
		pos := header.Base + record.Position(off) + record.Position(at)
		b = append(b, make([]byte, frameHeaderLen)...)
		if _, err := io.ReadFull(in, b[at:]); err != nil {
			return fmt.Errorf("commitlog: frame at %d did not arrive: %w", pos, err)
		}
		h, err := decodeFrameHeader(b[at:], header.Nonce, int64(header.Base)+header.Size-int64(pos))
		if err != nil {
			return bad(pos, err)
		}
		if b, err = readMore(b, in, int(h.Length)); err != nil {
			return fmt.Errorf("commitlog: frame at %d did not arrive: %w", pos, err)
		}
		if err := r.next.follow(&h, b[at+frameHeaderLen:]); err != nil {
			return bad(pos, err)
		}
		r.passed(pos, &h)
		over = h.Type == segmentEnd
		if len(b) >= scanChunk {
			if _, err := file.WriteAt(b, off); err != nil {
				return fmt.Errorf("commitlog: %w", err)
			}
			off, b = off+int64(len(b)), b[:0]
		}
	}
	if _, err := file.WriteAt(b, off); err != nil {
		return fmt.Errorf("commitlog: %w", err)
	}
	if err := file.Datasync(); err != nil {
		return fmt.Errorf("commitlog: %w", err)
	}
	if err := r.fs.Rename(r.path(incoming), r.path(segmentName(header.Base))); err != nil {
		return fmt.Errorf("commitlog: %w", err)
	}
	if err := r.fs.SyncDir(r.dir); err != nil {
		return fmt.Errorf("commitlog: %w", err)
	}
	r.segs = append(r.segs, header.Base)
	r.base = header.Base + record.Position(header.Size)
	return nil
}

// readMore appends n bytes of in to b. It takes memory as they come, not as they
// are announced.
func readMore(b []byte, in io.Reader, n int) ([]byte, error) {
	for n > 0 {
		at, part := len(b), min(n, scanChunk)
		b = append(b, make([]byte, part)...)
		if _, err := io.ReadFull(in, b[at:]); err != nil {
			return b, err
		}
		n -= part
	}
	return b, nil
}

// Finish makes what is there a log, all of it durable and committed. Only Close
// may follow.
func (r *Receiver) Finish() error {
	man, err := createManifest(r.fs, r.path(manifestName))
	if err != nil {
		return fmt.Errorf("commitlog: %w", diskFull(err))
	}
	defer man.file.Close()
	if err := man.checkpoint(r.last); err != nil {
		return fmt.Errorf("commitlog: %w", err)
	}
	return nil
}
