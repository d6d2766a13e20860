package sql92

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// message makes a message of user properties: key, value, key, value...
func message(pairs ...string) *record.Message {
	m := &record.Message{BornTime: 1700000000123}
	for i := 0; i < len(pairs); i += 2 {
		m.Properties = record.AppendUser(m.Properties, pairs[i], pairs[i+1])
	}
	return m
}

func compile(t testing.TB, expr string) *Expr {
	t.Helper()
	e, err := Compile(expr)
	if err != nil {
		t.Fatalf("%q: %v", expr, err)
	}
	return e
}

// everything has a property of each kind of value; "none" is missing.
var everything = message(
	"i", "5", "neg", "-5", "zero", "0", "big", "3000000000", "huge", "9223372036854775807", "beyond", "9223372036854775808",
	"f", "10.5", "ten", "10.0", "exp", "1e3", "blank", " 7 ", "suffix", "7f", "nan", "NaN", "inf", "-Infinity",
	"s", "MQ", "empty", "", "quote", "it's", "lines", "a\nb", "yes", "True", "no", "false", "utf", "航班",
	"Case", "upper", "case", "lower", "_x$1", "odd", "$", "dollar", "not_", "1", "e1", "10",
)

func TestEvaluation(t *testing.T) {
	for _, c := range []struct {
		expr string
		want truth
	}{
		// keywords and names
		{"TRUE", isTrue}, {"true", isTrue}, {"tRuE", isTrue}, {"FALSE", isFalse}, {"NULL", unknown},
		{"Case = 'upper'", isTrue}, {"case = 'lower'", isTrue}, {"CASE = 'upper'", unknown},
		{"_x$1 = 'odd' AND $ = 'dollar'", isTrue}, {"not_ = 1", isTrue}, {"e1 = 10", isTrue},
		{"i = 5 and s = 'MQ' oR FALSE", isTrue},

		// integers
		{"i = 5", isTrue}, {"i = 5l", isTrue}, {"i=5L", isTrue}, {"zero = 0", isTrue}, {"zero = 0L", isTrue}, {"zero = -0", isTrue},
		{"big = 3000000000", isTrue}, {"huge = 9223372036854775807", isTrue}, {"huge > 3000000000", isTrue},
		{"big > 5", failed}, // 3000000000 is no 32-bit integer
		{"big = 5", failed}, {"beyond > 3000000000", failed},

		// floats
		{"f = 10.5", isTrue}, {"f = 1.05e1", isTrue}, {"f = 1.05E+1", isTrue}, {"f = 105E-1", isTrue}, {"ten = 10.", isTrue},
		{"f > .5", isTrue}, {"f > .5e1", isTrue}, {"exp = 1e3", isTrue}, {"exp = 1.E3", isTrue}, {"ten = 010.0", isTrue}, {"ten = 00010e0", isTrue},
		{"i > 4.9", isTrue}, {"i < 5.1", isTrue}, {"i = 5.0", isTrue},

		// strings
		{"s = 'MQ'", isTrue}, {"s = 'mq'", isFalse}, {"empty = ''", isTrue}, {"quote = 'it''s'", isTrue}, {"s = ''''", isFalse},
		{"lines = 'a\nb'", isTrue}, {`lines = 'a\nb'`, isFalse}, {"utf = '航班'", isTrue}, {"s = '--' OR s = '/*' OR s = 'MQ'", isTrue},

		// blanks and comments
		{" \t\n\r\fi\t=\n5\f", isTrue}, {"i/**/=/* a * / ** */5", isTrue}, {"i = -- five\n5", isTrue}, {"i = 5 -- five\r", isTrue},
		{"i = 5 -- five\r\n AND TRUE", isTrue}, {"i = --5", isTrue}, {"/* a */ TRUE /* b */ -- c\n", isTrue},

		// precedence
		{"TRUE OR FALSE AND FALSE", isTrue}, {"(TRUE OR FALSE) AND FALSE", isFalse},
		{"NOT i = 5", isFalse}, {"NOT (i = 5)", isFalse}, {"NOT i = 4", isFalse}, {"NOT (i = 4)", isTrue},
		{"NOT none = 5", unknown}, {"NOT NOT TRUE", isTrue}, {"NOT TRUE = FALSE", isTrue},
		{"i > 4 = TRUE", isTrue}, {"i > 4 = i < 6", isTrue}, {"i > 4 <> i > 6", isTrue}, {"i = 5 IS NULL", isFalse},
		{"none = 5 IS NULL", isTrue}, {"i = 5 = TRUE", isTrue}, {"i BETWEEN 1 AND 9 AND FALSE", isFalse},
		{"((((i)))) = ((5))", isTrue}, {"s IN ('MQ') = TRUE", isTrue},

		// a condition of a value
		{"s", isFalse}, {"yes", isFalse}, {"none", unknown}, {"NOT yes", isTrue}, {"NOT none", unknown}, {"yes OR TRUE", isTrue}, {"i AND TRUE", isFalse},

		// AND, OR, NOT; failure is skipped only by a short cut
		{"TRUE AND TRUE", isTrue}, {"TRUE AND FALSE", isFalse}, {"TRUE AND NULL", unknown},
		{"FALSE AND TRUE", isFalse}, {"FALSE AND FALSE", isFalse}, {"FALSE AND NULL", isFalse},
		{"NULL AND TRUE", unknown}, {"NULL AND FALSE", isFalse}, {"NULL AND NULL", unknown},
		{"TRUE OR TRUE", isTrue}, {"TRUE OR FALSE", isTrue}, {"TRUE OR NULL", isTrue},
		{"FALSE OR TRUE", isTrue}, {"FALSE OR FALSE", isFalse}, {"FALSE OR NULL", unknown},
		{"NULL OR TRUE", isTrue}, {"NULL OR FALSE", unknown}, {"NULL OR NULL", unknown},
		{"NOT TRUE", isFalse}, {"NOT FALSE", isTrue}, {"NOT NULL", unknown},
		{"FALSE AND s > 1", isFalse}, {"TRUE AND s > 1", failed}, {"NULL AND s > 1", failed}, {"s > 1 AND FALSE", failed},
		{"TRUE OR s > 1", isTrue}, {"FALSE OR s > 1", failed}, {"NULL OR s > 1", failed}, {"s > 1 OR TRUE", failed},
		{"NOT (s > 1)", failed}, {"(s > 1) IS NULL", failed}, {"(s > 1) = TRUE", failed}, {"TRUE = (s > 1)", failed}, {"-(s > 1) IS NULL", failed},
		{"(s > 1) CONTAINS 'x'", failed}, {"i > -(s > 1)", failed}, {"-(s > 1) > i", failed}, {"TRUE AND NULL AND FALSE", isFalse}, {"FALSE OR NULL OR TRUE", isTrue},

		// IS NULL
		{"none IS NULL", isTrue}, {"none IS NOT NULL", isFalse}, {"s IS NULL", isFalse}, {"s is Not nUll", isTrue},
		{"empty IS NULL", isFalse}, {"5 IS NULL", isFalse}, {"NULL IS NULL", isTrue}, {"NULL IS NOT NULL", isFalse}, {"s IS NULL IS NULL", isFalse},

		// = and <>
		{"none = 5", unknown}, {"none = 'x'", unknown}, {"none <> 'x'", unknown}, {"none = TRUE", unknown}, {"none = none", isTrue}, {"none <> none", isFalse},
		{"s = none", isFalse}, {"s <> none", isTrue}, {"5 = none", isFalse}, {"'x' = none", isFalse}, {"none = s", unknown}, {"none2 = none", isTrue},
		{"s = s", isTrue}, {"s = empty", isFalse}, {"s <> 'RMQ'", isTrue}, {"s <> 'MQ'", isFalse},
		{"s = 5", failed}, {"s <> 5", failed}, {"empty = 5", failed}, {"5 = i", isTrue}, {"5 <> i", isFalse}, {"5 = s", failed},
		{"ten = 10", failed}, {"10 = ten", failed}, {"f = 10", failed}, {"blank = 7", failed}, {"blank = 7.0", isTrue}, {"suffix = 7.0", isTrue}, {"suffix = 7", failed},
		{"nan = 1.0", isFalse}, {"1 = 1", isTrue}, {"1 = 1.0", isTrue}, {"1 <> 2", isTrue}, {"3000000000 = 3000000000.0", isTrue}, {"1 = 3000000000", isFalse},
		{"'a' = 'a'", isTrue}, {"'5' = 5", isTrue}, {"5 = '5.0'", failed}, {"9007199254740993 = 9007199254740992.0", isTrue},

		// booleans
		{"yes = TRUE", isTrue}, {"yes = FALSE", isFalse}, {"no = FALSE", isTrue}, {"s = FALSE", isTrue}, {"s <> TRUE", isTrue}, {"empty = FALSE", isTrue},
		{"TRUE = yes", failed}, {"FALSE <> yes", failed}, {"TRUE = TRUE", isTrue}, {"TRUE <> FALSE", isTrue}, {"TRUE = none", isFalse},
		{"(i = 5) = 1", isFalse}, {"1 = (i = 5)", isFalse}, {"(i = 5) <> 1", isTrue}, {"(i = 5) = 1.5", isFalse}, {"(i = 5) = 'true'", failed}, {"'true' = (i = 5)", isTrue},
		{"(none = 5) = TRUE", unknown}, {"TRUE = (none = 5)", isFalse}, {"(none = 5) = (none = 6)", isTrue},

		// order
		{"i > 4", isTrue}, {"i > 5", isFalse}, {"i >= 5", isTrue}, {"i >= 6", isFalse}, {"i < 6", isTrue}, {"i < 5", isFalse}, {"i <= 5", isTrue}, {"i <= 4", isFalse},
		{"5 > neg", isTrue}, {"5 <= neg", isFalse}, {"5.5 > i", isTrue}, {"3000000000 >= big", isTrue}, {"neg < -4", isTrue}, {"neg < +-+4", isTrue}, {"neg = - -(-5)", isTrue},
		{"none > 5", unknown}, {"none < 5", unknown}, {"5 > none", unknown}, {"i > none", unknown}, {"none > none", unknown}, {"none > s", unknown}, {"s > none", unknown},
		{"f > i", isTrue}, {"f < i", isFalse}, {"exp > ten", isTrue}, {"blank > i", isTrue}, {"s > i", failed}, {"i > s", failed}, {"i >= i", isTrue}, {"s >= s", failed},
		{"s > 5", failed}, {"5 > s", failed}, {"f > 10", failed}, {"f > 10.0", isTrue}, {"nan > 1.5", isTrue}, {"nan >= nan", isTrue}, {"nan > nan", isFalse}, {"inf < 1.5", isTrue}, {"inf < 1", failed},
		{"empty > 1.5", failed}, {"1 < 2", isTrue}, {"2 < 1.5", isFalse}, {"big > 2147483648", isTrue}, {"i < 2147483648", isTrue}, {"big > -2147483647", failed}, {"big > -2147483648", isTrue}, // 2147483648 is 64-bit, so is its negation

		// unary minus
		{"-i > 1", unknown}, {"-i IS NULL", isTrue}, {"-none = 5", unknown}, {"i = -i", isFalse}, {"-'5' IS NULL", isTrue}, {"-TRUE IS NULL", isTrue}, {"i > -TRUE", unknown}, {"+i > 1", isTrue}, {"-(5) = neg", isTrue},

		// BETWEEN
		{"i BETWEEN 1 AND 9", isTrue}, {"i BETWEEN 5 AND 5", isTrue}, {"i BETWEEN 6 AND 9", isFalse}, {"i BETWEEN 1 AND 4", isFalse}, {"i between 1.5 and 9.5", isTrue},
		{"i NOT BETWEEN 1 AND 9", isFalse}, {"i NOT BETWEEN 6 AND 9", isTrue}, {"i NOT BETWEEN 1 AND 4", isTrue}, {"neg BETWEEN -9 AND -1", isTrue}, {"i BETWEEN 1 AND 3000000000", isTrue},
		{"none BETWEEN 1 AND 9", unknown}, {"none NOT BETWEEN 1 AND 9", unknown}, {"s BETWEEN 1 AND 9", failed}, {"i BETWEEN none AND 9", unknown}, {"i BETWEEN none AND 4", isFalse},
		{"i BETWEEN neg AND f", isTrue}, {"5 BETWEEN 1 AND 9", isTrue}, {"5 BETWEEN neg AND 9", isTrue}, {"i BETWEEN s AND 9", failed}, {"i BETWEEN 6 AND s", isFalse}, {"i NOT BETWEEN 6 AND s", isTrue},

		// IN
		{"s IN ('MQ')", isTrue}, {"s IN ('a', 'MQ')", isTrue}, {"s IN ('a','b')", isFalse}, {"s NOT IN ('a','b')", isTrue}, {"s NOT IN ('a','MQ')", isFalse}, {"s IN ('mq')", isFalse},
		{"none IN ('a')", unknown}, {"none NOT IN ('a')", unknown}, {"i IN ('5')", isTrue}, {"ten IN ('10')", isFalse}, {"empty IN ('')", isTrue}, {"(s) IN ('MQ')", isTrue}, {"quote IN ('it''s')", isTrue},
		{"s IN ('1','2','3','4','5','6','7','8','9','MQ')", isTrue}, {"s IN ('1','2','3','4','5','6','7','8','9','10')", isFalse}, {"i NOT IN ('1','2','3','4','5','6','7','8','9','10')", isFalse},

		// CONTAINS, STARTSWITH, ENDSWITH
		{"quote CONTAINS 't'''", isTrue}, {"quote CONTAINS 'T'", isFalse}, {"quote NOT CONTAINS 'x'", isTrue}, {"quote NOT CONTAINS 't'", isFalse}, {"s contains 'MQ'", isTrue},
		{"quote STARTSWITH 'it'", isTrue}, {"quote STARTSWITH 't'", isFalse}, {"quote NOT STARTSWITH 't'", isTrue}, {"quote NOT STARTSWITH 'it'", isFalse},
		{"quote ENDSWITH '''s'", isTrue}, {"quote ENDSWITH 'i'", isFalse}, {"quote NOT ENDSWITH 'i'", isTrue}, {"quote NOT ENDSWITH 's'", isFalse}, {"s ENDSWITH 'RMQ'", isFalse},
		{"s CONTAINS ''", isFalse}, {"s STARTSWITH ''", isFalse}, {"s ENDSWITH ''", isFalse}, {"empty CONTAINS ''", isFalse},
		{"s NOT CONTAINS ''", isFalse}, {"s NOT STARTSWITH ''", isFalse}, {"s NOT ENDSWITH ''", isFalse},
		{"none CONTAINS 'a'", isFalse}, {"none STARTSWITH 'a'", isFalse}, {"none ENDSWITH 'a'", isFalse},
		{"none NOT CONTAINS 'a'", isFalse}, {"none NOT STARTSWITH 'a'", isFalse}, {"none NOT ENDSWITH 'a'", isFalse},
		{"NOT (none CONTAINS 'a')", isTrue}, {"empty NOT CONTAINS 'a'", isTrue}, {"'abc' CONTAINS 'b'", isTrue}, {"5 CONTAINS '5'", isFalse}, {"5 NOT CONTAINS '5'", isFalse}, {"TRUE NOT STARTSWITH 'T'", isFalse},
	} {
		e := compile(t, c.expr)
		values := make([][]byte, e.names.count)
		if !e.names.bind(everything, values, nil) {
			t.Fatal("the properties are malformed")
		}
		if got := e.truth(e.root, values); got != c.want {
			t.Errorf("%q is %s, want %s", c.expr, name(got), name(c.want))
		}
		if got := e.Match(everything); got != (c.want == isTrue) {
			t.Errorf("%q: match is %v though it is %s", c.expr, got, name(c.want))
		}
	}
}

