package inflight

import (
	"encoding/binary"
	"slices"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// All consumption records begin with the Sub:
//
//	group uvarint | topic uvarint
//
// Lease: messages handed out, or put aside; and how far the group has looked.
//
//	first lease id uvarint | deadline varint (Unix ms) | auto 1 | attempt id 8 | owner string
//	| queues: count, each
//	    queue uvarint | epoch uvarint | cursor uvarint
//	    | messages: count, each
//	        offset varint (difference from the one before) | attempt uvarint | group hash uvarint
//
// Messages with attempt 0 are put aside and take no lease id; the others take
// consecutive ids in order.
//
// Ack:    messages: count, each  queue uvarint | offset uvarint | lease id uvarint
// Extend: deadline varint | first new lease id uvarint (0 = ids stay)
//
//	| suspend 1 (the delivery that ends does not count) | messages as in Ack
//
// Offset, Cursor: queue uvarint | offset uvarint

// LeaseRecord is what a lease record says.
type LeaseRecord struct {
	Key       SubKey
	FirstID   uint64
	Deadline  int64 // Unix ms
	Auto      bool
	AttemptID uint64
	Owner     string
	Queues    []Scanned // To of a queue that was not scanned is 0
}

// AppendLease encodes a lease record.
func AppendLease(dst []byte, r *LeaseRecord) []byte {
	dst, start := begin(dst, record.KindLease, r.Key)
	dst = binary.AppendUvarint(dst, r.FirstID)
	dst = binary.AppendVarint(dst, r.Deadline)
	dst = appendBool(dst, r.Auto)
	dst = binary.LittleEndian.AppendUint64(dst, r.AttemptID)
	dst = record.AppendString(dst, r.Owner)
	dst = binary.AppendUvarint(dst, uint64(len(r.Queues)))
	for _, q := range r.Queues {
		dst = binary.AppendUvarint(dst, uint64(q.Queue))
		dst = binary.AppendUvarint(dst, uint64(q.Epoch))
		dst = binary.AppendUvarint(dst, uint64(q.To))
		dst = binary.AppendUvarint(dst, uint64(len(q.Held)))
		last := record.QueueOffset(0)
		for _, h := range q.Held {
			dst = binary.AppendVarint(dst, int64(h.Offset-last))
			last = h.Offset
			attempt := h.Attempt
			if h.Deferred {
				attempt = 0
			}
			dst = binary.AppendUvarint(dst, uint64(uint32(attempt)))
			dst = binary.AppendUvarint(dst, uint64(h.GroupHash))
		}
	}
	return record.EndCommand(dst, start)
}

// AppendAck encodes an ack record.
func AppendAck(dst []byte, key SubKey, held []Held) []byte {
	dst, start := begin(dst, record.KindAck, key)
	return record.EndCommand(appendHeld(dst, held), start)
}

// AppendExtend encodes a record that gives leases another deadline (Unix ms),
// and new ids from newID on unless it is 0. With suspend the delivery does not
// count as an attempt.
func AppendExtend(dst []byte, key SubKey, deadline int64, newID uint64, suspend bool, held []Held) []byte {
	dst, start := begin(dst, record.KindExtend, key)
	dst = binary.AppendVarint(dst, deadline)
	dst = binary.AppendUvarint(dst, newID)
	dst = appendBool(dst, suspend)
	return record.EndCommand(appendHeld(dst, held), start)
}

// AppendOffset encodes an offset-commit record.
func AppendOffset(dst []byte, key SubKey, queue uint32, offset record.QueueOffset) []byte {
	dst, start := begin(dst, record.KindOffsetCommit, key)
	dst = binary.AppendUvarint(dst, uint64(queue))
	dst = binary.AppendUvarint(dst, uint64(offset))
	return record.EndCommand(dst, start)
}

// AppendCursor encodes a record that moves a group to another offset of a queue.
func AppendCursor(dst []byte, key SubKey, queue uint32, offset record.QueueOffset) []byte {
	dst, start := begin(dst, record.KindCursor, key)
	dst = binary.AppendUvarint(dst, uint64(queue))
	dst = binary.AppendUvarint(dst, uint64(offset))
	return record.EndCommand(dst, start)
}

func begin(dst []byte, kind record.Kind, key SubKey) ([]byte, int) {
	dst, start := record.BeginCommand(dst, kind)
	return appendKey(dst, key), start
}

func appendKey(dst []byte, key SubKey) []byte {
	dst = binary.AppendUvarint(dst, uint64(key.Group))
	return binary.AppendUvarint(dst, uint64(key.Topic))
}

func appendHeld(dst []byte, held []Held) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(held)))
	for _, h := range held {
		dst = binary.AppendUvarint(dst, uint64(h.Queue))
		dst = binary.AppendUvarint(dst, uint64(h.Offset))
		dst = binary.AppendUvarint(dst, h.LeaseID)
	}
	return dst
}

