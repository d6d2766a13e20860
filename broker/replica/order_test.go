package replica

import (
	"context"
	"errors"
	"testing"
)

// obedient are three nodes whose orders are answered with the node's name.
func obedient(t *testing.T) (n1, n2, n3 *server) {
	t.Helper()
	all := []*server{newServer(t, "n1", nil), newServer(t, "n2", nil), newServer(t, "n3", nil)}
	for i, s := range all {
		s.opts.Order = func(_ context.Context, order []byte) ([]byte, error) {
			if string(order) == "fail" {
				return nil, errors.New("it failed")
			}
			return append(order, " for "+s.opts.Name...), nil
		}
		if i == 0 {
			s.bootstrap()
		} else {
			s.join(all[0])
		}
	}
	voters(t, all...)
	return all[0], all[1], all[2]
}

func TestAnOrderIsCarriedOutByTheLeaderWhoeverIsAsked(t *testing.T) {
	t.Parallel()
	n1, n2, n3 := obedient(t)
	for _, s := range []*server{n1, n2, n3} {
		eventually(t, "an answer to "+s.opts.Name, func() bool {
			l := leader(t, n1, n2, n3)
			got, err := s.node.Order(t.Context(), []byte("tea"))
			return err == nil && string(got) == "tea for "+l.opts.Name
		})
		if _, err := s.node.Order(t.Context(), []byte("fail")); err == nil {
			t.Errorf("%s: an order that fails", s.opts.Name)
		}
	}
}

func TestTheLeadershipGoesToTheNodeThatIsToHaveItUnlessItIsHeld(t *testing.T) {
	t.Parallel()
	n1, n2, n3 := three(t)
	follower := n2
	if leader(t, n1, n2, n3) == n2 {
		follower = n3
	}
	if handed, err := follower.node.Prefer(t.Context(), "n1"); handed || err != nil {
		t.Errorf("a follower hands over what it has not: %v, %v", handed, err)
	}
	prefer := func(to *server) bool {
		handed, err := leader(t, n1, n2, n3).node.Prefer(t.Context(), to.opts.Name)
		return handed && err == nil
	}
	for _, to := range []*server{n2, n3} {
		eventually(t, to.opts.Name+" leads", func() bool {
			if leader(t, n1, n2, n3) == to {
				return !prefer(to) // it does already
			}
			return prefer(to) && leader(t, n1, n2, n3) == to
		})
	}
	for _, absent := range []string{"n4", ""} {
		if handed, err := leader(t, n1, n2, n3).node.Prefer(t.Context(), absent); handed || err != nil {
			t.Errorf("to %q: %v, %v", absent, handed, err)
		}
	}
	leader(t, n1, n2, n3).node.Hold(t.Context())
	for _, to := range []*server{n1, n2, n3} { // whoever leads next, all have heard
		eventually(t, "a transfer to "+to.opts.Name, func() bool {
			return n1.node.Transfer(t.Context(), to.opts.Name) == nil && leader(t, n1, n2, n3) == to
		})
		for _, other := range []*server{n1, n2, n3} {
			if prefer(other) {
				t.Errorf("%s handed over to %s, although it was told to stay", to.opts.Name, other.opts.Name)
			}
		}
	}
}
