package commitlog

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"runtime"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile"
)

const (
	// overlapBytes is how much must wait before it is written while a sync is still
	// running. Less is left to gather: it is written in an instant when the sync is
	// done, in fewer and fuller frames. More is written meanwhile, so that the copy
	// to the page cache overlaps with the disk's work.
	overlapBytes = 128 << 10

	// maxUnsynced bounds what is written and not yet durable, give or take one queue.
	// In DurabilityUnsafeAsync it is asyncUnsynced, and no more than asyncAge times
	// SyncEvery may have passed since the oldest of it was answered. Recovery looks
	// this far beyond a bad frame for one that proves the bad one was committed.
	maxUnsynced   = 16 << 20
	asyncUnsynced = 256 << 20
	asyncAge      = 5

	// groupBytes and groupVecs bound one write.
	groupBytes = 4 << 20
	groupVecs  = 1000

	// coalesce is the size below which a piece is copied next to its neighbours
	// rather than given a vector of its own: the kernel's work per vector costs more
	// than the copy.
	coalesce = 512
)

// writer orders and writes the log. All of it belongs to the write goroutine.
//
// A group is what one pwritev writes: frames one after the other, as a list of
// buffers. Bodies are the callers' own slices. Frame headers, heads and small
// bodies lie in scratch, where neighbours share a buffer.
type writer struct {
	l    *Log
	seg  *segment
	tail tail   // end of the group being built
	term uint64 // of the last frame

	now     int64 // Unix ns, for the frames of this group
	start   int64 // offset in the file at which the group begins
	vecs    [][]byte
	scratch []byte
	runFrom int  // start in scratch of the last buffer of vecs,
	run     bool // if that buffer is the end of scratch and may grow

	group []*Batch
	// The open frame, the last of the group; header is nil when there is none.
	header     []byte
	firstVec   int // its place in vecs
	firstBatch int // its place in group
	length     int // payload so far
	notes      []Note
}

func (l *Log) runWriter() {
	defer close(l.writeDone)
	w := &l.w
	var taken []*Batch
	for {
		taken = l.take(taken)
		if taken == nil {
			return
		}
		w.now = max(l.opt.Now(), w.tail.time)
		for i, b := range taken {
			if err := w.pack(b); err != nil {
				w.abandon(taken[i:], err)
				return
			}
		}
		if err := w.flush(); err != nil {
			w.abandon(nil, err)
			return
		}
		l.replan(w)
	}
}

// take waits for work and returns all of it, or nil when there will be none. It
// gives done, the slice of the previous call, back for reuse.
func (l *Log) take(done []*Batch) []*Batch {
	clear(done)
	l.mu.Lock()
	defer l.mu.Unlock()
	if done != nil {
		l.queueSpare = done[:0]
	}
	for yielded := false; ; {
		if l.err != nil {
			return nil
		}
		if len(l.queue) > 0 {
			if l.mayWrite() {
				if !yielded && l.queueBytes < overlapBytes {
					// Whoever is about to append, and only waits for a processor, is let
					// go first: on a busy machine ten batches share a write instead of one,
					// on an idle one nobody is waiting.
					yielded = true
					l.mu.Unlock()
					runtime.Gosched()
					l.mu.Lock()
					continue
				}
				taken := l.queue
				l.queue, l.queueSpare, l.queueBytes = l.queueSpare, nil, 0
				l.wakeSubmit.Broadcast()
				return taken
			}
		} else if l.closed {
			return nil
		}
		l.wakeWrite.Wait()
	}
}

// mayWrite reports whether what is queued may be written now, or has to wait for a
// sync. It needs mu.
func (l *Log) mayWrite() bool {
	unsynced := l.pendingTail.pos - l.durable.pos
	switch {
	case unsynced == 0:
		return true
	case l.opt.Durability != DurabilitySync:
		return unsynced < asyncUnsynced && time.Since(l.unsyncedSince) < asyncAge*l.opt.SyncEvery
	}
	busy := l.syncing || len(l.pending) > 0
	return unsynced < maxUnsynced && (!busy || l.queueBytes >= overlapBytes)
}

// replan forgets the room that was planned for and not needed.
func (l *Log) replan(w *writer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) > 0 && l.plan.end == w.seg.end() {
		return // plenty of room: not worth going through the queue
	}
	p := plan{pos: w.tail.pos, end: w.seg.end(), limit: l.plan.limit}
	for _, b := range l.queue {
		if !p.add(b.size, l.opt.SegmentSize) {
			return
		}
	}
	l.plan = p
	l.wakeSubmit.Broadcast()
}

