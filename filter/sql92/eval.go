package sql92

import (
	"bytes"
	"cmp"
	"math"
	"slices"
)

// program is a compiled expression: nodes refer to each other, to constants and
// to sets by index.
type program struct {
	nodes     []node
	children  []int32 // of AND and OR
	constants []value
	sets      []set
	root      int32
}

type node struct {
	op     op
	not    bool  // negates the result; unknown stays unknown
	accept signs // of opOrder and opOrderNumber
	l, r   int32
}

// signs is a set of results of a comparison: less, equal, greater.
type signs uint8

const (
	less signs = 1 << iota
	same
	greater
)

// has reports whether c, which is negative, 0 or positive, is in the set.
func (s signs) has(c int) bool {
	switch {
	case c < 0:
		return s&less != 0
	case c > 0:
		return s&greater != 0
	}
	return s&same != 0
}

// mirrored returns the set for exchanged sides.
func (s signs) mirrored() signs { return s&same | s&less<<2 | s&greater>>2 }

type op uint8

const (
	opProperty op = iota // slot l
	opConstant           // constant l
	opNegate             // of node l, which is no number, or it had been folded: null

	opCast // of slot l
	opNot  // node l
	opAnd  // children l up to r
	opOr   //
	opIsNull
	opEqual       // nodes l and r
	opOrder       // nodes l and r
	opOrderNumber // slot l, constant r, a number: the usual case of both above
	opIn          // slot l, set r
	opContains    // node l, constant r
	opStartsWith
	opEndsWith

	firstCondition = opCast
)

type truth uint8

const (
	isFalse truth = iota
	isTrue
	unknown
	failed // a comparison that cannot be made: nothing above it matters
)

func truthOf(b bool) truth {
	if b {
		return isTrue
	}
	return isFalse
}

// negated returns NOT t if not.
func (t truth) negated(not bool) truth {
	if not && t <= isTrue {
		return t ^ 1
	}
	return t
}

type kind uint8

const (
	kindNull kind = iota
	kindFailed
	kindBool
	kindInt32
	kindInt64
	kindDouble
	kindText
)

// value is what an operand yields.
type value struct {
	kind kind
	bits int64 // the integer, the double's bits, 0 or 1
	text []byte
}

func (v value) double() float64 { return math.Float64frombits(uint64(v.bits)) }

func double(f float64) value { return value{kind: kindDouble, bits: int64(math.Float64bits(f))} }

func boolean(b bool) value { return value{kind: kindBool, bits: int64(truthOf(b))} }

// integer returns the narrowest integer.
func integer(n int64) value {
	if n == int64(int32(n)) {
		return value{kind: kindInt32, bits: n}
	}
	return value{kind: kindInt64, bits: n}
}

// truth evaluates a condition. values are by slot, nil is missing.
func (p *program) truth(i int32, values [][]byte) truth {
	n := &p.nodes[i]
	switch n.op {
	case opAnd, opOr:
		// AND ends at the first FALSE, OR at the first TRUE; failure ends both.
		end := truthOf(n.op == opOr)
		result := end ^ 1
		for _, child := range p.children[n.l:n.r] {
			switch t := p.truth(child, values); t {
			case end, failed:
				return t
			case unknown:
				result = unknown
			}
		}
		return result
	case opNot:
		return p.truth(n.l, values).negated(true)
	case opEqual:
		l := p.operand(n.l, values)
		if l.kind == kindFailed {
			return failed
		}
		return equal(l, p.operand(n.r, values)).negated(n.not)
	case opOrderNumber:
		if text := values[n.l]; text != nil {
			return orderNumber(text, &p.constants[n.r], n.accept)
		}
		return unknown
	case opOrder:
		return p.ordered(n, values)
	case opIsNull:
		v := p.operand(n.l, values)
		if v.kind == kindFailed {
			return failed
		}
		return truthOf((v.kind == kindNull) != n.not)
	case opIn:
		v := values[n.l]
		if v == nil {
			return unknown
		}
		return truthOf(p.sets[n.r].has(v) != n.not)
	case opContains, opStartsWith, opEndsWith:
		return p.searched(n, values)
	case opCast:
		if values[n.l] == nil {
			return unknown
		}
		return isFalse // a string is not TRUE
	default: // opConstant; what yields no truth is no condition
		if v := &p.constants[n.l]; v.kind == kindBool {
			return truth(v.bits)
		}
		return unknown
	}
}

// operand evaluates any node.
func (p *program) operand(i int32, values [][]byte) value {
	switch n := &p.nodes[i]; n.op {
	case opProperty:
		if text := values[n.l]; text != nil {
			return value{kind: kindText, text: text}
		}
		return value{}
	case opConstant:
		return p.constants[n.l]
	case opNegate:
		if v := p.operand(n.l, values); v.kind == kindFailed {
			return v
		}
		return value{}
	}
	switch t := p.truth(i, values); t {
	case unknown:
		return value{}
	case failed:
		return value{kind: kindFailed}
	default:
		return boolean(t == isTrue)
	}
}

