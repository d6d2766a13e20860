package scheduler

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// node is a scheduler with a log of its own: what it submits is applied after
// a while, and noted with the time by its wall clock.
type node struct {
	t     *testing.T
	s     *Scheduler
	jump  atomic.Int64 // of the wall clock, ms
	pos   record.Position
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
	n := &node{t: t, op: make(chan func(), 1000), fired: map[record.Position]int64{}}
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

func (n *node) submit(moves []byte) (func() error, error) {
	if n.fail.Load() {
		return nil, errors.New("refused")
	}
	done := make(chan struct{})
	at := n.wall().UnixMilli()
	n.op <- func() {
		defer close(done)
		for ; len(moves) > 0; moves = moves[FiredLen:] {
			f, _, err := ParseFired(moves[:FiredLen])
			if err != nil {
				n.t.Error(err)
			}
			if _, again := n.fired[f.Position]; again {
				n.t.Errorf("the timer at %d fired twice", f.Position)
			}
			if at < f.Due {
				n.t.Errorf("the timer at %d, due at %d, fired at %d", f.Position, f.Due, at)
			}
			n.fired[f.Position] = at
			if err := n.s.ApplyFired(&f, at); err != nil {
				n.t.Error(err)
			}
		}
	}
	return func() error { <-done; return nil }, nil
}

// add makes a timer and returns its name.
func (n *node) add(due time.Time) record.Position {
	n.pos += 128
	pos, ms := n.pos, max(due.UnixMilli(), 1)
	done := make(chan struct{})
	n.op <- func() {
		defer close(done)
		if err := n.s.ApplyAdd(pos, delayed(record.Key(1, 0), ms, "")); err != nil {
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

func TestAClockThatJumpsForwardIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t)
		defer n.stop()
		soon, far := n.add(n.wall().Add(30*time.Second)), n.add(n.wall().Add(3*time.Hour))
		later := n.add(n.wall().Add(5 * time.Hour))
		time.Sleep(time.Second)
		n.jump.Add((4 * time.Hour).Milliseconds())
		jumped := n.wall()
		time.Sleep(time.Second)
		for _, pos := range []record.Position{soon, far} {
			if at := n.at(pos); at == 0 || at > jumped.Add(time.Second).UnixMilli() {
				t.Errorf("fired at %d, jumped at %d", at, jumped.UnixMilli())
			}
		}
		if n.at(later) != 0 {
			t.Error("fired early")
		}
	})
}

func TestAClockThatJumpsBackFiresNothingEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t)
		defer n.stop()
		begin := n.wall()
		a, b := n.add(begin.Add(10*time.Second)), n.add(begin.Add(65*time.Second))
		time.Sleep(9900 * time.Millisecond)
		n.jump.Add(-(2 * time.Hour).Milliseconds())
		c := n.add(n.wall().Add(5 * time.Second))
		time.Sleep(5 * time.Second)
		if n.at(c) == 0 || n.at(a) != 0 {
			t.Errorf("fired at %d and %d: want the new one only", n.at(c), n.at(a))
		}
		time.Sleep(time.Hour)
		if n.at(a) != 0 || n.at(b) != 0 {
			t.Error("fired early")
		}
		time.Sleep(time.Until(begin.Add(2*time.Hour + 66*time.Second)))
		n.wantAt(a, begin.Add(10*time.Second))
		n.wantAt(b, begin.Add(65*time.Second))
	})
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
		r, err := n.s.Reserve(due.UnixMilli(), pos, nil)
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
