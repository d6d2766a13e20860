package consumequeue

import (
	"bytes"
	"cmp"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile"
)

// model is what a Store should be, without files.
type model struct {
	queues map[record.QueueKey]*modelQueue
}

type modelQueue struct {
	min     record.QueueOffset
	entries []Entry
}

func (q *modelQueue) max() record.QueueOffset { return q.min + record.QueueOffset(len(q.entries)) }

// op is one step of a log: what is replayed after a crash.
type op struct {
	kind opKind
	key  record.QueueKey
	off  record.QueueOffset
	es   []Entry // one by Put, more by PutRun
	pos  record.Position
}

type opKind int

const (
	opPut opKind = iota
	opDelete
	opDeleteTopic
	opDrop
	opTrim
)

func (m *model) apply(o op) {
	switch o.kind {
	case opPut:
		q := m.queues[o.key]
		if q == nil {
			q = &modelQueue{min: o.off}
			m.queues[o.key] = q
		}
		q.entries = append(q.entries, o.es...)
	case opDelete:
		delete(m.queues, o.key)
	case opDeleteTopic:
		for k := range m.queues {
			if k.Topic() == o.key.Topic() {
				delete(m.queues, k)
			}
		}
	case opDrop:
		for _, q := range m.queues {
			n := slices.IndexFunc(q.entries, func(e Entry) bool { return e.Position >= o.pos })
			if n < 0 {
				n = len(q.entries)
			}
			q.min += record.QueueOffset(n)
			q.entries = q.entries[n:]
		}
	case opTrim:
		if q := m.queues[o.key]; q != nil && o.off > q.min {
			n := min(o.off-q.min, record.QueueOffset(len(q.entries)))
			q.min += n
			q.entries = q.entries[n:]
		}
	}
}

func apply(t *testing.T, s *Store, o op) {
	t.Helper()
	var err error
	switch o.kind {
	case opPut:
		if len(o.es) == 1 {
			err = s.Put(o.key, o.off, o.es[0])
		} else {
			err = s.PutRun(o.key, o.off, o.es)
		}
	case opDelete:
		s.Delete(o.key)
	case opDeleteTopic:
		s.DeleteTopic(o.key.Topic())
	case opDrop:
		err = s.DropBefore(o.pos)
	case opTrim:
		err = s.Trim(o.key, o.off)
	}
	if err != nil {
		t.Fatalf("%+v: %v", o, err)
	}
}

// compare reads all of the store and all of the model.
func compare(t *testing.T, s *Store, m *model) {
	t.Helper()
	if got := s.Stats().Queues; got != len(m.queues) {
		t.Fatalf("%d queues, want %d", got, len(m.queues))
	}
	for key, q := range m.queues {
		lo, hi, ok := s.Bounds(key)
		if !ok || lo != q.min || hi != q.max() {
			t.Fatalf("queue %v: bounds [%d, %d) %v, want [%d, %d)", key, lo, hi, ok, q.min, q.max())
		}
		got := make([]Entry, len(q.entries)+1)
		if n, err := s.Read(key, lo, got); err != nil || n != len(q.entries) {
			t.Fatalf("queue %v: read %d, %v, want %d", key, n, err, len(q.entries))
		}
		if !slices.Equal(got[:len(q.entries)], q.entries) {
			t.Fatalf("queue %v: entries differ", key)
		}
	}
	checkSpace(t, s)
}

// checkSpace: every page belongs to exactly one queue, or is free, or parked.
func checkSpace(t *testing.T, s *Store) {
	t.Helper()
	owner := make(map[uint32]record.QueueKey)
	live := 0
	for _, q := range s.inOrder() {
		for _, x := range q.extents() {
			for p := x.page; p < x.page+1<<x.order; p++ {
				if k, taken := owner[p]; taken {
					t.Fatalf("page %d belongs to %v and to %v", p, k, q.key)
				}
				owner[p] = q.key
				live++
			}
		}
	}
	st := s.Stats()
	parked := 0
	for _, r := range slices.Concat(s.freed, s.covered) {
		if a := s.arenaOf(r.page); a != nil && !a.leaving {
			parked += 1 << r.order
		}
	}
	for _, a := range s.leaving {
		parked += 1<<s.pageBits - 1
		if a.live != 0 {
			t.Fatalf("arena %d leaves with %d live pages", a.id, a.live)
		}
	}
	if st.LivePages != live || st.ParkedPages != parked {
		t.Fatalf("%+v, counted %d live, %d parked", st, live, parked)
	}
}

