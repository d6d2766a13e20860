package sql92

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// parser turns the text into nodes in one pass. From the loosest to the tightest:
//
//	or         = and { OR and }
//	and        = equality { AND equality }
//	equality   = comparison { ("=" | "<>") comparison | IS [NOT] NULL }
//	comparison = unary { (">" | ">=" | "<" | "<=") unary
//	           | [NOT] (CONTAINS | STARTSWITH | ENDSWITH) string
//	           | [NOT] BETWEEN unary AND unary
//	           | [NOT] IN "(" string { "," string } ")" }
//	unary      = ("+" | "-" | NOT) unary | primary
//	primary    = literal | property | "(" or ")"
//
// So NOT a = 1 is (NOT a) = 1. An error is thrown as a *Error.
type parser struct {
	program
	names names

	lexer lexer
	tok   token // the next one
	depth int   // of recursion
	terms int
}

// term is a parsed part: its node and what checks and errors need of it.
type term struct {
	node   int32
	pos    int
	height int // operators on the longest way down
}

func (p *parser) parse(expr string) (err error) {
	defer func() {
		switch thrown := recover().(type) {
		case nil:
		case *Error:
			err = thrown
		default:
			panic(thrown)
		}
	}()
	if len(expr) > MaxLen {
		p.fail(MaxLen, "expected at most %d bytes, found %d", MaxLen, len(expr))
	}
	p.lexer.src = expr
	p.advance(0)
	p.root = p.condition(p.or()).node
	if p.tok.kind != tokEnd {
		hint := ""
		if strings.HasPrefix(expr[p.tok.pos:], "--") {
			hint = "; a comment after -- needs a line break at its end"
		}
		p.fail(p.tok.pos, "expected an operator or the end, found %s%s", p.lexer.text(p.tok), hint)
	}
	return nil
}

func (p *parser) fail(pos int, format string, args ...any) {
	panic(&Error{Pos: pos, Msg: fmt.Sprintf(format, args...)})
}

// advance reads the token at or after pos.
func (p *parser) advance(pos int) {
	tok, err := p.lexer.next(pos)
	if err != nil {
		panic(err)
	}
	p.tok = tok
}

// take consumes the next token.
func (p *parser) take() token {
	tok := p.tok
	p.advance(tok.end)
	return tok
}

// accept consumes the next token if it is of the kind.
func (p *parser) accept(kind tokenKind) bool {
	if p.tok.kind != kind {
		return false
	}
	p.take()
	return true
}

// expect consumes a token of the kind or fails, naming it.
func (p *parser) expect(kind tokenKind, what string) token {
	if p.tok.kind != kind {
		p.fail(p.tok.pos, "expected %s, found %s", what, p.lexer.text(p.tok))
	}
	return p.take()
}

// enter counts one level of recursion, leave ends it.
func (p *parser) enter() {
	if p.depth++; p.depth > MaxDepth {
		p.fail(p.tok.pos, "expected at most %d levels of nesting", MaxDepth)
	}
}

func (p *parser) leave() { p.depth-- }

func (p *parser) count() {
	if p.terms++; p.terms > MaxTerms {
		p.fail(p.tok.pos, "expected at most %d terms", MaxTerms)
	}
}

// emit appends a node over the terms. Chains without recursion, as in
// a = b = c = d, nest too, so the height is checked here.
func (p *parser) emit(n node, over ...term) term {
	p.count()
	t := term{node: int32(len(p.nodes)), pos: over[0].pos}
	for _, o := range over {
		t.height = max(t.height, o.height+1)
	}
	if t.height > MaxDepth {
		p.fail(t.pos, "expected at most %d levels of nesting", MaxDepth)
	}
	p.nodes = append(p.nodes, n)
	return t
}

func (p *parser) leaf(n node, pos int) term {
	p.count()
	p.nodes = append(p.nodes, n)
	return term{node: int32(len(p.nodes) - 1), pos: pos}
}

func (p *parser) constant(v value) int32 {
	p.constants = append(p.constants, v)
	return int32(len(p.constants) - 1)
}

// literal returns the term's value if it is a literal.
func (p *parser) literal(t term) (v *value, ok bool) {
	n := p.nodes[t.node]
	if n.op != opConstant {
		return nil, false
	}
	return &p.constants[n.l], true
}

// isCondition reports whether the term yields a truth value. NULL does.
func (p *parser) isCondition(t term) bool {
	if v, ok := p.literal(t); ok {
		return v.kind == kindBool || v.kind == kindNull
	}
	return p.nodes[t.node].op >= firstCondition
}

