package access

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// Decision is an answer with its reason.
type Decision struct {
	Allowed bool
	Super   bool    // because of who asks
	Policy  *Policy // that decided; nil: none, or Super
}

// Decide says whether p may do action, one of them, to o, called from source. It
// allocates nothing. source is unmapped; one that is not valid is in no network.
func (p *Principal) Decide(o Object, action Actions, source netip.Addr) Decision {
	if p.user.Super {
		return Decision{Allowed: true, Super: true}
	}
	for i := range p.policies {
		q := &p.policies[i]
		if q.Actions&action != 0 && q.Resource.matches(o) && q.from(source) {
			return Decision{Allowed: !q.Deny, Policy: q}
		}
	}
	return Decision{}
}

func (p *Policy) from(source netip.Addr) bool {
	return len(p.Sources) == 0 || slices.ContainsFunc(p.Sources, func(n netip.Prefix) bool { return n.Contains(source) })
}

// String is the reason, for a person.
func (d Decision) String() string {
	switch {
	case d.Super:
		return "allowed: a super user"
	case d.Policy == nil:
		return "denied: no policy matches"
	case d.Allowed:
		return fmt.Sprintf("allowed by policy %d: %v", d.Policy.ID, d.Policy)
	}
	return fmt.Sprintf("denied by policy %d: %v", d.Policy.ID, d.Policy)
}

// String is what the policy says.
func (p *Policy) String() string {
	verb, from := "allow", ""
	if p.Deny {
		verb = "deny"
	}
	for i, s := range p.Sources {
		if from += ","; i == 0 {
			from = " from "
		}
		from += s.String()
	}
	return fmt.Sprintf("%s %v on %v%s", verb, p.Actions, p.Resource, from)
}

// order sorts policies so that the first that matches decides.
func order(a, b Policy) int {
	return cmp.Or(
		cmp.Compare(rank(b.Resource.Type), rank(a.Resource.Type)),
		cmp.Compare(a.Resource.Match, b.Resource.Match),
		cmp.Compare(len(b.Resource.Name), len(a.Resource.Name)),
		compareBool(b.Resource.Namespace != AllNamespaces, a.Resource.Namespace != AllNamespaces),
		compareBool(b.Deny, a.Deny),
		cmp.Compare(a.ID, b.ID),
	)
}

// rank is how specific a policy's type is.
func rank(t Type) int {
	switch t {
	case Any:
		return 0
	case Namespace:
		return 1
	}
	return 2
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
