package commitlog

import (
	"context"
	"fmt"

	"github.com/gantry-mq/gantry/commitlog/record"
)

const (
	// hotBytes is the distance from the end within which bytes are taken to be in
	// the page cache. Beyond it a read may have to wait for the disk, and does so in
	// a system call, in one of coldReads slots.
	hotBytes  = 256 << 20
	coldReads = 8
)

// View is a counted slice of the log's mapped bytes. They must be neither
// changed nor used after Release. The memory stays mapped, and retention's disk
// space taken, until every view of a segment is released.
type View struct {
	b []byte // its capacity is the rest of the segment
	m *mapping
}

func (v View) Bytes() []byte { return v.b[:len(v.b):len(v.b)] }

// Padded returns the bytes of a view of one record with the padding behind it. Its
// capacity is the rest of the segment: records that follow in the same frame may
// be taken in by slicing, and are covered by this view too.
func (v View) Padded() []byte { return v.b[:record.Padded(len(v.b))] }

// Retain adds a reference: one more Release is needed.
func (v View) Retain() {
	if v.m != nil {
		v.m.refs.Add(1)
		v.m.owner.views.Add(1)
	}
}

// Release gives one reference back. Of the zero View it does nothing.
func (v View) Release() {
	if v.m != nil {
		v.m.owner.views.Add(-1)
		v.m.release()
	}
}

// View returns size bytes at pos, within one frame. ErrOutOfRange says that they
// are below First or not all committed. The bytes are not verified here: a
// record carries its own checksums.
func (l *Log) View(pos record.Position, size int) (View, error) {
	committed := l.Committed()
	if size < 0 || pos > committed || record.Position(size) > committed-pos {
		return View{}, ErrOutOfRange
	}
	s := l.find(pos)
	if s == nil || pos < s.start() || record.Position(size) > s.end()-pos {
		return View{}, ErrOutOfRange
	}
	return l.view(s, pos, size, committed)
}

func (l *Log) view(s *segment, pos record.Position, size int, committed record.Position) (View, error) {
	m, err := l.mapper.acquire(s)
	if err != nil {
		if over := l.ended(); over != nil {
			err = over
		}
		return View{}, err
	}
	off := int64(pos - s.base)
	if committed-pos > hotBytes {
		if err := m.bring(off, int64(size), l.cold); err != nil {
			m.release()
			return View{}, fmt.Errorf("commitlog: position %d: %w", pos, err)
		}
	}
	l.mapper.views.Add(1)
	return View{b: m.Bytes()[off : off+int64(size)], m: m}, nil
}

// Frame is one committed frame.
type Frame struct {
	Position record.Position // of the frame's header
	End      record.Position // where the next frame begins
	Index    uint64
	Term     uint64
	Time     int64 // Unix ms
	// Payload is a run of records, the first at Position + 64: see Base. It is
	// mapped memory, valid until Release. Frames of other types have none.
	Payload []byte
	// Notes are of packs in the payload, in order. See Log.Follow.
	Notes []Note

	view View
}

// Base is the position of the first record.
func (f Frame) Base() record.Position { return f.Position + frameHeaderLen }

// View returns the payload's bytes as a counted view that outlives Release; it
// needs its own Release.
func (f Frame) View() View {
	f.view.Retain()
	return f.view
}

// Release gives the payload back.
func (f Frame) Release() { f.view.Release() }

// Reader follows the log from a position to its end and on as it grows. It is
// for one goroutine and needs no closing.
type Reader struct {
	l    *Log
	tail tail
	// linked says that tail.index and tail.chain are known, so that the next frame
	// must follow them; the first frame is taken as it is.
	linked  bool
	follows bool
	wake    chan struct{}
}

// Reader returns a reader of the frames from a position on, which must be First,
// the End of a frame, or a Committed seen earlier: where a frame begins.
func (l *Log) Reader(from record.Position) *Reader {
	return &Reader{l: l, tail: tail{pos: from}, wake: make(chan struct{}, 1)}
}

// Position is where the next frame begins.
func (r *Reader) Position() record.Position { return r.tail.pos }

