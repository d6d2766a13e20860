package access

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// Signatures as clients write them; made with openssl, not with Sign.
func TestSignaturesOfEverySDK(t *testing.T) {
	key := testKey(t)
	tb := tableOf(t, key, AppendUserPut(nil, user(key, "shop", "s-secret-1")))
	const date = "20260501T120000Z"
	sum := strings.TrimPrefix(first(Sign("shop", "s-secret-1", noon)), "MQv2-HMAC-SHA1 Credential=shop, SignedHeaders=x-mq-date-time, Signature=")
	if sum != opensslSum {
		t.Fatalf("Sign makes %s, openssl %s", sum, opensslSum)
	}
	for _, header := range []string{
		"MQv2-HMAC-SHA1 Credential=shop, SignedHeaders=x-mq-date-time, Signature=" + sum,
		"MQv2-HMAC-SHA1 Credential=shop//Rocketmq, SignedHeaders=x-mq-date-time, Signature=" + sum,
		"MQv2-HMAC-SHA1 Credential=shop/region/RocketMQ, SignedHeaders=x-mq-date-time, Signature=" + strings.ToUpper(sum),
		"MQv2-HMAC-SHA1 Signature=" + sum + ",Credential=shop",
	} {
		s, err := ParseSignature(header, date)
		if err != nil {
			t.Fatal(header, err)
		}
		if p, err := tb.Verify(&s, Clock{Skew: 5 * time.Minute}, noon); err != nil || p.Name() != "shop" {
			t.Error(header, err)
		}
	}
	for _, c := range []struct {
		header, date string
		want         error
	}{
		{"", date, ErrNoSignature},
		{"MQv2-HMAC-SHA1 Credential=, SignedHeaders=x-mq-date-time, Signature=" + sum, date, ErrNoSignature},
		{"Basic c2hvcDpz", date, ErrMalformed},
		{"MQv2-HMAC-SHA1", date, ErrNoSignature},
		{"MQv2-HMAC-SHA1 Credential=shop, Signature=" + sum, "", ErrMalformed},
		{"MQv2-HMAC-SHA1 Credential=shop, Signature=" + sum, strings.Repeat("1", 65), ErrMalformed},
		{"MQv2-HMAC-SHA1 Credential=shop, Signature=" + sum[1:], date, ErrMalformed},
		{"MQv2-HMAC-SHA1 Credential=shop, Signature=" + strings.Replace(sum, sum[:1], "g", 1), date, ErrMalformed},
		{"MQv2-HMAC-SHA1 Credential=shop", date, ErrMalformed},
		{"MQv2-HMAC-SHA1 Credential=nobody, Signature=" + sum, date, ErrUnknownUser},
		{"MQv2-HMAC-SHA1 Credential=shop, Signature=" + sum, "20260501T120001Z", ErrBadSignature},
		{"MQv2-HMAC-SHA1 Credential=shop, Signature=" + strings.Repeat("0", 40), date, ErrBadSignature},
	} {
		s, err := ParseSignature(c.header, c.date)
		if err == nil {
			_, err = tb.Verify(&s, Clock{Skew: 5 * time.Minute}, noon)
		}
		if !errors.Is(err, c.want) {
			t.Errorf("%q, %q: %v, want %v", c.header, c.date, err, c.want)
		}
	}
	off := user(key, "shop", "s-secret-1")
	off.Enabled = false
	if err := tb.Apply(record.KindUserPut, record.Command(AppendUserPut(nil, off))); err != nil {
		t.Fatal(err)
	}
	s, _ := ParseSignature(Sign("shop", "s-secret-1", noon))
	if _, err := tb.Verify(&s, Clock{}, noon); !errors.Is(err, ErrDisabled) || Guessed(err) {
		t.Error(err)
	}
	if _, err := tb.VerifySecret("shop", "not-the-secret"); !Guessed(err) {
		t.Error("who guesses is told that the user is disabled:", err)
	}
}

func first(a, _ string) string { return a }

// echo -n 20260501T120000Z | openssl dgst -sha1 -hmac s-secret-1
const opensslSum = "18d6d2ff355c6e9aad44cae34b66a03968b1e1ea"

