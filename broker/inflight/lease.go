package inflight

import (
	"container/heap"
	"slices"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// reserved says which submitted record is about to change a lease.
type reserved uint8

const (
	free    reserved = iota
	leasing          // a lease record
	acking           // an ack record
	moving           // an extend or dead-letter record
)

// lease is one outstanding offset.
type lease struct {
	q         *queue
	offset    record.QueueOffset
	id        uint64 // 0 = never handed out
	attempt   int32  // deliveries so far
	groupHash uint32
	deadline  int64  // Unix ms from which it may be handed out again
	attemptID uint64 // hash of the receive that holds it, 0 = none
	owner     string // client that holds it
	past      *past  // what is remembered of earlier deliveries, nil = there were none
	auto      bool   // held as long as the owner lives

	// This node's own.
	reserved reserved
	ghost    bool // reserved for a first lease, not in the state yet
	due      bool // in queue.due
	heapAt   int  // index in its heap, -1 = not in it
	// Circle of the leases that one receive holds, in the order they were given.
	mate, mateBefore *lease
	// life counts the offsets that this memory has been for, see Held.lease.
	life uint32
}

// spareLeases bounds how many leases a Sub keeps for reuse.
const spareLeases = 2048

// newLease returns a lease for an offset that was not outstanding.
func (s *Sub) newLease(offset record.QueueOffset, groupHash uint32) *lease {
	n := len(s.spare)
	if n == 0 {
		return &lease{offset: offset, groupHash: groupHash}
	}
	l := s.spare[n-1]
	s.spare = s.spare[:n-1]
	l.offset, l.groupHash = offset, groupHash
	return l
}

// recycle ends the life of a lease that is in no list any more.
func (s *Sub) recycle(l *lease) {
	*l = lease{life: l.life + 1}
	if len(s.spare) < spareLeases {
		s.spare = append(s.spare, l)
	}
}

// lease is the lease that h was made of, nil when that is settled: by now the
// memory may be another's.
func (h *Held) lease() *lease {
	if h.l == nil || h.l.life != h.life {
		return nil
	}
	return h.l
}

// readyHeap orders the leases that may be handed out next: by deadline, then by
// offset so that messages come again in the order they came first.
type readyHeap []*lease

func (h readyHeap) Len() int { return len(h) }
func (h readyHeap) Less(i, j int) bool {
	if h[i].deadline != h[j].deadline {
		return h[i].deadline < h[j].deadline
	}
	return h[i].offset < h[j].offset
}
func (h readyHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heapAt, h[j].heapAt = i, j
}
func (h *readyHeap) Push(x any) {
	l := x.(*lease)
	l.heapAt = len(*h)
	*h = append(*h, l)
}
func (h *readyHeap) Pop() any {
	old := *h
	n := len(old) - 1
	l := old[n]
	old[n] = nil
	*h = old[:n]
	l.heapAt = -1
	return l
}

// queue is one queue of a Sub.
type queue struct {
	number    uint32
	lite      bool // a lite topic's: one message is handed out at a time
	known     bool // some record has named this queue
	cursor    record.QueueOffset
	committed record.QueueOffset // by UpdateOffset; record.NoOffset = never
	out       outstanding
	groups    map[uint32][]*lease // FIFO, nil if lite: outstanding by message group, in the order of their turn
	// epoch counts cursor records. A lease record carries the epoch in which it was
	// decided and is void in another: it was overtaken by a reset.
	epoch uint32

	// This node's own.
	claimed  record.QueueOffset // submitted lease records reach up to here; >= cursor
	skipped  int64              // offsets passed since the last submitted record
	scanning bool
	started  bool     // claimed has been initialised
	due      []*lease // of a topic with priorities: may be handed out again, the first first
}

// track puts a new outstanding offset into the queue.
func (s *Sub) track(q *queue, l *lease) {
	l.q = q
	l.heapAt = -1
	q.out.put(l)
	if q.groups != nil {
		s.line(l)
	}
}

// line puts l into the line of its message group: ascending, but what was handed
// out, or is about to be, keeps its turn from a message before it that is
// reopened. So of a message group no more than one is ever handed out.
func (s *Sub) line(l *lease) {
	waiting := l.q.groups[l.groupHash]
	if n := len(waiting); n == 0 || waiting[n-1].offset < l.offset && l.id == 0 {
		l.q.groups[l.groupHash] = append(waiting, l)
		return
	}
	first, at := waiting[0], 0
	if l.id == 0 {
		if first.id != 0 || first.reserved != free {
			at = 1
		}
		for at < len(waiting) && waiting[at].offset < l.offset {
			at++
		}
	}
	l.q.groups[l.groupHash] = slices.Insert(waiting, at, l)
	if at == 0 {
		s.place(first) // which it is no more
	}
}

// lead puts l, which was handed out just now, at the head of its message group.
// It is there already, unless records come in another order than that in which
// they were decided on.
func (s *Sub) lead(l *lease) {
	if l.q.groups == nil {
		return
	}
	waiting := l.q.groups[l.groupHash]
	first := waiting[0]
	if first == l {
		return
	}
	at := slices.Index(waiting, l)
	copy(waiting[1:at+1], waiting[:at])
	waiting[0] = l
	s.place(first)
}

// place puts l where its state belongs: into the heap of what may be handed
// out next, unless it is reserved or another message of its group goes first.
func (s *Sub) place(l *lease) {
	candidate := l.reserved == free && (l.q.groups == nil || l.q.groups[l.groupHash][0] == l)
	h := s.heapOf(l)
	switch {
	case candidate && l.heapAt >= 0:
		heap.Fix(h, l.heapAt)
	case candidate && !l.due:
		heap.Push(h, l)
	case !candidate:
		s.displace(l)
	}
}

func (s *Sub) heapOf(l *lease) *readyHeap {
	if l.q.lite {
		return &s.liteReady
	}
	return &s.ready
}

// displace takes l from where what may be handed out again waits.
func (s *Sub) displace(l *lease) {
	if l.heapAt >= 0 {
		heap.Remove(s.heapOf(l), l.heapAt)
	}
	if l.due {
		l.due = false
		l.q.due = without(l.q.due, l)
	}
}

// drop settles l: the offset is done, and the next message of its group is up.
func (s *Sub) drop(l *lease) {
	s.displace(l)
	s.forgetAttempt(l)
	l.q.out.remove(l.offset)
	if l.q.lite {
		s.freed = append(s.freed, l.q.number)
	}
	if l.q.groups != nil {
		s.leaveLine(l)
	}
	s.recycle(l)
}

// leaveLine takes l, which is settled, out of its message group.
func (s *Sub) leaveLine(l *lease) {
	waiting := without(l.q.groups[l.groupHash], l)
	if len(waiting) == 0 {
		delete(l.q.groups, l.groupHash)
		return
	}
	l.q.groups[l.groupHash] = waiting
	s.place(waiting[0])
}

// without returns list without l, which is nearly always its first; the list may
// be long.
func without(list []*lease, l *lease) []*lease {
	if list[0] == l {
		list[0] = nil
		return list[1:]
	}
	return slices.DeleteFunc(list, func(other *lease) bool { return other == l })
}

func (s *Sub) setAttempt(l *lease, id uint64) {
	s.forgetAttempt(l)
	l.attemptID = id
	if id == 0 {
		return
	}
	first := s.attempts[id]
	if first == nil {
		l.mate, l.mateBefore = l, l
		s.attempts[id] = l
		return
	}
	l.mate, l.mateBefore = first, first.mateBefore
	l.mate.mateBefore, l.mateBefore.mate = l, l
}

func (s *Sub) forgetAttempt(l *lease) {
	if l.attemptID == 0 {
		return
	}
	if l.mate == l {
		delete(s.attempts, l.attemptID)
	} else {
		l.mate.mateBefore, l.mateBefore.mate = l.mateBefore, l.mate
		if s.attempts[l.attemptID] == l {
			s.attempts[l.attemptID] = l.mate
		}
	}
	l.mate, l.mateBefore, l.attemptID = nil, nil, 0
}
