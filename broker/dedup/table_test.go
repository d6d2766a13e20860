package dedup

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

func key(n int) Key { return KeyOf(fmt.Append(nil, n)) }

func first(n int, at int64) First {
	return First{Position: record.Position(1000 + n), Queue: uint32(n % 5), Offset: record.QueueOffset(n), Time: at}
}

func table(window time.Duration, most uint32) *Table {
	t := New()
	t.Configure(1, window, most, "id")
	return t
}

// remembers says what a lone claim is told.
func remembers(tb *Table, k Key, now int64) (First, bool) {
	c := tb.Begin(1, []Key{k}, now)
	defer c.End()
	if f := c.Verdicts[0].First; f != nil {
		return *f, true
	}
	return First{}, false
}

func TestMessageIsRememberedForItsWindow(t *testing.T) {
	tb := table(10*time.Second, 100)
	tb.Apply(1, key(1), first(1, 5_000))
	for now, want := range map[int64]bool{5_000: true, 14_999: true, 15_000: false} {
		if f, ok := remembers(tb, key(1), now); ok != want || ok && f != first(1, 5_000) {
			t.Errorf("at %d: %+v, %v", now, f, ok)
		}
	}
	if _, ok := remembers(tb, key(2), 5_000); ok {
		t.Error("a message that was never stored is remembered")
	}
	// Stored again after its window: the new one is remembered, and the old one's
	// end does not take it away.
	tb.Apply(1, key(1), first(2, 70_000))
	tb.Advance(120_000)
	tb.Apply(1, key(1), first(3, 125_000))
	tb.Advance(130_000)
	if f, ok := remembers(tb, key(1), 131_000); !ok || f != first(3, 125_000) {
		t.Errorf("%+v, %v", f, ok)
	}
}

func TestTopicsWithoutAWindowRememberNothing(t *testing.T) {
	tb := table(time.Minute, 100)
	tb.Apply(2, key(1), first(1, 0))
	tb.Apply(1, Key{}, first(1, 0)) // a message like no other
	if c := tb.Begin(2, []Key{key(1), key(1)}, 1); !c.Verdicts[0].Mine() || !c.Verdicts[1].Mine() {
		t.Errorf("%+v", c.Verdicts)
	}
	if c := tb.Begin(1, []Key{{}, {}}, 1); !c.Verdicts[0].Mine() || !c.Verdicts[1].Mine() {
		t.Errorf("%+v", c.Verdicts)
	}
	tb.Apply(1, key(1), first(1, 0))
	tb.Configure(1, 0, 0, "id")
	if tb.Status(1) != (Status{}) {
		t.Error("something is remembered after the window was taken away")
	}
}

func TestOldestAreForgottenBeyondTheNumber(t *testing.T) {
	tb := table(time.Hour, 1000)
	for n := range 3000 {
		tb.Apply(1, key(n), first(n, int64(n)))
	}
	check := func(from, to int) {
		t.Helper()
		for n := range 3000 {
			if _, ok := remembers(tb, key(n), 3000); ok != (n >= from && n < to) {
				t.Fatalf("%d: remembered is %v", n, ok)
			}
		}
		if st := tb.Status(1); st.Count != to-from || st.Oldest != int64(from) {
			t.Fatalf("%+v", st)
		}
	}
	check(2000, 3000)
	tb.Configure(1, time.Hour, 10, "id")
	check(2990, 3000)
}

func TestOneOfManyClaimersStores(t *testing.T) {
	tb := table(time.Minute, 100)
	a := tb.Begin(1, []Key{key(1), key(2), key(1)}, 0)
	if !a.Verdicts[0].Mine() || !a.Verdicts[1].Mine() || !a.Verdicts[2].Twin || a.Verdicts[2].Index != 0 {
		t.Fatalf("%+v", a.Verdicts)
	}
	b := tb.Begin(1, []Key{key(3), key(2)}, 0)
	if !b.Verdicts[0].Mine() || b.Verdicts[1].Busy == nil {
		t.Fatalf("%+v", b.Verdicts)
	}
	select {
	case <-b.Verdicts[1].Busy:
		t.Fatal("done before its end")
	default:
	}
	tb.Apply(1, key(1), first(1, 0)) // 2 was refused
	a.End()
	<-b.Verdicts[1].Busy
	b.End()
	c := tb.Begin(1, []Key{key(1), key(2), key(3)}, 0)
	if c.Verdicts[0].First == nil || !c.Verdicts[1].Mine() || !c.Verdicts[2].Mine() {
		t.Fatalf("%+v", c.Verdicts)
	}
	c.End()
	tb.Configure(1, 0, 0, "id")
	d := tb.Begin(1, []Key{key(1)}, 0)
	tb.Configure(1, time.Minute, 100, "id")
	d.End() // of a topic that was changed meanwhile
}