func name(t truth) string { return [...]string{"FALSE", "TRUE", "unknown", "failed"}[t] }

// The selectors of RocketMQ's end-to-end tests.
func TestSelectorsOfTheAcceptanceSuite(t *testing.T) {
	for _, c := range []struct {
		expr  string
		props []string
		want  bool
	}{
		{"TRUE", nil, true},
		{"price>20", []string{"price", "21"}, true},
		{"price>20", []string{"price", "20"}, false},
		{"price>20", nil, false},
		{"(price BETWEEN 10 AND 100) AND regionId IS NOT NUll", []string{"price", "30", "regionId", "Hangzhou"}, true},
		{"(price BETWEEN 10 AND 100) AND regionId IS NOT NUll", []string{"regionId", "Hangzhou", "price", "100"}, true},
		{"(price BETWEEN 10 AND 100) AND regionId IS NOT NUll", []string{"price", "30"}, false},
		{"(price BETWEEN 10 AND 100) AND regionId IS NOT NUll", []string{"price", "101", "regionId", "Hangzhou"}, false},
		{"product = 'MQ'", []string{"price", "30"}, false},
		{"product = 'MQ'", []string{"product", "MQ"}, true},
	} {
		if got := compile(t, c.expr).Match(message(c.props...)); got != c.want {
			t.Errorf("%q over %q: %v, want %v", c.expr, c.props, got, c.want)
		}
	}
}

