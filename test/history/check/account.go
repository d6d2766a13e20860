package check

// Account is what clients saw of one topic that tell neither places nor when they
// acknowledge, as the official ones: less than a History, and judged by the same rules.
type Account struct {
	Offered  map[string]bool      // contents that somebody sent, whether it is stored or not
	Accepted []Accepted           // in the order of each sender, which waited for each
	Arrived  map[string][]Arrival // by group, of which one client got all, in its order
	Ordered  bool                 // the groups are
}

// Accepted is a message that was acknowledged, under an id that only it has.
type Accepted struct {
	ID, Content string
	Group       string // message group
	RolledBack  bool   // known to be
}

// Arrival is a delivery, perhaps not the first.
type Arrival struct{ ID, Content string }

// Missing counts what was acknowledged and is still to arrive, for all groups together.
func (a *Account) Missing() int {
	n := 0
	for _, arrivals := range a.Arrived {
		got := map[string]bool{}
		for _, d := range arrivals {
			got[d.ID] = true
		}
		for _, m := range a.Accepted {
			if !m.RolledBack && !got[m.ID] {
				n++
			}
		}
	}
	return n
}

// Violations are the promises that were broken.
func (a *Account) Violations() []Violation {
	c := checker{History: &History{}}
	nth := map[string]int{}
	for i, m := range a.Accepted {
		if _, twice := nth[m.ID]; twice {
			c.broken(Place, "%q was acknowledged for two messages", m.ID)
		}
		nth[m.ID] = i
	}
	for group, arrivals := range a.Arrived {
		got := map[string]bool{}
		last := map[string]int{} // by message group
		for _, d := range arrivals {
			i, accepted := nth[d.ID]
			switch {
			case !a.Offered[d.Content]:
				c.broken(Invented, "%s got %q, and nobody sent %q", group, d.ID, d.Content)
			case accepted && a.Accepted[i].Content != d.Content:
				c.broken(Body, "%s got %q with %q, and it was sent with %q", group, d.ID, d.Content, a.Accepted[i].Content)
			case accepted && a.Accepted[i].RolledBack:
				c.broken(Decided, "%s got %q, which was rolled back", group, d.ID)
			}
			if !accepted || got[d.ID] {
				continue
			}
			got[d.ID] = true
			m := a.Accepted[i]
			if before, ok := last[m.Group]; ok && a.Ordered && before > i {
				c.broken(Order, "%s got %q of message group %q after %q", group, d.ID, m.Group, a.Accepted[before].ID)
			}
			last[m.Group] = max(last[m.Group], i)
		}
		for _, m := range a.Accepted {
			if !m.RolledBack && !got[m.ID] {
				c.broken(Lost, "%q (%s) never arrived at %s", m.ID, m.Content, group)
			}
		}
	}
	return c.report.Violations
}
