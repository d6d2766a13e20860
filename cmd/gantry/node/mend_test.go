package node

import (
	"errors"
	"fmt"
	"testing"

	"github.com/gantry-mq/gantry/commitlog"
)

// Damage that is found while a node leads: another one leads first. An index is made again
// by a broker that is opened anew, and with a damaged log the node ends, and comes back as
// another one.
func TestDamageThatIsFoundAtWorkIsMendedWhenAnotherNodeLeads(t *testing.T) {
	all := three(t, 1)
	led := func(p *process) *life { return p.shards.all[0].Load() }

	p, b := leader(t, all, 0)
	led(p).damaged(errors.New("an index, in a test"))
	eventually(t, "another one leads", func() bool {
		q, _ := leader(t, all, 0)
		return q != p
	})
	eventually(t, "the broker is opened anew", func() bool { return led(p).state.Load() != b })

	p, _ = leader(t, all, 0)
	other := all[0]
	if p == other {
		other = all[1]
	}
	id := func() string {
		for _, m := range led(other).node.Members() {
			if m.Name == p.name && m.Voter {
				return m.ID
			}
		}
		return ""
	}
	old := id()
	damage := fmt.Errorf("a test: %w", commitlog.ErrCorrupt)
	led(p).damaged(damage)
	if err := p.end(); !errors.Is(err, damage) {
		t.Fatalf("it ended with %v", err)
	}
	if id() == old {
		t.Error("it ended before it was taken out")
	}
	p.up(t, 1, other)
	eventually(t, "it is back as another node", func() bool { now := id(); return now != "" && now != old })
}
