package commitlog

import (
	"fmt"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// DropBefore removes the segments that lie wholly below pos and returns how
// many. The segment that is being written is never removed. Open views of a
// removed segment stay valid.
func (l *Log) DropBefore(pos record.Position) (int, error) {
	pos = min(pos, l.Durable())
	return l.dropWhile(func(s *segment) bool { return s.end() <= pos })
}

// Retain removes the segments that Options.Retention no longer keeps at time
// now, oldest first, none of which reaches beyond floor: what the caller still
// refers to is at floor or above. It returns how many.
func (l *Log) Retain(now time.Time, floor record.Position) (int, error) {
	return l.dropWhile(l.expired(now, floor))
}

// Expired returns where the log would begin after Retain, and the time, Unix ms,
// of the last frame that would go; ok is false when none would.
func (l *Log) Expired(now time.Time, floor record.Position) (pos record.Position, last int64, ok bool) {
	segs, gone := *l.segs.Load(), l.expired(now, floor)
	for _, s := range segs[:len(segs)-1] {
		if !gone(s) {
			break
		}
		pos, last, ok = s.end(), s.endTime/1e6, true
	}
	return pos, last, ok
}

// expired returns what Retain asks of each segment in turn.
func (l *Log) expired(now time.Time, floor record.Position) func(*segment) bool {
	floor = min(floor, l.Durable())
	total := int64(0)
	for _, s := range *l.segs.Load() {
		total += s.size
	}
	age, size := l.opt.Retention.Age, l.opt.Retention.Size
	return func(s *segment) bool {
		if s.end() > floor {
			return false
		}
		old := age > 0 && s.endTime < now.Add(-age).UnixNano()
		if big := size > 0 && total > size; !old && !big {
			return false
		}
		total -= s.size
		return true
	}
}

// dropWhile removes segments from the front as long as f says so and one is
// left. First the list: no new view or reader finds them. Then the names, in
// order, so that a crash leaves no hole. The bytes go when the last view does.
func (l *Log) dropWhile(f func(*segment) bool) (int, error) {
	l.dropMu.Lock()
	defer l.dropMu.Unlock()
	l.segMu.Lock()
	segs := *l.segs.Load()
	n := 0
	for n < len(segs)-1 && f(segs[n]) {
		n++
	}
	rest := segs[n:]
	if n > 0 {
		l.segs.Store(&rest)
	}
	l.segMu.Unlock()
	for _, s := range segs[:n] {
		free := l.mapper.forget(s)
		last := s.drop()
		if err := l.discard(s, free && last); err != nil {
			return n, fmt.Errorf("commitlog: %w", err)
		}
	}
	if n > 0 {
		l.kickNow() // a full disk may have room now
	}
	return n, nil
}

// discard takes the segment's name away. Its file becomes a spare, if it may be
// written again and there is none: its blocks are there already, and were
// written before. The frames in it are no danger, since it will get another
// nonce; but until its new name is durable its header must stay.
func (l *Log) discard(s *segment, reuse bool) error {
	l.mu.Lock()
	reuse = reuse && len(l.spares) == 0 && s.size == l.opt.SegmentSize && l.err == nil && !l.closed
	path := l.path(fmt.Sprintf(sparePattern, l.nextSpare))
	l.nextSpare++
	l.mu.Unlock()
	if !reuse {
		if err := l.fs.Remove(s.path); err != nil {
			return err
		}
		return l.fs.SyncDir(l.opt.Dir)
	}
	if err := l.fs.Rename(s.path, path); err != nil {
		return err
	}
	if err := l.fs.SyncDir(l.opt.Dir); err != nil {
		return err
	}
	file, err := l.fs.Open(path)
	if err != nil {
		return err
	}
	l.addSpare(spare{path: path, file: file, zeroed: s.size})
	return nil
}
