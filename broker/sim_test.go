package broker

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/internal/mmapfile/crashtest"
)

var (
	simRounds = flag.Int("rounds", 5, "rounds of TestModel, each with its own seed")
	simSeed   = flag.Uint64("seed", 1, "the first round's seed; 0 = a new one each time")
	simOps    = flag.Int("ops", 400, "operations of a round")
	simRandom = flag.Duration("random", 5*time.Second, "how long TestModelWithRandomSeeds begins rounds")
	simShrink = flag.Duration("shrink", 30*time.Second, "how long to look for a shorter run that fails")
)

// TestModel does random things to a broker and to a model of it (see simState),
// which must agree on everything a client can see, and on what a restart brings
// back. The broker is whole, but its disk is in memory and its time virtual: an
// hour passes in an instant, a timer that is late by a millisecond is a failure,
// and one seed gives (nearly) the same run each time.
//
// A round is a list of operations, each with a seed of its own, which does what
// it can in the state it finds. So any part of a list is a list too, and a run
// that fails is shortened until nothing can be left out.
//
//	go test ./broker -run TestModel -seed 123 -rounds 1
func TestModel(t *testing.T) {
	seed := *simSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	for i := range uint64(*simRounds) {
		if seed := seed + i; !t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { simRound(t, seed) }) {
			return
		}
	}
}

// TestModelWithRandomSeeds does other rounds each time: what fails names its seed.
func TestModelWithRandomSeeds(t *testing.T) {
	for began := time.Now(); time.Since(began) < *simRandom; {
		seed := rand.Uint64()
		t.Logf("-seed %d", seed)
		if simRound(t, seed); t.Failed() {
			return
		}
	}
}

func simRound(t *testing.T, seed uint64) {
	setup, list := plan(seed, *simOps)
	err, trace := play(t, setup, list)
	if err == nil {
		return
	}
	whole, began := len(list), time.Now()
	for step := len(list) / 2; step > 0; {
		shorter := false
		for at := 0; at < len(list) && time.Since(began) < *simShrink; {
			rest := slices.Delete(slices.Clone(list), at, min(at+step, len(list)))
			if e, tr := play(t, setup, rest); e != nil {
				err, trace, list, shorter = e, tr, rest, true
			} else {
				at += step
			}
		}
		if !shorter || step > 1 {
			step /= 2
		}
	}
	t.Errorf("-seed %d -ops %d: %v\n%+v, %d of %d operations fail:", seed, *simOps, err, setup, len(list), whole)
	for _, line := range trace {
		t.Log(line)
	}
}

// op is one operation: which, and what its choices come from.
type op struct {
	do   int
	seed uint64
}

// simSetup is what a round's broker is like.
type simSetup struct {
	Durability commitlog.Durability
	Segment    int64
	Checkpoint int64
	Retention  time.Duration
	Size       int64 // of the log, by which retention goes too; 0 = not
}

// plan makes a round. Each has other weights, some of them 0, so that features
// meet in many proportions.
func plan(seed uint64, n int) (simSetup, []op) {
	r := rand.New(rand.NewPCG(seed, 0))
	setup := simSetup{
		Durability: []commitlog.Durability{commitlog.DurabilitySync, commitlog.DurabilityUnsafeAsync}[r.IntN(2)],
		Segment:    64 << 10 << r.IntN(3),
		Checkpoint: 4 << 10 << r.IntN(5),
		Retention:  []time.Duration{0, 3 * time.Minute, time.Hour}[r.IntN(3)],
	}
	var weights []int
	total := 0
	for _, o := range simActions {
		total += o.weight * []int{0, 1, 1, 4}[r.IntN(4)]
		weights = append(weights, total)
	}
	var list []op
	for range n {
		pick := r.IntN(max(total, 1))
		list = append(list, op{slices.IndexFunc(weights, func(w int) bool { return pick < w }), r.Uint64()})
	}
	setup.Size = []int64{0, 0, 0, 5 * setup.Segment}[r.IntN(4)]
	return setup, list
}

// simActions are the operations with their weights.
var simActions = []struct {
	name   string
	weight int
	do     func(*sim)
}{
	{"send", 200, (*sim).send},
	{"sendDelayed", 60, (*sim).sendDelayed},
	{"sendHalf", 60, (*sim).sendHalf},
	{"sendLite", 60, (*sim).sendLite},
	{"publishAgain", 20, (*sim).publishAgain},
	{"receive", 300, (*sim).receive},
	{"receiveLite", 60, (*sim).receiveLite},
	{"poll", 30, (*sim).poll},
	{"giveBack", 20, (*sim).giveBack},
	{"ack", 150, (*sim).ack},
	{"changeInvisible", 60, (*sim).changeInvisible},
	{"forward", 20, (*sim).forward},
	{"oldHandle", 30, (*sim).oldHandle},
	{"skip", 20, (*sim).skip},
	{"blocked", 10, (*sim).blocked},
	{"pull", 40, (*sim).pull},
	{"offset", 30, (*sim).offset},
	{"resetOffset", 12, (*sim).resetOffset},
	{"replayRange", 15, (*sim).replayRange},
	{"client", 30, (*sim).client},
	{"recall", 30, (*sim).recall},
	{"reschedule", 30, (*sim).reschedule},
	{"listTimers", 20, (*sim).listTimers},
	{"decide", 60, (*sim).decide},
	{"recheck", 10, (*sim).recheck},
	{"listTransactions", 10, (*sim).listTransactions},
	{"redrive", 20, (*sim).redrive},
	{"discard", 8, (*sim).discard},
	{"listDead", 15, (*sim).listDead},
	{"find", 20, (*sim).find},
	{"recreateGroup", 8, (*sim).recreateGroup},
	{"recreateTopic", 4, (*sim).recreateTopic},
	{"sendAgain", 60, (*sim).sendAgain},
	{"changeDedup", 12, (*sim).changeDedup},
	{"deleteMessage", 20, (*sim).deleteMessage},
	{"purge", 6, (*sim).purge},
	{"changeRetention", 8, (*sim).changeRetention},
	{"pass", 100, (*sim).pass},
	{"passLong", 12, (*sim).passLong},
	{"restart", 15, (*sim).restart},
	{"crash", 25, (*sim).crash},
}

