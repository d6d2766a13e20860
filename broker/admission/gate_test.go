package admission

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

const kib = 1 << 10

func TestADoorTakesThreeQuartersAndLeavesTheRestToTheOther(t *testing.T) {
	g := New(16*CallBytes, 1000, 1<<40)
	in := 0
	for ; in < 100; in++ {
		if _, ok := g.TryEnter(Unary, 0); !ok {
			break
		}
	}
	if in != 12 {
		t.Errorf("%d sends of 1/16 were let in by one door, want 12", in)
	}
	for in = 0; in < 100; in++ {
		if _, ok := g.TryEnter(Stream, 0); !ok {
			break
		}
	}
	if bytes, sends := g.Held(); in != 4 || bytes != 16*CallBytes || sends != 16 {
		t.Errorf("the other let in %d; %d bytes of %d sends are held", in, bytes, sends)
	}
}

func TestSendsAreBoundedInNumberToo(t *testing.T) {
	g := New(1<<40, 8, 1<<40)
	in := 0
	for ; in < 100; in++ {
		if _, ok := g.TryEnter(Unary, 0); !ok {
			break
		}
	}
	if in != 6 {
		t.Errorf("%d of 8 were let in by one door, want 6", in)
	}
}

func TestFewerAreLetInWhileSendsAreSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(1<<40, 64, 1<<40)
		fill := func() (in []Pass) {
			for {
				p, ok := g.TryEnter(Unary, 0)
				if !ok {
					return in
				}
				in = append(in, p)
			}
		}
		for i, want := range []int{48, 12, 48} { // three quarters of 64, of 16, of 64
			in := fill()
			if len(in) != want {
				t.Errorf("round %d: %d of 64 were let in by one door, want %d", i, len(in), want)
			}
			if i == 0 {
				time.Sleep(2 * Slow)
			}
			for _, p := range in {
				g.Leave(p)
			}
		}
	})
}

func TestOneIsAlwaysLetIn(t *testing.T) {
	g := New(kib, 1, 1<<40)
	p, ok := g.TryEnter(Unary, 1<<30)
	if !ok {
		t.Fatal("a send larger than the bound waits for ever")
	}
	if _, ok := g.TryEnter(Unary, 1); ok {
		t.Error("another was let in beside it")
	}
	g.Leave(p)
	if bytes, sends := g.Held(); bytes != 0 || sends != 0 {
		t.Errorf("%d bytes of %d sends are left", bytes, sends)
	}
	g.Leave(Pass{})
	if bytes, _ := g.Held(); bytes != 0 {
		t.Errorf("a send that was not let in gave back %d bytes", -bytes)
	}
}

func TestEnterWaitsForRoomAndNoLongerThanItsPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(4*CallBytes, 100, 1<<40)
		var in []Pass
		for range 3 {
			p, _ := g.TryEnter(Stream, 0)
			in = append(in, p)
		}
		begun := time.Now()
		if _, ok := g.Enter(t.Context(), Stream, 0, time.Second); ok || time.Since(begun) != time.Second {
			t.Errorf("without room: let in %v after %v", ok, time.Since(begun))
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, ok := g.Enter(gone, Stream, 0, time.Second); ok {
			t.Error("one was let in that has gone")
		}
		entered := make(chan bool)
		for range 2 {
			go func() {
				_, ok := g.Enter(t.Context(), Stream, 0, time.Minute)
				entered <- ok
			}()
		}
		synctest.Wait()
		time.Sleep(time.Second)
		g.Leave(in[0])
		if !<-entered {
			t.Error("nobody was let in when one left")
		}
		g.Leave(in[1])
		if !<-entered {
			t.Error("the second was not let in")
		}
		if took := g.Took(); took < 200*time.Millisecond {
			t.Errorf("sends that were under way for two seconds count as %v", took)
		}
	})
}

func TestAGateAllocatesNothing(t *testing.T) {
	g := New(1<<20, 100, 1<<40)
	if n := testing.AllocsPerRun(100, func() {
		p, _ := g.TryEnter(Unary, 100)
		g.Leave(p)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestWhatBecomesSmallerMakesRoom(t *testing.T) {
	g := New(4*CallBytes, 100, 1<<40)
	p, _ := g.TryEnter(Stream, 2*CallBytes) // and CallBytes: all that one door takes
	if _, ok := g.TryEnter(Stream, 0); ok {
		t.Error("there was room before")
	}
	p = g.Shrink(p, CallBytes)
	if p = g.Shrink(p, 100*CallBytes); p.bytes != 2*CallBytes {
		t.Errorf("it grew to %d bytes", p.bytes)
	}
	q, ok := g.TryEnter(Stream, 0)
	if !ok {
		t.Error("no room was made")
	}
	g.Leave(p)
	g.Leave(q)
	if bytes, sends := g.Held(); bytes != 0 || sends != 0 {
		t.Errorf("%d bytes of %d sends are left", bytes, sends)
	}
}
