package commitlog

import (
	"fmt"
	"sync"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// Who replicates a log asks for frames by index. Nearly always they are among the
// newest, or the next after one asked for before; the rest is found by walking
// the headers of a segment, whose first index is known.

// mark is a frame's place.
type mark struct {
	tail  tail // behind the frame
	start record.Position
	term  uint64
}

const (
	marksKept    = 16 << 10
	marksVisited = 16
)

type marks struct {
	mu     sync.Mutex
	newest []mark // in order, without gaps, up to the last frame
	// visited are frames that were walked to, one for each reader far from the end;
	// turn is whose place the next one takes.
	visited [marksVisited]mark
	turn    int
	hint    uint64 // recovery's: the highest commit hint that was seen
}

// add remembers the frame that was just written.
func (k *marks) add(m mark) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.newest) == 2*marksKept {
		k.newest = k.newest[:copy(k.newest, k.newest[marksKept:])]
	}
	k.newest = append(k.newest, m)
}

// cut forgets the frames behind index.
func (k *marks) cut(index uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for len(k.newest) > 0 && k.newest[len(k.newest)-1].tail.index > index {
		k.newest = k.newest[:len(k.newest)-1]
	}
	for i := range k.visited {
		if k.visited[i].tail.index > index {
			k.visited[i] = mark{}
		}
	}
}

// near returns the frame itself, or the one to walk from that is closest to it.
func (k *marks) near(index uint64) (m mark) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if n := len(k.newest); n > 0 {
		if first := k.newest[0].tail.index; index >= first && index < first+uint64(n) {
			return k.newest[index-first]
		}
	}
	for _, v := range k.visited {
		if v.tail.index <= index && v.tail.index > m.tail.index {
			m = v
		}
	}
	return m
}

// visit remembers m, in the place of the frame it was reached from.
func (k *marks) visit(from, m mark) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range k.visited {
		if k.visited[i] == from {
			k.visited[i] = m
			return
		}
	}
	k.visited[k.turn%marksVisited] = m
	k.turn++
}

// locate returns where the frame with an index is. ErrOutOfRange: the log does
// not have it.
func (l *Log) locate(index uint64) (mark, error) {
	segs := *l.segs.Load()
	if index < segs[0].first || index > l.lastIndex.Load() {
		return mark{}, ErrOutOfRange
	}
	from := l.marks.near(index)
	if from.tail.index == index {
		return from, nil
	}
	s := segs[0]
	for _, next := range segs[1:] {
		if next.first > index {
			break
		}
		s = next
	}
	m := mark{tail: tail{pos: s.start(), index: s.first - 1}}
	if from.start >= s.base && from.tail.index >= s.first {
		m = from
	}
	for m.tail.index < index {
		h, err := l.header(s, m.tail.pos)
		if err == nil && (h.Type == segmentEnd || h.Index != m.tail.index+1) {
			err = fmt.Errorf("%w: frame index %d, want %d", ErrSequence, h.Index, m.tail.index+1)
		}
		if err != nil {
			return mark{}, &CorruptError{Segment: s.path, Pos: m.tail.pos, Cause: err}
		}
		m = mark{start: m.tail.pos, term: h.Term, tail: tail{pos: m.tail.pos + record.Position(h.size()), index: h.Index, time: h.Time, chain: h.Chain}}
	}
	l.marks.visit(from, m)
	return m, nil
}

// header reads the frame header at pos of s, committed or not.
func (l *Log) header(s *segment, pos record.Position) (frameHeader, error) {
	if s.end()-pos < frameHeaderLen {
		return frameHeader{}, fmt.Errorf("%w: no room for a frame", ErrMalformed)
	}
	v, err := l.view(s, pos, frameHeaderLen, l.Written())
	if err != nil {
		return frameHeader{}, err
	}
	defer v.Release()
	return decodeFrameHeader(v.b, s.nonce, int64(s.end()-pos))
}