// sim is one run.
type sim struct {
	t       *testing.T
	r       *rand.Rand
	setup   simSetup
	disk    *crashtest.FS
	b       *Broker
	trace   []string
	failure atomic.Pointer[error] // by which the broker ended

	simState
}

// simFailure is what a run that fails panics with.
type simFailure struct{ error }

func (s *sim) failf(format string, args ...any) { panic(simFailure{fmt.Errorf(format, args...)}) }

func (s *sim) must(err error) {
	if err != nil {
		s.failf("%w", err)
	}
}

// wantReason holds an error against what the contract says of the case.
func (s *sim) wantReason(what string, err error, reasons ...Reason) {
	if err == nil || !slices.Contains(reasons, ReasonOf(err)) {
		s.failf("%s: %v, want an error of reason %v", what, err, reasons)
	}
}

func (s *sim) logf(format string, args ...any) {
	s.trace = append(s.trace, fmt.Sprintf("%6.3fs ", time.Since(s.began).Seconds())+fmt.Sprintf(format, args...))
}

// play runs a list in a bubble of its own.
func play(t *testing.T, setup simSetup, list []op) (err error, trace []string) {
	// What one bubble used is of no use outside it: its channels are bound to it.
	empty := func() {
		for _, p := range []*sync.Pool{&sends, &firedBatches, &receivings, &ackings, &publishings} {
			*p = sync.Pool{New: p.New}
		}
	}
	empty()
	defer empty()
	robin.Store(0)
	synctest.Test(t, func(t *testing.T) {
		s := &sim{t: t, setup: setup, disk: crashtest.New(), r: rand.New(rand.NewPCG(0, 0))}
		err = s.run(list)
		trace = s.trace
	})
	return err, trace
}

func (s *sim) run(list []op) (err error) {
	defer func() {
		f := recover()
		if failed, ok := f.(simFailure); ok {
			err = failed.error
		} else if f != nil {
			panic(f)
		}
		if cause := s.failure.Load(); cause != nil {
			err = fmt.Errorf("the broker ended: %w", *cause)
		}
		if s.b != nil && s.b.ctx.Err() == nil {
			if e := s.b.Close(); err == nil {
				err = e
			}
		}
	}()
	s.begin()
	for i, o := range list {
		s.r = rand.New(rand.NewPCG(o.seed, 0))
		s.logf("#%d %s", i, simActions[o.do].name)
		simActions[o.do].do(s)
		s.look()
	}
	s.logf("the end")
	s.drain()
	s.look()
	s.replay()
	s.must(s.b.Close())
	return nil
}

// open starts the broker on the disk.
func (s *sim) open(disk *crashtest.FS) (*Broker, error) {
	return Open(s.t.Context(), Options{
		Dir: "/data", FS: disk, ArenaSize: 64 << 10, KeySegmentEntries: 64,
		Durability: s.setup.Durability, SegmentSize: s.setup.Segment, CheckpointEvery: s.setup.Checkpoint, RetentionAge: s.setup.Retention, RetentionSize: s.setup.Size,
		AutoCreateGroups:      true,
		TransactionCheckAfter: simCheckAfter, TransactionCheckEvery: simCheckEvery, TransactionCheckMax: simCheckMax,
		Fatal: func(err error) { s.failure.CompareAndSwap(nil, &err) },
	})
}

// quiet waits until the broker has nothing to do before time passes. What it
// answered is applied then, and durable where the mode says so.
func (s *sim) quiet() {
	synctest.Wait()
	if err := s.failure.Load(); err != nil {
		s.failf("the broker ended: %w", *err)
	}
	if err := s.b.Ready(); err != nil {
		s.failf("not ready: %w", err)
	}
	if n := s.b.wal.Stats().Views; n != 0 && s.polling == nil {
		s.failf("%d views of the log are not released", n)
	}
	if at := s.b.wal.Committed(); s.b.dispatcher.Applied() != at {
		s.failf("applied up to %d of %d", s.b.dispatcher.Applied(), at)
	}
}

var errSimStop = errors.New("enough for now")
