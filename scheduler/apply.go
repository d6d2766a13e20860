package scheduler

import (
	"slices"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// ApplyAdd takes in the delayed message whose verified record is at pos.
func (s *Scheduler) ApplyAdd(pos record.Position, rec []byte) error {
	m, err := record.ParseMessage(rec)
	if err != nil {
		return err
	}
	t := Timer{Due: m.DueTime, Position: pos, Size: uint32(len(rec)), To: m.Key()}
	err = m.Properties.Each(func(f record.Field, _, value []byte) bool {
		switch f {
		case record.FieldTag:
			t.TagHash = record.Hash32(value)
		case record.FieldGroup:
			t.GroupHash = record.Hash32(value)
		}
		return true
	})
	if err == nil {
		err = checkTimer(&t)
	}
	if err != nil {
		return err
	}
	return s.add(&t)
}

func (s *Scheduler) add(t *Timer) error {
	minute := minuteOf(t.Due)
	b := s.buckets[minute] // only this goroutine changes what buckets there are
	off := record.QueueOffset(0)
	if b != nil {
		off = b.end
	}
	if err := s.index.Put(bucketKey(minute), off, t.entry()); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b == nil {
		b = &bucket{}
		s.insert(minute, b)
	}
	b.mixed = b.mixed || off > 0 && t.Position <= b.last
	b.copied = b.copied || t.Copied
	b.end, b.last = off+1, t.Position
	b.pending++
	s.pending++
	wake := int64(minute)*minuteMs - lead
	if b.wheel != nil {
		b.wheel.add(int(t.Due%minuteMs), off)
		wake = t.Due
	}
	if wake < s.wakeAt {
		s.wakeAt = 0
		select {
		case s.kick <- struct{}{}:
		default:
		}
	}
	return nil
}

// ApplyFired settles a timer whose message was put into its queue. now is the
// record's time.
func (s *Scheduler) ApplyFired(t *Timer, now int64) error {
	return s.settle(t, now, false)
}

// ApplyCancel applies the data of a timer-cancel record.
func (s *Scheduler) ApplyCancel(data []byte, now int64) error {
	t, err := ParseCancel(data)
	if err != nil {
		return err
	}
	return s.settle(&t, now, true)
}

// ApplyMove applies the data of a timer-move record.
func (s *Scheduler) ApplyMove(data []byte, now int64) error {
	old, t, err := ParseMove(data)
	if err != nil {
		return err
	}
	if err := s.settle(&old, now, true); err != nil {
		return err
	}
	return s.add(&t)
}

// settle does nothing about a timer that is not there: a rebuild of the index
// begins in the middle of the log, with decisions about timers that were dropped
// before.
func (s *Scheduler) settle(t *Timer, now int64, cancelled bool) error {
	minute := minuteOf(t.Due)
	b := s.buckets[minute]
	if b == nil {
		return nil
	}
	off, found, err := s.locate(minute, b, b.mixed, t, s.scratch[:])
	if err != nil || !found {
		return err
	}
	if s.decide(minute, b, off, now, cancelled) {
		s.index.Delete(bucketKey(minute))
	}
	return nil
}

// decide reports whether the bucket is gone with it.
func (s *Scheduler) decide(minute uint32, b *bucket, off record.QueueOffset, now int64, cancelled bool) (gone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !b.settle(off) {
		return false
	}
	s.pending--
	if cancelled {
		b.cancelled.set(off)
	}
	if gone = b.pending == 0 && int64(minute+1)*minuteMs <= now; gone {
		s.remove(minute, b)
	}
	return gone
}

// Advance lets go of minutes that are past at now, the time of the record that
// is applied next, and in which nothing is pending.
func (s *Scheduler) Advance(now int64) {
	if now < s.sweepAt {
		return
	}
	s.sweepAt = now - now%minuteMs + minuteMs
	for _, minute := range s.sweep(now) {
		s.index.Delete(bucketKey(minute))
	}
}

func (s *Scheduler) sweep(now int64) (gone []uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	past, _ := slices.BinarySearch(s.minutes, minuteOf(now))
	for _, minute := range s.minutes[:past] {
		if s.buckets[minute].pending == 0 {
			gone = append(gone, minute)
		}
	}
	for _, minute := range gone {
		s.remove(minute, s.buckets[minute])
	}
	return gone
}

// remove forgets a bucket, but for its queue in the index. Caller holds mu.
func (s *Scheduler) remove(minute uint32, b *bucket) {
	s.unload(b)
	delete(s.buckets, minute)
	i, _ := slices.BinarySearch(s.minutes, minute)
	s.minutes = slices.Delete(s.minutes, i, i+1)
}
