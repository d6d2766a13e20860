package broker

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/topic"
)

// wall is a wall clock that can be set.
type wall struct{ by atomic.Int64 }

func (w *wall) now() time.Time        { return time.Now().Add(time.Duration(w.by.Load())) }
func (w *wall) option(o *Options)     { o.Wall = w.now }
func (w *wall) jump(by time.Duration) { w.by.Add(int64(by)) }

// What was handed out for a while comes again after that while, not an hour
// later: in the life of the broker, and over a restart.
func TestLeasesEndThoughTheWallJumpsBack(t *testing.T) {
	dir, w := t.TempDir(), &wall{}
	b := open(t, dir, w.option)
	makeTopic(t, b, "T", topic.Normal, 1)
	send(t, b, "T", msg("id", "m"))
	again := func(d Delivered) {
		t.Helper()
		if _, err := b.ChangeInvisible(t.Context(), name("G"), name("T"), d.Handle, 200*time.Millisecond, false); err != nil {
			t.Fatal(err)
		}
	}
	again(receiveNext(t, b, "T", "G"))
	w.jump(-time.Hour)
	d := receiveNext(t, b, "T", "G")
	want(t, []Delivered{d}, "m#2")
	again(d)
	closeBroker(t, b)
	b = open(t, dir, w.option)
	d = receiveNext(t, b, "T", "G")
	want(t, []Delivered{d}, "m#3")
	again(d)
	w.jump(time.Hour)
	want(t, []Delivered{receiveNext(t, b, "T", "G")}, "m#4")
}
