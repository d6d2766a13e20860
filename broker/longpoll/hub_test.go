package longpoll

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

func TestOneWakeWakesTheLongestWaiterOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(8, 8)
		key := Key{Topic: 1, Group: 1}
		var woken []int
		var mu sync.Mutex
		ctx, cancel := context.WithCancel(t.Context())
		for i := range 3 {
			w, err := h.Register(key)
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				defer w.Leave()
				if w.Sleep(ctx, nil, nil) == nil {
					mu.Lock()
					woken = append(woken, i)
					mu.Unlock()
				}
			}()
		}
		synctest.Wait()
		h.Wake(key)
		synctest.Wait()
		if len(woken) != 1 || woken[0] != 0 {
			t.Fatalf("woken %v, want [0]", woken)
		}
		cancel()
		synctest.Wait()
		if h.Waiting() != 0 || len(h.topics) != 0 {
			t.Fatalf("left behind: %d waiting, %d topics", h.Waiting(), len(h.topics))
		}
	})
}

func TestWakeOfALeavingWaiterGoesToTheNext(t *testing.T) {
	h := New(8, 8)
	key := Key{Topic: 1, Group: 1}
	a, _ := h.Register(key)
	b, _ := h.Register(key)
	h.Wake(key) // meant for a
	a.Leave()   // which goes without looking
	if err := b.Sleep(t.Context(), nil, nil); err != nil {
		t.Fatal(err)
	}
	b.Leave()
}

func TestTopicWakesOnePerGroupAndAllWhoWaitAlone(t *testing.T) {
	h := New(8, 16)
	var ws []*Waiter
	for _, g := range []uint32{1, 1, 2, 0, 0} {
		w, err := h.Register(Key{Topic: 9, Group: record.GroupID(g)})
		if err != nil {
			t.Fatal(err)
		}
		ws = append(ws, w)
	}
	h.WakeTopic(9)
	for i, want := range []bool{true, false, true, true, true} {
		if got := len(ws[i].wake) == 1; got != want {
			t.Errorf("waiter %d woken: %v, want %v", i, got, want)
		}
	}
	for _, w := range ws {
		w.Leave()
	}
	if len(h.topics) != 0 {
		t.Fatal("waiters left behind")
	}
}

func TestLimits(t *testing.T) {
	h := New(2, 3)
	for _, c := range []struct {
		group uint32
		full  bool
	}{{1, false}, {1, false}, {1, true}, {2, false}, {3, true}} {
		_, err := h.Register(Key{Topic: 1, Group: record.GroupID(c.group)})
		if errors.Is(err, ErrFull) != c.full {
			t.Fatalf("group %d: %v, want full %v", c.group, err, c.full)
		}
	}
}

// Consumers take units that a producer makes available, each unit announced by
// one wake. If a wake could get lost the bubble would deadlock.
func TestNoWakeIsLost(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		h := New(1000, 1000)
		key := Key{Topic: 1, Group: 1}
		const units = 5000
		var available, taken atomic.Int64
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(seed, uint64(i)))
				for taken.Load() < units {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rng.IntN(3)+1)*time.Millisecond)
					w, err := h.Register(key)
					if err != nil {
						t.Error(err)
					}
					for {
						if n := available.Add(-1); n >= 0 {
							taken.Add(1)
							if n > 0 {
								h.Wake(key)
							}
							break
						}
						available.Add(1)
						if w.Sleep(ctx, nil, nil) != nil {
							break
						}
					}
					w.Leave()
					cancel()
				}
			})
		}
		wg.Go(func() {
			for range units {
				available.Add(1)
				h.Wake(key)
			}
		})
		wg.Wait()
		if h.Waiting() != 0 {
			t.Fatalf("%d waiters left", h.Waiting())
		}
	})
}

func TestWaiterForLiteTopicsIsWokenByName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(8, 8)
		woken := make(chan Key, 3)
		ctx, cancel := context.WithCancel(t.Context())
		one, two, all := Key{1, 1, "c1"}, Key{1, 1, "c2"}, Key{1, 1, ""}
		for _, key := range []Key{one, two, all} {
			w, err := h.Register(key)
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				defer w.Leave()
				for w.Sleep(ctx, nil, nil) == nil {
					woken <- key
				}
			}()
		}
		synctest.Wait()
		for _, step := range []struct {
			wake func()
			want Key
		}{
			{func() { h.WakeTopic(1) }, all},
			{func() { h.Wake(two) }, two},
			{func() { h.Wake(one) }, one},
		} {
			step.wake()
			synctest.Wait()
			if len(woken) != 1 {
				t.Fatalf("%d woken, want one", len(woken))
			}
			if got := <-woken; got != step.want {
				t.Fatalf("woken %v, want %v", got, step.want)
			}
		}
		cancel()
		synctest.Wait()
		if h.Waiting() != 0 || len(h.topics) != 0 {
			t.Fatalf("left behind: %d waiting, %d topics", h.Waiting(), len(h.topics))
		}
	})
}