// condition makes the term one that yields a truth value.
func (p *parser) condition(t term) term {
	switch n := p.nodes[t.node]; {
	case p.isCondition(t):
		return t
	case n.op == opProperty:
		return p.leaf(node{op: opCast, l: n.l}, t.pos)
	}
	p.fail(t.pos, "expected a condition, found a value")
	return term{}
}

func (p *parser) or() term {
	return p.chain(opOr, tokOr, func() term { return p.chain(opAnd, tokAnd, p.equality) })
}

// chain parses operands joined by one logical operator, into one node.
func (p *parser) chain(op op, kind tokenKind, operand func() term) term {
	first := operand()
	if p.tok.kind != kind {
		return first
	}
	terms := []term{p.condition(first)}
	for p.accept(kind) {
		terms = append(terms, p.condition(operand()))
	}
	from := len(p.children)
	for _, t := range terms {
		p.children = append(p.children, t.node)
	}
	return p.emit(node{op: op, l: int32(from), r: int32(len(p.children))}, terms...)
}

func (p *parser) equality() term {
	left := p.comparison()
	for {
		switch p.tok.kind {
		case tokEqual, tokNotEqual:
			not := p.take().kind == tokNotEqual
			right := p.comparison()
			left = p.equal(left, right, not)
		case tokIs:
			p.take()
			not := p.accept(tokNot)
			what := "NULL or NOT NULL"
			if not {
				what = "NULL"
			}
			p.expect(tokNull, what)
			left = p.emit(node{op: opIsNull, not: not, l: left.node}, left)
		default:
			return left
		}
	}
}

func (p *parser) equal(left, right term, not bool) term {
	l, lok := p.literal(left)
	r, rok := p.literal(right)
	switch {
	case lok && l.kind == kindNull:
		p.fail(left.pos, "expected a value, found NULL; use IS NULL")
	case rok && r.kind == kindNull:
		p.fail(right.pos, "expected a value, found NULL; use IS NULL")
	case lok && rok && l.kind == kindBool && r.kind != kindBool:
		p.fail(right.pos, "expected TRUE or FALSE to compare with, found another literal")
	case lok && rok && r.kind == kindBool && l.kind != kindBool:
		p.fail(left.pos, "expected TRUE or FALSE to compare with, found another literal")
	}
	// A property on the right is another matter: missing there is FALSE, not unknown.
	if p.nodes[left.node].op == opProperty {
		accept := same
		if not {
			accept = less | greater
		}
		if n, ok := p.orderNumber(accept, left, right); ok {
			return p.emit(n, left, right)
		}
	}
	return p.emit(node{op: opEqual, not: not, l: left.node, r: right.node}, left, right)
}

// orderNumber returns the node that compares a property with a number literal,
// whichever is left, if that is what the terms are.
func (p *parser) orderNumber(accept signs, left, right term) (node, bool) {
	if p.nodes[left.node].op != opProperty {
		left, right, accept = right, left, accept.mirrored()
	}
	l := p.nodes[left.node]
	v, ok := p.literal(right)
	if l.op != opProperty || !ok || v.kind != kindInt32 && v.kind != kindInt64 && v.kind != kindDouble {
		return node{}, false
	}
	return node{op: opOrderNumber, accept: accept, l: l.l, r: p.nodes[right.node].l}, true
}

func (p *parser) comparison() term {
	left := p.unary()
	for {
		switch p.tok.kind {
		case tokLess, tokLessEqual, tokGreater, tokGreaterEqual:
			accept := signsOf[p.take().kind]
			left = p.order(accept, left, p.unary())
		case tokNot:
			p.take()
			left = p.test(left, true)
		case tokContains, tokStartsWith, tokEndsWith, tokBetween, tokIn:
			left = p.test(left, false)
		default:
			return left
		}
	}
}

// test parses what may stand after NOT.
func (p *parser) test(left term, not bool) term {
	switch kind := p.tok.kind; kind {
	case tokContains, tokStartsWith, tokEndsWith:
		p.take()
		op := opContains + op(kind-tokContains)
		search := p.constant(value{kind: kindText, text: p.text()})
		return p.emit(node{op: op, not: not, l: left.node, r: search}, left)
	case tokBetween:
		p.take()
		low := p.unary()
		p.expect(tokAnd, "AND and the upper bound of BETWEEN")
		return p.between(left, low, p.unary(), not)
	case tokIn:
		p.take()
		if p.nodes[left.node].op != opProperty {
			p.fail(left.pos, "expected a property on the left of IN")
		}
		p.sets = append(p.sets, p.list())
		return p.emit(node{op: opIn, not: not, l: p.nodes[left.node].l, r: int32(len(p.sets) - 1)}, left)
	}
	p.fail(p.tok.pos, "expected BETWEEN, IN, CONTAINS, STARTSWITH or ENDSWITH after NOT, found %s", p.lexer.text(p.tok))
	return term{}
}