func TestSystemFieldsAreProperties(t *testing.T) {
	var p record.Properties
	p = record.AppendField(p, record.FieldMessageID, "01AB")
	p = record.AppendField(p, record.FieldTag, "paid")
	p = record.AppendField(p, record.FieldKey, "k1")
	p = record.AppendUser(p, "TAGS", "hidden")
	p = record.AppendUser(p, "k2", "user")
	p = record.AppendField(p, record.FieldKey, "k2")
	p = record.AppendField(p, record.FieldGroup, "customer-7")
	p = record.AppendField(p, record.FieldKey, "k3")
	p = record.AppendField(p, record.FieldBornHost, "10.0.0.7:1234")
	p = record.AppendField(p, record.FieldTrace, "secret")
	m := &record.Message{BornTime: 1700000000123, DueTime: 1800000000456, Properties: p}
	bare := &record.Message{BornTime: -1}
	one := &record.Message{Properties: record.AppendField(nil, record.FieldKey, "only")}
	for _, c := range []struct {
		expr string
		m    *record.Message
		want bool
	}{
		{"TAGS = 'paid'", m, true},
		{"TAGS IS NULL", bare, true},
		{"tags IS NULL", m, true},
		{"KEYS = 'k1 k2 k3'", m, true},
		{"KEYS CONTAINS 'k2' AND KEYS STARTSWITH 'k1' AND KEYS ENDSWITH 'k3'", m, true},
		{"KEYS = 'only'", one, true},
		{"KEYS IS NULL", bare, true},
		{"UNIQ_KEY = '01AB'", m, true},
		{"UNIQ_KEY IS NULL", bare, true},
		{"__SHARDINGKEY = 'customer-7'", m, true},
		{"__SHARDINGKEY IS NULL", bare, true},
		{"__BORNHOST STARTSWITH '10.0.0.7'", m, true},
		{"BORN_TIMESTAMP BETWEEN 1700000000123 AND 1700000000123", m, true},
		{"BORN_TIMESTAMP = '1700000000123'", m, true},
		{"BORN_TIMESTAMP = -1", bare, true},
		{"TIMER_DELIVER_MS > BORN_TIMESTAMP", m, true},
		{"TIMER_DELIVER_MS IS NULL", bare, true},
		{"TRACE_CONTEXT IS NULL", m, true},
		{"k2 = 'user' AND TAGS = 'paid' AND KEYS CONTAINS ' ' AND BORN_TIMESTAMP > 1600000000000", m, true},
	} {
		if got := compile(t, c.expr).Match(c.m); got != c.want {
			t.Errorf("%q: %v, want %v", c.expr, got, c.want)
		}
	}
	// A second message must not see what the first left in shared memory.
	e := compile(t, "KEYS = 'k1 k2 k3'")
	for range 3 {
		if !e.Match(m) || e.Match(one) || e.Match(bare) {
			t.Fatal("KEYS of one message was seen in another")
		}
	}
}

