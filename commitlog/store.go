package commitlog

import (
	"errors"
	"fmt"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// A replicated log is ordered by others: a protocol that has replicas agree on
// each frame. What is written is not committed then, and its end may be taken
// back; what is committed never is:
//
//	First <= Committed <= Durable <= Written
//
// Store puts frames behind the last, Commit says up to which they are agreed on,
// TruncateAfter takes the rest back. Readers see what is committed, as ever.
//
// The same entries make the same frames at the same positions in every replica
// that has segments of the same size: when a segment ends depends on the frame
// that does not fit, and what ends it on the frame before. Only the nonces of the
// segments, and the commit hints, are a replica's own.

// Entry is a frame as whoever replicates the log sees it.
type Entry struct {
	Index uint64 // 1, 2, 3 ... without gaps
	Term  uint64 // never decreases
	Type  FrameType
	Time  int64 // Unix ns; a frame is never older than the one before, whatever is asked
	// Payload is, for FrameRecords, records behind each other, each padded.
	Payload []byte
}

var (
	// ErrReplicated: Submit on a log that is ordered by others.
	ErrReplicated = errors.New("commitlog: the log is replicated, entries come by Store")
	// ErrAgreed: TruncateAfter would take back what is committed.
	ErrAgreed = errors.New("commitlog: what is committed is not taken back")
)

// FirstIndex returns the index of the oldest frame, and LastIndex that of the
// newest, committed or not; both are 0 when the log holds no frame.
func (l *Log) FirstIndex() uint64 {
	if l.LastIndex() == 0 {
		return 0
	}
	return (*l.segs.Load())[0].first
}

func (l *Log) LastIndex() uint64 {
	if last := l.lastIndex.Load(); last >= (*l.segs.Load())[0].first {
		return last
	}
	return 0
}

// Entry returns a copy of a frame, verified. ErrOutOfRange: retention has taken
// it, or it was never stored.
func (l *Log) Entry(index uint64) (Entry, error) {
	m, err := l.locate(index)
	if err != nil {
		return Entry{}, err
	}
	s := l.find(m.start)
	if s == nil {
		return Entry{}, ErrOutOfRange
	}
	bad := func(cause error) (Entry, error) {
		return Entry{}, &CorruptError{Segment: s.path, Pos: m.start, Cause: cause}
	}
	h, err := l.header(s, m.start)
	if err != nil {
		return bad(err)
	}
	v, err := l.view(s, m.start+frameHeaderLen, int(h.Length), l.Written())
	if err != nil {
		return Entry{}, err
	}
	defer v.Release()
	if h.Index != index {
		return bad(fmt.Errorf("%w: frame index %d, want %d", ErrSequence, h.Index, index))
	}
	if record.CRC(v.b) != h.PayloadCRC {
		return bad(fmt.Errorf("%w: payload of frame %d", ErrChecksum, index))
	}
	payload := append([]byte(nil), v.b[:len(v.b)-int(h.Flags&padMask)]...)
	return Entry{Index: h.Index, Term: h.Term, Type: h.Type, Time: h.Time, Payload: payload}, nil
}

// Chain returns the chain value of a frame: a checksum of what was agreed on in all
// frames up to it, equal in all replicas. ErrOutOfRange as for Entry.
func (l *Log) Chain(index uint64) (uint32, error) {
	m, err := l.locate(index)
	return m.tail.chain, err
}

// SegmentSize is what Options say. Replicas must have the same.
func (l *Log) SegmentSize() int64 { return l.opt.SegmentSize }

// Store writes entries behind the last frame and, in DurabilitySync, syncs them.
// After an error that is not ErrFailed nothing was written: ErrDiskFull,
// ErrBatchTooLarge, ErrClosed, or ErrSequence when they do not follow the last.
func (l *Log) Store(entries []Entry) error {
	l.storeMu.Lock()
	defer l.storeMu.Unlock()
	if err := l.admit(entries); err != nil {
		return err
	}
	err := l.w.store(entries)
	if err == nil && l.opt.Durability == DurabilitySync {
		err = l.settle(l.w.tail, l.w.seg)
	}
	if err != nil {
		l.fail(err)
		return l.failure()
	}
	return nil
}

// admit checks that entries may be stored and waits until there is room for all
// of them: none is written before. It needs storeMu.
func (l *Log) admit(entries []Entry) error {
	index, term := l.w.tail.index, l.w.term
	for i := range entries {
		e := &entries[i]
		index++
		switch size := len(e.Payload); {
		case e.Index != index || e.Term < term:
			return fmt.Errorf("%w: entry %d of term %d, want %d of term %d or later", ErrSequence, e.Index, e.Term, index, term)
		case e.Type == FrameRecords && size%record.Align != 0:
			return fmt.Errorf("%w: entry %d has %d bytes of records", ErrMalformed, e.Index, size)
		case e.Type < FrameRecords || e.Type > FrameMembership:
			return fmt.Errorf("%w: entry %d has type %d", ErrMalformed, e.Index, e.Type)
		case record.Padded(size) > l.opt.MaxBatch:
			return fmt.Errorf("%w: entry %d has %d bytes", ErrBatchTooLarge, e.Index, size)
		}
		term = e.Term
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		if l.err != nil {
			return l.err
		}
		if l.closed {
			return ErrClosed
		}
		p, fit := plan{pos: l.w.tail.pos, end: l.w.seg.end(), limit: l.plan.limit}, true
		for i := range entries {
			fit = fit && p.add(record.Padded(len(entries[i].Payload)), l.opt.SegmentSize)
		}
		if fit {
			return nil
		}
		if l.diskFull {
			return ErrDiskFull
		}
		l.kickPreparer()
		l.wakeSubmit.Wait()
	}
}

// store writes entries, for which there is room.
func (w *writer) store(entries []Entry) error {
	for i := range entries {
		e := &entries[i]
		size := record.Padded(len(e.Payload))
		w.now = max(e.Time, w.tail.time)
		if written := int64(w.tail.pos-w.seg.base) - w.start; len(w.vecs) > 0 && (written+int64(size) > groupBytes || len(w.vecs) >= groupVecs) {
			if err := w.flush(); err != nil {
				return err
			}
		}
		if !fits(w.tail.pos, w.seg.end(), size) {
			if err := w.roll(); err != nil {
				return err
			}
		}
		w.openFrame()
		w.add(e.Payload)
		w.add(zeroPad[:size-len(e.Payload)])
		w.length = size
		w.endFrame(e.Term, e.Type, size-len(e.Payload))
	}
	return w.flush()
}

// settle syncs s, up to whose end the log is written.
func (l *Log) settle(end tail, s *segment) error {
	if err := l.datasync(s); err != nil {
		return err
	}
	l.durableIndex.Store(end.index)
	l.mu.Lock()
	l.durable = end
	l.wakeDurable.Broadcast()
	l.mu.Unlock()
	return nil
}

// Commit says that every replica will have the frames up to index, and shows them
// to readers. It returns where frame index is: its header, and its end. It is for
// one goroutine; indexes only grow.
func (l *Log) Commit(index uint64) (start, end record.Position, err error) {
	m, err := l.locate(index)
	if err != nil {
		return 0, 0, fmt.Errorf("commitlog: commit of frame %d: %w", index, err)
	}
	if index > l.committedIndex.Load() {
		l.mu.Lock()
		l.agreed = m
		l.mu.Unlock()
		l.commit(m.tail, nil)
	}
	return m.start, m.tail.pos, nil
}

// TruncateAfter takes back the frames behind index, durably: whole segments from
// the last, then what is left of the one that stays, which is zeroed. A crash
// meanwhile leaves the log with a part of them, all of which recovery takes for a
// torn tail or for frames that were not taken back yet. ErrAgreed, and nothing
// changed, when one of them is committed.
func (l *Log) TruncateAfter(index uint64) error {
	l.storeMu.Lock()
	defer l.storeMu.Unlock()
	if index >= l.w.tail.index {
		return nil
	}
	if committed := l.Index(); index < committed {
		return fmt.Errorf("%w: frames behind %d, %d is committed", ErrAgreed, index, committed)
	}
	if err := l.truncate(index); err != nil {
		l.fail(err)
		return l.failure()
	}
	return nil
}

func (l *Log) truncate(index uint64) error {
	m, s, err := l.keptEnd(index)
	if err != nil {
		return err
	}
	from, until := m.tail.pos, l.w.tail.pos
	if next := l.find(s.end()); next != nil {
		end, err := l.locate(next.first - 1)
		if err != nil {
			return err
		}
		until = end.tail.pos + frameHeaderLen // the segment's end
		if err := l.removeBehind(s); err != nil {
			return err
		}
	}
	s.passZeros(int64(until - s.base))
	if err := zero(s, from, until); err != nil {
		return fmt.Errorf("commitlog: %s: %w", s.path, err)
	}
	w := &l.w
	w.seg, w.tail, w.term = s, m.tail, m.term
	l.marks.cut(index)
	l.live.forget(from)
	l.lastIndex.Store(index)
	l.written.Store(uint64(from))
	l.mu.Lock()
	l.cuts++
	l.pendingTail, l.pendingSeg = w.tail, s
	l.durable.pos = min(l.durable.pos, from)
	l.plan = plan{pos: from, end: s.end(), limit: s.end()}
	for _, sp := range l.spares {
		l.plan.limit += record.Position(sp.file.Size())
	}
	l.mu.Unlock()
	l.kickAt.Store(0)
	return l.settle(w.tail, s)
}

// keptEnd returns the last frame that stays and its segment. Behind index 0, or
// what is before the first frame, that is the start of the first segment.
func (l *Log) keptEnd(index uint64) (mark, *segment, error) {
	if s := (*l.segs.Load())[0]; s.first == index+1 {
		b := make([]byte, segmentHeaderLen)
		if _, err := s.file.ReadAt(b, 0); err != nil {
			return mark{}, nil, fmt.Errorf("commitlog: %s: %w", s.path, err)
		}
		h, err := decodeSegmentHeader(b)
		if err != nil {
			return mark{}, nil, &CorruptError{Segment: s.path, Pos: s.base, Cause: err}
		}
		return mark{tail: startOf(&h)}, s, nil
	}
	m, err := l.locate(index)
	if err != nil {
		return mark{}, nil, err
	}
	return m, l.find(m.start), nil
}

// removeBehind removes the segments behind s, the last first: a crash leaves no
// hole. Their files are not used again: somebody may still have them open.
func (l *Log) removeBehind(s *segment) error {
	for {
		l.segMu.Lock()
		segs := *l.segs.Load()
		last := segs[len(segs)-1]
		if last == s {
			l.segMu.Unlock()
			return nil
		}
		rest := segs[: len(segs)-1 : len(segs)-1]
		l.segs.Store(&rest)
		l.segMu.Unlock()
		last.passZeros(last.size) // its name will be another's
		l.mapper.forget(last)
		last.drop()
		if err := l.fs.Remove(last.path); err != nil {
			return fmt.Errorf("commitlog: %w", err)
		}
		if err := l.fs.SyncDir(l.opt.Dir); err != nil {
			return fmt.Errorf("commitlog: %w", err)
		}
	}
}

// findAgreed returns the last frame that recovery knows to be committed: by the
// manifest, by Options.Known, or by a frame that was written later. The protocol
// will say soon how much more is.
func (l *Log) findAgreed() (mark, error) {
	k, agreed := &l.marks, l.agreed // where the scan began
	if len(k.newest) == 0 && agreed.tail.index >= (*l.segs.Load())[0].first {
		if agreed.start == 0 { // the checkpoint of a log that was not replicated then
			m, err := l.locate(agreed.tail.index)
			if err != nil {
				return mark{}, err
			}
			agreed = m
		}
		k.newest = append(k.newest, agreed)
	}
	for _, m := range k.newest {
		l.w.term = m.term
		if m.tail.index <= k.hint || m.tail.pos <= l.opt.Known {
			agreed = m
		}
	}
	return agreed, nil
}