func appendBool(dst []byte, v bool) []byte {
	if v {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// Snapshot:
//
//	subs: count, each
//	  group uvarint | topic uvarint | fifo 1 | queues: count, each
//	    queue uvarint | epoch uvarint | cursor uvarint | committed varint | outstanding: count, each
//	      offset varint (difference) | lease id uvarint | attempt uvarint | deadline varint
//	      | group hash uvarint | auto 1 | attempt id 8 | owner string
//
// Subs, queues and offsets ascend, so that equal states give equal bytes.

// AppendSnapshot appends the state, without reservations. It must not run
// concurrently with Apply.
func (t *Tracker) AppendSnapshot(dst []byte) []byte {
	subs := slices.DeleteFunc(t.Subs(), func(s *Sub) bool { return !s.inState() })
	dst = binary.AppendUvarint(dst, uint64(len(subs)))
	for _, s := range subs {
		dst = s.appendSnapshot(dst)
	}
	return dst
}

func (s *Sub) inState() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range s.queues {
		if q.known {
			return true
		}
	}
	return false
}

func (s *Sub) appendSnapshot(dst []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	dst = appendBool(appendKey(dst, s.key), s.fifo)
	numbers := s.numbers()
	dst = binary.AppendUvarint(dst, uint64(len(numbers)))
	for _, n := range numbers {
		q := s.queues[n]
		dst = binary.AppendUvarint(dst, uint64(n))
		dst = binary.AppendUvarint(dst, uint64(q.epoch))
		dst = binary.AppendUvarint(dst, uint64(q.cursor))
		dst = binary.AppendVarint(dst, int64(q.committed))
		offsets := q.offsets(func(*lease) bool { return true })
		dst = binary.AppendUvarint(dst, uint64(len(offsets)))
		last := record.QueueOffset(0)
		for _, off := range offsets {
			l := q.out.get(off)
			dst = binary.AppendVarint(dst, int64(off-last))
			last = off
			dst = binary.AppendUvarint(dst, l.id)
			dst = binary.AppendUvarint(dst, uint64(uint32(l.attempt)))
			dst = binary.AppendVarint(dst, l.deadline)
			dst = binary.AppendUvarint(dst, uint64(l.groupHash))
			dst = appendBool(dst, l.auto)
			dst = binary.LittleEndian.AppendUint64(dst, l.attemptID)
			dst = record.AppendString(dst, l.owner)
		}
	}
	return dst
}

// numbers returns the queues that are in the state, ascending.
func (s *Sub) numbers() []uint32 {
	numbers := make([]uint32, 0, len(s.queues))
	for n, q := range s.queues {
		if q.known {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers
}

// offsets returns the outstanding offsets in the state that f takes, ascending.
func (q *queue) offsets(f func(*lease) bool) []record.QueueOffset {
	var offsets []record.QueueOffset
	for l := range q.out.leases() {
		if !l.ghost && f(l) {
			offsets = append(offsets, l.offset)
		}
	}
	slices.Sort(offsets)
	return offsets
}

// Restore adds what AppendSnapshot wrote to an empty tracker.
func (t *Tracker) Restore(d *record.Decoder) {
	for n := d.Count(4); n > 0 && !d.Failed(); n-- {
		key := readKey(d)
		s := t.Sub(key, d.Byte() == 1)
		s.mu.Lock()
		s.restore(d)
		s.arm()
		s.mu.Unlock()
	}
}

func (s *Sub) restore(d *record.Decoder) {
	for n := d.Count(4); n > 0 && !d.Failed(); n-- {
		q := s.touch(d.Uint32())
		q.epoch = d.Uint32()
		q.cursor = record.QueueOffset(d.Uvarint())
		q.committed = record.QueueOffset(d.Varint())
		offset := record.QueueOffset(0)
		for m := d.Count(15); m > 0 && !d.Failed(); m-- {
			offset += record.QueueOffset(d.Varint())
			l := &lease{offset: offset, id: d.Uvarint(), attempt: int32(d.Uint32()), deadline: d.Varint(), groupHash: d.Uint32(), auto: d.Byte() == 1}
			attemptID := d.Uint64()
			l.owner = d.String()
			s.track(q, l)
			s.setAttempt(l, attemptID)
			s.t.sawLease(l.id)
			s.place(l)
		}
	}
}
