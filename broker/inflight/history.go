package inflight

import (
	"encoding/binary"
	"slices"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// maxPast is how many deliveries of a message are remembered beside the one it
// has now: all that the default retry policy makes, and of more the newest.
const maxPast = 16

// End says how a delivery ended. Values are part of the disk format.
type End uint8

const (
	EndNone      End = 0 // it has not, as far as records say: the lease ends at its deadline
	EndChanged   End = 1 // its client asked for another deadline: it gave it back, or wanted more time and did not settle it
	EndSuspended End = 2 // the same, and the delivery does not count as an attempt
	EndReleased  End = 3 // its client was gone, or gave it back over a stream, which keeps the lease's id
	EndForwarded End = 4 // its client made it a dead letter
	EndSkipped   End = 5 // an operator did
	EndExpired   End = 6 // nothing was heard of its client
)

func (e End) String() string {
	return [...]string{"open", "changed", "suspended", "released", "forwarded", "skipped", "expired"}[e]
}

// Attempt is one delivery of a message.
type Attempt struct {
	Number  int32  // its delivery attempt, from 1
	Owner   string // client that had it
	Leased  int64  // Unix ms
	Changed int64  // Unix ms: when the client last asked for another deadline, 0 = never
	Ended   int64  // Unix ms: when it could be handed out again, or was moved away; of EndNone: when it can
	End     End
}

// past is what is known of a message's deliveries besides what its lease says.
// It comes into being with the first change of a lease or the second lease, so
// that a message which is acknowledged at once costs nothing.
type past struct {
	// Of the delivery that the lease is of.
	leased  int64 // Unix ms; the lease's id says it only until a change gives another
	changed int64
	how     End

	before []Attempt // the oldest first, at most maxPast
}

func (l *lease) remember() *past {
	if l.past == nil {
		l.past = &past{leased: leasedAt(l.id)}
	}
	return l.past
}

// noteChange is called before an extend record changes the lease; newID is the
// id that it gives, 0 when the broker releases it. A delivery that was suspended
// stays so, whatever follows: what it gave back, it gave back.
func (l *lease) noteChange(newID uint64, suspend bool) {
	p := l.remember()
	if newID != 0 {
		p.changed = leasedAt(newID)
	}
	switch {
	case p.how == EndSuspended:
	case newID == 0:
		p.how = EndReleased
	case suspend:
		p.how = EndSuspended
	default:
		p.how = EndChanged
	}
}

// suspended reports whether the delivery that the lease is of does not count.
func (l *lease) suspended() bool { return l.past != nil && l.past.how == EndSuspended }

// noteLease is called before the message is handed out again under id.
func (l *lease) noteLease(id uint64) {
	p := l.remember()
	if len(p.before) == maxPast {
		p.before = append(p.before[:0], p.before[1:]...)
	}
	a := l.delivery()
	if a.End == EndNone {
		a.End = EndExpired
	}
	p.before = append(p.before, a)
	p.leased, p.changed, p.how = leasedAt(id), 0, EndNone
}

// delivery is the one that the lease is of.
func (l *lease) delivery() Attempt {
	a := Attempt{Number: l.attempt, Owner: l.owner, Leased: leasedAt(l.id), Ended: l.deadline}
	if p := l.past; p != nil {
		a.Leased, a.Changed, a.End = p.leased, p.changed, p.how
	}
	if a.End == EndSuspended {
		a.Number++ // which was given back
	}
	return a
}

// Attempts returns the deliveries of an outstanding message, the oldest first:
// the newest maxPast and the one it has now, or had last. Nil when the message is
// settled, or waits for its first.
func (s *Sub) Attempts(queue uint32, offset record.QueueOffset) []Attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queues[queue]
	if q == nil {
		return nil
	}
	l := q.out.get(offset)
	if l == nil || l.ghost || l.id == 0 {
		return nil
	}
	return l.deliveries()
}