// TestModelAgrees remembers at random in a table and in a list.
func TestModelAgrees(t *testing.T) {
	for _, seed := range []uint64{1795691865266947161, uint64(time.Now().UnixNano())} {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { modelAgrees(t, rand.New(rand.NewPCG(seed, 0))) })
	}
}

func modelAgrees(t *testing.T, r *rand.Rand) {
	type item struct {
		k Key
		f First
	}
	var model []item
	window, most := int64(100_000), 300
	tb := table(time.Duration(window)*time.Millisecond, uint32(most))
	now := int64(0)
	for i := range 20_000 {
		now += r.Int64N(700)
		tb.Advance(now)
		k := key(r.IntN(1000))
		_, have := remembers(tb, k, now)
		at := slices.IndexFunc(model, func(m item) bool { return m.k == k && m.f.Time+window > now })
		if have != (at >= 0) {
			t.Fatalf("step %d: remembered is %v", i, have)
		}
		switch n := r.IntN(1000); {
		case n < 995 && !have:
			f := First{Position: record.Position(i), Offset: record.QueueOffset(r.IntN(9) - 1), Due: r.Int64N(2) * now, Time: now}
			tb.Apply(1, k, f)
			model = append(model, item{k, f})
		case n == 996:
			window, most = 50_000+r.Int64N(100_000), 100+r.IntN(400)
			tb.Configure(1, time.Duration(window)*time.Millisecond, uint32(most), "id")
			// What was forgotten under a shorter window does not come back.
			model = slices.DeleteFunc(model, func(m item) bool { _, ok := remembers(tb, m.k, m.f.Time); return !ok })
		case n == 997:
			tb = restored(t, tb, window, most)
			tb.Advance(now)
		}
		model = model[max(0, len(model)-most):]
		minute := now - now%sweepMs
		for len(model) > 0 && model[0].f.Time+window <= minute {
			model = model[1:]
		}
	}
}

func restored(t *testing.T, tb *Table, window int64, most int) *Table {
	t.Helper()
	snapshot := tb.AppendSnapshot(nil)
	again := table(time.Duration(window)*time.Millisecond, uint32(most))
	d := record.NewDecoder(snapshot)
	if again.Restore(d); d.Err() != nil {
		t.Fatal(d.Err())
	}
	if !bytes.Equal(again.AppendSnapshot(nil), snapshot) {
		t.Fatal("the snapshot of what was restored is another one")
	}
	return again
}

// A table that was restored within a minute sweeps at other moments than one that
// was not.
func TestStateDoesNotDependOnWhenItIsSwept(t *testing.T) {
	a := table(10*time.Second, 1000)
	b := a
	for n := range 400 {
		now := int64(n) * 977
		a.Advance(now)
		a.Apply(1, key(n), first(n, now))
		if b != a {
			b.Advance(now)
			b.Apply(1, key(n), first(n, now))
			if !bytes.Equal(a.AppendSnapshot(nil), b.AppendSnapshot(nil)) {
				t.Fatalf("they differ at %d", n)
			}
		}
		if n%37 == 36 {
			b = restored(t, a, 10_000, 1000)
		}
	}
}

func TestMemoryOfAMessageIsAsDocumented(t *testing.T) {
	const n = 1 << 18
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	tb := table(time.Hour, n)
	for i := range 2 * n {
		tb.Apply(1, key(i), first(i, int64(i)))
	}
	each := float64(heap()-before) / n
	runtime.KeepAlive(tb)
	t.Logf("%.1f bytes a message, %.1f in a snapshot", each, float64(len(tb.AppendSnapshot(nil)))/n)
	if each > 100 {
		t.Errorf("%.1f bytes a message", each)
	}
}

func FuzzRestore(f *testing.F) {
	tb := table(time.Minute, 100)
	for n := range 5 {
		tb.Apply(1, key(n), first(n, int64(n)))
	}
	f.Add(tb.AppendSnapshot(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		tb := table(time.Minute, 100)
		tb.Restore(record.NewDecoder(data))
		tb.AppendSnapshot(nil)
	})
}

func BenchmarkClaimAndApply(b *testing.B) {
	tb := table(time.Hour, 1<<18)
	var k Key
	for i := range b.N {
		binary.LittleEndian.PutUint64(k[:], uint64(i)+1)
		c := tb.Begin(1, []Key{k}, int64(i))
		tb.Apply(1, k, First{Position: record.Position(i), Time: int64(i)})
		c.End()
	}
}