// ordered evaluates < <= > >=. Neither side is a condition, see parser.order.
func (p *program) ordered(n *node, values [][]byte) truth {
	l := p.operand(n.l, values)
	switch l.kind {
	case kindFailed:
		return failed
	case kindNull:
		return unknown
	}
	r := p.operand(n.r, values)
	switch r.kind {
	case kindFailed:
		return failed
	case kindNull:
		return unknown
	}
	if l.kind == kindText && r.kind == kindText {
		r = r.as(kindDouble)
	}
	c, ok := compareNumbers(l, r)
	if !ok {
		return failed
	}
	return truthOf(n.accept.has(c))
}

// orderNumber compares a string with a number.
func orderNumber(text []byte, number *value, accept signs) truth {
	if number.kind == kindDouble {
		f, ok := parseDouble(text)
		if !ok {
			return failed
		}
		return truthOf(accept.has(compareDoubles(f, number.double())))
	}
	n, ok := parseInt(text)
	if !ok || number.kind == kindInt32 && n != int64(int32(n)) {
		return failed
	}
	return truthOf(accept.has(cmp.Compare(n, number.bits)))
}

// equal compares values that may be of different kinds. Missing on the left is
// unknown, but missing on the right alone is not equal.
func equal(l, r value) truth {
	switch {
	case r.kind == kindFailed:
		return failed
	case l.kind == kindNull && r.kind == kindNull:
		return isTrue
	case l.kind == kindNull:
		return unknown
	case r.kind == kindNull:
		return isFalse
	case l.kind == kindText && r.kind == kindText:
		return truthOf(bytes.Equal(l.text, r.text))
	case l.kind == kindBool && r.kind == kindText:
		return failed
	case l.kind == kindText && r.kind == kindBool:
		l = boolean(len(l.text) == 4 && bytes.EqualFold(l.text, []byte("true")))
		fallthrough
	case l.kind == kindBool && r.kind == kindBool:
		return truthOf(l.bits == r.bits)
	case l.kind == kindBool, r.kind == kindBool:
		return isFalse
	}
	c, ok := compareNumbers(l, r)
	if !ok {
		return failed
	}
	return truthOf(c == 0)
}

// compareNumbers compares two numbers, or a number and a string that is read as
// a number of the other's kind; ok is false when it is none.
func compareNumbers(l, r value) (c int, ok bool) {
	if l.kind == kindText {
		l = l.as(r.kind)
	} else if r.kind == kindText {
		r = r.as(l.kind)
	}
	switch {
	case l.kind == kindFailed || r.kind == kindFailed:
		return 0, false
	case l.kind != kindDouble && r.kind != kindDouble:
		return cmp.Compare(l.bits, r.bits), true
	}
	return compareDoubles(l.promoted(), r.promoted()), true
}

// as reads a string as a number of the kind.
func (v value) as(k kind) value {
	if k == kindDouble {
		if f, ok := parseDouble(v.text); ok {
			return double(f)
		}
	} else if n, ok := parseInt(v.text); ok && (k == kindInt64 || n == int64(int32(n))) {
		return value{kind: k, bits: n}
	}
	return value{kind: kindFailed}
}

// promoted returns a number as a double.
func (v value) promoted() float64 {
	if v.kind == kindDouble {
		return v.double()
	}
	return float64(v.bits)
}

// searched evaluates CONTAINS, STARTSWITH and ENDSWITH. What cannot be searched is
// FALSE under NOT too.
func (p *program) searched(n *node, values [][]byte) truth {
	v, search := p.operand(n.l, values), p.constants[n.r].text
	if v.kind == kindFailed {
		return failed
	}
	if v.kind != kindText || len(search) == 0 {
		return isFalse
	}
	var found bool
	switch n.op {
	case opContains:
		found = bytes.Contains(v.text, search)
	case opStartsWith:
		found = bytes.HasPrefix(v.text, search)
	default:
		found = bytes.HasSuffix(v.text, search)
	}
	return truthOf(found != n.not)
}

// set is the list of IN.
type set struct {
	short []string
	long  map[string]struct{} // instead, when it is faster
}

const shortSet = 8

func (s *set) add(b []byte) {
	if s.long == nil {
		if s.short = append(s.short, string(b)); len(s.short) <= shortSet {
			return
		}
		s.long = make(map[string]struct{})
		for _, e := range s.short {
			s.long[e] = struct{}{}
		}
	}
	s.long[string(b)] = struct{}{}
}

func (s *set) has(b []byte) bool {
	if s.long != nil {
		_, ok := s.long[string(b)]
		return ok
	}
	return slices.ContainsFunc(s.short, func(e string) bool { return e == string(b) })
}
