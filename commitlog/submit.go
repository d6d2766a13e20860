package commitlog

import (
	"context"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// plan is where the log would end if every batch in the queue took a frame of
// its own. Frames are shared in fact, so the log never ends later than planned;
// and as long as the plan stays below limit, the end of the last prepared
// segment, the writer always finds a place for what was accepted. That is what
// lets Submit refuse for a full disk before anything is written, and the writer
// never.
type plan struct {
	pos   record.Position
	end   record.Position // of the segment that pos is in
	limit record.Position
}

// fits is the rule for placing a frame with size bytes of payload at pos in a
// segment that ends at end: room for the header of a segmentEnd must be left.
func fits(pos, end record.Position, size int) bool {
	return pos+frameHeaderLen+record.Position(size)+frameHeaderLen <= end
}

// add plans for one batch. It reports false, and changes nothing, when there is
// no prepared segment for it.
func (p *plan) add(size int, segmentSize int64) bool {
	pos, end := p.pos, p.end
	if !fits(pos, end, size) {
		pos, end = end+segmentHeaderLen, end+record.Position(segmentSize)
	}
	if end > p.limit {
		return false
	}
	p.pos, p.end = pos+frameHeaderLen+record.Position(size), end
	return true
}

// Submit gives the batch its place in the log's order and returns without
// waiting for the disk, unless the queue is full: then it blocks until there is
// room. After nil, Wait tells the outcome; after an error nothing was written,
// Sequence was not called, and the batch may be used again.
//
// When the disk is full, batches that carry bodies get ErrDiskFull at once,
// while those that are heads only (commands) are accepted as long as a prepared
// segment has room: what frees space must still be able to commit.
func (l *Log) Submit(b *Batch) error {
	if l.opt.Replicated {
		return ErrReplicated
	}
	if b.waiting || len(b.recs) == 0 {
		return ErrBatchState
	}
	if b.size > l.opt.MaxBatch {
		return ErrBatchTooLarge
	}
	if b.done == nil {
		b.done = make(chan error, 1)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		switch {
		case l.err != nil:
			return l.err
		case l.closed:
			return ErrClosed
		case l.diskFull && b.body:
			return ErrDiskFull
		}
		if l.queueBytes == 0 || l.queueBytes+int64(b.size) <= l.opt.MaxQueue {
			if l.plan.add(b.size, l.opt.SegmentSize) {
				break
			}
			if l.diskFull {
				return ErrDiskFull
			}
			l.kickPreparer()
		}
		l.wakeSubmit.Wait()
	}
	b.waiting, b.err = true, nil
	l.queue = append(l.queue, b)
	l.queueBytes += int64(b.size)
	if len(l.queue) == 1 || l.queueBytes >= overlapBytes {
		l.wakeWrite.Signal()
	}
	return nil
}

// Append is Submit and Wait.
func (l *Log) Append(ctx context.Context, b *Batch) error {
	if err := l.Submit(b); err != nil {
		return err
	}
	return b.Wait(ctx)
}

// Admits reports whether Submit, or who stands before Store, may take a batch
// now: ErrBatchTooLarge, ErrDiskFull for one with bodies, or why the log takes
// nothing any more.
func (l *Log) Admits(b *Batch) error {
	if b.size > l.opt.MaxBatch {
		return ErrBatchTooLarge
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.err != nil:
		return l.err
	case l.closed:
		return ErrClosed
	case l.diskFull && b.body:
		return ErrDiskFull
	}
	return nil
}