func TestManyPropertiesInOneExpression(t *testing.T) {
	var terms, pairs []string
	for i := range MaxProperties {
		terms = append(terms, fmt.Sprintf("p%d = %d", i, i))
		pairs = append(pairs, fmt.Sprintf("p%d", i), fmt.Sprint(i))
	}
	e := compile(t, strings.Join(terms, " AND "))
	if !e.Match(message(pairs...)) {
		t.Error("all are equal and it does not match")
	}
	if e.Match(message(pairs[2:]...)) {
		t.Error("p0 is missing and it matches")
	}
	pairs[len(pairs)-1] = "0"
	if e.Match(message(pairs...)) {
		t.Error("the last differs and it matches")
	}
}

func TestMalformedPropertiesMatchNothing(t *testing.T) {
	for _, p := range []record.Properties{{255}, {0}, {0, 1}, {0, 1, 'a', 9}} {
		if compile(t, "a IS NULL").Match(&record.Message{Properties: p}) {
			t.Errorf("% x matches", p)
		}
	}
}

func TestCompileErrors(t *testing.T) {
	for _, c := range []struct {
		expr string
		pos  int
		want string
	}{
		// shape
		{"", 0, "expected a property, a literal, NOT, a sign or (, found the end"},
		{"  ", 2, "found the end"},
		{"a =", 3, "expected a property, a literal, NOT, a sign or (, found the end"},
		{"a = 1 b", 6, `expected an operator or the end, found "b"`},
		{"a = 1 TRUE", 6, "expected an operator or the end"},
		{"a = 1)", 5, `found ")"`},
		{"(a = 1", 6, "expected an operator or ), found the end"},
		{"(a = 1 'x'", 7, "expected an operator or )"},
		{"a = 1 AND", 9, "found the end"},
		{"AND a", 0, `found "AND"`},
		{"a = 1 OR OR b = 2", 9, `found "OR"`},
		{"a IS 1", 5, "expected NULL or NOT NULL"},
		{"a IS NOT 1", 9, "expected NULL,"},
		{"a NOT = 1", 6, "expected BETWEEN, IN, CONTAINS, STARTSWITH or ENDSWITH after NOT"},
		{"a BETWEEN 1 OR 2", 12, "expected AND and the upper bound of BETWEEN"},
		{"a BETWEEN 1", 11, "expected AND"},
		{"a IN 'x'", 5, "expected ( and the list of IN"},
		{"a IN ()", 6, "expected a string"},
		{"a IN ('x',)", 10, "expected a string"},
		{"a IN ('x' 'y')", 10, "expected , or )"},
		{"a IN ('x'", 9, "expected , or ), found the end"},
		{"f(a)", 1, "expected an operator or the end"},
		{"a = 1 + 2", 6, `found "+"`},
		{"a LIKE 'x%'", 2, `found "LIKE"`},
		{"a = 1 -- open", 6, "needs a line break"},

		// lexemes
		{"a != 1", 2, "not equal is <>"},
		{`a = "x"`, 4, "quoted with '"},
		{"a = 'x", 4, "the string is not closed"},
		{"a = 'x''", 4, "the string is not closed"},
		{"a = 1 /* x", 6, "the comment is not closed"},
		{"a = 1 /*/", 6, "the comment is not closed"},
		{"a.b = 1", 1, `'.'`},
		{"a-b = 1", 1, `found "-"`},
		{"a = b || c", 6, `'|'`},
		{"价 = 1", 0, `'价'`},
		{"a = 1 \v", 6, `'\v'`},
		{"a = \xff", 4, "begins nothing"},
		{"a = 007", 4, "without leading zeros"},
		{"a = 00", 4, "without leading zeros"},
		{"a = 0x10", 5, `found "x10"`},
		{"a = 5abc", 5, `found "abc"`},
		{"a = 5e", 5, `found "e"`},
		{"a = 1.5e+", 7, `found "e"`},
		{"a = 1..5", 6, `found ".5"`},
		{"a = 9223372036854775808", 4, "at most 9223372036854775807"},
		{"a = -9223372036854775808", 5, "at most 9223372036854775807"},
		{"a = 0.0", 4, "zero is written 0"},
		{"a = .0e5", 4, "zero is written 0"},
		{"a = 1e-400", 4, "zero is written 0"},
		{"a = 1e400", 4, "expected a number between"},

		// NULL is not compared
		{"a = NULL", 4, "use IS NULL"},
		{"a <> NULL", 5, "use IS NULL"},
		{"NULL = a", 0, "use IS NULL"},
		{"(NULL) <> a", 1, "use IS NULL"},

		// TRUE and FALSE are compared with no other literal
		{"TRUE = 1", 7, "expected TRUE or FALSE"},
		{"FALSE = 'false'", 8, "expected TRUE or FALSE"},
		{"1.5 = TRUE", 0, "expected TRUE or FALSE"},
		{"TRUE <> 1", 8, "expected TRUE or FALSE"},

		// what has no order
		{"a > 'x'", 4, "found a string"},
		{"'x' <= a", 0, "found a string"},
		{"a < TRUE", 4, "found a condition"},
		{"FALSE >= a", 0, "found a condition"},
		{"a > NULL", 4, "found a condition"},
		{"a > (b = 1)", 5, "found a condition"},
		{"a > 1 > 2", 0, "found a condition"},
		{"a > NOT b", 4, "found a condition"},
		{"a IN ('x') > 2", 0, "found a condition"},
		{"a CONTAINS 'x' < 2", 0, "found a condition"},
		{"a BETWEEN 'x' AND 'y'", 10, "found a string"},
		{"a BETWEEN 1 AND 'y'", 16, "found a string"},
		{"a BETWEEN NULL AND 2", 10, "found a condition"},
		{"a BETWEEN 1 AND TRUE", 16, "found a condition"},
		{"'x' BETWEEN 1 AND 2", 0, "found a string"},
		{"(a = 1) BETWEEN 1 AND 2", 1, "found a condition"},
		{"a NOT BETWEEN 1 AND (b)= 1 AND c > 'x'", 35, "found a string"},

		// BETWEEN of constants
		{"a BETWEEN 10 AND 5", 10, "lower bound"},
		{"a NOT BETWEEN 10 AND 5", 14, "lower bound"},
		{"a BETWEEN 5.1 AND 5", 10, "lower bound"},
		{"a BETWEEN -1 AND -2", 10, "lower bound"},
		{"a BETWEEN 3000000000 AND 1", 10, "lower bound"},

		// IN and the searches
		{"'a' IN ('x')", 0, "expected a property on the left of IN"},
		{"5 IN ('5')", 0, "expected a property on the left of IN"},
		{"-a IN ('x')", 0, "expected a property on the left of IN"},
		{"(a = 1) NOT IN ('x')", 1, "expected a property on the left of IN"},
		{"a IN (5)", 6, "expected a string"},
		{"a NOT IN ('x', b)", 15, "expected a string"},
		{"a CONTAINS 5", 11, "expected a string"},
		{"a CONTAINS b", 11, "expected a string"},
		{"a STARTSWITH TRUE", 13, "expected a string"},
		{"a NOT ENDSWITH ('x')", 15, "expected a string"},

		// conditions
		{"'x'", 0, "expected a condition"},
		{"5", 0, "expected a condition"},
		{"-5", 0, "expected a condition"},
		{"-a", 0, "expected a condition"},
		{"a = 1 AND 'x'", 10, "expected a condition"},
		{"5 OR a = 1", 0, "expected a condition"},
		{"NOT 5", 4, "expected a condition"},
		{"a = NOT 'x'", 8, "expected a condition"},
	} {
		_, err := Compile(c.expr)
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%q: %v, want an *Error", c.expr, err)
			continue
		}
		if e.Pos != c.pos || !strings.Contains(e.Msg, c.want) {
			t.Errorf("%q: at %d: %s\n\twant at %d: %s", c.expr, e.Pos, e.Msg, c.pos, c.want)
		}
	}
}

