package lite

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

var (
	c1 = Bind{Client: "c1", Group: 1, Topic: 7}
	c2 = Bind{Client: "c2", Group: 1, Topic: 7}
	d1 = Bind{Client: "d1", Group: 2, Topic: 7}
)

func change(t *testing.T, s *Subscriptions, b Bind, c Change) []Lost {
	t.Helper()
	if c.Quota == 0 {
		c.Quota = 100
	}
	lost, err := s.Change(b, c, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	return lost
}

// look takes all hints.
func look(s *Subscriptions, b Bind) (names []string) {
	for name, ok := s.Next(b); ok; name, ok = s.Next(b) {
		names = append(names, name)
	}
	return names
}

func wantNames(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func TestHintsComeInTurnAndOnce(t *testing.T) {
	s := NewSubscriptions(100)
	change(t, s, c1, Change{Add: []string{"b", "a", "b"}})
	change(t, s, d1, Change{Add: []string{"a"}})
	wantNames(t, look(s, c1), "a", "b") // what is new is looked at
	wantNames(t, look(s, d1), "a")
	if told := s.Hint(nil, 7, "b", 0); !slices.Equal(told, []Bind{c1}) {
		t.Fatalf("told %v", told)
	}
	if told := s.Hint(nil, 7, "a", 0); len(told) != 2 {
		t.Fatalf("told %v", told)
	}
	if told := s.Hint(nil, 7, "b", 0); len(told) != 0 {
		t.Fatalf("told %v of what they know", told)
	}
	s.Hint(nil, 8, "b", 0)
	s.Hint(nil, 7, "z", 0)
	wantNames(t, look(s, c1), "b", "a")
	if told := s.Hint(nil, 7, "a", 1); !slices.Equal(told, []Bind{c1}) {
		t.Fatalf("told %v of what group 1 may take", told)
	}
	change(t, s, c1, Change{Remove: []string{"a", "a", "never"}})
	wantNames(t, look(s, c1))
	if s.Total() != 2 {
		t.Fatalf("%d subscriptions, want 2", s.Total())
	}
}

func TestExclusiveSubscriptionIsTakenOverAndNotTakenBack(t *testing.T) {
	s := NewSubscriptions(100)
	change(t, s, c1, Change{Add: []string{"a", "b"}, Exclusive: true})
	change(t, s, d1, Change{Add: []string{"a"}, Exclusive: true}) // another group
	look(s, d1)
	if lost := change(t, s, c2, Change{Add: []string{"a"}, Exclusive: true}); !slices.Equal(lost, []Lost{{c1, "a"}}) {
		t.Fatalf("lost %v", lost)
	}
	wantNames(t, look(s, c1), "b")
	wantNames(t, look(s, c2), "a")
	if lost := change(t, s, c1, Change{Add: []string{"b", "a"}, Replace: true, Exclusive: true}); !slices.Equal(lost, []Lost{{c1, "a"}}) {
		t.Fatalf("lost %v by saying it again", lost)
	}
	if told := s.Hint(nil, 7, "a", 0); !slices.Equal(told, []Bind{c2, d1}) && !slices.Equal(told, []Bind{d1, c2}) {
		t.Fatalf("told %v", told)
	}
	change(t, s, c2, Change{Replace: true, Exclusive: true})
	if lost := change(t, s, c1, Change{Add: []string{"b", "a"}, Replace: true, Exclusive: true}); len(lost) != 0 {
		t.Fatalf("lost %v, which nobody has", lost)
	}
}

func TestSharedLiteTopicsAreEverybodys(t *testing.T) {
	s := NewSubscriptions(100)
	all := Bind{Group: 1, Topic: 7}
	s.Share(1, 7, slices.Values([]string{"x", "y"}), time.Time{})
	s.Share(1, 7, nil, time.Time{}) // said again
	wantNames(t, look(s, all), "x", "y")
	if told := s.Hint(nil, 7, "new", 0); !slices.Equal(told, []Bind{all}) {
		t.Fatalf("told %v", told)
	}
	s.Hint(nil, 7, "new", 1)
	s.Hint(nil, 7, "x", 2)
	s.Hint(nil, 8, "x", 0)
	wantNames(t, look(s, all), "new")
	s.Expire(time.Time{}.Add(Expiry + 1))
	if told := s.Hint(nil, 7, "new", 0); len(told) != 0 || s.Known(all) {
		t.Fatal("a group whose clients are gone is told")
	}
}

func TestQuotasRefuseWhatIsMore(t *testing.T) {
	s := NewSubscriptions(5)
	add := func(b Bind, replace bool, names ...string) error {
		_, err := s.Change(b, Change{Add: names, Replace: replace, Quota: 3}, time.Time{})
		return err
	}
	for i, step := range []struct {
		b       Bind
		replace bool
		names   []string
		refused bool
	}{
		{c1, false, []string{"a", "b", "c"}, false},
		{c1, false, []string{"c"}, false}, // has it
		{c1, false, []string{"d"}, true},  // its own quota
		{c1, true, []string{"d", "e", "f"}, false},
		{c2, false, []string{"a", "b"}, false},
		{d1, false, []string{"a"}, true}, // that of all
		{c1, true, []string{"d"}, false},
		{d1, false, []string{"a"}, false},
	} {
		if err := add(step.b, step.replace, step.names...); errors.Is(err, ErrQuota) != step.refused {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	if s.Total() != 4 {
		t.Fatalf("%d subscriptions, want 4", s.Total())
	}
}

// Random changes and hints against a model: who has what, and what they were
// told and have not looked at, in order.
func TestSubscriptionsAgreeWithAModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	s := NewSubscriptions(1000)
	type person struct {
		has   map[string]bool
		hints []string
	}
	model := map[Bind]*person{c1: {has: map[string]bool{}}, c2: {has: map[string]bool{}}, d1: {has: map[string]bool{}}}
	binds := []Bind{c1, c2, d1}
	drop := func(p *person, name string) {
		delete(p.has, name)
		p.hints = slices.DeleteFunc(p.hints, func(n string) bool { return n == name })
	}
	hint := func(p *person, name string) {
		if p.has[name] && !slices.Contains(p.hints, name) {
			p.hints = append(p.hints, name)
		}
	}
	for range 20_000 {
		b := binds[r.IntN(3)]
		p := model[b]
		var names []string
		for range r.IntN(4) {
			names = append(names, fmt.Sprint("n", r.IntN(6)))
		}
		slices.Sort(names) // Change adds in this order
		names = slices.Compact(names)
		exclusive := b.Group == 1
		other := model[map[Bind]Bind{c1: c2, c2: c1}[b]]
		switch r.IntN(6) {
		case 0:
			change(t, s, b, Change{Add: names, Exclusive: exclusive})
			for _, n := range names {
				if exclusive {
					drop(other, n)
				}
				if !p.has[n] {
					p.has[n] = true
					hint(p, n)
				}
			}
		case 1:
			change(t, s, b, Change{Remove: names})
			for _, n := range names {
				drop(p, n)
			}
		case 2:
			change(t, s, b, Change{Add: names, Replace: true, Exclusive: exclusive})
			for n := range p.has {
				if !slices.Contains(names, n) {
					drop(p, n)
				}
			}
			for _, n := range names {
				if !p.has[n] && !(exclusive && other.has[n]) {
					p.has[n] = true
					hint(p, n)
				}
			}
		case 3:
			for _, n := range names {
				group := record.GroupID(r.IntN(3))
				s.Hint(nil, 7, n, group)
				for bind, p := range model {
					if group == 0 || bind.Group == group {
						hint(p, n)
					}
				}
			}
		case 4:
			if len(names) == 1 {
				s.Remove(7, names[0])
				for _, p := range model {
					drop(p, names[0])
				}
			}
		case 5:
			name, ok := s.Next(b)
			if ok != (len(p.hints) > 0) || ok && name != p.hints[0] {
				t.Fatalf("next %q %v, want the first of %q", name, ok, p.hints)
			}
			if ok {
				p.hints = p.hints[1:]
			}
		}
		total := 0
		for _, p := range model {
			total += len(p.has)
		}
		if s.Total() != total {
			t.Fatalf("%d subscriptions, want %d", s.Total(), total)
		}
	}
	for _, b := range binds {
		s.Drop(b.Client)
	}
	if s.Total() != 0 || len(s.names) != 0 || len(s.sets) != 0 {
		t.Fatalf("left behind: %d, %v, %v", s.Total(), slices.Collect(maps.Keys(s.names)), s.sets)
	}
}
