package scheduler

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// memory is an Index without files.
type memory struct {
	mu     sync.Mutex
	queues map[record.QueueKey]*memoryQueue
}

type memoryQueue struct {
	min     record.QueueOffset
	entries []consumequeue.Entry // from 0 on
}

func newMemory() *memory { return &memory{queues: map[record.QueueKey]*memoryQueue{}} }

func (m *memory) Put(key record.QueueKey, off record.QueueOffset, e consumequeue.Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	q := m.queues[key]
	if q == nil {
		q = &memoryQueue{min: off, entries: make([]consumequeue.Entry, off)}
		m.queues[key] = q
	}
	if end := record.QueueOffset(len(q.entries)); off != end {
		return &consumequeue.GapError{Key: key, Offset: off, Max: end}
	}
	q.entries = append(q.entries, e)
	return nil
}

func (m *memory) Read(key record.QueueKey, from record.QueueOffset, dst []consumequeue.Entry) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	q := m.queues[key]
	if q == nil {
		return 0, nil
	}
	if end := record.QueueOffset(len(q.entries)); from < q.min || from > end {
		return 0, &consumequeue.RangeError{Key: key, Offset: from, Min: q.min, Max: end}
	}
	return copy(dst, q.entries[from:]), nil
}

func (m *memory) ReadEach(key record.QueueKey, offs []record.QueueOffset, dst []consumequeue.Entry) error {
	for i, off := range offs {
		if n, err := m.Read(key, off, dst[i:i+1]); err != nil {
			return err
		} else if n == 0 {
			return &consumequeue.RangeError{Key: key, Offset: off}
		}
	}
	return nil
}

// replace is what a relocate record does to an index.
func (m *memory) replace(key record.QueueKey, off record.QueueOffset, e consumequeue.Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if q := m.queues[key]; q != nil && off >= q.min && off < record.QueueOffset(len(q.entries)) {
		q.entries[off] = e
	}
	return nil
}

func (m *memory) Delete(key record.QueueKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.queues, key)
}

// dropBefore is what retention does to an index.
func (m *memory) dropBefore(pos record.Position) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, q := range m.queues {
		for int(q.min) < len(q.entries) && q.entries[q.min].Position < pos {
			q.min++
		}
	}
}

// delayed encodes a delayed message for a queue, with its place in its bucket.
func delayed(to record.QueueKey, at record.QueueOffset, due int64, tag string) []byte {
	m := record.Message{Kind: record.KindDelayed, Topic: to.Topic(), Queue: to.Queue(), Offset: at, DueTime: due, Body: []byte("body")}
	if tag != "" {
		m.Properties = record.AppendField(nil, record.FieldTag, tag)
	}
	return append(record.AppendHead(nil, &m), m.Body...)
}

const origin = int64(1_600_000) * bucketMs // the tests' beginning of time

func TestTimersOfTheLayoutBeforeAreRefused(t *testing.T) {
	due := time.Date(2026, 11, 26, 23, 0, 0, 0, time.UTC).UnixMilli()
	s := New(newMemory(), time.Now)
	if err := s.ApplyAdd(1, delayed(record.Key(7, 0), record.NoOffset, due, "")); !errors.Is(err, ErrOldLayout) {
		t.Errorf("a record without a place: %v", err)
	}
	// One minute with three timers, the last record at 5000, none settled.
	old := binary.AppendUvarint([]byte{1}, uint64(due/60_000))
	old = append(binary.AppendUvarint(append(old, 3), 5000), 0, 0, 0)
	if err := CheckSnapshot(old); !errors.Is(err, ErrOldLayout) {
		t.Errorf("its snapshot: %v", err)
	}
	for name, rec := range map[string][]byte{"one": delayed(record.Key(7, 0), 0, due, ""), "one in 366 days": delayed(record.Key(7, 0), 0, due+366*86_400_000, "")} {
		s := New(newMemory(), time.Now)
		if err := CheckSnapshot(s.AppendSnapshot(nil)); err != nil {
			t.Errorf("the snapshot of none: %v", err)
		}
		if err := s.ApplyAdd(1, rec); err != nil {
			t.Fatal(err)
		}
		if err := CheckSnapshot(s.AppendSnapshot(nil)); err != nil {
			t.Errorf("the snapshot of %s: %v", name, err)
		}
	}
}

