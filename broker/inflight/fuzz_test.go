package inflight_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// FuzzApply feeds records to a tracker. Nothing may panic, and what was taken
// must survive a snapshot.
func FuzzApply(f *testing.F) {
	held := []inflight.Held{{Queue: 1, Offset: 4, LeaseID: 9, Attempt: 1, GroupHash: 5}, {Queue: 1, Offset: 5, GroupHash: 5, Deferred: true}}
	for _, rec := range [][]byte{
		inflight.AppendLease(nil, &inflight.LeaseRecord{Key: key, FirstID: 9, Deadline: 1000, Owner: "c", AttemptID: 3, Queues: []inflight.Scanned{{Queue: 1, To: 6, Held: held}}}),
		inflight.AppendAck(nil, key, held[:1]),
		inflight.AppendExtend(nil, key, 2000, 10, true, held[:1]),
		inflight.AppendOffset(nil, key, 1, 3),
	} {
		f.Add(byte(record.KindOf(rec)), record.Command(rec), false)
		f.Add(byte(record.KindOf(rec)), record.Command(rec), true)
	}
	f.Fuzz(func(t *testing.T, kind byte, data []byte, fifo bool) {
		tracker := newTracker()
		exists := func(inflight.SubKey) (bool, bool) { return true, fifo }
		for range 2 {
			if err := tracker.Apply(record.Kind(kind), data, exists); err != nil {
				return
			}
		}
		snapshot := tracker.AppendHistory(tracker.AppendSnapshot(nil))
		again := restored(t, tracker, newTracker())
		if again := again.AppendHistory(again.AppendSnapshot(nil)); !bytes.Equal(again, snapshot) {
			t.Fatalf("%x restores to %x", snapshot, again)
		}
	})
}

// FuzzRestore feeds snapshots to a tracker.
func FuzzRestore(f *testing.F) {
	f.Add([]byte{}, []byte{})
	f.Add([]byte{1, 3, 7, 1, 1, 1, 6, 1, 1, 8, 9, 1, 200, 1, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 'c'},
		[]byte{1, 3, 7, 1, 8, 100, 120, 1, 2, 6, 1, 0, 0, 30, 1, 'b', 6 | 1<<7, 2, 40, 0, 60})
	f.Fuzz(func(t *testing.T, data, history []byte) {
		tracker := newTracker()
		tracker.Restore(record.NewDecoder(data))
		tracker.RestoreHistory(record.NewDecoder(history))
		for q := range uint32(2) {
			for off := range record.QueueOffset(9) {
				_ = fmt.Sprint(tracker.Sub(key, true).Attempts(q, off))
			}
		}
	})
}
