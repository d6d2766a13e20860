package inflight

import (
	"container/heap"
	"errors"
	"iter"
	"math"
	"sync"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// Why a handle does not hold its message any more.
var (
	ErrGone    = errors.New("inflight: the message is settled already")
	ErrStale   = errors.New("inflight: the message was handed out again, or its lease changed")
	ErrExpired = errors.New("inflight: the lease has ended")
)

// Sub is one group's consumption of one topic.
type Sub struct {
	t    *Tracker
	key  SubKey
	fifo bool
	// alone is held by the one receive that looks for messages, where order counts
	// among queues.
	alone chan struct{}

	mu     sync.Mutex
	queues map[uint32]*queue
	ready  readyHeap
	// liteReady is for the queues of lite topics what ready is for the others.
	liteReady readyHeap
	freed     []uint32          // lite queues where an apply function has settled a message
	attempts  map[uint64]*lease // attempt id -> the first of what its receive holds
	spare     []*lease
	armed     int64  // deadline last told to the timer
	turn      uint32 // where the next scan begins
	levels    levels
	out       uint64 // messages handed out since start, for metrics
}

func newSub(t *Tracker, key SubKey, fifo bool) *Sub {
	return &Sub{t: t, key: key, fifo: fifo, queues: map[uint32]*queue{}, attempts: map[uint64]*lease{}, armed: never, alone: make(chan struct{}, 1)}
}

// Key returns which group and topic this is.
func (s *Sub) Key() SubKey { return s.key }

func (s *Sub) queue(n uint32) *queue {
	q := s.queues[n]
	if q == nil {
		q = &queue{number: n, lite: n >= record.FirstLiteQueue, committed: record.NoOffset}
		if s.fifo && !q.lite {
			q.groups = map[uint32][]*lease{}
		}
		s.queues[n] = q
	}
	return q
}

// arm tells the timer the earliest deadline. Call it before unlocking whenever
// the heap may have changed.
func (s *Sub) arm() { s.armAfter(math.MinInt64) }

// armAfter is arm without what the timer has fired for already: it must not do
// so again and again until somebody takes that. See Fired.
func (s *Sub) armAfter(now int64) {
	at := int64(never)
	for _, h := range []readyHeap{s.ready, s.liteReady} {
		if len(h) > 0 && h[0].deadline > now {
			at = min(at, h[0].deadline)
		}
	}
	if at != s.armed {
		s.armed = at
		s.t.timer.set(s.key, at)
	}
}

// Held is one message that a receive may hand out.
type Held struct {
	Queue     uint32
	Offset    record.QueueOffset
	LeaseID   uint64
	Attempt   int32
	Deadline  int64
	Owner     string // client that had it last
	GroupHash uint32
	Deferred  bool // FIFO: put aside behind an earlier message of its group
	Epoch     uint32

	l    *lease
	life uint32
}

// Resume returns what the receive with this attempt id holds already: its
// answer was lost, and the client asks again. The messages keep their leases
// and attempt counts.
func (s *Sub) Resume(attemptID uint64, owner string, now int64) []Held {
	if attemptID == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.attempts[attemptID]
	if first == nil {
		return nil
	}
	var out []Held
	for l := first; ; {
		if l.reserved == free && l.owner == owner && l.deadline > now {
			out = append(out, l.held())
		}
		if l = l.mate; l == first {
			return out
		}
	}
}

func (l *lease) held() Held {
	return Held{Queue: l.q.number, Offset: l.offset, LeaseID: l.id, Attempt: l.attempt,
		Deadline: l.deadline, Owner: l.owner, GroupHash: l.groupHash, Epoch: l.q.epoch, l: l, life: l.life}
}

// TakeReady reserves up to n messages whose lease has ended for a new one, in
// the order their leases ended, appending them to dst with the attempt they
// would be. Messages that have had maxAttempts are reserved too and come in
// dead. Each must end in a submitted lease, ack or dead-letter record, or in
// PutBack. Lite topics are left out.
func (s *Sub) TakeReady(dst []Held, n int, maxAttempts int32, now int64) (ready, dead []Held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(dst) < n && len(dead) < n && len(s.ready) > 0 && s.ready[0].deadline <= now {
		dst, dead = s.popReady().takeAgain(dst, dead, maxAttempts)
	}
	s.arm()
	return dst, dead
}

// TakeLevel is TakeReady for one queue of a topic with priorities. The caller is
// Alone.
func (s *Sub) TakeLevel(dst []Held, queue uint32, n int, maxAttempts int32, now int64) (ready, dead []Held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sift(now)
	q := s.queue(queue)
	for len(dst) < n && len(dead) < n && len(q.due) > 0 {
		l := q.due[0]
		s.displace(l)
		dst, dead = l.takeAgain(dst, dead, maxAttempts)
	}
	return dst, dead
}

func (s *Sub) popReady() *lease { return heap.Pop(&s.ready).(*lease) }

// takeAgain reserves a message whose lease has ended and appends it to dst with
// its next attempt, or to dead when it has had all.
func (l *lease) takeAgain(dst, dead []Held, maxAttempts int32) (ready, gone []Held) {
	l.reserved = leasing
	h := l.held()
	if l.attempt >= maxAttempts {
		l.reserved = moving
		return dst, append(dead, h)
	}
	h.Attempt++
	return append(dst, h), dead
}

// PutBack gives up reservations of messages that were outstanding before.
func (s *Sub) PutBack(held []Held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range held {
		if l := held[i].lease(); l != nil && l.reserved != free {
			l.reserved = free
			s.place(l)
		}
	}
	s.arm()
}

// Bounds tells the first and the next offset of a queue.
type Bounds func(queue uint32) (min, max record.QueueOffset)

// BeginScan claims the right to scan one queue that has messages which were
// never handed out: read from sc.From up to end. Queues are tried in the order
// given. The caller ends with EndScan. limit bounds what may be outstanding. A
// scan with nothing to read is one whose start must be recorded.
func (s *Sub) BeginScan(order iter.Seq[uint32], bounds Bounds, limit int) (sc Scanned, end record.QueueOffset, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := range order {
		q := s.queue(n)
		high, ok := s.unread(q, bounds, limit)
		if !ok || q.claimed >= high && q.skipped < pinNow {
			continue
		}
		q.scanning = true
		return Scanned{Queue: n, Epoch: q.epoch, From: q.claimed, To: q.claimed}, high, true
	}
	return Scanned{}, 0, false
}

// unread returns how far a queue can be scanned from q.claimed. ok is false when
// it cannot be scanned now.
func (s *Sub) unread(q *queue, bounds Bounds, limit int) (high record.QueueOffset, ok bool) {
	if q.lite {
		limit = 1
	}
	if q.scanning || q.out.len() >= limit {
		return 0, false
	}
	low, high := bounds(q.number)
	s.start(q, low, high)
	if q.claimed < low { // retention went past the group
		q.skipped += int64(low - q.claimed)
		q.claimed = low
	}
	return high, true
}

// Begin returns where a group that is new to a queue begins: at the first
// message while the queue still has it, at the end otherwise (wire-contract 5.3). Of a
// lite topic it begins at the first there is: nobody looks at one before something
// is in it, so what comes to a subscriber may be the first since others went.
func Begin(number uint32, low, high record.QueueOffset) record.QueueOffset {
	if low > 0 && number < record.FirstLiteQueue {
		return high
	}
	return 0
}

// start fixes where a group that is new to the queue begins.
func (s *Sub) start(q *queue, low, high record.QueueOffset) {
	if q.started {
		return
	}
	q.started = true
	if q.known {
		q.claimed = q.cursor
		return
	}
	q.claimed = max(q.claimed, Begin(q.number, low, high))
	// Must be remembered: after a restart the end is elsewhere, and a queue that was
	// whole or empty may have lost its beginning.
	q.skipped = pinNow
}

// pinNow as queue.skipped forces a cursor record.
const pinNow = 1 << 40

// skipBeforeRecord is how many messages that nobody wanted a cursor passes in
// memory before that is recorded: after a crash they are scanned again.
const skipBeforeRecord = 4096

// Scanned is what a scan found in one queue.
type Scanned struct {
	Queue uint32
	Epoch uint32
	From  record.QueueOffset // where the scan began, as BeginScan said
	To    record.QueueOffset // the scan looked at everything below
	Held  []Held             // to be leased; to be put aside when Deferred
}

// Admit decides, for the message of a FIFO queue that a scan has just met,
// whether it can be handed out or must be put aside. inScan says whether this
// scan has met its group already.
func (s *Sub) Admit(queue uint32, groupHash uint32, inScan bool) (deferred bool) {
	if !s.fifo {
		return false
	}
	if inScan {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue(queue).groups[groupHash]) > 0
}

// FIFO reports whether message groups are kept in order.
func (s *Sub) FIFO() bool { return s.fifo }

// EndScan ends scans. It moves the claims to the scans' To and makes ghosts of
// what they hold; submit, called while other scans of the queues are still held
// off, must give the lease record its place in the log before it returns. When
// it fails, everything is as before the scans. A nil submit means that nothing
// was found and nothing needs to be recorded: only the claims move.
func (s *Sub) EndScan(scans []Scanned, submit func() error) error {
	if submit == nil {
		s.settleScans(scans, func(q *queue, sc *Scanned) {
			q.skipped += int64(sc.To - sc.From)
			q.claimed = sc.To
		})
		return nil
	}
	s.mu.Lock()
	for i := range scans {
		sc := &scans[i]
		q := s.queue(sc.Queue)
		if q.epoch != sc.Epoch {
			continue // reset since: the record will be void, and drop no ghost
		}
		for j := range sc.Held {
			h := &sc.Held[j]
			l := s.newLease(h.Offset, h.GroupHash)
			l.reserved, l.ghost = leasing, true
			h.l, h.life = l, l.life
			s.track(q, l)
		}
	}
	s.mu.Unlock()
	err := submit()
	s.settleScans(scans, func(q *queue, sc *Scanned) {
		if err == nil {
			q.skipped = 0
			q.claimed = sc.To
			return
		}
		for i := range sc.Held {
			if l := sc.Held[i].lease(); l != nil {
				s.drop(l)
			}
		}
		s.freed = nil // the receive itself tells who may look now
	})
	return err
}

// Holds reports whether the lease that a record gave is in force: a reset may
// have come before it in the log.
func (s *Sub) Holds(h Held) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queues[h.Queue]
	if q == nil {
		return false
	}
	l := q.out.get(h.Offset)
	return l != nil && l.id == h.LeaseID
}

