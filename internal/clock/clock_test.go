package clock

import (
	"testing"
	"testing/synctest"
	"time"
)

// wall is a clock that can be set.
type wall struct{ jump time.Duration }

func (w *wall) now() time.Time { return time.Now().Add(w.jump) }

func TestRecordTimeIsTheWallsUntilThatGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wall{}
		c := New(w.now)
		ahead := func(want time.Duration) {
			t.Helper()
			if got := time.Duration(c.Now() - w.now().UnixNano()); got != want {
				t.Errorf("%v ahead of the wall, want %v", got, want)
			}
		}
		ahead(0)
		time.Sleep(time.Hour)
		ahead(0)
		w.jump += 24 * time.Hour // forward: it is believed at once
		ahead(0)

		w.jump -= time.Hour
		ahead(time.Hour)
		time.Sleep(time.Minute)
		ahead(time.Hour - 15*time.Second)
		time.Sleep(3*time.Hour - time.Minute)
		ahead(15 * time.Minute)
		time.Sleep(time.Hour)
		ahead(0)
		time.Sleep(time.Hour)
		ahead(0)
	})
}

// A quarter at most is lost, however often it is asked.
func TestRecordTimeNeverGoesBackAndNeverStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wall{}
		c := New(w.now)
		jumps := []time.Duration{time.Second, -time.Hour, time.Minute, -time.Second, 2 * time.Hour, -time.Millisecond}
		for i := range 1000 {
			w.jump += jumps[i%len(jumps)]
			before := c.Now()
			time.Sleep(8 * time.Millisecond)
			if after := c.Now(); after < before+6e6 || after < w.now().UnixNano() {
				t.Fatalf("%d after %d, the wall says %d", after, before, w.now().UnixNano())
			}
		}
	})
}

func TestReach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(nil)
		now := time.Now().UnixNano()
		if c.Reach(now - 5); c.Now() != now {
			t.Errorf("%d, want the wall's %d", c.Now(), now)
		}
		if c.Reach(now + 5); c.Now() != now+5 {
			t.Errorf("%d, want %d", c.Now(), now+5)
		}
	})
}
