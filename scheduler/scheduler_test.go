package scheduler

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
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

func (m *memory) ReadHot(key record.QueueKey, from record.QueueOffset, dst []consumequeue.Entry) (int, error) {
	return m.Read(key, from, dst)
}

func (m *memory) Bounds(key record.QueueKey) (record.QueueOffset, record.QueueOffset, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	q := m.queues[key]
	if q == nil {
		return 0, 0, false
	}
	return q.min, record.QueueOffset(len(q.entries)), true
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

// delayed encodes a delayed message for a queue.
func delayed(to record.QueueKey, due int64, tag string) []byte {
	m := record.Message{Kind: record.KindDelayed, Topic: to.Topic(), Queue: to.Queue(), Offset: record.NoOffset, DueTime: due, Body: []byte("body")}
	if tag != "" {
		m.Properties = record.AppendField(nil, record.FieldTag, tag)
	}
	return append(record.AppendHead(nil, &m), m.Body...)
}

const origin = int64(28_000_000) * minuteMs // the tests' beginning of time

// The state machine against a map, with everything that may happen to its
// index and snapshot in between.
func TestStateFollowsTheModel(t *testing.T) {
	for seed := range uint64(40) {
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
	live  map[record.Position]Timer // by position of the payload's record
	done  []Timer
	why   map[string]error
}

func name(t Timer) string { return fmt.Sprint(t.Position, "@", t.Due) }

func (m *model) do(f func(*Scheduler) error) {
	m.t.Helper()
	m.log = append(m.log, f)
	if err := f(m.s); err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) add() {
	m.pos += record.Position(64 + m.rng.IntN(100))
	pos, now := m.pos, m.now
	due := m.now + 1 + m.rng.Int64N(4*minuteMs)
	to := record.Key(record.TopicID(1+m.rng.IntN(3)), uint32(m.rng.IntN(4)))
	rec := delayed(to, due, fmt.Sprint("tag", pos))
	m.do(func(s *Scheduler) error { s.Advance(now); return s.ApplyAdd(pos, rec) })
	m.live[pos] = Timer{Due: due, Position: pos, Size: uint32(len(rec)), TagHash: record.Hash32(fmt.Sprint("tag", pos)), To: to}
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
	slices.SortFunc(all, func(a, b Timer) int { return cmp.Compare(a.Position, b.Position) })
	return all
}

func (m *model) settle(t Timer, why error) {
	delete(m.live, t.Position)
	m.done = append(m.done, t)
	m.why[name(t)] = why
}

// reserve takes a timer as its user would.
func (m *model) reserve(t Timer) Timer {
	m.t.Helper()
	got, err := m.s.Reserve(t.Due, t.Position, nil)
	if err != nil {
		m.t.Fatalf("reserve %s: %v", name(t), err)
	}
	if off := got.offset; true {
		got.offset = 0
		if got != t {
			m.t.Fatalf("reserved %+v, want %+v", got, t)
		}
		got.offset = off
	}
	return got
}

func (m *model) step() {
	m.now += m.rng.Int64N(1500)
	now := m.now
	t, ok := m.pick()
	switch op := m.rng.IntN(100); {
	case op < 45 || !ok:
		m.add()
	case op < 65: // fires, in the record's words
		t = m.reserve(t)
		rec := AppendFired(nil, &t)
		if m.rng.IntN(4) == 0 { // as written by a node whose index was rebuilt
			bad := t
			bad.offset += 3
			rec = AppendFired(nil, &bad)
		}
		m.do(func(s *Scheduler) error {
			s.Advance(now)
			f, _, err := ParseFired(rec)
			if err != nil {
				return err
			}
			return s.ApplyFired(&f, now)
		})
		t.offset = 0
		m.settle(t, ErrFired)
	case op < 75:
		t = m.reserve(t)
		rec := AppendCancel(nil, &t)
		m.do(func(s *Scheduler) error { s.Advance(now); return s.ApplyCancel(record.Command(rec), now) })
		t.offset = 0
		m.settle(t, ErrCancelled)
	case op < 85: // moved to another time, or kept by a copy
		t = m.reserve(t)
		next := t
		next.offset = 0
		if m.rng.IntN(2) == 0 {
			next.Due = now + 1 + m.rng.Int64N(4*minuteMs)
		} else {
			m.pos += 200
			next.Position, next.Copied, next.Size = m.pos, true, t.Size+10
		}
		rec := AppendMove(nil, &t, &next)
		m.do(func(s *Scheduler) error { s.Advance(now); return s.ApplyMove(record.Command(rec), now) })
		t.offset = 0
		m.settle(t, ErrCancelled)
		m.live[next.Position] = next
		delete(m.why, name(next)) // the same name again
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
	case op < 90: // the index is lost
		m.index = newMemory()
		m.s = New(m.index, time.Now)
		for _, f := range m.log {
			if err := f(m.s); err != nil {
				m.t.Fatal(err)
			}
		}
	case op < 93: // retention
		low := m.pos
		for _, t := range m.live {
			low = min(low, t.Position)
		}
		m.index.dropBefore(low)
	default:
		if len(m.done) > 0 {
			t := m.done[m.rng.IntN(len(m.done))]
			want := m.why[name(t)]
			if want == nil {
				return // moved away and back
			}
			if _, err := m.s.Reserve(t.Due, t.Position, func(Timer) (record.Position, error) { return 0, nil }); !errors.Is(err, want) && !errors.Is(err, ErrUnknown) {
				m.t.Fatalf("reserve %s: %v, want %v", name(t), err, want)
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
	err := m.s.Pending(0, 1<<60, func(t Timer) bool {
		t.offset = 0
		got = append(got, t)
		return true
	})
	slices.SortFunc(got, func(a, b Timer) int { return cmp.Compare(a.Position, b.Position) })
	if want := m.pending(); err != nil || !slices.Equal(got, want) {
		m.t.Fatalf("pending %v, %v\nwant %v", got, err, want)
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
	for minute := range m.index.queues {
		m1 := minute.Queue()
		if b := m.s.buckets[m1]; b == nil || b.pending == 0 && int64(m1+1)*minuteMs <= m.now-1500-minuteMs {
			m.t.Fatalf("minute %d is past and has nothing pending, but is there", m1)
		}
	}
}

func runModel(t *testing.T, seed uint64) {
	index := newMemory()
	m := &model{t: t, rng: rand.New(rand.NewPCG(seed, 1)), index: index, s: New(index, time.Now), now: origin,
		live: map[record.Position]Timer{}, why: map[string]error{}}
	for range 600 {
		m.step()
		m.check()
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
		now += rng.Int64N(500)
		pos += 100
		rec := delayed(record.Key(1, 0), now+rng.Int64N(2*minuteMs)+1, "")
		var fired *Timer
		if rng.IntN(2) == 0 {
			a.Pending(0, now, func(t Timer) bool { fired = &t; return false })
		}
		for _, s := range []*Scheduler{a, b} {
			s.Advance(now)
			if err := s.ApplyAdd(pos, rec); err != nil {
				t.Fatal(err)
			}
			if fired != nil {
				if err := s.ApplyFired(fired, now); err != nil {
					t.Fatal(err)
				}
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

// A copy is found by the position the message had at first.
func TestACopyAnswersToItsFirstPosition(t *testing.T) {
	s := New(newMemory(), time.Now)
	due := origin + 500
	if err := s.ApplyAdd(1000, delayed(record.Key(1, 0), due, "a")); err != nil {
		t.Fatal(err)
	}
	if err := s.ApplyAdd(2000, delayed(record.Key(1, 0), due, "b")); err != nil {
		t.Fatal(err)
	}
	old, err := s.Reserve(due, 1000, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Reserve(due, 1000, nil); !errors.Is(err, ErrTaken) {
		t.Fatalf("reserved twice: %v", err)
	}
	copied := old
	copied.Position, copied.Copied = 9000, true
	if err := s.ApplyMove(record.Command(AppendMove(nil, &old, &copied)), origin); err != nil {
		t.Fatal(err)
	}
	first := func(t Timer) (record.Position, error) { return 1000, nil }
	got, err := s.Reserve(due, 1000, first)
	if err != nil || got.Position != 9000 || got.TagHash != record.Hash32("a") {
		t.Fatalf("%+v, %v", got, err)
	}
	s.Release(got)
	if got, err = s.Reserve(due, 1000, first); err != nil {
		t.Fatalf("after a release: %v", err)
	}
	if err := s.ApplyCancel(record.Command(AppendCancel(nil, &got)), origin); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Reserve(due, 1000, first); !errors.Is(err, ErrCancelled) {
		t.Fatalf("after the cancel: %v", err)
	}
}

func FuzzDecoders(f *testing.F) {
	t := Timer{Due: origin + 5, Position: 4096, Size: 100, TagHash: 1, GroupHash: 2, To: record.Key(3, 4), offset: 5}
	s := New(newMemory(), time.Now)
	s.ApplyAdd(64, delayed(record.Key(1, 0), origin, "x"))
	s.ApplyCancel(record.Command(AppendCancel(nil, &Timer{Due: origin, Position: 64})), 0)
	f.Add(AppendFired(nil, &t))
	f.Add(record.Command(AppendCancel(nil, &t)))
	f.Add(record.Command(AppendMove(nil, &t, &t)))
	f.Add(s.AppendSnapshot(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if f, _, err := ParseFired(b); err == nil {
			again := AppendFired(nil, &f)
			if got, _, err := ParseFired(again); err != nil || got != f {
				t.Fatalf("%+v became %+v, %v", f, got, err)
			}
		}
		if old, next, err := ParseMove(b); err == nil {
			o, n, err := ParseMove(record.Command(AppendMove(nil, &old, &next)))
			if err != nil || o != old || n != next {
				t.Fatalf("%+v %+v became %+v %+v, %v", old, next, o, n, err)
			}
		}
		ParseCancel(b)
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
	})
}