var signsOf = map[tokenKind]signs{
	tokLess: less, tokLessEqual: less | same, tokGreater: greater, tokGreaterEqual: greater | same,
}

// order emits a comparison by size; what can have no size is refused.
func (p *parser) order(accept signs, left, right term) term {
	for _, t := range []term{left, right} {
		v, literal := p.literal(t)
		switch {
		case literal && v.kind == kindText:
			p.fail(t.pos, "expected a number or a property, found a string, which has no order")
		case p.isCondition(t):
			p.fail(t.pos, "expected a number or a property, found a condition, which has no order")
		}
	}
	n, ok := p.orderNumber(accept, left, right)
	if !ok {
		n = node{op: opOrder, accept: accept, l: left.node, r: right.node}
	}
	return p.emit(n, left, right)
}

// between emits x >= low AND x <= high, or x < low OR x > high.
func (p *parser) between(x, low, high term, not bool) term {
	above, below, join := greater|same, less|same, opAnd
	if not {
		above, below, join = less, greater, opOr
	}
	from, to := p.order(above, x, low), p.order(below, x, high)
	l, lok := p.literal(low)
	h, hok := p.literal(high)
	if lok && hok {
		if c, _ := compareNumbers(*l, *h); c > 0 {
			p.fail(low.pos, "expected a lower bound of BETWEEN that is not above the upper")
		}
	}
	first := int32(len(p.children))
	p.children = append(p.children, from.node, to.node)
	return p.emit(node{op: join, l: first, r: first + 2}, from, to)
}

// list parses the strings of IN.
func (p *parser) list() set {
	p.expect(tokOpen, "( and the list of IN")
	var s set
	for {
		p.count()
		s.add(p.text())
		if !p.accept(tokComma) {
			break
		}
	}
	p.expect(tokClose, ", or )")
	return s
}

func (p *parser) unary() term {
	tok := p.tok
	switch tok.kind {
	case tokPlus, tokMinus, tokNot:
	default:
		return p.primary()
	}
	p.enter()
	defer p.leave()
	p.take()
	t := p.unary()
	switch tok.kind {
	case tokNot:
		t = p.condition(t)
		t = p.emit(node{op: opNot, l: t.node}, t)
	case tokMinus:
		switch v, ok := p.literal(t); {
		case ok && (v.kind == kindInt32 || v.kind == kindInt64):
			v.bits = -v.bits
		case ok && v.kind == kindDouble:
			*v = double(-v.double())
		default:
			t = p.emit(node{op: opNegate, l: t.node}, t)
		}
	}
	t.pos = tok.pos
	return t
}

func (p *parser) primary() term {
	switch tok := p.tok; tok.kind {
	case tokOpen:
		p.enter()
		defer p.leave()
		p.take()
		t := p.or()
		p.expect(tokClose, "an operator or )")
		return t
	case tokName:
		p.take()
		slot := p.names.slot(p.lexer.src[tok.pos:tok.end])
		if slot >= MaxProperties {
			p.fail(tok.pos, "expected at most %d different properties", MaxProperties)
		}
		return p.leaf(node{op: opProperty, l: int32(slot)}, tok.pos)
	case tokString:
		return p.value(tok, value{kind: kindText, text: p.text()})
	case tokInt, tokFloat:
		p.take()
		return p.value(tok, p.number(tok))
	case tokTrue, tokFalse:
		p.take()
		return p.value(tok, boolean(tok.kind == tokTrue))
	case tokNull:
		p.take()
		return p.value(tok, value{kind: kindNull})
	}
	p.fail(p.tok.pos, "expected a property, a literal, NOT, a sign or (, found %s", p.lexer.text(p.tok))
	return term{}
}

func (p *parser) value(tok token, v value) term {
	return p.leaf(node{op: opConstant, l: p.constant(v)}, tok.pos)
}

// text consumes a string literal.
func (p *parser) text() []byte {
	tok := p.expect(tokString, "a string")
	return []byte(strings.ReplaceAll(p.lexer.src[tok.pos+1:tok.end-1], "''", "'"))
}

func (p *parser) number(tok token) value {
	text := p.lexer.src[tok.pos:tok.end]
	if tok.kind == tokFloat {
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || f == 0 {
			p.fail(tok.pos, "expected a number between %g and %g; zero is written 0", math.SmallestNonzeroFloat64, math.MaxFloat64)
		}
		return double(f)
	}
	n, err := strconv.ParseInt(strings.TrimRight(text, "lL"), 10, 64)
	if err != nil {
		p.fail(tok.pos, "expected an integer of at most %d", int64(math.MaxInt64))
	}
	return integer(n)
}
