package access

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"
	"sync"
	"time"
)

// Official clients send with each call (wire-contract 1.3)
//
//	x-mq-date-time: 20240501T120000Z
//	authorization:  MQv2-HMAC-SHA1 Credential=USER[/...], SignedHeaders=x-mq-date-time, Signature=HEX
//
// The signature is HMAC-SHA1 of the date's text under the user's secret. It covers
// nothing else, so whoever sees one may call until it is too old: TLS is what keeps it
// from being seen.
//
// Most clients write their local time with a Z behind it, as if it were UTC. So the
// date may be off by a time zone's difference, a multiple of 15 minutes from -12 h to
// +14 h, besides the skew, unless all clients are known to sign UTC.
const (
	scheme      = "MQv2-HMAC-SHA1"
	dateForm    = "20060102T150405Z"
	maxDateLen  = 64
	zoneStep    = 15 * time.Minute
	zoneWest    = -12 * time.Hour
	zoneEast    = 14 * time.Hour
	MaxZoneSkew = zoneStep / 2 // a larger skew would leave no time out
)

// Signature is what a call brings along. Its strings are the header's.
type Signature struct {
	User string
	Date string
	mac  [sha1.Size]byte
}

// Why a call is not authenticated. Clients are told that it is not, and not why.
var (
	ErrNoSignature  = errors.New("no signature")
	ErrMalformed    = errors.New("the signature is malformed")
	ErrUnknownUser  = errors.New("the user is unknown")
	ErrDisabled     = errors.New("the user is disabled")
	ErrBadSignature = errors.New("the signature does not match")
	ErrStale        = errors.New("the signature is too old, or the clocks differ")
)

// ParseSignature reads the two headers.
func ParseSignature(authorization, date string) (s Signature, err error) {
	if authorization == "" {
		return s, ErrNoSignature
	}
	kind, rest, _ := strings.Cut(authorization, " ")
	if kind != scheme || date == "" || len(date) > maxDateLen {
		return s, ErrMalformed
	}
	s.Date = date
	signed := false
	for more := true; more; {
		var item string
		item, rest, more = strings.Cut(rest, ",")
		key, value, _ := strings.Cut(strings.TrimSpace(item), "=")
		switch key {
		case "Credential":
			s.User, _, _ = strings.Cut(value, "/")
		case "Signature":
			if !unhex(s.mac[:], value) {
				return s, ErrMalformed
			}
			signed = true
		}
	}
	switch {
	case s.User == "":
		return s, ErrNoSignature // Python signs with nothing when it has no credentials
	case !signed:
		return s, ErrMalformed
	}
	return s, nil
}

// unhex reads digits of either case. encoding/hex would want bytes, and a copy.
func unhex(dst []byte, s string) bool {
	if len(s) != 2*len(dst) {
		return false
	}
	for i := range dst {
		hi, lo := digit(s[2*i]), digit(s[2*i+1])
		if hi > 15 || lo > 15 {
			return false
		}
		dst[i] = hi<<4 | lo
	}
	return true
}

func digit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10
	}
	return 255
}

// Sign returns the two headers of a call.
func Sign(user, secret string, now time.Time) (authorization, date string) {
	date = now.UTC().Format(dateForm)
	mac := hmac.New(sha1.New, []byte(secret))
	mac.Write([]byte(date))
	return fmt.Sprintf("%s Credential=%s, SignedHeaders=x-mq-date-time, Signature=%x", scheme, user, mac.Sum(nil)), date
}

// Principal is a user as calls see it: it does not change.
type Principal struct {
	user     User
	policies []Policy // the first that matches decides
	usable   bool     // its secret could be opened
	digest   [sha256.Size]byte
	signers  sync.Pool
}

// signer is the memory of one verification.
type signer struct {
	mac hash.Hash
	in  [maxDateLen]byte
	sum [sha1.Size]byte
}

