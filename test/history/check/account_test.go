package check

import (
	"fmt"
	"slices"
	"testing"
)

// account keeps every promise: ordered, with resends under new ids, redeliveries, and
// messages that were rolled back or whose outcome nobody knows.
func account() *Account {
	a := &Account{Offered: map[string]bool{}, Arrived: map[string][]Arrival{"one": nil, "two": nil}, Ordered: true}
	for i := range 40 {
		content := fmt.Sprint("content ", i)
		a.Offered[content] = true
		m := Accepted{ID: fmt.Sprint("id", i), Content: content, Group: fmt.Sprint(i % 4), RolledBack: i%10 == 9}
		a.Accepted = append(a.Accepted, m)
		for group := range a.Arrived {
			if i%7 == 0 { // stored by a send whose answer was lost
				a.Arrived[group] = append(a.Arrived[group], Arrival{fmt.Sprint("unknown", i), content})
			}
			if !m.RolledBack {
				a.Arrived[group] = append(a.Arrived[group], Arrival{m.ID, content})
			}
			if i%5 == 0 { // a lease that ended
				a.Arrived[group] = append(a.Arrived[group], Arrival{m.ID, content})
			}
		}
	}
	return a
}

func TestAHealthyAccountPasses(t *testing.T) {
	if v := account().Violations(); len(v) > 0 || account().Missing() > 0 {
		t.Fatal(v, account().Missing())
	}
}

func TestEveryBrokenPromiseOfAnAccountIsFound(t *testing.T) {
	for _, c := range []struct {
		name   string
		rule   Rule
		damage func(*Account)
	}{
		{"a message does not arrive", Lost, func(a *Account) {
			a.Arrived["two"] = slices.DeleteFunc(a.Arrived["two"], func(d Arrival) bool { return d.ID == "id11" })
		}},
		{"nothing arrives at a group", Lost, func(a *Account) { a.Arrived["two"] = nil }},
		{"another content", Body, func(a *Account) { a.Arrived["one"][3].Content = a.Accepted[20].Content }},
		{"content that nobody sent", Invented, func(a *Account) { a.Arrived["one"][3].Content = "?" }},
		{"what was rolled back", Decided, func(a *Account) {
			a.Arrived["one"] = append(a.Arrived["one"], Arrival{a.Accepted[9].ID, a.Accepted[9].Content})
		}},
		{"a message before the one before it", Order, func(a *Account) { slices.Reverse(a.Arrived["two"]) }},
		{"one id for two messages", Place, func(a *Account) { a.Accepted[5].ID = a.Accepted[6].ID }},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := account()
			c.damage(a)
			if !slices.ContainsFunc(a.Violations(), func(v Violation) bool { return v.Rule == c.rule }) {
				t.Errorf("not found as %s: %v", c.rule, a.Violations())
			}
			if missing := a.Missing() > 0; c.rule == Lost && !missing {
				t.Error("nothing is missing")
			}
		})
	}
}
