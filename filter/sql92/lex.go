package sql92

import (
	"fmt"
	"strings"
)

type tokenKind uint8

const (
	tokEnd tokenKind = iota
	tokName
	tokInt
	tokFloat
	tokString
	tokPlus
	tokMinus
	tokOpen
	tokClose
	tokComma
	tokEqual
	tokNotEqual
	tokLess
	tokLessEqual
	tokGreater
	tokGreaterEqual

	// keywords, the first three in the order of their ops
	tokContains
	tokStartsWith
	tokEndsWith
	tokAnd
	tokBetween
	tokFalse
	tokIn
	tokIs
	tokNot
	tokNull
	tokOr
	tokTrue
)

// keywords are recognised in any case.
var keywords = map[string]tokenKind{
	"AND": tokAnd, "BETWEEN": tokBetween, "CONTAINS": tokContains, "ENDSWITH": tokEndsWith,
	"FALSE": tokFalse, "IN": tokIn, "IS": tokIs, "NOT": tokNot, "NULL": tokNull,
	"OR": tokOr, "STARTSWITH": tokStartsWith, "TRUE": tokTrue,
}

// token is src[pos:end].
type token struct {
	kind     tokenKind
	pos, end int
}

type lexer struct{ src string }

// next returns the first token at or after pos.
func (l lexer) next(pos int) (token, error) {
	pos, err := l.skip(pos)
	if err != nil {
		return token{}, err
	}
	if pos == len(l.src) {
		return token{kind: tokEnd, pos: pos, end: pos}, nil
	}
	simple := func(kind tokenKind, n int) (token, error) { return token{kind, pos, pos + n}, nil }
	switch c := l.src[pos]; {
	case isLetter(c):
		end := pos + 1
		for isLetter(l.at(end)) || isDigit(l.at(end)) {
			end++
		}
		if kind, ok := keywords[strings.ToUpper(l.src[pos:end])]; ok {
			return token{kind, pos, end}, nil
		}
		return token{tokName, pos, end}, nil
	case isDigit(c), c == '.' && isDigit(l.at(pos+1)):
		return l.number(pos)
	case c == '\'':
		return l.quoted(pos)
	case c == '=':
		return simple(tokEqual, 1)
	case c == '<' && l.at(pos+1) == '>':
		return simple(tokNotEqual, 2)
	case c == '<' && l.at(pos+1) == '=':
		return simple(tokLessEqual, 2)
	case c == '<':
		return simple(tokLess, 1)
	case c == '>' && l.at(pos+1) == '=':
		return simple(tokGreaterEqual, 2)
	case c == '>':
		return simple(tokGreater, 1)
	case c == '+':
		return simple(tokPlus, 1)
	case c == '-':
		return simple(tokMinus, 1)
	case c == '(':
		return simple(tokOpen, 1)
	case c == ')':
		return simple(tokClose, 1)
	case c == ',':
		return simple(tokComma, 1)
	case c == '!' && l.at(pos+1) == '=':
		return token{}, &Error{pos, "there is no != here, not equal is <>"}
	case c == '"':
		return token{}, &Error{pos, "strings are quoted with ' here, not with \""}
	}
	r := []rune(l.src[pos:min(pos+4, len(l.src))])[0]
	return token{}, &Error{pos, fmt.Sprintf("%q begins nothing; expected a property name, a literal, an operator or a parenthesis", r)}
}

// at returns the byte at pos, 0 beyond the end.
func (l lexer) at(pos int) byte {
	if pos < len(l.src) {
		return l.src[pos]
	}
	return 0
}

// skip passes blanks and comments. A "--" that no line break follows is not a
// comment but two signs.
func (l lexer) skip(pos int) (int, error) {
	for {
		switch rest := l.src[pos:]; {
		case rest == "":
			return pos, nil
		case strings.IndexByte(" \t\n\r\f", rest[0]) >= 0:
			pos++
		case strings.HasPrefix(rest, "--"):
			n := strings.IndexAny(rest, "\r\n")
			if n < 0 {
				return pos, nil
			}
			pos += n + 1
		case strings.HasPrefix(rest, "/*"):
			n := strings.Index(rest[2:], "*/")
			if n < 0 {
				return 0, &Error{pos, "the comment is not closed; expected */"}
			}
			pos += n + 4
		default:
			return pos, nil
		}
	}
}

// number reads an integer or a float.
func (l lexer) number(pos int) (token, error) {
	end := l.digits(pos)
	kind := tokInt
	if l.at(end) == '.' {
		kind = tokFloat
		end = l.digits(end + 1)
	}
	if l.at(end)|0x20 == 'e' {
		exp := end + 1
		if l.at(exp) == '+' || l.at(exp) == '-' {
			exp++
		}
		if isDigit(l.at(exp)) {
			kind = tokFloat
			end = l.digits(exp)
		}
	}
	if kind == tokInt {
		if l.src[pos] == '0' && end > pos+1 {
			return token{}, &Error{pos, "expected an integer without leading zeros"}
		}
		if l.at(end)|0x20 == 'l' {
			end++
		}
	}
	return token{kind, pos, end}, nil
}

func (l lexer) digits(pos int) (end int) {
	for isDigit(l.at(pos)) {
		pos++
	}
	return pos
}

// quoted reads a string literal; a quote within is doubled.
func (l lexer) quoted(pos int) (token, error) {
	for end := pos + 1; end < len(l.src); end++ {
		if l.src[end] == '\'' {
			if l.at(end+1) != '\'' {
				return token{tokString, pos, end + 1}, nil
			}
			end++
		}
	}
	return token{}, &Error{pos, "the string is not closed; expected '"}
}

// text describes a token in an error.
func (l lexer) text(t token) string {
	if t.kind == tokEnd {
		return "the end"
	}
	const limit = 32
	if s := l.src[t.pos:t.end]; len(s) <= limit {
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprintf("%q...", l.src[t.pos:t.pos+limit])
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isLetter(c byte) bool {
	return 'a' <= c|0x20 && c|0x20 <= 'z' || c == '_' || c == '$'
}
