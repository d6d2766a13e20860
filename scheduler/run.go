package scheduler

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

const (
	// lead is how long before its first millisecond a minute is read: time enough
	// for millions of timers.
	lead = int64(5_000)

	// grace is how long after its last millisecond an empty wheel is kept, for
	// timers that were made at the last moment.
	grace = int64(1_000)

	// maxWheels bounds how many minutes are in memory: the present one, the next,
	// the one before, or those that were missed while nobody ran.
	maxWheels = 4

	// maxNap bounds a sleep: the wall clock may jump meanwhile.
	maxNap = int64(250)

	// fireBatch moves are submitted at a time, and up to maxFlights batches, 5 MB,
	// are under way: enough to keep the log busy while the disk syncs.
	fireBatch  = 1024
	maxFlights = 64

	// retry is the pause after a refused append.
	retry = 250 * time.Millisecond
)

// Submit appends timer-fired records, each FiredLen bytes of moves, without
// waiting. moves must stay as it is until wait has returned.
type Submit func(moves []byte) (wait func() error, err error)

// Run fires timers as they come due, until ctx is done or an append or a read of
// the index fails. It returns when what it submitted is committed.
func (s *Scheduler) Run(ctx context.Context, submit Submit) error {
	r := &runner{s: s, submit: submit, nap: time.NewTimer(time.Hour)}
	defer r.nap.Stop()
	var err error
	for ctx.Err() == nil && err == nil {
		if err = r.load(); err != nil {
			break
		}
		var fired int
		if fired, err = r.fire(ctx); fired == 0 && err == nil {
			r.sleep(ctx)
		}
	}
	for len(r.flights) > 0 && err == nil {
		err = r.land()
	}
	return err
}

// runner is the memory of Run.
type runner struct {
	s       *Scheduler
	submit  Submit
	nap     *time.Timer
	flights []flight // under way, the oldest first
	free    []flight // for their memory
	items   []item
	entries [readBatch]consumequeue.Entry
}

// flight is a batch of moves.
type flight struct {
	moves []byte
	wait  func() error
}

// item is a timer that is to fire.
type item struct {
	minute uint32
	off    record.QueueOffset
}

// load reads the minutes that begin soon, and those that are past, the oldest
// first, and lets go of wheels that are done.
func (r *runner) load() error {
	for {
		w, end := r.s.nextWheel()
		if w == nil {
			return nil
		}
		if err := r.fill(w, end); err != nil {
			return err
		}
	}
}

// nextWheel gives a bucket that must be read its wheel. Entries from end on will
// be added to it by who makes them.
func (s *Scheduler) nextWheel() (w *wheel, end record.QueueOffset) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock().UnixMilli()
	for _, w := range slices.Clone(s.loaded) {
		if w.count == 0 && w.end()+grace <= now || w.start()-lead > now { // the latter: the clock went back
			s.unload(w.bucket)
		}
	}
	if len(s.loaded) >= maxWheels {
		return nil, 0
	}
	for _, minute := range s.minutes {
		if int64(minute)*minuteMs-lead > now {
			return nil, 0
		}
		b := s.buckets[minute]
		if b.wheel != nil || b.idle() {
			continue
		}
		if w = s.spare; w == nil {
			w = &wheel{}
		}
		s.spare = nil
		w.reset(minute, b, b.settled.nextClear(0))
		b.wheel = w
		s.loaded = append(s.loaded, w)
		slices.SortFunc(s.loaded, func(a, b *wheel) int { return int(int64(a.minute) - int64(b.minute)) })
		return w, b.end
	}
	return nil, 0
}

// unload takes a bucket's wheel away. Caller holds mu.
func (s *Scheduler) unload(b *bucket) {
	if w := b.wheel; w != nil {
		b.wheel, w.bucket, s.spare = nil, nil, w
		s.loaded = slices.DeleteFunc(s.loaded, func(l *wheel) bool { return l == w })
	}
}

