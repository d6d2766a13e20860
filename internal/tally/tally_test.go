package tally

import (
	"sync"
	"testing"
	"time"
)

func TestHistogramCountsByPowersOfTwo(t *testing.T) {
	var h Histogram
	for _, v := range []int64{-5, 0, 1, 2, 3, 4, 1 << 60} {
		h.Add(v, 2)
	}
	c := h.Read()
	for i, want := range []uint64{4, 6, 10, 12, 12} {
		if got := c.Below(i); got != want {
			t.Errorf("%d values are below %d, want %d", got, 1<<i, want)
		}
	}
	if c.Count != 14 || c.Sum != 2*(10+1<<60) {
		t.Errorf("%d values of %d", c.Count, c.Sum)
	}
}

func TestCallsAreCountedByOutcomeAndOutcomesAreBounded(t *testing.T) {
	c := NewCalls()
	c.Add("/s/M", "/s/Never")
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for code := range int32(40) {
				c.Done("/s/M", time.Millisecond)
				c.Done("/s/Unknown", time.Millisecond)
				if code > 0 {
					c.Refused("/s/M", code)
				}
			}
		})
	}
	callers.Wait()
	c.Add("/s/Stream", "/s/M")
	c.Ended("/s/Stream")
	got := c.Read()
	if len(got) != 2 || got[0].Name != "M" || got[0].Service != "s" || got[0].Calls != 320 || got[1].Name != "Stream" || got[1].Calls != 1 || got[1].Took.Count != 0 {
		t.Fatalf("%+v", got)
	}
	total := uint64(0)
	for _, n := range got[0].Refused {
		total += n
	}
	if len(got[0].Refused) > maxCodes || total != 8*39 {
		t.Errorf("%d outcomes, %d in all", len(got[0].Refused), total)
	}
}

func TestNoCallsCountNothing(t *testing.T) {
	var c *Calls
	c.Add("/s/M")
	c.Done("/s/M", time.Second)
	c.Refused("/s/M", 1)
}

func TestCountingAllocatesNothing(t *testing.T) {
	c := NewCalls()
	c.Add("/s/M")
	if n := testing.AllocsPerRun(100, func() {
		c.Done("/s/M", time.Second)
		c.Refused("/s/M", 40000)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
