package broker

import (
	"testing"

	"github.com/gantry-mq/gantry/broker/inflight"
)

func TestHandleRoundTrip(t *testing.T) {
	k := newHandleKey([]byte("secret"))
	want := handle{Key: inflight.SubKey{Group: 1, Topic: 2}, Queue: 3, Offset: 1 << 50, LeaseID: 1<<63 + 1, Deadline: 5}
	if got, ok := k.open(k.seal(want)); !ok || got != want {
		t.Fatalf("%+v, %v", got, ok)
	}
	if _, ok := newHandleKey([]byte("another")).open(k.seal(want)); ok {
		t.Fatal("another key opens it")
	}
}

// FuzzHandle looks for a text that opens without having been sealed.
func FuzzHandle(f *testing.F) {
	k := newHandleKey([]byte("secret"))
	good := k.seal(handle{Offset: 7})
	f.Add(good)
	f.Add(good + "A")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		if h, ok := k.open(s); ok && k.seal(h) != s {
			t.Fatalf("%q opens as %+v", s, h)
		}
	})
}