func newPrincipal(key *MasterKey, u User, policies []Policy) *Principal {
	p := &Principal{user: u, policies: policies}
	slices.SortFunc(p.policies, order)
	secret := rand.Text()
	if key != nil {
		if opened, err := key.Open(u.Name, u.Sealed); err == nil {
			secret, p.usable = opened, true
		}
	}
	p.digest = sha256.Sum256([]byte(secret))
	p.signers.New = func() any { return &signer{mac: hmac.New(sha1.New, []byte(secret))} }
	return p
}

// nobody stands in for users that there are not, so that it takes as long to refuse
// them.
var nobody = newPrincipal(nil, User{}, nil)

// Name of the user.
func (p *Principal) Name() string { return p.user.Name }

// Super reports whether no policy is asked.
func (p *Principal) Super() bool { return p.user.Super }

// signed reports whether s is this user's signature.
func (p *Principal) signed(s *Signature) bool {
	w := p.signers.Get().(*signer)
	w.mac.Reset()
	w.mac.Write(w.in[:copy(w.in[:], s.Date)])
	same := hmac.Equal(w.mac.Sum(w.sum[:0]), s.mac[:])
	p.signers.Put(w)
	return same
}

// Clock says which dates are good.
type Clock struct {
	Skew time.Duration // 0: any date is
	UTC  bool          // clients sign UTC
}

func (c Clock) fresh(date string, now time.Time) bool {
	if c.Skew == 0 {
		return true
	}
	zones := !c.UTC
	at, err := time.Parse(dateForm, date)
	if err != nil {
		zones = false // Rust says which zone
		if at, err = time.Parse(time.RFC3339, date); err != nil {
			return false
		}
	}
	off := at.Sub(now)
	if off.Abs() <= c.Skew {
		return true
	}
	return zones && off >= zoneWest-c.Skew && off <= zoneEast+c.Skew && (off-off.Round(zoneStep)).Abs() <= c.Skew
}

// Verify returns who signed. It takes as long for a user that there is not.
func (t *Table) Verify(s *Signature, c Clock, now time.Time) (*Principal, error) {
	p, known := t.lookup(s.User)
	if err := p.refuse(known, p.signed(s)); err != nil {
		return nil, err
	}
	if !c.fresh(s.Date, now) {
		return nil, ErrStale
	}
	return p, nil
}

// VerifySecret returns the user whose secret is given itself, as by HTTP.
func (t *Table) VerifySecret(user, secret string) (*Principal, error) {
	p, known := t.lookup(user)
	sum := sha256.Sum256([]byte(secret))
	if err := p.refuse(known, subtle.ConstantTimeCompare(sum[:], p.digest[:]) == 1); err != nil {
		return nil, err
	}
	return p, nil
}

// VerifyCertified returns the user whom a certificate names that was verified.
func (t *Table) VerifyCertified(user string) (*Principal, error) {
	p, known := t.lookup(user)
	if err := p.refuse(known, true); err != nil {
		return nil, err
	}
	return p, nil
}

// lookup returns nobody for a user that there is not.
func (t *Table) lookup(name string) (p *Principal, known bool) {
	if p = t.Lookup(name); p == nil {
		return nobody, false
	}
	return p, true
}

// refuse says why a user may not call that has, or has not, proved that it knows the
// secret. Only who knows it is told apart from who guesses: Guessed.
func (p *Principal) refuse(known, proved bool) error {
	switch {
	case !known:
		return ErrUnknownUser
	case !p.usable:
		return ErrOtherKey
	case !proved:
		return ErrBadSignature
	case !p.user.Enabled:
		return ErrDisabled
	}
	return nil
}

// Guessed reports whether a call that was refused for err may have been a guess, and
// counts as one.
func Guessed(err error) bool {
	return errors.Is(err, ErrUnknownUser) || errors.Is(err, ErrBadSignature) || errors.Is(err, ErrMalformed)
}

// Still returns the user as it is now, nil when it may not call any more: it is gone
// or disabled, or has another secret.
func (t *Table) Still(p *Principal) *Principal {
	now := t.Lookup(p.user.Name)
	if now == nil || !now.usable || !now.user.Enabled || now.digest != p.digest {
		return nil
	}
	return now
}
