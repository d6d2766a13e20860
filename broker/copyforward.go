package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/gantry-mq/gantry/broker/transaction"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
	"github.com/gantry-mq/gantry/scheduler"
)

// A payload is where it was first written, and may be needed long after its
// neighbours: by a timer, by an entry that a move put into a queue later, or by a
// topic that keeps its messages for longer than the log does. An entry is as old as
// its move, so before a segment goes, the payloads that younger entries name are
// appended again, as copies, and the entries name those.
//
// Each batch takes these steps, and a crash between any two costs no more than
// copies that nothing names:
//
//  1. append the copies
//  2. append copies of dead-letter records, which name a copied payload
//  3. wait until both are durable
//  4. append what makes timers and entries name them, and wait until it is applied
const (
	copyBatchBytes   = 4 << 20
	copyBatchRecords = 1024
)

// copyForward makes nothing that is kept refer to the log below limit. An entry
// counts as kept when it entered its queue at the time dropped, Unix ms, or later; in a
// topic with its own retention, when it is still there.
// It returns how many bytes it copied.
func (b *Broker) copyForward(limit record.Position, dropped int64) (int64, error) {
	c := &copier{b: b}
	defer c.release()
	if err := c.timers(limit); err != nil {
		return c.copied, err
	}
	if err := c.halves(limit); err != nil {
		return c.copied, err
	}
	// A timer that fired and a half message that was committed meanwhile are entries
	// by now, or will be when the log is applied up to here.
	if err := b.dispatcher.Await(b.ctx, b.wal.Committed()); err != nil {
		return c.copied, err
	}
	for _, tp := range b.topics.List() {
		for _, q := range b.allQueues(tp) {
			if err := c.queue(record.Key(tp.ID, q), limit, dropped, tp.OwnRetention()); err != nil {
				return c.copied, fmt.Errorf("topic %q queue %d: %w", tp.Name, q, err)
			}
		}
	}
	return c.copied, c.flush()
}

// copier collects what one batch copies.
type copier struct {
	b      *Broker
	copied int64

	batch    commitlog.Batch
	then     []func(pos record.Position, size uint32) // by record of batch
	reserved []scheduler.Timer
	held     []record.Position // half messages, reserved

	letters     commitlog.Batch // dead-letter records that name a copy
	lettersThen []func(pos record.Position, size uint32)

	commands    commitlog.Batch // moves of half messages
	relocations []relocation
}

// aboutToFire is how near its due time, in ms, a timer is left alone: one that is
// being copied fires late, and others of its message group would overtake it.
const aboutToFire = 2000