func (s *Sub) settleScans(scans []Scanned, settle func(*queue, *Scanned)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range scans {
		q := s.queue(scans[i].Queue)
		if q.epoch == scans[i].Epoch {
			settle(q, &scans[i])
		}
		q.scanning = false
	}
	s.arm()
}

// MustRecord reports whether a scan that found nothing must be recorded anyway:
// it passed many messages, or it is the first by which the group is known to
// the queue.
func (s *Sub) MustRecord(sc Scanned) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queue(sc.Queue)
	passed := q.skipped + int64(sc.To-q.claimed)
	return passed >= skipBeforeRecord || passed > 0 && !q.known
}

// Unclaimed reports whether one of the queues has messages that were never
// handed out and that no scan is looking at: messages that came while a scan
// kept others away.
func (s *Sub) Unclaimed(order iter.Seq[uint32], bounds Bounds, limit int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := range order {
		q := s.queues[n]
		if _, high := bounds(n); q != nil && q.started && !q.scanning && q.claimed < high && q.out.len() < limit {
			return true
		}
	}
	return false
}

// lookup finds the lease that a handle names and says why it does not hold.
func (s *Sub) lookup(queue uint32, offset record.QueueOffset, id uint64, now int64) (*lease, error) {
	q := s.queues[queue]
	if q == nil {
		return nil, ErrStale
	}
	l := q.out.get(offset)
	switch {
	case l == nil && offset < max(q.claimed, q.cursor):
		return nil, ErrGone
	case l == nil:
		return nil, ErrStale
	case l.ghost || l.id != id || l.reserved == leasing || l.reserved == moving:
		return nil, ErrStale
	case l.deadline <= now:
		return nil, ErrExpired
	}
	return l, nil
}

