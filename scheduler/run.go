package scheduler

import (
	"context"
	"slices"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

const (
	// lead is how long before its first millisecond a window is read: time enough
	// to go through a bucket of tens of millions.
	lead = int64(10_000)

	// grace is how long after its last millisecond an empty wheel is kept, for
	// timers that are made at the last moment.
	grace = int64(1_000)

	// maxWheels bounds how many windows are in memory: the present one, the next,
	// the one before, or buckets that were missed while nobody ran.
	maxWheels = 4

	// maxNap bounds a sleep: the wall's clock may jump meanwhile.
	maxNap = int64(250)

	// fireBatch timers are submitted at a time, and up to maxFlights batches, a few
	// MB, are under way: enough to keep the log busy while the disk syncs.
	fireBatch  = 4096
	maxFlights = 64

	// retry is the pause after a refused append.
	retry = 250 * time.Millisecond
)

// Submit appends timer-fired records without waiting. They must stay as they are
// until wait has returned.
type Submit func(recs [][]byte) (wait func() error, err error)

// Run fires timers as they come due, until ctx is done or an append or a read of
// the index fails. It returns when what it submitted is committed.
func (s *Scheduler) Run(ctx context.Context, submit Submit) error {
	r := &runner{
		s: s, submit: submit, nap: time.NewTimer(time.Hour),
		entries: make([]consumequeue.Entry, readBatch), groups: map[record.QueueKey]int{},
	}
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
	entries []consumequeue.Entry
	due     []place // reserved
	sorted  []place // the same by bucket and queue
	groups  map[record.QueueKey]int
	which   []int    // group of each of due
	ends    []int    // of the groups in sorted
	flights []flight // under way, the oldest first
	free    []flight // for their memory
}

// flight is a batch of records.
type flight struct {
	bytes []byte
	recs  [][]byte
	wait  func() error
}

// load reads the windows that begin soon, and those that are past, the oldest
// first, and lets go of wheels that are done.
func (r *runner) load() error {
	for {
		w := r.s.nextWheel()
		if w == nil {
			return nil
		}
		if err := r.fill(w); err != nil {
			return err
		}
	}
}

// look returns the wall's time. Wheels that hold seconds that were past are of no
// use when they are not any more. Caller holds mu.
func (s *Scheduler) look() int64 {
	now := s.wall().UnixMilli()
	if now < s.seen {
		for len(s.wheels) > 0 {
			s.forget(s.wheels[0].bucket)
		}
	}
	s.seen = now
	return now
}

// forget takes a bucket's wheels away. Caller holds mu.
func (s *Scheduler) forget(b *bucket) {
	for _, w := range slices.Clone(s.wheels) {
		if w.bucket == b {
			s.unload(w)
		}
	}
}

// unload takes a wheel away that has no timers, or with all others of its bucket.
// Caller holds mu.
func (s *Scheduler) unload(w *wheel) {
	b := w.bucket
	if b.wheels--; b.wheels == 0 {
		b.next = startOf(w.number)
	}
	w.bucket, s.spare = nil, w
	s.wheels = slices.DeleteFunc(s.wheels, func(l *wheel) bool { return l == w })
}

// nextWheel gives a window that must be read its wheel. What is put into the
// bucket meanwhile will be added by who puts it.
func (s *Scheduler) nextWheel() *wheel {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.look()
	for _, w := range slices.Clone(s.wheels) {
		if w.count == 0 && w.end()+grace <= now {
			s.unload(w)
		}
	}
	if len(s.wheels) >= maxWheels {
		return nil
	}
	for _, n := range s.order {
		b := s.buckets[n]
		if startOf(n)-lead > now {
			return nil
		}
		if b.idle() || b.next-lead > now || b.next == startOf(n+1) {
			continue
		}
		start := max(b.next, min(now&^(windowMs-1), startOf(n+1)-windowMs))
		w := s.spare
		if w == nil {
			w = &wheel{}
		}
		s.spare = nil
		w.reset(n, b, start, start <= now)
		b.next = w.end()
		b.wheels++
		s.wheels = append(s.wheels, w)
		slices.SortFunc(s.wheels, func(a, b *wheel) int { return int(a.start - b.start) })
		return w
	}
	return nil
}

// fill puts what its bucket has for a wheel into it.
func (r *runner) fill(w *wheel) error {
	s, n, b := r.s, w.number, w.bucket
	s.mu.Lock()
	from := w.start
	if w.missed {
		from = startOf(n)
	}
	to := w.end()
	defer s.mu.Unlock()
	for w.bucket == b && w.read < w.stop {
		at := w.read
		part := r.entries[:min(readBatch, int64(w.stop-at))]
		s.mu.Unlock()
		got, err := s.read(n, b, at, part)
		s.mu.Lock()
		if err != nil {
			return err
		}
		if w.bucket != b {
			return nil // forgotten meanwhile
		}
		for i := range part[:got] {
			place := at + record.QueueOffset(i)
			due := dueOf(n, &part[i])
			if due >= from && due < to && !b.settled.has(place) && !b.taken.has(place) {
				w.add(due, place, toOf(&part[i]))
			}
		}
		w.read = b.settled.nextClear(at + record.QueueOffset(got))
	}
	return nil
}

// fire submits one batch of what is due and returns how many there were.
func (r *runner) fire(ctx context.Context) (int, error) {
	if r.reserve(); len(r.due) == 0 {
		return 0, nil
	}
	if len(r.flights) == maxFlights {
		if err := r.land(); err != nil {
			return 0, err
		}
	}
	var f flight
	if n := len(r.free); n > 0 {
		f, r.free = r.free[n-1], r.free[:n-1]
	}
	r.encode(&f)
	var err error
	if f.wait, err = r.submit(f.recs); err != nil {
		// Nothing was written: no space, or the log is closing. The timers stay
		// pending and are tried again.
		r.giveBack()
		r.free = append(r.free, f)
		r.wait(ctx, retry)
		return 0, nil
	}
	r.flights = append(r.flights, f)
	return len(r.due), nil
}

// land waits for the oldest batch.
func (r *runner) land() error {
	f := r.flights[0]
	r.flights = slices.Delete(r.flights, 0, 1)
	err := f.wait()
	r.free = append(r.free, f)
	return err
}

// reserve takes due timers out of the wheels.
func (r *runner) reserve() {
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.look()
	r.due = r.due[:0]
	late, of := int64(0), uint64(0) // the last run of timers that are equally late
	for _, w := range s.wheels {
		for len(r.due) < fireBatch {
			at, ok := w.due()
			if !ok || at > now {
				break
			}
			if now-at != late && of > 0 {
				s.lateness.Add(late, of)
				of = 0
			}
			late = now - at
			of++
			second := w.second()
			if t := w.pop(); w.bucket.take(record.QueueOffset(t.at)) {
				r.due = append(r.due, place{w.number, second, t.at, record.Key(t.topic, t.queue)})
			}
		}
	}
	if of > 0 {
		s.lateness.Add(late, of)
	}
}

func (r *runner) giveBack() {
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range r.due {
		at := record.QueueOffset(d.at)
		if b := s.buckets[d.bucket]; b != nil && b.giveBack(at) {
			s.plan(d.bucket, b, startOf(d.bucket)|int64(d.second)<<secondBits, at, d.to)
		}
	}
}

// encode makes a record for each bucket and queue of what is due, in which the
// timers keep their order.
func (r *runner) encode(f *flight) {
	f.bytes, f.recs = f.bytes[:0], f.recs[:0]
	for rest := r.due; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].bucket == rest[0].bucket {
			n++
		}
		r.sort(rest[:n])
		begin := 0
		for _, end := range r.ends {
			start := len(f.bytes)
			f.bytes = appendFired(f.bytes, r.sorted[begin:end])
			f.recs = append(f.recs, f.bytes[start:]) // of f.bytes as it was, or is moved to
			begin = end
		}
		rest = rest[n:]
	}
	// f.bytes may have grown under the records: slice it again.
	at := 0
	for i, rec := range f.recs {
		f.recs[i] = f.bytes[at : at+len(rec) : at+len(rec)]
		at += len(rec)
	}
}