// pack adds one batch to the group, writing out what must be written first.
func (w *writer) pack(b *Batch) error {
	if w.header != nil && (w.length+b.size > w.l.opt.FrameBytes ||
		!fits(w.tail.pos, w.seg.end(), w.length+b.size)) {
		w.closeFrame()
	}
	if w.header == nil {
		written := int64(w.tail.pos-w.seg.base) - w.start
		if len(w.group) > 0 && (written >= groupBytes || len(w.vecs) >= groupVecs) {
			if err := w.flush(); err != nil {
				return err
			}
		}
		if !fits(w.tail.pos, w.seg.end(), b.size) {
			if err := w.roll(); err != nil {
				return err
			}
		}
		w.openFrame()
	}
	w.l.opt.Sequence(w.now/1e6, b)
	b.base = w.tail.pos + frameHeaderLen + record.Position(w.length)
	for i := range b.recs {
		r := &b.recs[i]
		if r.note != nil {
			w.notes = append(w.notes, Note{Off: w.length + r.off, Len: r.noted, Value: r.note})
		}
		w.add(r.head)
		w.add(r.body)
		n := len(r.head) + len(r.body)
		w.add(zeroPad[:record.Padded(n)-n])
	}
	w.length += b.size
	w.group = append(w.group, b)
	return nil
}

var zeroPad [record.Align]byte

// add appends one piece to the group, by reference or, if small, by copy.
func (w *writer) add(p []byte) {
	if len(p) == 0 {
		return
	}
	if len(p) >= coalesce {
		w.vecs = append(w.vecs, p)
		w.run = false
		return
	}
	w.reserve(len(p))
	w.scratch = append(w.scratch, p...)
	w.extend()
}

// reserve makes sure that scratch can take n more bytes where it is. What it
// held before stays where it was, referenced by vecs.
func (w *writer) reserve(n int) {
	if cap(w.scratch)-len(w.scratch) < n {
		w.scratch = make([]byte, 0, max(2*cap(w.scratch), n, 64<<10))
		w.run = false
	}
	if !w.run {
		w.runFrom = len(w.scratch)
	}
}

// extend makes the last buffer of vecs reach to the end of scratch.
func (w *writer) extend() {
	if !w.run {
		w.vecs = append(w.vecs, nil)
		w.run = true
	}
	w.vecs[len(w.vecs)-1] = w.scratch[w.runFrom:]
}

func (w *writer) openFrame() {
	if len(w.vecs) == 0 {
		w.start = int64(w.tail.pos - w.seg.base)
	}
	w.run = false // the checksum wants the frame to begin with a buffer of its own
	w.reserve(frameHeaderLen)
	n := len(w.scratch)
	w.scratch = w.scratch[:n+frameHeaderLen]
	w.header = w.scratch[n:]
	w.extend()
	w.firstVec, w.firstBatch, w.length = len(w.vecs)-1, len(w.group), 0
}

func (w *writer) closeFrame() { w.endFrame(firstTerm, FrameRecords, 0) }

// endFrame closes the open frame, whose payload ends with so many bytes of padding
// that are not of its records.
func (w *writer) endFrame(term uint64, kind FrameType, padding int) {
	crc := crc32.Update(0, castagnoli, w.vecs[w.firstVec][frameHeaderLen:])
	for _, v := range w.vecs[w.firstVec+1:] {
		crc = crc32.Update(crc, castagnoli, v)
	}
	h := frameHeader{
		Index:      w.tail.index + 1,
		Term:       term,
		Hint:       w.l.hint(),
		Length:     uint32(w.length),
		PayloadCRC: crc,
		Chain:      nextChain(w.tail.chain, w.tail.index+1, term, crc),
		Type:       kind,
		Flags:      uint8(padding),
		Time:       w.now,
	}
	h.encode(w.header, w.seg.nonce)
	w.header = nil
	pos := w.tail.pos
	w.tail = tail{pos: pos + record.Position(h.size()), index: h.Index, time: h.Time, chain: h.Chain}
	w.term = term
	if kind == FrameRecords {
		w.l.live.offer(liveFrame{pos: pos, length: w.length, tail: w.tail, term: term, notes: w.notes})
	}
	if w.l.opt.Replicated {
		w.l.marks.add(mark{tail: w.tail, start: pos, term: term})
	}
	w.notes = nil
	for _, b := range w.group[w.firstBatch:] {
		b.end = w.tail.pos
	}
	w.l.stats.frames.Add(1)
}

// firstTerm is the term of a log without elections.
const firstTerm = 1

// hint is what a frame says about those before it: that they will never be taken
// back. Of a replicated log, what is durable may be.
func (l *Log) hint() uint64 {
	if l.opt.Replicated {
		return l.committedIndex.Load()
	}
	return l.durableIndex.Load()
}

