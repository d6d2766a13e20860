package access

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

func testKey(t testing.TB) *MasterKey {
	t.Helper()
	k, err := ParseMasterKey(NewMasterKey())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// tableOf applies records.
func tableOf(t testing.TB, key *MasterKey, records ...[]byte) *Table {
	t.Helper()
	tb := NewTable(key)
	for _, rec := range records {
		if err := record.Verify(rec); err != nil {
			t.Fatal(err)
		}
		if err := tb.Apply(record.KindOf(rec), record.Command(rec)); err != nil {
			t.Fatal(err)
		}
	}
	return tb
}

func user(key *MasterKey, name, secret string) User {
	return User{Name: name, Enabled: true, Sealed: key.Seal(name, secret), Created: 5, Changed: 6}
}

func TestTableSurvivesRecordsAndSnapshot(t *testing.T) {
	key := testKey(t)
	admin := user(key, "admin", "a-secret-1")
	admin.Super = true
	tb := tableOf(t, key,
		AppendUserPut(nil, admin), AppendUserPut(nil, user(key, "gone", "g-secret-1")), AppendUserPut(nil, user(key, "shop", "s-secret-1")),
		AppendPolicyPut(nil, Policy{ID: 1, User: "gone", Resource: Pattern{Type: Any, Match: Whichever}, Actions: All}),
		AppendPolicyPut(nil, Policy{ID: 2, User: "shop", Resource: Pattern{Type: Topic, Match: Prefix, Namespace: "n", Name: "orders"}, Actions: Pub | Sub,
			Sources: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}, Deny: true, Created: 9}),
		AppendPolicyPut(nil, Policy{ID: 3, User: "shop", Resource: Pattern{Type: Cluster, Match: Whichever}, Actions: Get}),
		AppendPolicyDelete(nil, 3), AppendUserDelete(nil, "gone"),
		AppendPolicyPut(nil, Policy{ID: 4, User: "gone", Resource: Pattern{Type: Any, Match: Whichever}, Actions: All}), // granted while it was being deleted
	)
	snapshot := tb.AppendSnapshot(nil)
	again := NewTable(key)
	d := record.NewDecoder(snapshot)
	if again.Restore(d); d.Err() != nil {
		t.Fatal(d.Err())
	}
	if !bytes.Equal(again.AppendSnapshot(nil), snapshot) {
		t.Error("another table")
	}
	if got := fmt.Sprint(again.Users()) + fmt.Sprint(again.Policies("")); got != fmt.Sprint(tb.Users())+fmt.Sprint(tb.Policies("")) {
		t.Error(got)
	}
	if n := len(again.Policies("")); n != 1 || again.NextID() != 5 {
		t.Errorf("%d policies, next id %d", n, again.NextID())
	}
	if bytes.Contains(snapshot, []byte("a-secret-1")) {
		t.Error("a secret is in the clear")
	}
}

func TestSecretsOpenOnlyAsTheyWereSealed(t *testing.T) {
	key := testKey(t)
	sealed := key.Seal("shop", "s-secret-1")
	if got, err := key.Open("shop", sealed); got != "s-secret-1" || err != nil {
		t.Fatal(got, err)
	}
	if bytes.Equal(sealed, key.Seal("shop", "s-secret-1")) {
		t.Error("sealing twice gives the same")
	}
	if _, err := key.Open("shop2", sealed); err == nil {
		t.Error("it opens for another user")
	}
	if _, err := testKey(t).Open("shop", sealed); !errors.Is(err, ErrOtherKey) {
		t.Error(err)
	}
	for i := range sealed {
		if _, err := key.Open("shop", sealed[:i]); err == nil {
			t.Errorf("it opens cut to %d bytes", i)
		}
		altered := bytes.Clone(sealed)
		altered[i] ^= 1
		if _, err := key.Open("shop", altered); err == nil {
			t.Errorf("it opens with byte %d altered", i)
		}
	}
	for _, text := range []string{"", "abc", strings.Repeat("g", 64), NewMasterKey() + "00"} {
		if _, err := ParseMasterKey(text); err == nil || text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("key %q: %v", text, err)
		}
	}
}

// model decides as package doc says, in words of its own: by points.
func model(policies []Policy, o Object, a Actions, source netip.Addr) (allowed bool) {
	best := -1
	for _, p := range policies {
		r := p.Resource
		named := func(n string) bool {
			return r.Match == Whichever || r.Match == Literal && n == r.Name || r.Match == Prefix && strings.HasPrefix(n, r.Name)
		}
		here := r.Namespace == "*" || r.Namespace == o.Namespace
		hit := r.Type == Any || r.Type == Cluster && o.Type == Cluster ||
			r.Type == Namespace && o.Type != Cluster && named(o.Namespace) ||
			(r.Type == Topic || r.Type == Group) && r.Type == o.Type && here && named(o.Name)
		in := len(p.Sources) == 0
		for _, s := range p.Sources {
			in = in || s.Contains(source)
		}
		if !hit || !in || p.Actions&a == 0 {
			continue
		}
		points := map[Type]int{Any: 0, Namespace: 1, Topic: 2, Group: 2, Cluster: 2}[r.Type]
		points = points*10 + map[Match]int{Whichever: 0, Prefix: 1, Literal: 2}[r.Match]
		points = points*1000 + len(r.Name)
		points *= 10
		if r.Namespace != "*" {
			points += 2
		}
		if p.Deny {
			points++
		}
		if points > best {
			best, allowed = points, !p.Deny
		}
	}
	return allowed
}

