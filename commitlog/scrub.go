package commitlog

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile"
)

// Damage that nobody reads is found by reading. Every frame is verified a day after it
// was written or verified last, slowly; after a start, a segment at a time in any order,
// so that each has its turn in a process that is restarted often.
//
// It is read through descriptors of its own, and the page cache is left as it is. So what
// is in the cache is verified as it is there, and what is on the disk behind it later.
const (
	scrubEvery = 24 * time.Hour
	scrubDelay = 10 * time.Second // at first, when others wait for the disk
)

// Scrub verifies what is committed, rate bytes a second and never more than half of the
// time, until ctx ends; with a rate of 0 only what Suspect names. found is told of each
// segment that is damaged, once while the log is open, with the first bad frame. One
// Scrub runs at a time.
func (l *Log) Scrub(ctx context.Context, rate int64, found func(*CorruptError)) {
	sc := scrub{l, ctx, rate, found}
	for wait := scrubDelay; sc.pause(wait) == nil; {
		s, last := l.stalest()
		if wait = time.Until(last.Add(scrubEvery)); s == nil || rate == 0 {
			wait = scrubEvery
		} else if wait <= 0 {
			if wait = 0; !sc.segment(s, false) {
				wait = time.Minute
			}
		}
	}
}

// Suspect has Scrub verify the segment that holds a position, soon and as fast as it can
// be read, because a record there is not as it should be; each segment once.
func (l *Log) Suspect(pos record.Position) {
	if s := l.find(pos); s != nil && !s.suspected.Swap(true) {
		select {
		case l.suspects <- s:
		default: // one after the other
			s.suspected.Store(false)
		}
	}
}

// stalest returns the segment that was verified longest ago, any of those that were not
// since Open, and when that was. nil: nothing is committed.
func (l *Log) stalest() (s *segment, last time.Time) {
	least, n := int64(0), 0
	for _, t := range *l.segs.Load() {
		at := t.verified.Load()
		if t.start() >= l.Committed() || n > 0 && at > least {
			continue
		}
		if at < least {
			n = 0
		}
		if n++; rand.IntN(n) == 0 {
			s = t
		}
		least = at
	}
	return s, time.UnixMilli(least)
}

type scrub struct {
	l     *Log
	ctx   context.Context
	rate  int64
	found func(*CorruptError)
}

// pause waits, and meanwhile looks at what is suspected. An error says that ctx is over.
func (sc *scrub) pause(d time.Duration) error {
	over := time.NewTimer(d)
	defer over.Stop()
	for {
		select {
		case <-over.C:
			return sc.ctx.Err()
		case s := <-sc.l.suspects:
			sc.segment(s, true)
		case <-sc.ctx.Done():
			return sc.ctx.Err()
		}
	}
}

// segment verifies a segment and tells of damage. It is false when that could not be done.
func (sc *scrub) segment(s *segment, fast bool) bool {
	err := sc.verify(s, fast)
	var bad *CorruptError
	switch {
	case sc.ctx.Err() != nil:
		return false
	case err == nil:
	case !slices.Contains(*sc.l.segs.Load(), s):
		return true // retention has taken it, and perhaps its file for another
	case !errors.As(err, &bad):
		sc.l.opt.Logger.Warn("a segment cannot be verified", "segment", s.path, "error", err)
		return false
	case !s.damaged.Swap(true):
		sc.found(bad)
	}
	s.verified.Store(time.Now().UnixMilli())
	return true
}

// verify returns a *CorruptError for the first bad frame, and other errors for what says
// nothing about the segment.
func (sc *scrub) verify(s *segment, fast bool) error {
	own, h, err := openSegment(sc.l.fs.OpenRead, s.path, s.base)
	if errors.Is(err, fs.ErrNotExist) {
		return &CorruptError{Segment: s.path, Pos: s.base, Cause: ErrMissing}
	}
	if err != nil {
		return err
	}
	defer own.drop()
	frames := scanner{read: func(f mmapfile.File, p []byte, off int64) (int, error) {
		began := time.Now()
		n, err := f.ReadCold(p, off)
		sc.l.stats.scrubbed.Add(int64(n))
		if fast || err != nil {
			return n, errors.Join(err, sc.ctx.Err())
		}
		took := time.Since(began)
		return n, sc.pause(max(time.Duration(int64(n)*int64(time.Second)/sc.rate)-took, took))
	}}
	end := min(s.end(), sc.l.Committed())
	for t := startOf(&h); t.pos < end; {
		at := t.pos
		f, _, bad, err := frames.frame(own, &t)
		if err != nil {
			bad = err // the disk cannot read it any more
		}
		switch {
		case sc.ctx.Err() != nil:
			return sc.ctx.Err()
		case bad != nil:
			return &CorruptError{Segment: s.path, Pos: at, Cause: bad}
		case f.Type == segmentEnd:
			return nil
		}
	}
	return nil
}