// flush writes the group and hands it on.
func (w *writer) flush() error {
	if w.header != nil {
		w.closeFrame()
	}
	if len(w.vecs) == 0 {
		return nil
	}
	end := int64(w.tail.pos - w.seg.base)
	w.seg.passZeros(end)
	if err := w.seg.file.WriteV(w.start, w.vecs); err != nil {
		return fmt.Errorf("commitlog: %s: %w", w.seg.path, err)
	}
	l := w.l
	l.stats.groups.Add(1)
	if len(w.group) > 0 { // what a leader sent or a join fetched was grouped elsewhere
		l.stats.shared.Add(int64(len(w.group)), 1)
	}
	l.stats.batches.Add(int64(len(w.group)))
	l.stats.bytes.Add(end - w.start)
	l.written.Store(uint64(w.tail.pos))
	l.lastIndex.Store(w.tail.index)
	if err := l.handOver(w); err != nil {
		return err
	}
	clear(w.vecs)
	clear(w.group)
	w.vecs, w.group, w.run = w.vecs[:0], w.group[:0], false
	if w.scratch = w.scratch[:0]; cap(w.scratch) > 2*groupBytes {
		w.scratch = nil
	}
	l.watchSegment(w.seg, end)
	return nil
}

// handOver passes a written group on to the sync goroutine, or, when nothing is
// to be waited for, to its callers.
func (l *Log) handOver(w *writer) error {
	l.mu.Lock()
	if l.err != nil {
		err := l.err
		l.mu.Unlock()
		return err
	}
	if l.pendingTail.pos == l.durable.pos {
		l.unsyncedSince = time.Now()
	}
	l.pendingTail, l.pendingSeg = w.tail, w.seg
	if l.opt.Durability == DurabilitySync {
		if l.opt.Replicated { // Store goes on itself
			l.mu.Unlock()
			return nil
		}
		l.pending = append(l.pending, w.group...)
		l.wakeSync.Signal()
		l.mu.Unlock()
		return nil
	}
	if l.syncDue() {
		l.wakeSync.Signal()
	}
	l.mu.Unlock()
	if !l.opt.Replicated {
		l.commit(w.tail, w.group)
	}
	return nil
}

// abandon ends the write goroutine after err: the group and rest, which was not
// packed any more, learn that their outcome is unknown.
func (w *writer) abandon(rest []*Batch, err error) {
	if !errors.Is(err, ErrFailed) {
		w.l.fail(err)
		err = w.l.failure()
	}
	for _, b := range w.group {
		b.finish(err)
	}
	for _, b := range rest {
		b.finish(err)
	}
}

// roll ends the segment and goes on in the next. When it returns, the old
// segment is durable and so is the new one's header and name: recovery relies
// on it.
func (w *writer) roll() error {
	if err := w.flush(); err != nil {
		return err
	}
	l, old := w.l, w.seg
	end := frameHeader{Index: w.tail.index, Term: w.term, Hint: l.hint(), Type: segmentEnd, Time: max(w.tail.time, w.now)}
	end.Chain = nextChain(w.tail.chain, end.Index, end.Term, 0)
	var b [frameHeaderLen]byte
	end.encode(b[:], old.nonce)
	off := int64(w.tail.pos - old.base)
	old.passZeros(off + frameHeaderLen)
	if _, err := old.file.WriteAt(b[:], off); err != nil {
		return fmt.Errorf("commitlog: %s: %w", old.path, err)
	}
	if err := l.datasync(old); err != nil {
		return err
	}
	old.endTime = w.tail.time
	sp, err := l.takeSpare()
	if err != nil {
		return err
	}
	w.tail = tail{pos: old.end() + segmentHeaderLen, index: w.tail.index, time: w.tail.time, chain: end.Chain}
	s, err := l.startSegment(sp, old.end(), w.tail)
	if err != nil {
		return err
	}
	w.seg = s
	return nil
}

// startSegment turns a spare into the segment at base, whose first frame will
// follow t.
func (l *Log) startSegment(sp spare, base record.Position, t tail) (*segment, error) {
	h := segmentHeader{Base: base, BaseIndex: t.index + 1, Nonce: newNonce(), Size: sp.file.Size(), PrevTime: t.time, PrevChain: t.chain}
	if _, err := sp.file.WriteAt(h.encode(), 0); err != nil {
		return nil, err
	}
	if err := sp.file.Datasync(); err != nil {
		return nil, err
	}
	path := l.path(segmentName(base))
	if err := l.fs.Rename(sp.path, path); err != nil {
		return nil, err
	}
	if err := l.fs.SyncDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	s := newSegment(sp.file, path, &h)
	s.zeroed.Store(max(sp.zeroed, segmentHeaderLen))
	s.verified.Store(time.Now().UnixMilli())
	l.segMu.Lock()
	defer l.segMu.Unlock()
	var segs []*segment
	if old := l.segs.Load(); old != nil {
		segs = append(segs, *old...)
	}
	segs = append(segs, s)
	l.segs.Store(&segs)
	return s, nil
}

// newNonce returns a random nonce whose frames do not begin with zeros.
func newNonce() uint64 {
	for {
		var b [8]byte
		rand.Read(b[:]) // never fails
		if n := binary.LittleEndian.Uint64(b[:]); magicOf(n) != 0 {
			return n
		}
	}
}

// spare is a file that will be a segment: of full size, all blocks allocated.
type spare struct {
	path string
	file mmapfile.File
	// zeroed is how far its blocks have been written before, see prepare.go.
	zeroed int64
}