// Next returns the next frame as soon as it is committed. It verifies the
// frame's checksums and that it follows the one before: a *CorruptError says it
// does not, and says so again when called again. ErrOutOfRange: retention has
// overtaken the reader. ErrClosed or ErrFailed: there will be no more frames.
func (r *Reader) Next(ctx context.Context) (Frame, error) {
	for {
		committed := r.l.Committed()
		if r.tail.pos >= committed {
			if r.tail.pos > committed {
				return Frame{}, ErrOutOfRange
			}
			if err := r.await(ctx); err != nil {
				return Frame{}, err
			}
			continue
		}
		f, next, err := r.read(committed)
		if err != nil || !next {
			return f, err
		}
	}
}

// read returns the frame at the reader's position, or reports that it was a
// segment end and that the reader now stands in the next segment.
func (r *Reader) read(committed record.Position) (f Frame, next bool, err error) {
	pos := r.tail.pos
	s := r.l.find(pos)
	if s == nil || pos < s.start() {
		return Frame{}, false, ErrOutOfRange
	}
	if r.follows {
		if f, ok, err := r.handedOver(s, committed); ok || err != nil {
			return f, false, err
		}
	}
	bad := func(cause error) (Frame, bool, error) {
		return Frame{}, false, &CorruptError{Segment: s.path, Pos: pos, Cause: cause}
	}
	room := s.end() - pos
	if room < frameHeaderLen {
		return bad(fmt.Errorf("%w: no room for a frame", ErrMalformed))
	}
	hv, err := r.l.view(s, pos, frameHeaderLen, committed)
	if err != nil {
		return Frame{}, false, err
	}
	h, err := decodeFrameHeader(hv.b, s.nonce, int64(room))
	hv.Release()
	if err != nil {
		return bad(err)
	}
	v, err := r.l.view(s, pos+frameHeaderLen, int(h.Length), committed)
	if err != nil {
		return Frame{}, false, err
	}
	if !r.linked {
		// Nothing is known of the frames before: any predecessor will do.
		r.tail = tail{pos: pos, index: h.Index - 1, time: h.Time}
		if h.Type == segmentEnd {
			r.tail.index = h.Index
		}
		if crc := record.CRC(v.b); crc != h.PayloadCRC {
			v.Release()
			return bad(fmt.Errorf("%w: payload of frame %d", ErrChecksum, h.Index))
		}
		r.tail.pos, r.tail.index, r.tail.chain = pos+record.Position(h.size()), h.Index, h.Chain
		r.linked = true
	} else if err := r.tail.follow(&h, v.b); err != nil {
		v.Release()
		return bad(err)
	}
	if h.Type == segmentEnd {
		v.Release()
		r.tail.pos = s.end() + segmentHeaderLen
		return Frame{}, true, nil
	}
	f = Frame{Position: pos, End: r.tail.pos, Index: h.Index, Term: h.Term, Time: h.Time / 1e6, view: v}
	if h.Type == FrameRecords {
		f.Payload = v.Bytes()
	}
	return f, false, nil
}

// await waits until more is committed than the reader has read.
func (r *Reader) await(ctx context.Context) error {
	l := r.l
	l.waitMu.Lock()
	if l.Committed() > r.tail.pos {
		l.waitMu.Unlock()
		return nil
	}
	select {
	case <-r.wake: // left over from a wait that ended otherwise
	default:
	}
	if l.over {
		l.waitMu.Unlock()
		return l.ended()
	}
	l.waiters = append(l.waiters, r.wake)
	l.waitMu.Unlock()
	select {
	case <-r.wake:
		return nil
	case <-ctx.Done():
		l.waitMu.Lock()
		for i, w := range l.waiters {
			if w == r.wake {
				l.waiters = append(l.waiters[:i], l.waiters[i+1:]...)
				break
			}
		}
		l.waitMu.Unlock()
		return ctx.Err()
	}
}

// wakeReaders wakes every waiting reader once.
func (l *Log) wakeReaders() {
	l.waitMu.Lock()
	for _, w := range l.waiters {
		select {
		case w <- struct{}{}:
		default:
		}
	}
	clear(l.waiters)
	l.waiters = l.waiters[:0]
	l.waitMu.Unlock()
}

// ended returns why no more will be committed, or nil.
func (l *Log) ended() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	if l.closed {
		return ErrClosed
	}
	return nil
}

// endReading wakes every reader for the last time.
func (l *Log) endReading() {
	l.waitMu.Lock()
	l.over = true
	l.waitMu.Unlock()
	l.wakeReaders()
}
