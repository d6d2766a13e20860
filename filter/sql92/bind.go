package sql92

import (
	"strconv"
	"sync"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// none is a slot that is not used.
const none = -1

// systemNames are the names under which the parts of a message that are stored
// as system fields appear in expressions. A user property of such a name is not
// visible.
var systemNames = map[string]record.Field{
	"TAGS":          record.FieldTag,
	"UNIQ_KEY":      record.FieldMessageID,
	"__SHARDINGKEY": record.FieldGroup,
	"__BORNHOST":    record.FieldBornHost,
}

// names are the distinct property names of an expression, each with the slot its
// value is put in.
type names struct {
	count int // slots
	once  int // slots filled by exactly one field of the section

	user    []userName
	lengths uint64                           // bit n%64 is set when a user name has n bytes
	fields  [record.FieldRecoverySec + 1]int // slot by system field
	keys    int                              // slot of KEYS: all keys, joined by a space
	born    int                              // slot of BORN_TIMESTAMP, Unix ms
	due     int                              // slot of TIMER_DELIVER_MS, Unix ms, missing unless delayed
}

type userName struct {
	name string
	slot int
}

// slot returns the slot of a name, a new one if it is new.
func (n *names) slot(name string) int {
	slot := &n.keys
	switch field, system := systemNames[name]; {
	case name == "KEYS":
	case name == "BORN_TIMESTAMP":
		slot = &n.born
	case name == "TIMER_DELIVER_MS":
		slot = &n.due
	case system:
		if slot = &n.fields[field]; *slot == none {
			n.once++
		}
	default:
		for _, u := range n.user {
			if u.name == name {
				return u.slot
			}
		}
		n.user = append(n.user, userName{name: name, slot: none})
		n.lengths |= 1 << (len(name) % 64)
		n.once++
		slot = &n.user[len(n.user)-1].slot
	}
	if *slot == none {
		*slot = n.count
		n.count++
	}
	return *slot
}

// scratch holds values that are not bytes of the record.
type scratch struct {
	keys      []byte
	born, due [20]byte
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// bind fills the slots with the message's values; nil is missing. s may be nil
// when no value needs it.
func (n *names) bind(m *record.Message, values [][]byte, s *scratch) bool {
	if n.born != none {
		values[n.born] = strconv.AppendInt(s.born[:0], m.BornTime, 10)
	}
	if n.due != none && m.DueTime != 0 {
		values[n.due] = strconv.AppendInt(s.due[:0], m.DueTime, 10)
	}
	left := n.once
	if n.keys != none {
		left++ // never found: there may always be another key
		s.keys = s.keys[:0]
	}
	if left == 0 {
		return true
	}
	return m.Properties.Each(func(field record.Field, key, value []byte) bool {
		switch {
		case field == record.FieldUser:
			if n.lengths&(1<<(len(key)%64)) == 0 {
				return true
			}
			for i := range n.user {
				if u := &n.user[i]; u.name == string(key) {
					if values[u.slot] == nil {
						values[u.slot] = value
						left--
					}
					break
				}
			}
		case field == record.FieldKey:
			if n.keys == none {
				return true
			}
			if first := values[n.keys]; first == nil {
				values[n.keys] = value
			} else {
				if len(s.keys) == 0 {
					s.keys = append(s.keys, first...)
				}
				s.keys = append(append(s.keys, ' '), value...)
				values[n.keys] = s.keys
			}
		case int(field) < len(n.fields):
			if slot := n.fields[field]; slot != none && values[slot] == nil {
				values[slot] = value
				left--
			}
		}
		return left > 0
	}) == nil
}