func TestDatesTooFarOffAreRefused(t *testing.T) {
	local := func(d time.Duration) string { return noon.Add(d).Format(dateForm) }
	five, utc := Clock{Skew: 5 * time.Minute}, Clock{Skew: 5 * time.Minute, UTC: true}
	for _, c := range []struct {
		clock Clock
		date  string
		want  bool
	}{
		{five, local(0), true}, {five, local(4 * time.Minute), true}, {five, local(-5 * time.Minute), true},
		{five, local(6 * time.Minute), false}, {five, local(-7 * time.Minute), false},
		{five, local(8 * time.Hour), true}, {five, local(5*time.Hour + 45*time.Minute + 2*time.Minute), true}, // China, Nepal
		{five, local(-3*time.Hour - 30*time.Minute), true}, {five, local(8*time.Hour + 7*time.Minute), false},
		{five, local(15 * time.Hour), false}, {five, local(-13 * time.Hour), false}, {five, local(-24 * time.Hour), false},
		{utc, local(time.Minute), true}, {utc, local(8 * time.Hour), false},
		{five, "2026-05-01T20:00:00+08:00", true}, {five, "2026-05-01T20:00:00Z", false}, {five, "yesterday", false},
		{Clock{}, "yesterday", true},
	} {
		if got := c.clock.fresh(c.date, noon); got != c.want {
			t.Errorf("%+v %s: %v", c.clock, c.date, got)
		}
	}
}

func TestASourceThatFailsTooOftenIsLockedOut(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	var l Lockout
	if l.Locked(a, "shop", noon) {
		t.Error("locked from the start")
	}
	for i := range lockAfter {
		if locks := l.Failed(a, "shop", noon); locks != (i == lockAfter-1) {
			t.Errorf("failure %d locks: %v", i+1, locks)
		}
	}
	switch {
	case !l.Locked(a, "shop", noon.Add(lockFor-1)):
		t.Error("not locked")
	case l.Locked(a, "other", noon) || l.Locked(b, "shop", noon):
		t.Error("somebody else is locked out too")
	case l.Locked(a, "shop", noon.Add(lockFor)):
		t.Error("locked for ever")
	}
	for i := range lockAllAfter { // one user after the other
		l.Failed(b, string(rune('a'+i)), noon)
	}
	if !l.Locked(b, "new", noon) {
		t.Error("trying many users is not noticed")
	}
	for i := range lockAfter { // so slow that none counts
		l.Failed(a, "slow", noon.Add(time.Duration(i)*2*lockWithin))
	}
	if l.Locked(a, "slow", noon.Add(lockAfter*2*lockWithin)) {
		t.Error("failures long ago count")
	}
	v6, same, other := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::ffff"), netip.MustParseAddr("2001:db8:0:1::1")
	for range lockAfter {
		l.Failed(v6, "shop", noon)
	}
	if !l.Locked(same, "shop", noon) || l.Locked(other, "shop", noon) {
		t.Error("of IPv6, the /64 counts")
	}
	for i := range 3 * maxLockEntries {
		l.Failed(netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}), "shop", noon)
	}
	if len(l.entries) > maxLockEntries {
		t.Errorf("%d entries", len(l.entries))
	}
}

// check is what a call pays.
func check(t testing.TB, tb *Table, authorization, date string, o Object) {
	s, err := ParseSignature(authorization, date)
	if err != nil {
		t.Fatal(err)
	}
	p, err := tb.Verify(&s, Clock{Skew: 5 * time.Minute}, noon)
	if err != nil {
		t.Fatal(err)
	}
	if d := p.Decide(o, Pub, netip.Addr{}); !d.Allowed {
		t.Fatal(d)
	}
}

// busy is a user with 16 policies, of which the last matches.
func busy(t testing.TB) *Table {
	key := testKey(t)
	records := [][]byte{AppendUserPut(nil, user(key, "shop", "s-secret-1"))}
	for i := range 15 {
		records = append(records, AppendPolicyPut(nil, Policy{ID: uint64(i + 1), User: "shop", Resource: Pattern{Topic, Literal, "", "topic-" + string(rune('a'+i))}, Actions: All}))
	}
	return tableOf(t, key, append(records, AppendPolicyPut(nil, Policy{ID: 16, User: "shop", Resource: Pattern{Topic, Prefix, "", "orders"}, Actions: Pub}))...)
}

func BenchmarkCheck(b *testing.B) {
	tb := busy(b)
	authorization, date := Sign("shop", "s-secret-1", noon)
	o := Object{Topic, record.Resource{Name: "orders-eu"}}
	b.ReportAllocs()
	for b.Loop() {
		check(b, tb, authorization, date, o)
	}
}

func FuzzSignature(f *testing.F) {
	authorization, date := Sign("shop", "s-secret-1", noon)
	f.Add(authorization, date)
	f.Add("MQv2-HMAC-SHA1 Credential=,Signature=", "20260501T120000Z")
	key := testKey(f)
	tb := tableOf(f, key, AppendUserPut(nil, user(key, "shop", "s-secret-1")))
	f.Fuzz(func(t *testing.T, authorization, date string) {
		s, err := ParseSignature(authorization, date)
		if err != nil {
			return
		}
		if _, err := tb.Verify(&s, Clock{Skew: 5 * time.Minute}, noon); err == nil {
			if want, _ := Sign("shop", "s-secret-1", noon); !strings.Contains(strings.ToLower(authorization), want[len(want)-40:]) {
				t.Fatalf("%q, %q is taken for a signature", authorization, date)
			}
		}
	})
}
