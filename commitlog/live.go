package commitlog

import (
	"sync"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// A reader that follows the log's end reads what this process wrote a moment ago.
// Computing the checksums again would only check the memory, and whoever wrote a
// pack often knows already what a reader wants to find out. So the write goroutine
// hands frames over to the one reader that follows: where they are, and the notes
// that came with their packs. It is an offer: a reader that is not there, or has
// fallen behind, finds everything in the frames themselves.

// Note is what came with packs, see Batch.AddPack.
type Note struct {
	Off, Len int // of the packs, within the frame's payload
	Value    any
}

// maxLive bounds the frames that wait to be taken over.
const maxLive = 1024

type live struct {
	mu     sync.Mutex
	on     bool // there is a reader that follows
	frames []liveFrame
}

type liveFrame struct {
	pos    record.Position // of the header
	length int             // of the payload
	tail   tail            // behind it
	term   uint64
	notes  []Note
}

// offer is called by the write goroutine for each frame, in order, before the
// frame is committed.
func (v *live) offer(f liveFrame) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.on {
		return
	}
	if len(v.frames) == maxLive {
		clear(v.frames)
		v.frames = v.frames[:0]
	}
	v.frames = append(v.frames, f)
}

// take returns the frame at pos, if it was offered, and forgets those before it.
func (v *live) take(pos record.Position) (f liveFrame, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := 0
	for n < len(v.frames) && v.frames[n].pos < pos {
		n++
	}
	if ok = n < len(v.frames) && v.frames[n].pos == pos; ok {
		f = v.frames[n]
		n++
	}
	rest := copy(v.frames, v.frames[n:])
	clear(v.frames[rest:])
	v.frames = v.frames[:rest]
	return f, ok
}

// forget takes back what was offered from pos on.
func (v *live) forget(pos record.Position) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for len(v.frames) > 0 && v.frames[len(v.frames)-1].pos >= pos {
		v.frames = v.frames[:len(v.frames)-1]
	}
}

// Follow is Reader for the one reader that keeps up with the log: the frames that
// this process writes from now on come with their notes and are not checked again.
func (l *Log) Follow(from record.Position) *Reader {
	l.live.mu.Lock()
	l.live.on = true
	l.live.mu.Unlock()
	r := l.Reader(from)
	r.follows = true
	return r
}

// handedOver returns the frame at the reader's position if the write goroutine
// handed it over.
func (r *Reader) handedOver(s *segment, committed record.Position) (Frame, bool, error) {
	f, ok := r.l.live.take(r.tail.pos)
	if !ok {
		return Frame{}, false, nil
	}
	v, err := r.l.view(s, f.pos+frameHeaderLen, f.length, committed)
	if err != nil {
		return Frame{}, false, err
	}
	r.tail, r.linked = f.tail, true
	return Frame{
		Position: f.pos, End: f.tail.pos, Index: f.tail.index, Term: f.term, Time: f.tail.time / 1e6,
		Payload: v.Bytes(), Notes: f.notes, view: v,
	}, true, nil
}