// sort groups timers by queue: a counting sort.
func (r *runner) sort(due []place) {
	clear(r.groups)
	r.ends, r.which = r.ends[:0], r.which[:0]
	for i := range due {
		g, ok := r.groups[due[i].to]
		if !ok {
			g = len(r.ends)
			r.groups[due[i].to] = g
			r.ends = append(r.ends, 0)
		}
		r.which = append(r.which, g)
		r.ends[g]++
	}
	sum := 0
	for g, n := range r.ends {
		r.ends[g] = sum
		sum += n
	}
	r.sorted = slices.Grow(r.sorted[:0], len(due))[:len(due)]
	for i := range due {
		g := r.which[i]
		r.sorted[r.ends[g]] = due[i]
		r.ends[g]++
	}
}

// sleep waits for the next timer, the next window to be read, a kick, or ctx.
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
	wall := s.wall()
	next := wall.UnixMilli() + maxNap
	for _, w := range s.wheels {
		if at, ok := w.due(); ok {
			next = min(next, at)
		}
	}
	if len(s.wheels) < maxWheels {
		for _, n := range s.order {
			if startOf(n)-lead >= next {
				break
			}
			if b := s.buckets[n]; !b.idle() && b.next < startOf(n+1) {
				next = min(next, b.next-lead)
			}
		}
	}
	s.wakeAt = next
	return time.UnixMilli(next).Sub(wall)
}
