// Package access says who may do what: users, their secrets and policies, as in
// RocketMQ's ACL 2.0. It is a pure state machine over records, and the check of
// what a call brings along. It has no goroutines and does no I/O.
//
// # Decision
//
// A super user may do everything. Of another's policies those count that match the
// resource, the action and the address the call comes from. The most specific one
// decides; of equally specific ones a denial does; without any the answer is no.
// More specific is, in this order:
//
//	a policy for topics, groups or the cluster   than one for a namespace   than one for anything
//	a literal name                               than a prefix              than any name
//	a longer prefix                              than a shorter one
//	one namespace                                than all of them
//
// # Secrets
//
// The clients' signature is an HMAC under the secret, so the secret itself has to be
// known. In records and snapshots it is sealed: see seal.go.
//
// # Concurrency
//
// Apply, Restore and AppendSnapshot are called by the dispatcher. Everything else may
// be called concurrently with them; looking a user up takes no lock.
package access

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// User is somebody who may call. Values handed out are copies.
type User struct {
	Name    string
	Super   bool // no policy is asked
	Enabled bool
	Sealed  []byte // the secret
	Created int64  // Unix ms
	Changed int64  // Unix ms, when the secret was set
}

// Policy allows or denies a user something.
type Policy struct {
	ID       uint64
	User     string
	Resource Pattern
	Actions  Actions
	Sources  []netip.Prefix // where the call comes from; none: anywhere
	Deny     bool
	Created  int64 // Unix ms
}

// Type of a resource. The numbers are part of the disk format and of gantry.v1.
type Type uint8

const (
	Any       Type = 1 // of policies only
	Topic     Type = 2
	Group     Type = 3
	Cluster   Type = 4 // the broker as a whole
	Namespace Type = 5 // of a policy: also all topics and groups in it
)

var typeNames = map[Type]string{Any: "any", Topic: "topic", Group: "group", Cluster: "cluster", Namespace: "namespace"}

func (t Type) String() string { return typeNames[t] }

// Match says how a pattern's name is meant. The numbers are part of the disk format
// and of gantry.v1.
type Match uint8

const (
	Literal   Match = 1
	Prefix    Match = 2
	Whichever Match = 3 // any name
)

// AllNamespaces, as the namespace of a pattern, is each of them. It cannot be a
// namespace's name.
const AllNamespaces = "*"

// Pattern is what a policy is about.
type Pattern struct {
	Type      Type
	Match     Match  // of Any and Cluster: Whichever
	Namespace string // of topics and groups
	Name      string // with Whichever: ""
}

// Object is what a call is about. Of a Namespace, Namespace is its name.
type Object struct {
	Type Type
	record.Resource
}

func (p *Pattern) matches(o Object) bool {
	switch p.Type {
	case Any:
		return true
	case Namespace:
		return o.Type != Cluster && p.fits(o.Namespace)
	case o.Type:
		return p.Type == Cluster || (p.Namespace == o.Namespace || p.Namespace == AllNamespaces) && p.fits(o.Name)
	}
	return false
}

func (p *Pattern) fits(name string) bool {
	switch p.Match {
	case Literal:
		return p.Name == name
	case Prefix:
		return strings.HasPrefix(name, p.Name)
	}
	return true
}

// String is the pattern as the command line shows it: topic:a%orders-*.
func (p Pattern) String() string {
	name := p.Name
	if p.Match != Literal {
		name += "*"
	}
	switch {
	case p.Type == Any || p.Type == Cluster:
		return p.Type.String()
	case p.Type != Namespace:
		name = record.Resource{Namespace: p.Namespace, Name: name}.Label()
	case name == "":
		name = "(default)"
	}
	return p.Type.String() + ":" + name
}

// String is the object as a refusal names it. Nobody has looked at the name: it may be
// anything, of any length.
func (o Object) String() string {
	name := o.Resource.String()
	switch o.Type {
	case Cluster:
		return "the cluster"
	case Namespace:
		name = o.Namespace
	}
	if len(name) > maxShown {
		name = name[:maxShown] + "..."
	}
	return fmt.Sprintf("%v %q", o.Type, name)
}

// maxShown is longer than any name that there can be, with its namespace.
const maxShown = 260

// Actions is a set of them. The bits are part of the disk format.
type Actions uint16

const (
	Pub Actions = 1 << iota
	Sub
	Create
	Update
	Delete
	Get
	List

	All Actions = 1<<iota - 1
)

var actionNames = []string{"pub", "sub", "create", "update", "delete", "get", "list"}

func (a Actions) String() string { return strings.Join(a.Names(), ",") }

// Names lists the actions as ParseActions reads them.
func (a Actions) Names() (names []string) {
	if a == All {
		return []string{"all"}
	}
	for i, n := range actionNames {
		if a&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	return names
}

// ParseActions reads the names of actions.
func ParseActions(words ...string) (Actions, error) {
	var a Actions
	for _, w := range words {
		w = strings.ToLower(w)
		i := slices.Index(actionNames, w)
		switch {
		case w == "all":
			a |= All
		case i >= 0:
			a |= 1 << i
		default:
			return 0, fmt.Errorf("access: the action %q is none of all, %s", w, strings.Join(actionNames, ", "))
		}
	}
	return a, nil
}

// CheckUserName refuses what cannot be a user's name: it stands in a header whose
// parts end with '/' and ','.
func CheckUserName(name string) error {
	ok := name != "" && len(name) <= MaxUserName
	for _, c := range []byte(name) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_-.@", c) >= 0)
	}
	if !ok {
		return fmt.Errorf("access: a user's name has 1 to %d characters of [a-zA-Z0-9_.@-]", MaxUserName)
	}
	return nil
}

// CheckSecret refuses a secret that is too short or cannot be typed.
func CheckSecret(secret string) error {
	if len(secret) < MinSecret || len(secret) > MaxSecret || strings.IndexFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' }) >= 0 {
		return fmt.Errorf("access: a secret has %d to %d printable ASCII characters without spaces", MinSecret, MaxSecret)
	}
	return nil
}

// Limits.
const (
	MaxUserName = 64
	MinSecret   = 8
	MaxSecret   = 128
	MaxSources  = 64
)
