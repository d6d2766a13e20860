package inflight_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/commitlog/record"
)

func TestEndOfALeaseWakesItsSubOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		woken := make(chan time.Duration, 10)
		tracker := inflight.New(func(inflight.SubKey, []uint32) { woken <- time.Since(began) }, func(record.QueueKey) bool { return true }, nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- tracker.Run(ctx, func() int64 { return time.Now().UnixMilli() }) }()

		apply := func(rec []byte) {
			if err := tracker.Apply(record.KindOf(rec), record.Command(rec), func(inflight.SubKey) (bool, bool) { return true, false }); err != nil {
				t.Fatal(err)
			}
		}
		at := func(d time.Duration) int64 { return began.Add(d).UnixMilli() }
		held := []inflight.Held{{Offset: 0, LeaseID: 1, Attempt: 1}, {Offset: 1, LeaseID: 2, Attempt: 1}}
		apply(inflight.AppendLease(nil, &inflight.LeaseRecord{Key: key, FirstID: 1, Deadline: at(10 * time.Second), Owner: "c",
			Queues: []inflight.Scanned{{To: 2, Held: held}}}))
		synctest.Wait()
		apply(inflight.AppendExtend(nil, key, at(3*time.Second), 0, false, held[1:])) // earlier than what the timer sleeps for
		if got := <-woken; got != 3*time.Second {
			t.Errorf("woken for the changed lease at %v", got)
		}
		apply(inflight.AppendAck(nil, key, held[1:]))
		if got := <-woken; got != 10*time.Second {
			t.Errorf("woken for the other lease at %v", got)
		}
		apply(inflight.AppendExtend(nil, key, at(20*time.Second), 0, false, held[:1]))
		apply(inflight.AppendAck(nil, key, held[:1]))
		time.Sleep(time.Minute) // of synctest's time
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if len(woken) > 0 {
			t.Errorf("woken for a settled message at %v", <-woken)
		}
	})
}
