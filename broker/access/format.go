package access

import (
	"encoding/binary"
	"net/netip"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// A user, in user-put records and in snapshots:
//
//	name string | flags 1 (1 super, 2 enabled) | sealed secret string
//	| created varint (Unix ms) | changed varint (Unix ms)
//
// A policy, in policy-put records and in snapshots:
//
//	id uvarint | user string | type 1 | match 1 | namespace string | name string
//	| actions uvarint | flags 1 (1 deny) | created varint (Unix ms)
//	| sources: count uvarint, each  address string (4 or 16 bytes) | bits 1
//
// A user-delete record is the name string, and takes the user's policies along; a
// policy-delete record is the id uvarint. A user-put or policy-put replaces what has
// its name or id.
//
// Snapshot: next policy id uvarint | users: count, by name | policies: count, by id.
const (
	flagSuper   = 1
	flagEnabled = 2

	flagDeny = 1

	minUserLen   = 5
	minPolicyLen = 9
	minSourceLen = 6
)

func appendUser(dst []byte, u *User) []byte {
	dst = record.AppendString(dst, u.Name)
	flags := byte(0)
	if u.Super {
		flags |= flagSuper
	}
	if u.Enabled {
		flags |= flagEnabled
	}
	dst = record.AppendBytes(append(dst, flags), u.Sealed)
	return binary.AppendVarint(binary.AppendVarint(dst, u.Created), u.Changed)
}

func readUser(d *record.Decoder) User {
	u := User{Name: d.String()}
	flags := d.Byte()
	u.Super, u.Enabled = flags&flagSuper != 0, flags&flagEnabled != 0
	u.Sealed = append([]byte(nil), d.Bytes()...)
	u.Created, u.Changed = d.Varint(), d.Varint()
	return u
}

func appendPolicy(dst []byte, p *Policy) []byte {
	dst = record.AppendString(binary.AppendUvarint(dst, p.ID), p.User)
	dst = append(dst, byte(p.Resource.Type), byte(p.Resource.Match))
	dst = record.AppendString(record.AppendString(dst, p.Resource.Namespace), p.Resource.Name)
	dst = binary.AppendUvarint(dst, uint64(p.Actions))
	flags := byte(0)
	if p.Deny {
		flags |= flagDeny
	}
	dst = binary.AppendVarint(append(dst, flags), p.Created)
	dst = binary.AppendUvarint(dst, uint64(len(p.Sources)))
	for _, s := range p.Sources {
		dst = append(record.AppendBytes(dst, s.Addr().AsSlice()), byte(s.Bits()))
	}
	return dst
}

func readPolicy(d *record.Decoder) Policy {
	p := Policy{ID: d.Uvarint(), User: d.String()}
	p.Resource.Type, p.Resource.Match = Type(d.Byte()), Match(d.Byte())
	p.Resource.Namespace, p.Resource.Name = d.String(), d.String()
	p.Actions = Actions(d.Uint32())
	p.Deny = d.Byte()&flagDeny != 0
	p.Created = d.Varint()
	for n := d.Count(minSourceLen); n > 0 && !d.Failed(); n-- {
		addr, _ := netip.AddrFromSlice(d.Bytes())
		p.Sources = append(p.Sources, netip.PrefixFrom(addr, int(d.Byte())))
	}
	return p
}

// AppendUserPut encodes the record that makes u, or replaces the user of its name.
func AppendUserPut(dst []byte, u User) []byte {
	dst, start := record.BeginCommand(dst, record.KindUserPut)
	return record.EndCommand(appendUser(dst, &u), start)
}

// AppendUserDelete encodes the record that deletes a user with all its policies.
func AppendUserDelete(dst []byte, name string) []byte {
	dst, start := record.BeginCommand(dst, record.KindUserDelete)
	return record.EndCommand(record.AppendString(dst, name), start)
}

// AppendPolicyPut encodes the record that makes p, or replaces the policy of its id.
func AppendPolicyPut(dst []byte, p Policy) []byte {
	dst, start := record.BeginCommand(dst, record.KindPolicyPut)
	return record.EndCommand(appendPolicy(dst, &p), start)
}

// AppendPolicyDelete encodes the record that deletes a policy.
func AppendPolicyDelete(dst []byte, id uint64) []byte {
	dst, start := record.BeginCommand(dst, record.KindPolicyDelete)
	return record.EndCommand(binary.AppendUvarint(dst, id), start)
}
