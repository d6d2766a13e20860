// Package sql92 compiles the selector language of RocketMQ's SQL92 filters and
// matches messages against it, reading the properties section of the record in
// place. It is pure: no I/O, no state.
//
// Every property is a string or missing; literals are 32-bit integers, 64-bit
// integers, doubles, strings, TRUE, FALSE and NULL. Logic is three-valued, and a
// message matches only when the result is TRUE. A comparison that cannot be made,
// such as of "ten" with 10, fails the whole selector: the message does not match,
// not even under NOT or beside a TRUE on the right of OR.
//
// An expression becomes a flat array of nodes whose children precede them. To
// match, the properties section is walked once, the few values the expression
// names are sliced out of it, and the nodes are evaluated over the slices.
package sql92

import (
	"fmt"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// Limits of one expression. They bound what a client can make a receive cost.
const (
	MaxLen        = 16 << 10 // bytes
	MaxDepth      = 64       // parentheses, NOT, signs and operators, nested
	MaxTerms      = 1024     // literals, property uses, operators and the elements of IN
	MaxProperties = 64       // distinct property names
)

// Error tells where and why an expression does not compile.
type Error struct {
	Pos int // byte offset in the expression
	Msg string
}

func (e *Error) Error() string { return fmt.Sprintf("sql92: at byte %d: %s", e.Pos, e.Msg) }

// Expr is a compiled expression. It is immutable and may be used concurrently.
type Expr struct {
	program
	names names
}

// Compile compiles an expression. The error is an *Error.
func Compile(expr string) (*Expr, error) {
	p := parser{names: names{keys: none, born: none, due: none}}
	for f := range p.names.fields {
		p.names.fields[f] = none
	}
	if err := p.parse(expr); err != nil {
		return nil, err
	}
	return &Expr{program: p.program, names: p.names}, nil
}

// few properties are what nearly every expression names; their frame is cheap to
// clear.
const few = 8

// Match reports whether the message matches. It reads m.Properties, m.BornTime and
// m.DueTime and keeps nothing of m. It allocates nothing, unless a double is
// compared with a number of more than 32 bytes or out of the range of doubles.
// Properties that are not a section match nothing.
func (e *Expr) Match(m *record.Message) bool { return e.result(m) == isTrue }

// Outcome is what an expression says of a message.
type Outcome uint8

const (
	False   = Outcome(isFalse)
	True    = Outcome(isTrue)  // the message matches
	Unknown = Outcome(unknown) // something that it names is missing
	Failed  = Outcome(failed)  // a comparison cannot be made
)

// Outcome is Match that tells why a message does not match.
func (e *Expr) Outcome(m *record.Message) Outcome { return Outcome(e.result(m)) }

func (e *Expr) result(m *record.Message) truth {
	if n := e.names.count; n <= few {
		var values [few][]byte
		return e.evaluate(m, values[:n])
	}
	var values [MaxProperties][]byte
	return e.evaluate(m, values[:e.names.count])
}

func (e *Expr) evaluate(m *record.Message, values [][]byte) truth {
	if e.names.keys == none && e.names.born == none && e.names.due == none {
		return e.bound(m, values, nil)
	}
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)
	return e.bound(m, values, s)
}

func (e *Expr) bound(m *record.Message, values [][]byte, s *scratch) truth {
	if !e.names.bind(m, values, s) {
		return isFalse
	}
	return e.truth(e.root, values)
}