// What comes and goes while the entries are read is counted once.
func TestTimersAreCountedByTopicWhileTheyComeAndGo(t *testing.T) {
	const topics, each = 3, 20_000
	before := New(newMemory(), time.Now)
	now := time.UnixMilli(origin)
	in := func(s *Scheduler, id record.TopicID, minute int64) Timer {
		due := origin + minute*60_000
		at := s.Next(KeyFor(due))
		if err := s.ApplyAdd(record.Position(100+at), delayed(record.Key(id, 0), at, due, "")); err != nil {
			t.Error(err)
		}
		return Timer{Due: due, Place: at, Position: 64}
	}
	var there []Timer
	for i := range int64(topics * each) {
		there = append(there, in(before, record.TopicID(1+i%topics), 1+i%40))
	}
	s := New(before.index, func() time.Time { return now })
	s.Restore(record.NewDecoder(before.AppendSnapshot(nil)))
	var reading sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		reading.Go(func() {
			for {
				if _, err := s.ByTopic(); err != nil {
					t.Error(err)
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for i, timer := range there { // topic 1 is fired, 2 cancelled but for each 10th, 3 grows
		switch {
		case i%topics == 0:
			s.ApplyFired(&Fired{Bucket: bucketOf(timer.Due), To: record.Key(1, 0), Places: []record.QueueOffset{timer.Place}}, origin)
		case i%topics == 1 && i/topics%10 != 0:
			if err := s.ApplyCancel(AppendCancel(nil, &timer, 64), origin); err != nil {
				t.Fatal(err)
			}
		case i%topics == 2:
			in(s, 3, int64(i%90))
		}
	}
	close(stop)
	reading.Wait()
	if got, err := s.ByTopic(); err != nil || !maps.Equal(got, map[record.TopicID]int64{2: each / 10, 3: 2 * each}) {
		t.Errorf("%v, %v", got, err)
	}
}

// The state machine against a map, with everything that may happen to its
// index and snapshot in between.
func TestStateFollowsTheModel(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { runModel(t, seed) })
	}
}

type model struct {
	t     *testing.T
	rng   *rand.Rand
	index *memory
	s     *Scheduler
	log   []func(*Scheduler) error // all commands
	now   int64
	pos   record.Position
	next  map[record.QueueKey]record.QueueOffset // as the sequencer has it
	live  map[name]Timer
	done  map[name]error
}

// name is what a timer is known by.
type name struct {
	due int64
	at  record.QueueOffset
}

func nameOf(t Timer) name { return name{t.Due, t.Place} }

func (m *model) do(f func(*Scheduler) error) {
	m.t.Helper()
	m.log = append(m.log, f)
	if err := f(m.s); err != nil {
		m.t.Fatal(err)
	}
}

// place gives the next place in a bucket.
func (m *model) place(due int64) record.QueueOffset {
	key := KeyFor(due)
	at, ok := m.next[key]
	if !ok {
		at = m.s.Next(key)
	}
	m.next[key] = at + 1
	return at
}

// due is some due time, mostly soon, and now and then past by the records' clock,
// which the wall's may be behind.
func (m *model) due() int64 {
	if m.rng.IntN(10) == 0 {
		return max(1, m.now-m.rng.Int64N(2*bucketMs))
	}
	return m.now + 1 + m.rng.Int64N([]int64{windowMs, 4 * bucketMs}[m.rng.IntN(2)])
}

func (m *model) add() {
	m.pos += record.Position(64 + m.rng.IntN(100))
	pos, now, due := m.pos, m.now, m.due()
	at := m.place(due)
	to := record.Key(record.TopicID(1+m.rng.IntN(3)), uint32(m.rng.IntN(4)))
	rec := delayed(to, at, due, fmt.Sprint("tag", pos))
	m.do(func(s *Scheduler) error { s.Advance(now); return s.ApplyAdd(pos, rec) })
	t := Timer{Due: due, Place: at, Position: pos, Size: uint32(len(rec)), TagHash: record.Hash32(fmt.Sprint("tag", pos)), To: to}
	m.born(t)
}

// born sees to it that nobody ever had the timer's place.
func (m *model) born(t Timer) {
	m.t.Helper()
	for n := range m.done {
		if bucketOf(n.due) == bucketOf(t.Due) && n.at == t.Place {
			m.t.Fatalf("%+v has the place of one that was due at %d", t, n.due)
		}
	}
	m.live[nameOf(t)] = t
}

func (m *model) pick() (Timer, bool) {
	if len(m.live) == 0 {
		return Timer{}, false
	}
	all := m.pending()
	return all[m.rng.IntN(len(all))], true
}

func (m *model) pending() (all []Timer) {
	for _, t := range m.live {
		all = append(all, t)
	}
	slices.SortFunc(all, compareTimers)
	return all
}

func compareTimers(a, b Timer) int {
	return cmp.Or(cmp.Compare(bucketOf(a.Due), bucketOf(b.Due)), cmp.Compare(a.Place, b.Place))
}

func (m *model) settle(t Timer, why error) {
	delete(m.live, nameOf(t))
	m.done[nameOf(t)] = why
}

// reserve takes a timer as its user would.
func (m *model) reserve(t Timer) Timer {
	m.t.Helper()
	got, err := m.s.Reserve(t.Due, t.Place)
	if err != nil || got != t {
		m.t.Fatalf("reserved %+v, %v, want %+v", got, err, t)
	}
	if _, err := m.s.Reserve(t.Due, t.Place); !errors.Is(err, ErrTaken) {
		m.t.Fatalf("reserved twice: %v", err)
	}
	return got
}

func (m *model) step() {
	m.now += m.rng.Int64N(20_000)
	now := m.now
	t, ok := m.pick()
	switch op := m.rng.IntN(100); {
	case op < 45 || !ok:
		m.add()
	case op < 65: // some of one bucket and queue fire
		due := []place{}
		for _, other := range m.pending() {
			if bucketOf(other.Due) == bucketOf(t.Due) && other.To == t.To && len(due) < 5 {
				m.reserve(other)
				due = append(due, place{bucketOf(other.Due), uint16(SecondOf(other.Due) - SecondOf(startOf(bucketOf(other.Due)))), uint32(other.Place), other.To})
				m.settle(other, ErrFired)
			}
		}
		slices.SortStableFunc(due, func(a, b place) int { return cmp.Compare(a.second, b.second) })
		rec := appendFired(nil, due)
		m.do(func(s *Scheduler) error {
			s.Advance(now)
			var f Fired
			if err := f.Parse(rec); err != nil {
				return err
			}
			s.ApplyFired(&f, now)
			return nil
		})
	case op < 75:
		rec := AppendCancel(nil, new(m.reserve(t)), 64)
		m.do(func(s *Scheduler) error { s.Advance(now); return s.ApplyCancel(rec, now) })
		m.settle(t, ErrCancelled)
	case op < 85: // moved to another time
		next := m.reserve(t)
		next.Due, next.Moved = m.due(), true
		next.Place = m.place(next.Due)
		rec := AppendMove(nil, &t, 64, next.Due)
		record.Stamp(rec, next.Place, now)
		m.do(func(s *Scheduler) error { s.Advance(now); return s.ApplyMove(rec, now) })
		m.settle(t, ErrCancelled)
		m.born(next)
	case op < 88: // a restart
		snap := m.s.AppendSnapshot(nil)
		m.s = New(m.index, time.Now)
		d := record.NewDecoder(snap)
		if m.s.Restore(d); d.Err() != nil {
			m.t.Fatal(d.Err())
		}
		if again := m.s.AppendSnapshot(nil); !bytes.Equal(again, snap) {
			m.t.Fatal("a restored state has another snapshot")
		}
		clear(m.next)
	case op < 90: // all is applied again, from the beginning
		snap := m.s.AppendSnapshot(nil)
		m.index = newMemory()
		m.s = New(m.index, time.Now)
		for _, f := range m.log {
			if err := f(m.s); err != nil {
				m.t.Fatal(err)
			}
		}
		if again := m.s.AppendSnapshot(nil); !bytes.Equal(again, snap) {
			m.t.Fatal("the same log made another snapshot")
		}
	case op < 93: // retention, after it has copied what is pending and old
		limit := m.pos / 2
		err := m.s.Below(limit, func(t Timer) bool {
			m.pos += 200
			t.Position, t.Copied, t.Size = m.pos, true, t.Size+10
			m.live[nameOf(t)] = t
			e := t.Entry()
			m.do(func(s *Scheduler) error { return s.index.(*memory).replace(t.Key(), t.Place, e) })
			return true
		})
		if err != nil {
			m.t.Fatal(err)
		}
		m.index.dropBefore(limit)
	default:
		for name, want := range m.done {
			if _, err := m.s.Reserve(name.due, name.at); !errors.Is(err, want) && !errors.Is(err, ErrUnknown) {
				m.t.Fatalf("reserve %+v: %v, want %v", name, err, want)
			}
			if _, err := m.s.Lookup(name.due, name.at); !errors.Is(err, want) && !errors.Is(err, ErrUnknown) {
				m.t.Fatalf("look up %+v: %v, want %v", name, err, want)
			}
		}
	}
}

func (m *model) check() {
	m.t.Helper()
	if st := m.s.Stats(); st.Pending != int64(len(m.live)) {
		m.t.Fatalf("%d pending, want %d", st.Pending, len(m.live))
	}
	var got []Timer
	err := m.s.Each(0, 1<<60, func(t Timer) bool {
		got = append(got, t)
		return true
	})
	if want := m.pending(); err != nil || !slices.Equal(got, want) {
		m.t.Fatalf("pending %v, %v\nwant %v", got, err, want)
	}
	byTopic := map[record.TopicID]int64{}
	for _, t := range m.live {
		byTopic[t.To.Topic()]++
	}
	if got, err := m.s.ByTopic(); err != nil || !maps.Equal(got, byTopic) {
		m.t.Fatalf("pending by topic %v, %v, want %v", got, err, byTopic)
	}
	limit := m.pos / 2
	n := 0
	if err := m.s.Below(limit, func(Timer) bool { n++; return true }); err != nil {
		m.t.Fatal(err)
	}
	for _, t := range m.live {
		if t.Position < limit {
			n--
		}
	}
	if n != 0 {
		m.t.Fatalf("%d too many below %d", n, limit)
	}
	for key := range m.index.queues {
		n := key.Queue()
		if b := m.s.buckets[n]; b == nil || b.pending == 0 && startOf(n+1) <= m.now-20_000-bucketMs {
			m.t.Fatalf("bucket %d is past and has nothing pending, but is there", n)
		}
	}
}

func runModel(t *testing.T, seed uint64) {
	index := newMemory()
	m := &model{t: t, rng: rand.New(rand.NewPCG(seed, 1)), index: index, s: New(index, time.Now), now: origin,
		next: map[record.QueueKey]record.QueueOffset{}, live: map[name]Timer{}, done: map[name]error{}}
	for range 600 {
		m.step()
		m.check()
	}
}

// Retention must not miss a timer because it goes where retention has looked.
func TestATimerThatIsMovedDuringALookIsSeen(t *testing.T) {
	s := New(newMemory(), time.Now)
	to := record.Key(1, 0)
	first, early, late := origin+1, origin+2*bucketMs, origin+5*bucketMs
	for i, due := range []int64{early, late} {
		if err := s.ApplyAdd(record.Position(100*(i+1)), delayed(to, 0, due, "")); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[record.Position]bool{}
	err := s.Below(1000, func(tm Timer) bool {
		if len(seen) == 0 {
			moving, err := s.Reserve(late, 0)
			if err != nil {
				t.Fatal(err)
			}
			rec := AppendMove(nil, &moving, 200, first)
			record.Stamp(rec, s.Next(KeyFor(first)), origin)
			if err := s.ApplyMove(rec, origin); err != nil {
				t.Fatal(err)
			}
		}
		seen[tm.Position] = true
		return true
	})
	if err != nil || !seen[100] || !seen[200] {
		t.Fatalf("%v, saw %v", err, seen)
	}
}

// The last timer that is pending in a bucket that is past, by the records' clock,
// moves within it: with it the bucket stays, and the entry that was just made. The
// message would be lost otherwise.
func TestTheLastTimerOfAPastBucketMovesWithinIt(t *testing.T) {
	s := New(newMemory(), time.Now)
	if err := s.ApplyAdd(100, delayed(record.Key(1, 0), 0, origin, "")); err != nil {
		t.Fatal(err)
	}
	was, err := s.Reserve(origin, 0)
	if err != nil {
		t.Fatal(err)
	}
	rec := AppendMove(nil, &was, 200, origin+1)
	record.Stamp(rec, 1, origin+2*bucketMs)
	if err := s.ApplyMove(rec, origin+2*bucketMs); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Lookup(origin+1, 1); err != nil || got.Position != 100 {
		t.Fatalf("%+v, %v", got, err)
	}
	if st := s.Stats(); st.Pending != 1 || st.Buckets != 1 {
		t.Fatalf("%+v", st)
	}
}

// Two nodes that applied the same records have equal snapshots, whatever their
// restarts.
func TestEqualStatesHaveEqualSnapshots(t *testing.T) {
	a, b := New(newMemory(), time.Now), New(newMemory(), time.Now)
	rng := rand.New(rand.NewPCG(7, 7))
	now := origin
	var pos record.Position
	for range 2000 {
		now += rng.Int64N(5000)
		pos += 100
		due := now + rng.Int64N(2*bucketMs) + 1
		rec := delayed(record.Key(1, 0), a.Next(KeyFor(due)), due, "")
		var fired *Fired
		if rng.IntN(2) == 0 {
			a.Each(0, now, func(t Timer) bool {
				fired = &Fired{Bucket: bucketOf(t.Due), Places: []record.QueueOffset{t.Place}}
				return false
			})
		}
		for _, s := range []*Scheduler{a, b} {
			s.Advance(now)
			if err := s.ApplyAdd(pos, rec); err != nil {
				t.Fatal(err)
			}
			if fired != nil {
				s.ApplyFired(fired, now)
			}
		}
		if rng.IntN(50) == 0 {
			snap := b.AppendSnapshot(nil)
			b = New(b.index, time.Now)
			b.Restore(record.NewDecoder(snap))
		}
	}
	if !bytes.Equal(a.AppendSnapshot(nil), b.AppendSnapshot(nil)) {
		t.Fatal("the snapshots differ")
	}
}

// Ten million timers that were settled in the order they were made leave no bits.
func TestSettledPlacesFillUpFromBelow(t *testing.T) {
	var s settled
	rng := rand.New(rand.NewPCG(1, 1))
	const n = 100_000
	order := make([]record.QueueOffset, n)
	for i := range order {
		order[i] = record.QueueOffset(i)
	}
	for i := range order { // nearly in order
		j := min(n-1, i+rng.IntN(100))
		order[i], order[j] = order[j], order[i]
	}
	for i, at := range order {
		if s.has(at) {
			t.Fatalf("%d is in the set before its time", at)
		}
		s.set(at)
		if !s.has(at) || s.count() != int64(i+1) {
			t.Fatalf("%d set, %d counted, %v", i+1, s.count(), s.has(at))
		}
		if len(s.rest) > n/64/10 {
			t.Fatalf("%d words after %d", len(s.rest), i)
		}
	}
	if s.nextClear(0) != n {
		t.Fatalf("next clear %d, want %d", s.nextClear(0), n)
	}
	var b settled
	if b.below(n + 1); b.count() != n+1 || b.has(n+1) || !b.has(n) || b.nextClear(3) != n+1 {
		t.Fatalf("%+v", b)
	}
}

func FuzzDecoders(f *testing.F) {
	t := Timer{Due: origin + 5, Place: 7, Position: 4096, Size: 100, TagHash: 1, GroupHash: 2, To: record.Key(3, 4)}
	s := New(newMemory(), time.Now)
	s.ApplyAdd(64, delayed(record.Key(1, 0), 0, origin, "x"))
	s.ApplyCancel(AppendCancel(nil, &Timer{Due: origin, Position: 64}, 64), 0)
	f.Add(appendFired(nil, []place{{9, 1, 7, record.Key(3, 4)}, {9, 1, 3, record.Key(3, 4)}, {9, 1023, 1 << 30, record.Key(3, 4)}}))
	f.Add(AppendCancel(nil, &t, 64))
	f.Add(AppendMove(nil, &t, 64, t.Due+1))
	f.Add(s.AppendSnapshot(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := New(newMemory(), time.Now)
		d := record.NewDecoder(b)
		if s.Restore(d); d.Err() == nil {
			snap := s.AppendSnapshot(nil)
			again := New(newMemory(), time.Now)
			again.Restore(record.NewDecoder(snap))
			if !bytes.Equal(again.AppendSnapshot(nil), snap) {
				t.Fatal("the snapshot of a restored state differs")
			}
		}
		if record.Verify(b) != nil { // as all records are before they are parsed
			return
		}
		var fired, again Fired
		if fired.Parse(b) == nil {
			if len(fired.Places) != CountFired(b) {
				t.Fatalf("%d places, %d counted", len(fired.Places), CountFired(b))
			}
			if again.Parse(b) != nil || !slices.Equal(again.Places, fired.Places) {
				t.Fatal("it reads differently the second time")
			}
		}
		ParseMove(b)
		ParseCancel(b)
		ParseDelayed(64, b)
	})
}

// What a record says is what was put into it.
func TestRecordsReadBack(t *testing.T) {
	timer := Timer{Due: origin + 5, Place: 7, Position: 4096}
	rec := AppendMove(nil, &timer, 64, origin+3*bucketMs)
	record.Stamp(rec, 99, origin)
	if c, err := ParseMove(rec); err != nil || c != (Change{bucketOf(origin), 7, 64, origin + 3*bucketMs, 99}) || record.KeyOf(rec) != KeyFor(c.Due) {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := ParseCancel(AppendCancel(nil, &timer, 64)); err != nil || c != (Change{Bucket: bucketOf(origin), Place: 7, Position: 64}) {
		t.Errorf("%+v, %v", c, err)
	}
	to, n := record.Key(3, 4), bucketOf(origin)
	rec = appendFired(nil, []place{{n, 5, 1 << 31, to}, {n, 5, 0, to}, {n, 9, 77, to}})
	record.Stamp(rec, 1234, origin)
	var f Fired
	if err := f.Parse(rec); err != nil || f.To != to || f.First != 1234 || f.Stored != origin || f.Bucket != n ||
		!slices.Equal(f.Places, []record.QueueOffset{1 << 31, 0, 77}) || !slices.Equal(f.Seconds, []int64{SecondOf(origin) + 5, SecondOf(origin) + 9}) {
		t.Errorf("%+v, %v", f, err)
	}
	for _, x := range []Timer{
		{Due: 1, Size: 1},
		{Due: 1<<52 - 1, Place: 3, Position: 1 << 60, Size: 1 << 31, TagHash: 1<<32 - 1, GroupHash: 5, To: record.Key(1<<32-2, maxTimerQueue), Copied: true, Moved: true},
	} {
		e := x.Entry()
		if got := timerOf(bucketOf(x.Due), x.Place, &e); got != x {
			t.Errorf("%+v became %+v", x, got)
		}
	}
}
