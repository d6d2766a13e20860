package session_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gantry-mq/gantry/broker/session"
	"github.com/gantry-mq/gantry/commitlog/record"
)

const expiry = 120 * time.Second

func res(name string) record.Resource { return record.Resource{Name: name} }

func producer(id string, topics ...string) session.Client {
	c := session.Client{ID: id, Role: session.Producer}
	for _, t := range topics {
		c.Publishing = append(c.Publishing, res(t))
	}
	return c
}

func consumer(id, group string) session.Client {
	return session.Client{ID: id, Role: session.PushConsumer, Group: res(group)}
}

func ids(cs []session.Client) []string {
	var s []string
	for _, c := range cs {
		s = append(s, c.ID)
	}
	return s
}

// started runs a registry in the bubble and returns it with the ids of the
// clients that went.
func started(t *testing.T) (*session.Registry, *[]string) {
	gone := new([]string)
	r := session.New(expiry, func(c session.Client) { *gone = append(*gone, c.ID) })
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r, gone
}

func TestSilentClientIsGoneAndATouchedOneIsNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, gone := started(t)
		r.Register(consumer("silent", "g"))
		r.Register(consumer("alive", "g"))
		for range 13 { // 130 s of heartbeats
			time.Sleep(10 * time.Second)
			if !r.Touch("alive") {
				t.Fatal("a live client was not known to Touch")
			}
		}
		synctest.Wait()
		if !slices.Equal(*gone, []string{"silent"}) {
			t.Fatalf("gone: %v, want only the silent client", *gone)
		}
		if r.Live("silent") || !r.Live("alive") {
			t.Fatalf("live: silent %v, alive %v", r.Live("silent"), r.Live("alive"))
		}
		if r.Touch("silent") {
			t.Fatal("Touch revived a client that is gone")
		}
	})
}

func TestClientLivesUntilItsExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, gone := started(t)
		r.Register(consumer("c", "g"))
		time.Sleep(expiry - time.Millisecond)
		synctest.Wait()
		if !r.Live("c") {
			t.Fatal("gone before the expiry")
		}
		time.Sleep(expiry / 24)
		synctest.Wait()
		if r.Live("c") || len(*gone) != 1 {
			t.Fatalf("live %v, gone %v one scan after the expiry", r.Live("c"), *gone)
		}
	})
}

func TestRegisterRefreshesAndReplaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, gone := started(t)
		r.Register(producer("p", "a"))
		time.Sleep(expiry - time.Second)
		r.Register(producer("p", "b"))
		time.Sleep(expiry - time.Second)
		synctest.Wait()
		if len(*gone) != 0 {
			t.Fatalf("gone: %v, but it registered again", *gone)
		}
		if a, b := r.Producers(res("a")), r.Producers(res("b")); len(a) != 0 || len(b) != 1 {
			t.Fatalf("producers of a: %v, of b: %v", ids(a), ids(b))
		}
	})
}

func TestGoodbyeIsToldOnceAndAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, gone := started(t)
		r.Register(consumer("c", "g"))
		r.Terminate("c")
		if !slices.Equal(*gone, []string{"c"}) {
			t.Fatalf("gone: %v right after Terminate", *gone)
		}
		r.Terminate("c")
		r.Terminate("never seen")
		time.Sleep(2 * expiry)
		synctest.Wait()
		if len(*gone) != 1 {
			t.Fatalf("gone: %v, want c once", *gone)
		}
	})
}

func TestGoneMayCallBack(t *testing.T) {
	var r *session.Registry
	live := true
	r = session.New(expiry, func(c session.Client) { live = r.Live(c.ID) })
	r.Register(consumer("c", "g"))
	r.Terminate("c")
	if live {
		t.Fatal("a client was still live when gone was told of it")
	}
}