// BeginAck reserves a lease for its ack. nil means that an ack record must be
// submitted now (also when another ack is under way: acking twice is fine).
func (s *Sub) BeginAck(queue uint32, offset record.QueueOffset, id uint64, now int64) (Held, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, err := s.lookup(queue, offset, id, now)
	if err != nil {
		return Held{}, err
	}
	s.reserve(l, acking)
	return l.held(), nil
}

// BeginMove reserves a lease for an extend or dead-letter record.
func (s *Sub) BeginMove(queue uint32, offset record.QueueOffset, id uint64, now int64) (Held, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, err := s.lookup(queue, offset, id, now)
	if err == nil && l.reserved == acking {
		err = ErrGone
	}
	if err != nil {
		return Held{}, err
	}
	s.reserve(l, moving)
	return l.held(), nil
}

func (s *Sub) reserve(l *lease, r reserved) {
	l.reserved = r
	s.place(l)
	s.arm()
}

// BeginRelease reserves all auto-renewed leases that satisfy gone, so that an
// extend record can end them.
func (s *Sub) BeginRelease(gone func(owner string, h Held) bool) []Held {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Held
	for _, q := range s.queues {
		for l := range q.out.leases() {
			if !l.auto || l.reserved != free {
				continue
			}
			if h := l.held(); gone(l.owner, h) {
				out = append(out, h)
				l.reserved = moving
				s.place(l)
			}
		}
	}
	s.arm()
	return out
}