func TestMostSpecificPolicyDecidesAndDenialWinsATie(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	pick := func(words ...string) string { return words[r.IntN(len(words))] }
	names := []string{"o", "or", "orders", "orders-eu", "pay"}
	allows, denies := 0, 0
	for range 20000 {
		var policies []Policy
		for id := range r.IntN(6) {
			p := Policy{ID: uint64(id + 1), Actions: Actions(1 + r.IntN(int(All))), Deny: r.IntN(2) == 0}
			p.Resource = Pattern{Type: Type(1 + r.IntN(5)), Match: Match(1 + r.IntN(3)), Namespace: pick("", "a", "*"), Name: pick(names...)}
			switch p.Resource.Type {
			case Any, Cluster:
				p.Resource.Match, p.Resource.Namespace = Whichever, ""
			case Namespace:
				p.Resource.Namespace, p.Resource.Name = "", pick("", "a")
			}
			if p.Resource.Match == Whichever {
				p.Resource.Name = ""
			}
			if r.IntN(4) == 0 {
				p.Sources = []netip.Prefix{netip.MustParsePrefix(pick("10.0.0.0/8", "192.168.0.0/16"))}
			}
			policies = append(policies, p)
		}
		o := Object{Type(2 + r.IntN(4)), record.Resource{Namespace: pick("", "a", "b"), Name: pick(names...)}}
		source, action := netip.MustParseAddr(pick("10.1.1.1", "192.168.0.7", "::1")), Actions(1)<<r.IntN(7)
		want := model(policies, o, action, source)
		p := newPrincipal(nil, User{Name: "u"}, append([]Policy(nil), policies...))
		got := p.Decide(o, action, source)
		if got.Allowed != want {
			t.Fatalf("%v %v from %v with %v: %v, want %v", action, o, source, policies, got, want)
		}
		if got.Policy == nil && got.Allowed {
			t.Fatal("allowed without a reason")
		}
		if got.Policy != nil { // whatever allows, a denial of the same thing wins over
			twin := *got.Policy
			twin.Deny, twin.ID = true, 99
			if d := newPrincipal(nil, User{}, append(policies, twin)).Decide(o, action, source); d.Allowed {
				t.Fatalf("%v beside its denial: %v", got, d)
			}
		}
		if want {
			allows++
		} else {
			denies++
		}
	}
	if allows < 1000 || denies < 1000 {
		t.Errorf("%d allowed, %d denied: the test tries too little", allows, denies)
	}
}

func TestSuperUserPassesAndTheReasonIsTold(t *testing.T) {
	o := Object{Topic, record.Resource{Namespace: "a", Name: "orders"}}
	super := newPrincipal(nil, User{Super: true}, []Policy{{ID: 1, Resource: Pattern{Type: Any, Match: Whichever}, Actions: All, Deny: true}})
	if d := super.Decide(o, Pub, netip.Addr{}); !d.Allowed || d.String() != "allowed: a super user" {
		t.Error(d)
	}
	if d := newPrincipal(nil, User{}, nil).Decide(o, Pub, netip.Addr{}); d.Allowed || d.String() != "denied: no policy matches" {
		t.Error(d)
	}
	p := newPrincipal(nil, User{}, []Policy{{ID: 7, Resource: Pattern{Topic, Prefix, "a", "ord"}, Actions: Pub | Get, Deny: true,
		Sources: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::/0")}}})
	if d := p.Decide(o, Pub, netip.MustParseAddr("::1")); d.String() != "denied by policy 7: deny pub,get on topic:a%ord* from 10.0.0.0/8,::/0" {
		t.Error(d)
	}
}

func TestAViewIsOverWhenSomethingChanges(t *testing.T) {
	key := testKey(t)
	tb := tableOf(t, key, AppendUserPut(nil, user(key, "shop", "s-secret-1")))
	p, over := tb.Lookup("shop"), tb.Changed()
	if tb.Still(p) != p {
		t.Fatal("not the same, and nothing changed")
	}
	put := func(u User) {
		t.Helper()
		if err := tb.Apply(record.KindUserPut, record.Command(AppendUserPut(nil, u))); err != nil {
			t.Fatal(err)
		}
	}
	put(user(key, "other", "o-secret-1"))
	select {
	case <-over:
	default:
		t.Fatal("nobody is told")
	}
	if tb.Still(p) != p {
		t.Error("another user's change is this one's")
	}
	off := user(key, "shop", "s-secret-1")
	off.Enabled = false
	for name, u := range map[string]User{"disabled": off, "another secret": user(key, "shop", "another-1")} {
		put(u)
		if tb.Still(p) != nil {
			t.Errorf("%s: still there", name)
		}
	}
	put(user(key, "shop", "s-secret-1"))
	if tb.Still(p) == nil {
		t.Error("the same secret again, and not the same user")
	}
}

func FuzzApply(f *testing.F) {
	key := testKey(f)
	f.Add(byte(record.KindUserPut), record.Command(AppendUserPut(nil, user(key, "shop", "s-secret-1"))))
	f.Add(byte(record.KindPolicyPut), record.Command(AppendPolicyPut(nil, Policy{ID: 1, User: "shop", Sources: []netip.Prefix{netip.MustParsePrefix("::/0")}})))
	f.Fuzz(func(t *testing.T, kind byte, data []byte) {
		tb := NewTable(key)
		tb.Apply(record.Kind(kind), data)
		tb.Lookup("shop")
		tb = NewTable(key)
		d := record.NewDecoder(data)
		if tb.Restore(d); d.Err() == nil {
			tb.AppendSnapshot(nil)
		}
	})
}