// timers copies the payloads of pending timers. Those that are being fired or
// cancelled at this moment, or about to be, are settled soon.
func (c *copier) timers(limit record.Position) error {
	for range 1000 {
		taken := 0
		var err error
		now := c.b.clock.Wall().UnixMilli()
		scanErr := c.b.timers.Below(limit, func(t scheduler.Timer) bool {
			if wait := t.Due - now; wait > -aboutToFire && wait < aboutToFire {
				taken++
				return true
			}
			if err = c.room(t.Size); err != nil {
				return false
			}
			t, err = c.b.timers.Reserve(t.Due, t.Place)
			switch {
			case errors.Is(err, scheduler.ErrTaken):
				taken++
				fallthrough
			case isSettled(err):
				err = nil
				return true
			case err != nil:
				return false
			}
			c.reserved = append(c.reserved, t)
			err = c.addTimer(t)
			return err == nil
		})
		if err = errors.Join(err, scanErr); err == nil {
			err = c.flush()
		}
		if err != nil || taken == 0 {
			return err
		}
		select {
		case <-c.b.ctx.Done():
			return c.b.ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return errors.New("broker: delayed messages stay reserved")
}

// addTimer copies the payload of a reserved timer. The copy says when it is due
// and where it is now: what moved it there may be gone with the segment.
func (c *copier) addTimer(t scheduler.Timer) error {
	change := func(m *record.Message) {
		m.Flags |= record.FlagDelayed
		m.DueTime, m.Offset = t.Due, t.Place
	}
	return c.addChanged(t.Position, t.Size, change, func(pos record.Position, size uint32) {
		t.Position, t.Size, t.Copied = pos, size, true
		c.relocations = append(c.relocations, relocation{t.Key(), t.Place, t.Entry()})
	})
}

// halves copies the payloads of undecided half messages. Decisions about them
// wait until they name the copy.
func (c *copier) halves(limit record.Position) error {
	for _, h := range c.b.transactions.List(func(h *transaction.Half) bool { return h.Payload < limit }) {
		if err := c.room(h.Size); err != nil {
			return err
		}
		h, busy, err := c.b.transactions.Begin(h.Position)
		for ; busy != nil; h, busy, err = c.b.transactions.Begin(h.Position) {
			select {
			case <-busy:
			case <-c.b.ctx.Done():
				return c.b.ctx.Err()
			}
		}
		if err != nil {
			continue // decided meanwhile: it is gone, or an entry
		}
		c.held = append(c.held, h.Position)
		err = c.add(h.Payload, h.Size, func(pos record.Position, size uint32) {
			c.commands.Add(transaction.AppendMove(nil, h.Position, pos, size), nil)
		})
		if err != nil {
			return err
		}
	}
	return c.flush()
}

func isSettled(err error) bool {
	return errors.Is(err, scheduler.ErrFired) || errors.Is(err, scheduler.ErrCancelled) || errors.Is(err, scheduler.ErrUnknown)
}

// queue copies what the younger entries of a queue refer to, or with all what any
// does. Of the entries that are younger than the segments that go, only those can
// refer to them that a move put there.
func (c *copier) queue(key record.QueueKey, limit record.Position, dropped int64, all bool) error {
	m, err := c.b.moved.look(c.b.index, key)
	if err != nil || !all && m.first >= m.last {
		return err
	}
	// Of the last millisecond that goes some frames may stay: an entry of it is taken
	// for younger, unless all are copied, when the older ones are the larger part.
	if all {
		dropped++
	}
	young, err := c.b.index.OffsetAt(key, dropped)
	if err != nil {
		return err
	}
	if all {
		low, _, _ := c.b.index.Bounds(key)
		if err := c.entries(key, low, young, limit); err != nil {
			return err
		}
	}
	return c.entries(key, max(young, m.first), m.last, limit)
}

// entries copies what the entries in [at, end) of a queue refer to.
func (c *copier) entries(key record.QueueKey, at, end record.QueueOffset, limit record.Position) error {
	var e [128]consumequeue.Entry
	for at < end {
		n, err := c.b.index.Read(key, at, e[:min(int64(len(e)), int64(end-at))])
		var gone *consumequeue.RangeError
		if errors.As(err, &gone) && at < gone.Min { // trimmed meanwhile
			at = gone.Min
			continue
		}
		if errors.Is(err, consumequeue.ErrOutOfRange) {
			return nil // deleted meanwhile
		}
		if err != nil || n == 0 {
			return err
		}
		for i := range n {
			if err := c.entry(relocation{key, at + record.QueueOffset(i), e[i]}, limit); err != nil {
				return err
			}
		}
		at += record.QueueOffset(n)
	}
	return nil
}

// entry copies what one entry refers to, if that is below limit.
func (c *copier) entry(r relocation, limit record.Position) error {
	if err := c.room(r.Entry.Size); err != nil {
		return err
	}
	relocate := func(pos record.Position, size uint32) {
		r.Entry.Position, r.Entry.Size = pos, size
		r.Entry.Flags |= consumequeue.FlagCopied
		c.relocations = append(c.relocations, r)
	}
	switch {
	case r.Entry.Flags&consumequeue.FlagDeleted != 0:
	case r.Entry.Flags&consumequeue.FlagIndirect != 0:
		v, err := c.b.viewRecord(r.Entry.Position, int(r.Entry.Size))
		if errors.Is(err, errTrimmed) {
			return nil
		}
		if err != nil {
			return err
		}
		dl, err := parseDeadLetter(v.Bytes())
		v.Release()
		if err != nil {
			return c.b.damaged(r.Entry.Position, err)
		}
		if dl.Position >= limit && r.Entry.Position >= limit || dl.Position < c.b.wal.First() {
			return nil
		}
		letter := func(pos record.Position, size uint32) {
			dl.Position, dl.Size = pos, size
			head := dl.appendAs(record.KindDeadLetterCopy, nil, r.Key)
			record.Stamp(head, r.Offset, dl.StoreTime)
			c.letters.Add(head, nil)
			c.lettersThen = append(c.lettersThen, relocate)
		}
		return c.add(dl.Position, dl.Size, letter)
	case r.Entry.Position < limit && r.Entry.Position >= c.b.wal.First():
		change := func(m *record.Message) {
			if m.Key() == r.Key {
				// It is in its queue: the copy says so itself, since the records that brought
				// it there, or gave it another time before, may go with the segment.
				m.Offset = r.Offset
				m.Flags &^= record.FlagDelayed
				return
			}
			keepDelayed(m)
		}
		return c.addChanged(r.Entry.Position, r.Entry.Size, change, relocate)
	}
	return nil
}

// room makes room in the batch for one more record. It comes before whatever the
// record's owner is reserved with, because it may end all reservations.
func (c *copier) room(size uint32) error {
	most := int64(copyBatchBytes)
	if segment := c.b.opts.SegmentSize; segment > 0 {
		most = min(most, segment/4) // a batch fits a segment
	}
	if int64(c.batch.Size())+int64(size) > most || c.batch.Len() >= copyBatchRecords {
		return c.flush()
	}
	return nil
}

// add copies the payload at pos with the next batch, and calls then when it is
// known where it went.
func (c *copier) add(pos record.Position, size uint32, then func(record.Position, uint32)) error {
	return c.addChanged(pos, size, keepDelayed, then)
}

// keepDelayed says of a copy that it was a delayed message.
func keepDelayed(m *record.Message) {
	if m.Kind == record.KindDelayed {
		m.Flags |= record.FlagDelayed
	}
}

// addChanged is add for a copy whose header is to be another.
func (c *copier) addChanged(pos record.Position, size uint32, change func(*record.Message), then func(record.Position, uint32)) error {
	v, err := c.b.viewRecord(pos, int(size))
	if err != nil {
		return err
	}
	defer v.Release()
	m, err := record.ParseMessage(v.Bytes())
	if err == nil {
		err = m.VerifyBody()
	}
	if err != nil {
		return c.b.damaged(pos, err)
	}
	change(&m)
	if m.Kind != record.KindCopy {
		m.Kind = record.KindCopy
		m.Properties = append([]byte(nil), m.Properties...)
		m.Properties = record.AppendField(m.Properties, record.FieldOrigin,
			string(binary.LittleEndian.AppendUint64(nil, uint64(pos))))
	}
	// All in the head: on a full disk the log takes no bodies any more, and this is
	// what makes room.
	c.batch.Add(append(record.AppendHead(nil, &m), m.Body...), nil)
	c.then = append(c.then, then)
	c.copied += int64(size)
	return nil
}

// flush takes the steps above for what was collected.
func (c *copier) flush() error {
	if c.batch.Len() == 0 {
		return nil
	}
	if err := c.append(&c.batch, c.then); err != nil {
		return err
	}
	if err := c.append(&c.letters, c.lettersThen); err != nil {
		return err
	}
	if err := c.b.wal.Sync(); err != nil {
		return err
	}
	if len(c.relocations) > 0 {
		c.commands.Add(appendRelocate(nil, c.relocations), nil)
	}
	if c.commands.Len() > 0 {
		if err := c.b.append.Submit(&c.commands); err != nil {
			return err
		}
		if err := c.b.await(&c.commands); err != nil {
			return err
		}
	}
	c.release()
	return nil
}

// append commits a batch and tells its records' positions.
func (c *copier) append(batch *commitlog.Batch, then []func(record.Position, uint32)) error {
	if batch.Len() == 0 {
		return nil
	}
	if err := c.b.append.Submit(batch); err != nil {
		return err
	}
	if err := batch.Wait(context.Background()); err != nil {
		return err
	}
	for i, f := range then {
		f(batch.Position(i), uint32(len(batch.Head(i))))
	}
	return nil
}

// release gives back what the batch held.
func (c *copier) release() {
	for _, t := range c.reserved {
		c.b.timers.Release(t)
	}
	for _, pos := range c.held {
		c.b.transactions.Cancel(pos)
	}
	*c = copier{b: c.b, copied: c.copied}
}

// movedRanges knows where in each queue there are entries that a move put there,
// the only ones whose payload may be older than they. A queue is looked through
// once in the life of the process, and from then on only what is new. It belongs
// to the housekeeping goroutine.
type movedRanges map[record.QueueKey]movedRange

type movedRange struct {
	next        record.QueueOffset // looked at below
	first, last record.QueueOffset // all such entries are in [first, last)
}

func (m *movedRanges) look(index *consumequeue.Store, key record.QueueKey) (movedRange, error) {
	if *m == nil {
		*m = movedRanges{}
	}
	r := (*m)[key]
	var e [128]consumequeue.Entry
	for {
		low, high, _ := index.Bounds(key)
		r.next = max(r.next, low)
		r.first = max(r.first, low)
		if r.next >= high {
			(*m)[key] = r
			return r, nil
		}
		n, err := index.Read(key, r.next, e[:])
		if errors.Is(err, consumequeue.ErrOutOfRange) {
			continue // retention or a deletion passed by
		}
		if err != nil {
			return r, err
		}
		for i := range n {
			if e[i].Flags&(consumequeue.FlagMoved|consumequeue.FlagIndirect) != 0 {
				off := r.next + record.QueueOffset(i)
				if r.first >= r.last {
					r.first = off
				}
				r.last = off + 1
			}
		}
		r.next += record.QueueOffset(n)
	}
}