func TestErrorsQuoteWhatTheyShow(t *testing.T) {
	_, err := Compile("a = 1 '\n" + strings.Repeat("x", 1000) + "'")
	if err == nil || strings.Contains(err.Error(), "\n") || len(err.Error()) > 200 {
		t.Errorf("%q", err)
	}
}

func TestLimits(t *testing.T) {
	repeat := strings.Repeat
	list := func(n int, item, sep string) string { return repeat(item+sep, n-1) + item }
	names := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "p%d OR ", i)
		}
		return b.String() + "TRUE"
	}
	for _, c := range []struct {
		what, expr string
		ok         bool
	}{
		{"length", "TRUE" + repeat(" ", MaxLen-4), true},
		{"length", "TRUE" + repeat(" ", MaxLen-3), false},
		{"parentheses", repeat("(", MaxDepth) + "TRUE" + repeat(")", MaxDepth), true},
		{"parentheses", repeat("(", MaxDepth+1) + "TRUE" + repeat(")", MaxDepth+1), false},
		{"parentheses", repeat("(", MaxLen), false},
		{"NOT", repeat("NOT ", MaxDepth) + "TRUE", true},
		{"NOT", repeat("NOT ", MaxDepth+1) + "TRUE", false},
		{"signs", "a = " + repeat("- ", MaxDepth) + "1", true},
		{"signs", "a = " + repeat("-", MaxDepth) + "1", true},
		{"signs", "a = " + repeat("-", MaxLen-10) + "1", false},
		{"equality", list(MaxDepth+1, "TRUE", "="), true},
		{"equality", list(MaxDepth+2, "TRUE", "="), false},
		{"IS NULL", "a" + repeat(" IS NULL", MaxDepth), true},
		{"IS NULL", "a" + repeat(" IS NULL", MaxDepth+1), false},
		{"terms", list(MaxTerms-1, "TRUE", " OR "), true},
		{"terms", list(MaxTerms, "TRUE", " OR "), false},
		{"list", "a IN (" + list(MaxTerms-2, "'x'", ",") + ")", true},
		{"list", "a IN (" + list(MaxTerms-1, "'x'", ",") + ")", false},
		{"properties", names(MaxProperties), true},
		{"properties", names(MaxProperties + 1), false},
		{"one property", list(MaxTerms/3, "a", " OR "), true},
	} {
		e, err := Compile(c.expr)
		if (err == nil) != c.ok {
			t.Errorf("%s, %d bytes: %v", c.what, len(c.expr), err)
		}
		if err == nil {
			e.Match(everything)
		} else if pos := err.(*Error).Pos; pos < 0 || pos > len(c.expr) || !strings.Contains(err.Error(), "at most") {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

func TestMatchAllocatesNothing(t *testing.T) {
	m := benchMessage()
	m.Properties = record.AppendField(m.Properties, record.FieldKey, "k1")
	m.Properties = record.AppendField(m.Properties, record.FieldKey, "k2")
	for _, expr := range append(benchExprs(),
		"KEYS = 'k1 k2' AND BORN_TIMESTAMP > 1",
		"weight > 1.0000000000000001 OR precise < weight OR price > big",
		"flag = TRUE AND NOT (city = 5)",
		"city > 1",
		"city IN ('1','2','3','4','5','6','7','8','9','10')",
		"p1 = 1 OR p2 = 1 OR p3 = 1 OR p4 = 1 OR p5 = 1 OR p6 = 1 OR p7 = 1 OR p8 = 1 OR p9 = 1 OR p10 = 1",
	) {
		e := compile(t, expr)
		if n := testing.AllocsPerRun(100, func() { e.Match(m) }); n != 0 {
			t.Errorf("%q: %v allocations a message", expr, n)
		}
	}
}

func TestExpressionsAreConcurrent(t *testing.T) {
	e := compile(t, "KEYS = 'a b' AND BORN_TIMESTAMP = n")
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			p := record.AppendUser(nil, "n", fmt.Sprint(i))
			p = record.AppendField(p, record.FieldKey, "a")
			p = record.AppendField(p, record.FieldKey, "b")
			for n := range int64(1000) {
				if got := e.Match(&record.Message{BornTime: n, Properties: p}); got != (n == int64(i)) {
					t.Errorf("born %d, n %d: %v", n, i, got)
					return
				}
			}
		})
	}
	wg.Wait()
}

func benchMessage() *record.Message {
	m := message("orderId", "A1000234", "region", "eu-west", "price", "42", "weight", "1.75", "city", "Hamburg",
		"currency", "EUR", "precise", "0.12345678901234567", "flag", "true", "big", "3000000000", "customer", "c-778812")
	return m
}

func benchExprs() []string {
	return []string{
		"price>20",
		"(price BETWEEN 10 AND 100) AND customer IS NOT NULL",
		"region IN ('us-east','eu-west') AND NOT (city STARTSWITH 'B') AND (weight >= 1.5 OR customer CONTAINS '99')",
	}
}

func BenchmarkMatch(b *testing.B) {
	m := benchMessage()
	for _, expr := range benchExprs() {
		e := compile(b, expr)
		b.Run(expr, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !e.Match(m) {
					b.Fatal("no match")
				}
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	expr := benchExprs()[2]
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Compile(expr); err != nil {
			b.Fatal(err)
		}
	}
}