// Committed returns the committed offset of a queue: what UpdateOffset stored,
// or else the lowest offset that is not settled. ok is false when there is none.
func (s *Sub) Committed(queue uint32) (record.QueueOffset, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queues[queue]
	switch {
	case q == nil || !q.known:
		return 0, false
	case q.committed != record.NoOffset:
		return q.committed, true
	}
	return q.frontier(), true
}

func (q *queue) frontier() record.QueueOffset {
	low := q.cursor
	for l := range q.out.leases() {
		if !l.ghost {
			low = min(low, l.offset)
		}
	}
	return low
}

// QueueStatus is one queue of a Sub as it stands.
type QueueStatus struct {
	Queue    uint32
	Cursor   record.QueueOffset
	InFlight int                // leased
	Ready    int                // waiting to be handed out again, or put aside
	Oldest   record.QueueOffset // that is not settled: Cursor when nothing is outstanding
}

// Status returns all queues that have been touched, and how many messages were
// handed out since the start of the process.
func (s *Sub) Status(now int64) (queues []QueueStatus, delivered uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, q := range s.queues {
		if !q.known && !q.started {
			continue
		}
		st := QueueStatus{Queue: n, Cursor: max(q.cursor, q.claimed)}
		st.Oldest = st.Cursor
		for l := range q.out.leases() {
			st.Oldest = min(st.Oldest, l.offset)
			if l.deadline > now || l.ghost {
				st.InFlight++
			} else {
				st.Ready++
			}
		}
		queues = append(queues, st)
	}
	return queues, s.out
}

// Turn returns where the next scan over n queues begins: each starts one
// further on, so that no queue is always last.
func (s *Sub) Turn(n uint32) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn++
	return s.turn % max(n, 1)
}
