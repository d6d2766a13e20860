package inflight

import (
	"github.com/gantry-mq/gantry/commitlog/record"
)

// Apply changes the state by one record of consumption.
// exists says whether a group and topic are still there: records about deleted
// ones change nothing. fifo says whether a group is ordered.
func (t *Tracker) Apply(kind record.Kind, data []byte, exists func(SubKey) (ok, fifo bool)) error {
	d := record.NewDecoder(data)
	key := readKey(d)
	ok, fifo := exists(key)
	if d.Failed() {
		return d.Err()
	}
	if !ok {
		return nil
	}
	s := t.Sub(key, fifo)
	s.mu.Lock()
	switch kind {
	case record.KindLease:
		s.applyLease(d)
	case record.KindAck:
		s.applyAck(d)
	case record.KindExtend:
		s.applyExtend(d)
	case record.KindOffsetCommit:
		q := s.touch(d.Uint32())
		q.committed = record.QueueOffset(d.Uvarint())
	case record.KindCursor:
		s.applyCursor(d)
	case record.KindReopen:
		s.applyReopen(d)
	}
	s.unlockApplied()
	return d.Err()
}

func readKey(d *record.Decoder) SubKey {
	return SubKey{Group: record.GroupID(d.Uint32()), Topic: record.TopicID(d.Uint32())}
}

// KeyOf returns whose consumption a record that Apply takes is about.
func KeyOf(data []byte) SubKey { return readKey(record.NewDecoder(data)) }

// unlockApplied ends an apply function: it arms the timer, unlocks the Sub and
// tells of lite queues whose next message is up.
func (s *Sub) unlockApplied() {
	s.arm()
	freed := s.freed
	s.freed = nil
	s.mu.Unlock()
	for _, queue := range freed {
		s.t.freed(s.key, queue)
	}
}

// touch returns a queue that a record names.
func (s *Sub) touch(n uint32) *queue {
	q := s.queue(n)
	q.known = true
	return q
}

func (s *Sub) applyLease(d *record.Decoder) {
	id := d.Uvarint()
	deadline := d.Varint()
	auto := d.Byte() == 1
	attemptID := d.Uint64()
	owner := d.String()
	for n := d.Count(3); n > 0 && !d.Failed(); n-- {
		n, epoch, to := d.Uint32(), d.Uint32(), record.QueueOffset(d.Uvarint())
		var q *queue
		void := !s.t.exists(record.Key(s.key.Topic, n))
		if !void {
			q = s.touch(n)
			void = epoch != q.epoch
		}
		if !void {
			q.reach(to)
		}
		offset := record.QueueOffset(0)
		for m := d.Count(3); m > 0 && !d.Failed(); m-- {
			offset += record.QueueOffset(d.Varint())
			attempt := int32(d.Uint32())
			hash := d.Uint32()
			if void {
				if attempt > 0 {
					id++
				}
				continue
			}
			l := q.out.get(offset)
			if l == nil {
				l = s.newLease(offset, hash)
				s.track(q, l)
			}
			l.ghost = false
			l.reserved = free
			if attempt > 0 { // else put aside
				if l.id != 0 {
					l.noteLease(id)
				}
				l.id, l.attempt, l.deadline, l.owner, l.auto = id, attempt, deadline, owner, auto
				s.lead(l)
				s.setAttempt(l, attemptID)
				s.t.sawLease(id)
				s.out++
				id++
			}
			s.place(l)
		}
	}
}

// reach says that the group has come to an offset. This node knows it too, also
// when it only follows: it may have to go on from there.
func (q *queue) reach(to record.QueueOffset) {
	q.cursor = max(q.cursor, to)
	q.claimed = max(q.claimed, q.cursor)
}

func (s *Sub) applyAck(d *record.Decoder) {
	for n := d.Count(3); n > 0 && !d.Failed(); n-- {
		q := s.touch(d.Uint32())
		l := q.out.get(record.QueueOffset(d.Uvarint()))
		if id := d.Uvarint(); l != nil && !l.ghost && l.id == id {
			s.drop(l)
		}
	}
}