func testSeed(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// workload makes operations as the log of a busy broker would hold them. Keys are
// not used again after a deletion, as topic ids are not.
type workload struct {
	r      *rand.Rand
	m      *model
	nQueue int // alive at once, about
	topic  record.TopicID
	keys   []record.QueueKey
	pos    record.Position
	now    int64
	low    record.Position
}

func (w *workload) next() op {
	p := w.r.IntN(10000)
	switch {
	case p < 5 && len(w.keys) > 0:
		i := w.r.IntN(len(w.keys))
		key := w.keys[i]
		w.keys = slices.Delete(w.keys, i, i+1)
		return op{kind: opDelete, key: key}
	case p < 6 && len(w.keys) > 0:
		key := w.keys[w.r.IntN(len(w.keys))]
		w.keys = slices.DeleteFunc(w.keys, func(k record.QueueKey) bool { return k.Topic() == key.Topic() })
		return op{kind: opDeleteTopic, key: key}
	case p < 10:
		w.low += record.Position(w.r.Uint64N(uint64(w.pos-w.low)/2 + 1))
		return op{kind: opDrop, pos: w.low}
	case p < 15 && len(w.keys) > 0:
		key := w.keys[w.r.IntN(len(w.keys))]
		q := w.m.queues[key]
		return op{kind: opTrim, key: key, off: max(0, q.min+record.QueueOffset(w.r.IntN(len(q.entries)+11)-10))}
	case p < 400 && len(w.keys) < w.nQueue || len(w.keys) == 0:
		if len(w.keys) == 0 || w.r.IntN(4) == 0 {
			w.topic++
		}
		key := record.Key(w.topic, w.r.Uint32N(1<<20))
		if _, ok := w.m.queues[key]; !ok {
			w.keys = append(w.keys, key)
			return w.put(key, record.QueueOffset(w.r.IntN(3)*w.r.IntN(1000)))
		}
	}
	// A few queues get most of the traffic.
	n := len(w.keys)
	key := w.keys[min(w.r.IntN(n), w.r.IntN(n), w.r.IntN(n), w.r.IntN(n))]
	q := w.m.queues[key]
	return w.put(key, q.max())
}

func (w *workload) put(key record.QueueKey, off record.QueueOffset) op {
	o := op{kind: opPut, key: key, off: off, es: make([]Entry, 1)}
	if w.r.IntN(100) == 0 {
		o.es = make([]Entry, 1+w.r.IntN(400)) // over several extents
	}
	for i := range o.es {
		o.es[i] = w.entry()
	}
	return o
}

func (w *workload) entry() Entry {
	size := 64 + w.r.Uint32N(1000)
	w.now += w.r.Int64N(3)
	e := Entry{Position: w.pos, Size: size, TagHash: w.r.Uint32(), GroupHash: w.r.Uint32N(3), StoreTime: w.now}
	w.pos += record.Position(size)
	if w.r.IntN(20) == 0 { // a delayed message comes due
		e.Position = record.Position(w.r.Uint64N(uint64(w.pos)))
		e.Flags = FlagIndirect
	}
	return e
}

// TestStoreBehavesLikeAModel drives a store and a model with the same operations,
// over small arenas and few mappings, and reopens the store from its last
// snapshot with replay from there or from earlier.
func TestStoreBehavesLikeAModel(t *testing.T) {
	dir := t.TempDir()
	r := testSeed(t)
	opts := Options{ArenaSize: 256 << 10, MaxMapped: 4 << 20}
	s, err := Open(dir, opts, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.Close() }()
	m := &model{queues: map[record.QueueKey]*modelQueue{}}
	w := &workload{r: r, m: m, nQueue: 3000}
	var log []op
	var snapshot []byte
	snapAt := 0
	ops := 80000
	if testing.Short() {
		ops = 20000
	}
	for i := range ops {
		o := w.next()
		m.apply(o)
		apply(t, s, o)
		log = append(log, o)
		switch p := r.IntN(20000); {
		case p < 10:
			snapshot = s.AppendSnapshot(nil)
			snapAt = len(log)
			if err := errors.Join(s.Flush(), s.Persisted(0)); err != nil {
				t.Fatal(err)
			}
		case p < 15:
			compare(t, s, m)
		case p < 17:
			s.Close()
			if s, err = Open(dir, opts, snapshot, 0); err != nil {
				t.Fatalf("reopen after %d: %v", i, err)
			}
			from := snapAt
			if snapshot != nil {
				from -= r.IntN(snapAt/10 + 1)
			}
			for i, o := range log[from:] {
				// Replay of what the snapshot has is for puts. A drop that comes again
				// may take old positions that were put after it the first time.
				if o.kind != opDrop || from+i >= snapAt {
					apply(t, s, o)
				}
			}
			compare(t, s, m)
		case p < 100 && len(w.keys) > 0:
			checkQueries(t, r, s, m, w.keys[r.IntN(len(w.keys))])
		}
	}
	compare(t, s, m)
	t.Logf("%+v", s.Stats())

	// Nothing is left of a store that is emptied.
	err = s.DropBefore(w.pos)
	s.AppendSnapshot(nil)
	if err := errors.Join(err, s.Persisted(0)); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.Arenas != 0 || st.LivePages+st.FreePages+st.ParkedPages != 0 {
		t.Fatalf("after all was dropped: %+v", st)
	}
}

func checkQueries(t *testing.T, r *rand.Rand, s *Store, m *model, key record.QueueKey) {
	t.Helper()
	q := m.queues[key]
	from := q.min + record.QueueOffset(r.IntN(len(q.entries)+3)-1)
	got := make([]Entry, r.IntN(300))
	n, err := s.Read(key, from, got)
	if from < q.min || from > q.max() {
		var re *RangeError
		if !errors.As(err, &re) || !errors.Is(err, ErrOutOfRange) || re.Min != q.min || re.Max != q.max() {
			t.Fatalf("read at %d of [%d, %d): %v", from, q.min, q.max(), err)
		}
	} else {
		want := q.entries[from-q.min:]
		want = want[:min(len(want), len(got))]
		if err != nil || !slices.Equal(got[:n], want) {
			t.Fatalf("read at %d of [%d, %d): %d entries, %v, want %d", from, q.min, q.max(), n, err, len(want))
		}
	}
	checkEach(t, r, s, q, key)
	at := int64(0)
	if len(q.entries) > 0 {
		at = q.entries[r.IntN(len(q.entries))].StoreTime + r.Int64N(3) - 1
	}
	i, _ := slices.BinarySearchFunc(q.entries, at, func(e Entry, at int64) int { return cmp.Compare(e.StoreTime, at) })
	if off, err := s.OffsetAt(key, at); err != nil || off != q.min+record.QueueOffset(i) {
		t.Fatalf("offset at %d: %d, %v, want %d", at, off, err, q.min+record.QueueOffset(i))
	}
}

// checkEach reads entries here and there, in no order, some of them twice.
func checkEach(t *testing.T, r *rand.Rand, s *Store, q *modelQueue, key record.QueueKey) {
	t.Helper()
	if len(q.entries) == 0 {
		return
	}
	offs := make([]record.QueueOffset, r.IntN(200))
	got := make([]Entry, len(offs))
	for i := range offs {
		offs[i] = q.min + record.QueueOffset(r.IntN(len(q.entries)))
	}
	if err := s.ReadEach(key, offs, got); err != nil {
		t.Fatalf("read each of %v in [%d, %d): %v", offs, q.min, q.max(), err)
	}
	for i, off := range offs {
		if got[i] != q.entries[off-q.min] {
			t.Fatalf("at %d: %+v, want %+v", off, got[i], q.entries[off-q.min])
		}
	}
	for _, off := range []record.QueueOffset{q.min - 1, q.max()} {
		var re *RangeError
		if err := s.ReadEach(key, []record.QueueOffset{q.min, off}, make([]Entry, 2)); !errors.As(err, &re) || re.Offset != off || re.Min != q.min || re.Max != q.max() {
			t.Fatalf("read at %d of [%d, %d): %v", off, q.min, q.max(), err)
		}
	}
}

// TestEqualStatesGiveEqualSnapshots: through close, open and replay.
func TestEqualStatesGiveEqualSnapshots(t *testing.T) {
	dir := t.TempDir()
	r := testSeed(t)
	opts := Options{FS: mmapfile.OS, ArenaSize: 256 << 10}
	s, err := Open(dir, opts, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	m := &model{queues: map[record.QueueKey]*modelQueue{}}
	w := &workload{r: r, m: m, nQueue: 500}
	for range 20000 {
		o := w.next()
		m.apply(o)
		apply(t, s, o)
	}
	first := s.AppendSnapshot(nil)
	if err := errors.Join(s.Flush(), s.Persisted(0), s.Close()); err != nil {
		t.Fatal(err)
	}
	s, err = Open(dir, opts, first, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if again := s.AppendSnapshot(nil); !bytes.Equal(first, again) {
		t.Fatal("snapshot of the reopened store differs")
	}
	for key, q := range m.queues {
		for i, e := range q.entries {
			if err := s.Put(key, q.min+record.QueueOffset(i), e); err != nil {
				t.Fatal(err)
			}
		}
	}
	if again := s.AppendSnapshot(nil); !bytes.Equal(first, again) {
		t.Fatal("snapshot after a replay of what was there differs")
	}
}