func TestNewestStreamWins(t *testing.T) {
	r := session.New(expiry, nil)
	var got []string
	to := func(name string) func(session.Command) error {
		return func(session.Command) error { got = append(got, name); return nil }
	}
	send := func() {
		t.Helper()
		if err := r.Send("c", session.Reconnect{}); err != nil {
			t.Fatalf("Send: %v", err)
		}
	}
	r.Register(consumer("c", "g"))
	detachOld := r.Attach("c", to("old"))
	send()
	detachNew := r.Attach("c", to("new"))
	send()
	detachOld() // late: the new stream must not notice
	send()
	if !slices.Equal(got, []string{"old", "new", "new"}) {
		t.Fatalf("commands went to %v", got)
	}
	if c, _ := r.Get("c"); !c.Streaming {
		t.Fatal("the late end of the old stream detached the new one")
	}
	detachNew()
	detachNew()
	if c, _ := r.Get("c"); c.Streaming {
		t.Fatal("still streaming after the last stream ended")
	}
	if err := r.Send("c", session.Reconnect{}); !errors.Is(err, session.ErrNoStream) {
		t.Fatalf("Send without a stream: %v", err)
	}
	if !r.Live("c") {
		t.Fatal("losing the stream ended the client")
	}
}

func TestOlderOpenStreamTakesOver(t *testing.T) {
	r := session.New(expiry, nil)
	var got string
	r.Attach("c", func(session.Command) error { got = "access point"; return nil })
	detach := r.Attach("c", func(session.Command) error { got = "route"; return nil })
	detach()
	if err := r.Send("c", session.Reconnect{}); err != nil || got != "access point" {
		t.Fatalf("sent to %q, %v", got, err)
	}
}

func TestQueriesFindTheRightClientsInOrder(t *testing.T) {
	r := session.New(expiry, nil)
	r.Register(consumer("c2", "g"))
	r.Register(consumer("c1", "g"))
	r.Register(consumer("other", "h"))
	r.Register(session.Client{ID: "elsewhere", Role: session.SimpleConsumer, Group: record.Resource{Namespace: "ns", Name: "g"}})
	r.Register(producer("p", "t"))
	if got := ids(r.ByGroup(res("g"))); !slices.Equal(got, []string{"c1", "c2"}) {
		t.Errorf("ByGroup: %v", got)
	}
	if got := ids(r.ByGroup(res(""))); len(got) != 0 {
		t.Errorf("ByGroup of no group: %v, a producer is in none", got)
	}
	if got := ids(r.Producers(res("t"))); !slices.Equal(got, []string{"p"}) {
		t.Errorf("Producers: %v", got)
	}
	if got := ids(r.List()); !slices.Equal(got, []string{"c1", "c2", "elsewhere", "other", "p"}) {
		t.Errorf("List: %v", got)
	}
}

func TestRegistryKeepsItsOwnCopy(t *testing.T) {
	r := session.New(expiry, nil)
	c := producer("p", "t")
	r.Register(c)
	c.Publishing[0] = res("changed")
	if len(r.Producers(res("t"))) != 1 {
		t.Fatal("the caller's slice is the registry's slice")
	}
}

func TestAClientsLastRefusalOutlivesItsSettingsAndNotItsLife(t *testing.T) {
	r := session.New(expiry, nil)
	r.Refused("c", session.Refusal{Code: "TOPIC_NOT_FOUND"}) // nobody yet
	r.Register(consumer("c", "g"))
	first, _ := r.Get("c")
	if first.Refused != (session.Refusal{}) {
		t.Fatalf("a new client was refused %+v", first.Refused)
	}
	r.Refused("c", session.Refusal{Method: "ReceiveMessage", Code: "TOPIC_NOT_FOUND", Text: "no"})
	r.Register(consumer("c", "g"))
	c, _ := r.Get("c")
	if c.Refused.Code != "TOPIC_NOT_FOUND" || c.Refused.Time.IsZero() || !c.Connected.Equal(first.Connected) {
		t.Fatalf("after its settings came again: %+v", c)
	}
	r.Terminate("c")
	r.Register(consumer("c", "g"))
	if c, _ := r.Get("c"); c.Refused != (session.Refusal{}) {
		t.Fatalf("a new life begins with %+v", c.Refused)
	}
}