func (s *Sub) applyExtend(d *record.Decoder) {
	deadline := d.Varint()
	newID := d.Uvarint() // 0 = the leases keep their ids
	suspend := d.Byte() == 1
	for n := d.Count(3); n > 0 && !d.Failed(); n-- {
		q := s.touch(d.Uint32())
		l := q.out.get(record.QueueOffset(d.Uvarint()))
		if id := d.Uvarint(); l != nil && !l.ghost && l.id == id {
			if suspend && !l.suspended() {
				l.attempt--
			}
			l.noteChange(newID, suspend)
			l.deadline = deadline
			l.auto = false
			l.reserved = free
			s.forgetAttempt(l)
			if newID != 0 {
				l.id = newID
				s.t.sawLease(newID)
				newID++
			}
			s.place(l)
			if q.lite { // nobody need wait for the timer when the lease ends at once
				s.freed = append(s.freed, q.number)
			}
		}
	}
}

// applyCursor moves a group to another offset of a queue. What it held there is
// forgotten: its handles are void.
func (s *Sub) applyCursor(d *record.Decoder) {
	q := s.touch(d.Uint32())
	offset := record.QueueOffset(d.Uvarint())
	for l := range q.out.leases() {
		s.drop(l) // of a ghost too: its lease record, which comes later, is void
	}
	q.epoch++
	q.cursor, q.claimed, q.started, q.skipped = offset, offset, true, 0
	q.committed = record.NoOffset
	if q.lite {
		s.freed = append(s.freed, q.number)
	}
}

// Beginning is where a queue begins from now on.
type Beginning struct {
	Queue  uint32
	Offset record.QueueOffset
}

// Trim settles, for all groups, what queues of a topic no longer have.
func (t *Tracker) Trim(topic record.TopicID, queues []Beginning) {
	t.onTopic(topic, func(s *Sub) {
		for _, b := range queues {
			q := s.queues[b.Queue]
			if q == nil || !q.known {
				continue
			}
			for l := range q.out.leases() {
				if l.offset < b.Offset && !l.ghost {
					s.drop(l)
				}
			}
			q.cursor = max(q.cursor, b.Offset)
		}
	})
}

// Settle settles one message for all groups, whoever holds it. It does not see
// leases whose records come later.
func (t *Tracker) Settle(key record.QueueKey, off record.QueueOffset) {
	t.onTopic(key.Topic(), func(s *Sub) {
		if q := s.queues[key.Queue()]; q != nil {
			if l := q.out.get(off); l != nil && !l.ghost {
				s.drop(l)
			}
		}
	})
}

// DropQueue forgets a queue that is gone, of all groups.
func (t *Tracker) DropQueue(key record.QueueKey) {
	t.onTopic(key.Topic(), func(s *Sub) {
		if q := s.queues[key.Queue()]; q != nil {
			for l := range q.out.leases() {
				s.drop(l)
			}
			delete(s.queues, key.Queue())
			s.freed = nil
		}
	})
}

// onTopic calls f for all Subs of a topic, locked.
func (t *Tracker) onTopic(id record.TopicID, f func(*Sub)) {
	for _, s := range t.Subs() {
		if s.key.Topic == id {
			s.mu.Lock()
			f(s)
			s.unlockApplied()
		}
	}
}

// ApplyDeadLetter settles the offset that a dead-letter record moves away.
func (t *Tracker) ApplyDeadLetter(key SubKey, queue uint32, offset record.QueueOffset, leaseID uint64) {
	s := t.Find(key)
	if s == nil {
		return
	}
	s.mu.Lock()
	q := s.touch(queue)
	if l := q.out.get(offset); l != nil && !l.ghost && l.id == leaseID {
		s.drop(l)
	}
	s.unlockApplied()
}