func (l *lease) deliveries() []Attempt {
	if l.past == nil {
		return []Attempt{l.delivery()}
	}
	return append(slices.Clip(l.past.before), l.delivery())
}

// AppendAttempts appends deliveries, the oldest first:
//
//	count, each
//	  end 1 (bit 7: the owner is that of the one before) | number uvarint
//	  | leased varint | changed varint | ended varint, Unix ms | owner string
func AppendAttempts(dst []byte, list []Attempt) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(list)))
	for i, a := range list {
		same := i > 0 && list[i-1].Owner == a.Owner
		if end := byte(a.End); same {
			dst = append(dst, end|sameOwner)
		} else {
			dst = append(dst, end)
		}
		dst = binary.AppendUvarint(dst, uint64(uint32(a.Number)))
		for _, at := range []int64{a.Leased, a.Changed, a.Ended} {
			dst = binary.AppendVarint(dst, at)
		}
		if !same {
			dst = record.AppendString(dst, a.Owner)
		}
	}
	return dst
}

const sameOwner = 1 << 7

// ReadAttempts reads what AppendAttempts wrote. The caller checks d.
func ReadAttempts(d *record.Decoder) []Attempt {
	var list []Attempt
	for n := d.Count(5); n > 0 && !d.Failed(); n-- {
		end := d.Byte()
		a := Attempt{End: knownEnd(end &^ sameOwner), Number: int32(d.Uint32()), Leased: d.Varint(), Changed: d.Varint(), Ended: d.Varint()}
		if end&sameOwner == 0 {
			a.Owner = d.String()
		} else if len(list) > 0 {
			a.Owner = list[len(list)-1].Owner
		}
		list = append(list, a)
	}
	return list
}

// knownEnd takes what only a newer build knows for EndNone.
func knownEnd(b byte) End {
	if End(b) > EndExpired {
		return EndNone
	}
	return End(b)
}

// The snapshot of what is remembered is a section of its own, behind that of
// the leases, because nearly no lease has any:
//
//	leases: count, each
//	  group uvarint | topic uvarint | queue uvarint | offset uvarint
//	  | leased varint | changed varint | how 1 | before, as of AppendAttempts
//
// in ascending order, so that equal states give equal bytes.

// AppendHistory appends it. It must not run concurrently with Apply.
func (t *Tracker) AppendHistory(dst []byte) []byte {
	n := 0
	var body []byte
	for _, s := range t.Subs() {
		s.mu.Lock()
		for _, number := range s.numbers() {
			q := s.queues[number]
			for _, off := range q.offsets(func(l *lease) bool { return l.past != nil }) {
				p := q.out.get(off).past
				n++
				body = binary.AppendUvarint(appendKey(body, s.key), uint64(number))
				body = binary.AppendUvarint(body, uint64(off))
				body = binary.AppendVarint(body, p.leased)
				body = binary.AppendVarint(body, p.changed)
				body = AppendAttempts(append(body, byte(p.how)), p.before)
			}
		}
		s.mu.Unlock()
	}
	return append(binary.AppendUvarint(dst, uint64(n)), body...)
}

// RestoreHistory adds what AppendHistory wrote to the leases that Restore made.
func (t *Tracker) RestoreHistory(d *record.Decoder) {
	for n := d.Count(8); n > 0 && !d.Failed(); n-- {
		key := SubKey{Group: record.GroupID(d.Uint32()), Topic: record.TopicID(d.Uint32())}
		number, off := d.Uint32(), record.QueueOffset(d.Uvarint())
		p := &past{leased: d.Varint(), changed: d.Varint(), how: knownEnd(d.Byte()), before: ReadAttempts(d)}
		s := t.Find(key)
		if s == nil {
			continue
		}
		s.mu.Lock()
		if q := s.queues[number]; q != nil {
			if l := q.out.get(off); l != nil {
				l.past = p
			}
		}
		s.mu.Unlock()
	}
}
