package scheduler

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// node is a scheduler with a log of its own: what it submits is applied after
// a while, and noted with the time by its wall clock.
type node struct {
	t     *testing.T
	s     *Scheduler
	jump  atomic.Int64 // of the wall clock, ms
	pos   record.Position
	next  map[record.QueueKey]record.QueueOffset
	op    chan func()
	fired map[record.Position]int64 // when, Unix ms
	early int
	fail  atomic.Bool
	stop  func() error
}

func (n *node) wall() time.Time {
	return time.Now().Add(time.Duration(n.jump.Load()) * time.Millisecond)
}

func start(t *testing.T) *node {
	n := &node{t: t, op: make(chan func(), 1000), fired: map[record.Position]int64{}, next: map[record.QueueKey]record.QueueOffset{}}
	n.s = New(newMemory(), n.wall)
	n.run()
	return n
}

// run is the life of a leader; everything applied is applied by one goroutine.
func (n *node) run() {
	ctx, cancel := context.WithCancel(context.Background())
	ended, applied := make(chan error), make(chan struct{})
	n.op = make(chan func(), 1000)
	go func() {
		defer close(applied)
		for f := range n.op {
			f()
		}
	}()
	go func() { ended <- n.s.Run(ctx, n.submit) }()
	n.stop = func() error {
		cancel()
		err := <-ended
		close(n.op)
		<-applied
		return err
	}
}

func (n *node) submit(recs [][]byte) (func() error, error) {
	if n.fail.Load() {
		return nil, errors.New("refused")
	}
	done := make(chan struct{})
	at := n.wall().UnixMilli()
	n.op <- func() {
		defer close(done)
		for _, rec := range recs {
			n.apply(rec, at)
		}
	}
	return func() error { <-done; return nil }, nil
}

// apply is what the broker does with a timer-fired record.
func (n *node) apply(rec []byte, at int64) {
	var f Fired
	if err := f.Parse(rec); err != nil {
		n.t.Error(err)
		return
	}
	if len(f.Places) != CountFired(rec) {
		n.t.Errorf("%d places of %d", len(f.Places), CountFired(rec))
	}
	entries := make([]consumequeue.Entry, len(f.Places))
	if err := n.s.index.ReadEach(bucketKey(f.Bucket), f.Places, entries); err != nil {
		n.t.Error(err)
		return
	}
	seconds := map[int64]bool{}
	last := int64(0)
	for i, e := range entries {
		due := dueOf(f.Bucket, &e)
		if _, again := n.fired[e.Position]; again {
			n.t.Errorf("the timer at %d fired twice", e.Position)
		}
		if at < due {
			n.t.Errorf("the timer at %d, due at %d, fired at %d", e.Position, due, at)
		}
		if SecondOf(due) < SecondOf(last) {
			n.t.Errorf("a timer due at %d comes after one due at %d", due, last)
		}
		if to := toOf(&e); to != f.To {
			n.t.Errorf("the timer at %d went to %v, place %d is for %v", e.Position, f.To, f.Places[i], to)
		}
		last = due
		seconds[SecondOf(due)] = true
		n.fired[e.Position] = at
	}
	if want := slices.Sorted(maps.Keys(seconds)); !slices.Equal(f.Seconds, want) {
		n.t.Errorf("seconds %v, want %v", f.Seconds, want)
	}
	n.s.ApplyFired(&f, at)
}

// add makes a timer and returns its name.
func (n *node) add(due time.Time) record.Position {
	n.pos += 128
	pos, ms := n.pos, max(due.UnixMilli(), 1)
	to := record.Key(1, uint32(pos/128%3))
	at := n.next[KeyFor(ms)]
	n.next[KeyFor(ms)]++
	done := make(chan struct{})
	n.op <- func() {
		defer close(done)
		if err := n.s.ApplyAdd(pos, delayed(to, at, ms, "")); err != nil {
			n.t.Error(err)
		}
	}
	<-done
	return pos
}

// at returns when a timer fired, 0 if it has not.
func (n *node) at(pos record.Position) int64 {
	synctest.Wait()
	at := make(chan int64)
	n.op <- func() { at <- n.fired[pos] }
	return <-at
}

func (n *node) wantAt(pos record.Position, at time.Time) {
	n.t.Helper()
	if got := n.at(pos); got != at.UnixMilli() {
		n.t.Errorf("fired at %d, want %d (%+d ms)", got, at.UnixMilli(), got-at.UnixMilli())
	}
}

func TestTimersFireToTheMillisecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t)
		defer n.stop()
		begin := time.Now()
		var want []time.Time
		var got []record.Position
		for _, d := range []time.Duration{time.Millisecond, 2 * time.Millisecond, time.Second, 59 * time.Second, time.Minute,
			61 * time.Second, 5 * time.Minute, time.Hour, 3 * time.Millisecond, 366 * 24 * time.Hour} {
			want = append(want, begin.Add(d))
			got = append(got, n.add(begin.Add(d)))
		}
		for i, d := range want[:len(want)-1] {
			time.Sleep(time.Until(d)) // at once for the one that is out of order
			n.wantAt(got[i], d)
		}
		year := want[len(want)-1] // of which there is no time to sleep through most
		n.jump.Add(time.Until(year.Add(-time.Minute)).Milliseconds())
		time.Sleep(time.Minute - time.Millisecond)
		if at := n.at(got[len(got)-1]); at != 0 {
			t.Error("a year's timer fired early")
		}
		time.Sleep(time.Millisecond)
		n.wantAt(got[len(got)-1], year)
		if st := n.s.Stats(); st.Pending != 0 {
			t.Errorf("%+v", st)
		}
	})
}

func TestTimersAddedAtAnyTimeFireOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t)
		defer n.stop()
		rng := rand.New(rand.NewPCG(3, 3))
		due := map[record.Position]time.Time{}
		for range 2000 {
			time.Sleep(time.Duration(rng.IntN(100_000)) * time.Microsecond)
			at := time.Now().Add(time.Duration(1+rng.IntN(150_000)) * time.Millisecond).Truncate(time.Millisecond)
			due[n.add(at)] = at
		}
		time.Sleep(3 * time.Minute)
		for pos, at := range due {
			n.wantAt(pos, at)
		}
	})
}

// A mass of timers, in one millisecond and all over a minute.
func TestASlotHasRoomForAnyNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t)
		defer n.stop()
		at := time.Now().Truncate(time.Minute).Add(3 * time.Minute)
		due := map[record.Position]time.Time{}
		for i := range 20_000 {
			d := at
			if i%2 == 0 {
				d = at.Add(time.Duration(i) * 3 * time.Millisecond)
			}
			due[n.add(d)] = d
		}
		time.Sleep(5 * time.Minute)
		for pos, d := range due {
			n.wantAt(pos, d)
		}
	})
}

// The wall's clock jumps by anything, either way, while timers come, are
// reserved, released and refused. None is early (submit checks it), none is lost,
// none fires twice, and what is due fires a moment later, whatever happened.
func TestWhateverTheWallDoesTimersFireOnceAndOnTime(t *testing.T) {
	for seed := range uint64(6) {
		synctest.Test(t, func(t *testing.T) {
			n := start(t)
			defer n.stop()
			rng := rand.New(rand.NewPCG(seed, 9))
			jumps := []time.Duration{time.Hour, -time.Hour, 20 * time.Minute, -20 * time.Minute, time.Minute, -time.Minute, 3 * time.Second, -3 * time.Second,
				time.Millisecond, -time.Millisecond, 26 * time.Hour, -26 * time.Hour}
			ahead := []time.Duration{time.Millisecond, time.Second, 10 * time.Second, time.Minute, 20 * time.Minute, 2 * time.Hour}
			var all []record.Position
			for range 400 {
				time.Sleep(time.Duration(rng.Int64N(int64(10 * time.Second))))
				if rng.IntN(4) == 0 {
					n.jump.Add(jumps[rng.IntN(len(jumps))].Milliseconds())
				}
				for range rng.IntN(30) {
					all = append(all, n.add(n.wall().Add(time.Duration(rng.Int64N(int64(ahead[rng.IntN(len(ahead))]))))))
				}
				n.fail.Store(rng.IntN(10) == 0)
				var held []Timer
				n.pending(1<<60, func(x Timer) bool {
					if rng.IntN(20) == 0 {
						if r, err := n.s.Reserve(x.Due, x.Place); err == nil {
							held = append(held, r)
						}
					}
					return len(held) < 20
				})
				time.Sleep(time.Duration(rng.Int64N(int64(2 * time.Second))))
				for _, r := range held {
					n.s.Release(r)
				}
				n.fail.Store(false)
				time.Sleep(time.Second)
				due := n.wall().Add(-500 * time.Millisecond).UnixMilli()
				n.pending(due, func(x Timer) bool {
					t.Errorf("seed %d: a timer due at %d is pending at %d", seed, x.Due, due)
					return false
				})
			}
			last := int64(0)
			n.pending(1<<60, func(x Timer) bool { last = max(last, x.Due); return true })
			n.jump.Add(max(0, last-n.wall().UnixMilli()))
			time.Sleep(5 * time.Second)
			synctest.Wait()
			for i, pos := range all { // nothing goes on any more
				if n.fired[pos] == 0 {
					t.Fatalf("seed %d: timer %d of %d did not fire", seed, i, len(all))
				}
			}
			if st := n.s.Stats(); st.Pending != 0 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// pending calls f for timers due before a time while nothing else goes on.
func (n *node) pending(before int64, f func(Timer) bool) {
	synctest.Wait()
	if err := n.s.Each(0, before, f); err != nil {
		n.t.Error(err)
	}
}

// Nobody led for three days; what came due meanwhile fires at once.
func TestMissedTimersFireAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t)
		var all []record.Position
		for i := range 5000 {
			all = append(all, n.add(time.Now().Add(time.Minute+time.Duration(i)*50*time.Second)))
		}
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
		snap := n.s.AppendSnapshot(nil)
		time.Sleep(72*time.Hour + 300*time.Millisecond)
		s := New(n.s.index, n.wall)
		s.Restore(record.NewDecoder(snap))
		n.s = s
		n.run()
		defer n.stop()
		time.Sleep(time.Second)
		for i, pos := range all[:4000] {
			if n.at(pos) == 0 {
				t.Fatalf("timer %d did not fire", i)
			}
		}
		if st := n.s.Stats(); st.Pending != 0 {
			t.Errorf("%+v", st)
		}
	})
}

func TestARefusedAppendIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t)
		defer n.stop()
		n.fail.Store(true)
		pos := n.add(n.wall().Add(100 * time.Millisecond))
		time.Sleep(10 * time.Second)
		if n.at(pos) != 0 {
			t.Fatal("fired")
		}
		n.fail.Store(false)
		time.Sleep(time.Second)
		if n.at(pos) == 0 {
			t.Fatal("given up")
		}
	})
}

func TestAReservedTimerDoesNotFireUntilReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t)
		defer n.stop()
		due := n.wall().Add(time.Second)
		pos := n.add(due)
		r, err := n.s.Reserve(due.UnixMilli(), 0)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if n.at(pos) != 0 {
			t.Fatal("fired")
		}
		n.s.Release(r)
		time.Sleep(time.Second)
		if n.at(pos) == 0 {
			t.Fatal("forgotten")
		}
	})
}
