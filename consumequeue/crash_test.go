package consumequeue

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile"
	"github.com/gantry-mq/gantry/internal/mmapfile/crashtest"
)

// crashRun is a broker's life around a store: a log, checkpoints, power losses.
type crashRun struct {
	t       *testing.T
	r       *rand.Rand
	fs      *crashtest.FS
	s       *Store
	m       *model
	w       *workload
	log     []op
	crashes map[crashtest.Survival]int

	snapshot []byte // the last one persisted
	at       int    // it covers log[:at]
}

func (c *crashRun) opts(fs mmapfile.FS) Options {
	return Options{FS: fs, ArenaSize: smallArena, MaxMapped: 8 * smallArena}
}

func (c *crashRun) steps(n int) {
	for range n {
		o := c.w.next()
		c.m.apply(o)
		c.log = append(c.log, o)
		apply(c.t, c.s, o)
	}
}

// recover opens what a crash leaves of the present state, replays the log, and
// finds all that was put.
func (c *crashRun) recover() (*crashtest.FS, *Store) {
	c.t.Helper()
	survival := crashtest.Survivals[c.r.IntN(len(crashtest.Survivals))]
	c.crashes[survival]++
	fs := c.fs.Crash(survival, c.r)
	s, err := Open("/index", c.opts(fs), c.snapshot, record.Position(c.at))
	if err != nil {
		c.t.Fatalf("%v survives: %v", survival, err)
	}
	for _, o := range c.log[c.at:] {
		apply(c.t, s, o)
	}
	compare(c.t, s, c.m)
	return fs, s
}

// TestAnyCrashIsRecoveredFromTheLastSnapshot loses power within calls of the
// store to the file system and between operations.
func TestAnyCrashIsRecoveredFromTheLastSnapshot(t *testing.T) {
	c := &crashRun{t: t, r: testSeed(t), fs: crashtest.New(), crashes: map[crashtest.Survival]int{}}
	c.m = &model{queues: map[record.QueueKey]*modelQueue{}}
	c.w = &workload{r: c.r, m: c.m, nQueue: 150}
	inCall := func(call crashtest.Call) error {
		switch call.Op {
		case crashtest.Create, crashtest.Sync, crashtest.SyncDir, crashtest.Remove:
			if c.r.IntN(8) == 0 {
				_, s := c.recover()
				s.Close()
			}
		}
		return nil
	}
	c.s = open(t, "/index", c.opts(c.fs), nil)
	c.fs.Hook(inCall)
	rounds := 100
	if testing.Short() {
		rounds = 20
	}
	for range rounds {
		c.steps(c.r.IntN(500))
		snapshot, at := c.s.AppendSnapshot(nil), len(c.log)
		c.steps(c.r.IntN(100))
		if err := c.s.Flush(); err != nil {
			t.Fatal(err)
		}
		c.steps(c.r.IntN(100))
		c.snapshot, c.at = snapshot, at
		c.steps(c.r.IntN(100))
		if err := c.s.Persisted(record.Position(at)); err != nil {
			t.Fatal(err)
		}
		if c.r.IntN(3) == 0 { // go on in the world after the crash
			fs, s := c.recover()
			c.s.Close()
			c.fs, c.s = fs, s
			c.fs.Hook(inCall)
		}
	}
	compare(t, c.s, c.m)
	c.s.Close()
	t.Logf("crashes: %v", c.crashes)
}

// TestEveryFailedCallIsReportedAndHarmsNothing fails one call of the file system
// after the other. The store either carries on or, after a failed sync, refuses
// to; its last snapshot with replay is good in any case.
func TestEveryFailedCallIsReportedAndHarmsNothing(t *testing.T) {
	key := func(i int) record.QueueKey { return record.Key(1, uint32(i%20)) }
	broken := errors.New("broken")
	step := 1
	if testing.Short() {
		step = 7
	}
	for n := 1; ; n += step {
		fs := crashtest.New()
		var failed *crashtest.Call
		calls := 0
		fs.Hook(func(call crashtest.Call) error {
			if calls++; calls != n {
				return nil
			}
			failed = &call
			return broken
		})
		opts := Options{FS: fs, ArenaSize: smallArena, MaxMapped: smallArena}
		s, err := Open("/index", opts, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		var snapshot []byte
		at := 0
		i := 0
		var errs []error
		for ; i < 3000; i++ {
			err := s.Put(key(i), record.QueueOffset(i/20), entryAt(record.QueueOffset(i/20)))
			if err == nil && i%1000 == 999 {
				snap := s.AppendSnapshot(nil)
				if err = s.Flush(); err == nil {
					snapshot, at = snap, i+1
					errs = append(errs, s.Persisted(record.Position(at)))
				}
			}
			if err != nil {
				errs = append(errs, err)
				break
			}
		}
		s.Close()
		if failed == nil {
			return // there is no n-th call
		}
		if err := errors.Join(errs...); !errors.Is(err, broken) {
			t.Fatalf("%+v failed: %v", *failed, err)
		}
		opts.FS = fs.Crash(crashtest.None, nil)
		if s, err = Open("/index", opts, snapshot, record.Position(at)); err != nil {
			t.Fatalf("%+v failed: reopen: %v", *failed, err)
		}
		for j := at; j < 3000; j++ {
			if err := s.Put(key(j), record.QueueOffset(j/20), entryAt(record.QueueOffset(j/20))); err != nil {
				t.Fatal(err)
			}
		}
		for q := range 20 {
			checkRange(t, s, key(q), 0, 150)
		}
		s.Close()
	}
}

// After a start entries may be on the disk alone, in a queue's last extent as well: they
// are read within a call, and what is put from then on without one.
func TestWhatWasThereBeforeAStartIsBroughtIntoMemory(t *testing.T) {
	fs := crashtest.New()
	opts := Options{FS: fs, ArenaSize: 64 << 10}
	key := record.Key(1, 1)
	s := open(t, "/index", opts, nil)
	fill(t, s, key, 0, 10)
	snap := checkpoint(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, "/index", opts, snap)
	fill(t, s, key, 10, 20)
	reads := 0
	fs.Hook(func(c crashtest.Call) error {
		if c.Op == crashtest.Read {
			reads++
		}
		return nil
	})
	for i, want := range map[record.QueueOffset]int{0: 1, 9: 1, 10: 0, 19: 0} {
		var e [1]Entry
		reads = 0
		if n, err := s.Read(key, i, e[:]); n != 1 || err != nil || e[0] != entryAt(i) {
			t.Fatalf("entry %d: %v, %v", i, e, err)
		}
		if reads != want {
			t.Errorf("entry %d: %d reads, want %d", i, reads, want)
		}
	}
}
