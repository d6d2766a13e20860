package admission

import (
	"testing"
	"testing/synctest"
	"time"
)

// filled is a gate with so many single sends under way, of enough.
func filled(t *testing.T, under, enough int) (*Gate, []Pass) {
	t.Helper()
	g := New(1<<40, 1<<20, enough)
	var in []Pass
	for range under {
		p, ok := g.TryEnter(Unary, 0)
		if !ok {
			t.Fatal("there is no room")
		}
		in = append(in, p)
	}
	g.left = time.Now()
	return g, in
}

func TestSendersAreHeldBackFromWhatIsEnoughOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for under, want := range map[int]bool{0: false, 3: false, 4: true, 7: true} {
			g, _ := filled(t, under, 8)
			begun := time.Now()
			if crowded := g.Hold(); crowded != want || time.Since(begun) != 0 {
				t.Errorf("with %d of 8 it is crowded: %v, after %v", under, crowded, time.Since(begun))
			}
		}
		g, _ := filled(t, 8, 8)
		begun := time.Now()
		if !g.Hold() || time.Since(begun) != holdAtMost || len(g.line) != 0 || g.HeldBack() != holdAtMost {
			t.Errorf("when none leaves, it ends after %v, counted as %v, with %d in line", time.Since(begun), g.HeldBack(), len(g.line))
		}
	})
}

func TestWhoIsHeldBackGoesInTurnOneForEachThatLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, in := filled(t, 8, 8)
		went := make(chan int, 3)
		for i := range 3 {
			go func() { g.Hold(); went <- i }()
			synctest.Wait()
		}
		for i := range 3 {
			g.Leave(in[i])
			synctest.Wait()
			if len(went) != 1 || <-went != i {
				t.Fatalf("when %d had left, the wrong ones went on", i+1)
			}
			if i < 2 {
				continue
			}
			if g.Hold(); len(g.line) != 0 {
				t.Error("with room and nobody in line, one waits")
			}
		}
	})
}

// Those in line may bring parts of large messages: then nothing leaves that would end
// their wait, although there is room.
func TestNobodyIsHeldBackWhileThereIsPlentyOfRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, in := filled(t, 8, 8)
		begun := time.Now()
		for range 9 {
			go g.Hold()
		}
		synctest.Wait()
		for _, p := range in[:5] {
			g.Leave(p)
		}
		synctest.Wait()
		if len(g.line) != 0 || time.Since(begun) != 0 {
			t.Errorf("%d wait with 3 of 8 under way", len(g.line))
		}
	})
}

func TestBytesHoldSendersBackToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(64*CallBytes, 1000, 1000)
		in, _ := g.TryEnter(Unary, 31*CallBytes) // and its own: half of all
		g.left = time.Now()
		go func() { time.Sleep(time.Millisecond); g.Leave(in) }()
		begun := time.Now()
		if g.Hold(); time.Since(begun) != time.Millisecond {
			t.Errorf("it waited for %v", time.Since(begun))
		}
	})
}

// Then they are to be read and refused, so that they know.
func TestSendersAreNotHeldBackByALogThatIsSlowOrStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _ := filled(t, 8, 8)
		time.Sleep(stalled + 1)
		begun := time.Now()
		if g.Hold() || time.Since(begun) != 0 {
			t.Errorf("none had left for %v, and it waited for %v", stalled, time.Since(begun))
		}
		g, in := filled(t, 40, 8)
		time.Sleep(10 * Slow)
		for _, p := range in[:10] {
			g.Leave(p)
		}
		begun = time.Now()
		if g.Hold() || time.Since(begun) != 0 {
			t.Errorf("sends take %v, and it waited for %v", g.Took(), time.Since(begun))
		}
	})
}