// fill puts what a bucket has below end into its wheel.
func (r *runner) fill(w *wheel, end record.QueueOffset) error {
	s, b, minute := r.s, w.bucket, w.minute
	for at := w.base; at < end; {
		n, err := s.read(minute, &at, r.entries[:min(readBatch, int64(end-at))])
		if err == nil && n == 0 {
			err = fmt.Errorf("scheduler: minute %d has %d entries, the index %d", minute, end, at)
		}
		if err != nil {
			return err
		}
		s.mu.Lock()
		if b.wheel != w {
			s.mu.Unlock()
			return nil // unloaded meanwhile
		}
		for i := range n {
			if off := at + record.QueueOffset(i); off < end && !b.settled.has(off) && !b.taken.has(off) {
				w.add(msOf(&r.entries[i]), off)
			}
		}
		at = b.settled.nextClear(at + record.QueueOffset(n))
		s.mu.Unlock()
	}
	return nil
}

// fire submits one batch of what is due and returns how many there were.
func (r *runner) fire(ctx context.Context) (int, error) {
	r.reserve()
	if len(r.items) == 0 {
		return 0, nil
	}
	for len(r.flights) >= maxFlights {
		if err := r.land(); err != nil {
			return 0, err
		}
	}
	var f flight
	if n := len(r.free); n > 0 {
		f, r.free = r.free[n-1], r.free[:n-1]
	}
	var err error
	if f.moves, err = r.encode(f.moves[:0]); err != nil {
		return 0, err
	}
	if f.wait, err = r.submit(f.moves); err != nil {
		// Nothing was written: no space, or the log is closing. The timers stay
		// pending and are tried again.
		for _, it := range r.items {
			r.s.giveBack(it.minute, it.off)
		}
		r.free = append(r.free, flight{moves: f.moves})
		r.wait(ctx, retry)
		return 0, nil
	}
	r.flights = append(r.flights, f)
	return len(r.items), nil
}

// land waits for the oldest batch.
func (r *runner) land() error {
	f := r.flights[0]
	r.flights = slices.Delete(r.flights, 0, 1)
	err := f.wait()
	r.free = append(r.free, flight{moves: f.moves})
	return err
}

// reserve takes due timers out of the wheels.
func (r *runner) reserve() {
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock().UnixMilli()
	r.items = r.items[:0]
	for _, w := range s.loaded {
		for len(r.items) < fireBatch {
			if at, ok := w.due(); !ok || at > now {
				break
			}
			if off := w.pop(); w.bucket.take(off) {
				r.items = append(r.items, item{w.minute, off})
			}
		}
	}
}

// encode makes the moves of items. Their entries were read when their minute was.
func (r *runner) encode(dst []byte) ([]byte, error) {
	for _, it := range r.items {
		e := r.entries[:1]
		if _, err := r.s.index.ReadHot(bucketKey(it.minute), it.off, e); err != nil {
			return nil, err
		}
		t := timerOf(it.minute, it.off, &e[0])
		dst = AppendFired(dst, &t)
	}
	return dst, nil
}

// sleep waits for the next timer, the next minute to be read, a kick, or ctx.
func (r *runner) sleep(ctx context.Context) {
	d := r.s.until()
	if d <= 0 {
		return
	}
	r.wait(ctx, d)
	r.s.mu.Lock()
	r.s.wakeAt = 0
	r.s.mu.Unlock()
}

func (r *runner) wait(ctx context.Context, d time.Duration) {
	r.nap.Reset(d)
	select {
	case <-ctx.Done():
	case <-r.nap.C:
	case <-r.s.kick:
	}
}

// until returns how long there is nothing to do.
func (s *Scheduler) until() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock()
	next := now.UnixMilli() + maxNap
	for _, w := range s.loaded {
		if at, ok := w.due(); ok {
			next = min(next, at)
		}
	}
	for _, minute := range s.minutes {
		at := int64(minute)*minuteMs - lead
		if at >= next {
			break
		}
		if b := s.buckets[minute]; b.wheel == nil && !b.idle() && len(s.loaded) < maxWheels {
			next = at
			break
		}
	}
	s.wakeAt = next
	return time.UnixMilli(next).Sub(now)
}
