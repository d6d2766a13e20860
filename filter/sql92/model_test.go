package sql92

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// The model is a tree that is walked over a map, with one Go type for each kind
// of value (nil, bool, int32, int64, float64, string) and errors for failures.
// It is written from the contract's tables, one table a method.
type model interface {
	eval(props map[string]string) (any, error)
	text(r *rand.Rand) string
	level() int // of the grammar: 0 or, 1 and, 2 equality, 3 comparison, 4 unary, 5 primary
}

var errNotComparable = errors.New("not comparable")

type (
	mLiteral struct {
		v   any
		src string
	}
	mProperty string
	mSign     struct {
		sign string
		x    model
	}
	mNot   struct{ x model }
	mLogic struct {
		and  bool
		l, r model
	}
	mIsNull struct {
		x   model
		not bool
	}
	mEqual struct {
		l, r model
		not  bool
	}
	mOrder struct {
		l, r model
		op   string
	}
	mBetween struct {
		x, low, high model
		not          bool
	}
	mIn struct {
		name string
		list []string
		not  bool
	}
	mSearch struct {
		x      model
		op     string
		search string
		not    bool
	}
)

func (m mLiteral) eval(map[string]string) (any, error) { return m.v, nil }
func (m mProperty) eval(props map[string]string) (any, error) {
	if v, ok := props[string(m)]; ok {
		return v, nil
	}
	return nil, nil
}

func (m mSign) eval(props map[string]string) (any, error) {
	v, err := m.x.eval(props)
	if err != nil || m.sign == "+" {
		return v, err
	}
	switch v := v.(type) {
	case int32:
		return -v, nil
	case int64:
		return -v, nil
	case float64:
		return -v, nil
	}
	return nil, nil
}

// asTruth is a value where a condition must stand: a property is never TRUE.
func asTruth(m model, props map[string]string) (any, error) {
	v, err := m.eval(props)
	if _, ok := v.(string); ok {
		return false, err
	}
	return v, err
}

func (m mNot) eval(props map[string]string) (any, error) {
	v, err := asTruth(m.x, props)
	if err != nil || v == nil {
		return nil, err
	}
	return !v.(bool), nil
}

func (m mLogic) eval(props map[string]string) (any, error) {
	l, err := asTruth(m.l, props)
	if err != nil {
		return nil, err
	}
	if l == !m.and {
		return l, nil
	}
	r, err := asTruth(m.r, props)
	switch {
	case err != nil:
		return nil, err
	case r == !m.and:
		return r, nil
	case l == nil || r == nil:
		return nil, nil
	}
	return m.and, nil
}

func (m mIsNull) eval(props map[string]string) (any, error) {
	v, err := m.x.eval(props)
	return (v == nil) != m.not, err
}

func (m mEqual) eval(props map[string]string) (any, error) {
	l, err := m.l.eval(props)
	if err != nil {
		return nil, err
	}
	r, err := m.r.eval(props)
	if err != nil {
		return nil, err
	}
	if l == nil && r != nil {
		return nil, nil
	}
	same := false
	switch lv := l.(type) {
	case nil:
		same = true
	case bool:
		if _, ok := r.(string); ok {
			return nil, errNotComparable
		}
		same = l == r
	case string:
		switch rv := r.(type) {
		case nil:
		case string:
			same = lv == rv
		case bool:
			same = strings.EqualFold(lv, "true") == rv
		default:
			if same, err = compared(l, r, func(c int) bool { return c == 0 }); err != nil {
				return nil, err
			}
		}
	default:
		switch r.(type) {
		case nil, bool:
		default:
			if same, err = compared(l, r, func(c int) bool { return c == 0 }); err != nil {
				return nil, err
			}
		}
	}
	return same != m.not, nil
}

func (m mOrder) eval(props map[string]string) (any, error) {
	l, err := m.l.eval(props)
	if err != nil || l == nil {
		return nil, err
	}
	r, err := m.r.eval(props)
	if err != nil || r == nil {
		return nil, err
	}
	ls, lok := l.(string)
	rs, rok := r.(string)
	if lok && rok {
		if l, err = javaDouble(ls); err != nil {
			return nil, err
		}
		if r, err = javaDouble(rs); err != nil {
			return nil, err
		}
	}
	v, err := compared(l, r, map[string]func(int) bool{
		"<": func(c int) bool { return c < 0 }, "<=": func(c int) bool { return c <= 0 },
		">": func(c int) bool { return c > 0 }, ">=": func(c int) bool { return c >= 0 },
	}[m.op])
	if err != nil {
		return nil, err
	}
	return v, nil
}

func (m mBetween) eval(props map[string]string) (any, error) {
	if m.not {
		return mLogic{false, mOrder{m.x, m.low, "<"}, mOrder{m.x, m.high, ">"}}.eval(props)
	}
	return mLogic{true, mOrder{m.x, m.low, ">="}, mOrder{m.x, m.high, "<="}}.eval(props)
}

func (m mIn) eval(props map[string]string) (any, error) {
	v, ok := props[m.name]
	if !ok {
		return nil, nil
	}
	for _, s := range m.list {
		if s == v {
			return !m.not, nil
		}
	}
	return m.not, nil
}

func (m mSearch) eval(props map[string]string) (any, error) {
	v, err := m.x.eval(props)
	if err != nil {
		return nil, err
	}
	s, ok := v.(string)
	if !ok || m.search == "" {
		return false, nil
	}
	switch m.op {
	case "CONTAINS":
		return strings.Contains(s, m.search) != m.not, nil
	case "STARTSWITH":
		return strings.HasPrefix(s, m.search) != m.not, nil
	}
	return strings.HasSuffix(s, m.search) != m.not, nil
}

// compared applies the rules of a number against a number or a string.
func compared(l, r any, is func(int) bool) (bool, error) {
	var err error
	if s, ok := l.(string); ok {
		l, err = like(s, r)
	} else if s, ok := r.(string); ok {
		r, err = like(s, l)
	}
	if err != nil {
		return false, err
	}
	wide := func(v any) (int64, float64, bool) {
		switch v := v.(type) {
		case int32:
			return int64(v), float64(v), false
		case int64:
			return v, float64(v), false
		}
		return 0, v.(float64), true
	}
	li, lf, ld := wide(l)
	ri, rf, rd := wide(r)
	if !ld && !rd {
		return is(order(li, ri)), nil
	}
	if lf < rf || lf > rf {
		return is(order(lf, rf)), nil
	}
	bits := func(f float64) int64 {
		if math.IsNaN(f) {
			f = math.NaN()
		}
		return int64(math.Float64bits(f))
	}
	return is(order(bits(lf), bits(rf))), nil
}

func order[T int64 | float64](a, b T) int {
	if a < b {
		return -1
	} else if a > b {
		return 1
	}
	return 0
}

func like(s string, number any) (any, error) {
	bits := 64
	switch number.(type) {
	case float64:
		return javaDouble(s)
	case int32:
		bits = 32
	}
	n, err := strconv.ParseInt(s, 10, bits)
	if bits == 32 {
		return int32(n), err
	}
	return n, err
}

var doubles = regexp.MustCompile(`^[\x00-\x20]*([+-]?(?:NaN|Infinity|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?))([fFdD]?)[\x00-\x20]*$`)

func javaDouble(s string) (float64, error) {
	m := doubles.FindStringSubmatch(s)
	if m == nil || m[2] != "" && strings.HasSuffix(m[1], "y") || m[2] != "" && strings.HasSuffix(m[1], "N") {
		return 0, errNotComparable
	}
	if strings.HasSuffix(m[1], "NaN") {
		return math.NaN(), nil
	}
	f, err := strconv.ParseFloat(m[1], 64)
	if errors.Is(err, strconv.ErrRange) {
		err = nil
	}
	return f, err
}

func (m mLiteral) level() int  { return 5 }
func (m mProperty) level() int { return 5 }
func (m mSign) level() int     { return 4 }
func (m mNot) level() int      { return 4 }
func (m mIsNull) level() int   { return 2 }
func (m mEqual) level() int    { return 2 }
func (m mOrder) level() int    { return 3 }
func (m mBetween) level() int  { return 3 }
func (m mIn) level() int       { return 3 }
func (m mSearch) level() int   { return 3 }
func (m mLogic) level() int {
	if m.and {
		return 1
	}
	return 0
}

func (m mLiteral) text(r *rand.Rand) string {
	if m.src != "" {
		return word(r, m.src)
	}
	return quote(m.v.(string))
}
func (m mProperty) text(r *rand.Rand) string { return string(m) }
func (m mSign) text(r *rand.Rand) string     { return m.sign + " " + gap(r, false) + at(r, m.x, 4) }
func (m mNot) text(r *rand.Rand) string      { return word(r, "NOT") + gap(r, true) + at(r, m.x, 4) }
func (m mLogic) text(r *rand.Rand) string {
	op := "OR"
	if m.and {
		op = "AND"
	}
	return at(r, m.l, m.level()) + gap(r, true) + word(r, op) + gap(r, true) + at(r, m.r, m.level()+1)
}
func (m mIsNull) text(r *rand.Rand) string {
	return at(r, m.x, 2) + gap(r, true) + word(r, "IS") + gap(r, true) + not(r, m.not) + word(r, "NULL")
}
func (m mEqual) text(r *rand.Rand) string {
	op := "="
	if m.not {
		op = "<>"
	}
	return at(r, m.l, 2) + gap(r, false) + op + gap(r, false) + at(r, m.r, 3)
}
func (m mOrder) text(r *rand.Rand) string {
	return at(r, m.l, 4) + gap(r, false) + m.op + gap(r, false) + at(r, m.r, 4)
}
func (m mBetween) text(r *rand.Rand) string {
	return at(r, m.x, 4) + gap(r, true) + not(r, m.not) + word(r, "BETWEEN") + gap(r, true) + at(r, m.low, 4) +
		gap(r, true) + word(r, "AND") + gap(r, true) + at(r, m.high, 4)
}
func (m mIn) text(r *rand.Rand) string {
	var list []string
	for _, s := range m.list {
		list = append(list, quote(s)+gap(r, false))
	}
	return m.name + gap(r, true) + not(r, m.not) + word(r, "IN") + gap(r, false) + "(" + gap(r, false) + strings.Join(list, ",") + ")"
}
func (m mSearch) text(r *rand.Rand) string {
	return at(r, m.x, 3) + gap(r, true) + not(r, m.not) + word(r, m.op) + gap(r, false) + quote(m.search)
}

// at writes m where the grammar wants at least the level.
func at(r *rand.Rand, m model, level int) string {
	if m.level() < level || r.IntN(8) == 0 {
		return "(" + gap(r, false) + m.text(r) + gap(r, false) + ")"
	}
	return m.text(r)
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func not(r *rand.Rand, not bool) string {
	if !not {
		return ""
	}
	return word(r, "NOT") + gap(r, true)
}

func word(r *rand.Rand, s string) string {
	switch r.IntN(4) {
	case 0:
		return strings.ToLower(s)
	case 1:
		return s[:1] + strings.ToLower(s[1:])
	}
	return s
}

func gap(r *rand.Rand, needed bool) string {
	gaps := []string{"", " ", " ", " ", "\t\n", "/* AND */", "-- '\n", "\r\f "}
	if needed {
		gaps = gaps[1:]
	}
	return gaps[r.IntN(len(gaps))]
}

var (
	modelNames = []string{"a", "b", "c", "d", "e", "KEYS", "TAGS", "a1", "B", "none"}
	modelTexts = []string{
		"", "0", "-0", "1", "+1", "5", "-5", "007", "10", "10.0", "10.5", ".5", "5.", ".", "-", "+", "e5", "1e3", "1E-3", "1e", "1e+",
		"2147483647", "2147483648", "-2147483648", "-2147483649", "9223372036854775807", "9223372036854775808", "-9223372036854775808",
		"-9223372036854775809", "18446744073709551621", "99999999999999999999999999999999999999999", "0.0", "-0.0", "9007199254740993", "9007199254740993.0",
		"9007199254740992", "90071992547409920", "90071992547409921.5e-1", "0.1", "0.30000000000000004", "1e22", "1e23", "1e308", "1e309", "-1e309", "1e-400", "4.9e-324", "0e999999999",
		"NaN", "nan", "-NaN", "NaNf", "Infinity", "-Infinity", "+Infinity", "inf", "Infinityd", " 7", "7 ", " 7\n", "7f", "7d", "7.5F", "7ff", "0x10", "0x1p4", "1_000", "--5", "+-5", "1.2.3",
		"true", "TRUE", "tRue", "false", "truee", "MQ", "it's", "'", "''", "a\nb", "航班", "MQMQ", "M", "Q",
	}
	modelNumbers = []mLiteral{
		{int32(0), "0"}, {int32(1), "1"}, {int32(5), "5L"}, {int32(7), "7"}, {int32(10), "10"}, {int32(2147483647), "2147483647"}, {int64(2147483648), "2147483648"},
		{int64(9223372036854775807), "9223372036854775807"}, {int64(9007199254740993), "9007199254740993l"}, {0.5, ".5"}, {5.0, "5."}, {10.0, "10.0"}, {10.5, "10.5"}, {1000.0, "1E3"},
		{0.1, "0.1"}, {9007199254740992.0, "9007199254740992.0"}, {1e308, "1E308"}, {4.9e-324, "4.9E-324"}, {0.30000000000000004, "0.30000000000000004"}, {1e23, "1E23"},
	}
	modelWords = []mLiteral{{true, "TRUE"}, {false, "FALSE"}, {nil, "NULL"}}
)

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

func randomCondition(r *rand.Rand, depth int) model {
	if depth <= 0 {
		if r.IntN(3) == 0 {
			return pick(r, modelWords)
		}
		return mProperty(pick(r, modelNames))
	}
	not := r.IntN(2) == 0
	switch r.IntN(13) {
	case 0, 1, 2:
		return mLogic{true, randomCondition(r, depth-1), randomCondition(r, depth-1)}
	case 3, 4, 5:
		return mLogic{false, randomCondition(r, depth-1), randomCondition(r, depth-1)}
	case 6:
		return mNot{randomCondition(r, depth-1)}
	case 7:
		return mIsNull{randomValue(r, depth-1), not}
	case 8:
		return mEqual{randomValue(r, depth-1), randomValue(r, depth-1), not}
	case 9:
		return mOrder{randomNumber(r, depth-1), randomNumber(r, depth-1), pick(r, []string{"<", "<=", ">", ">="})}
	case 10:
		return mBetween{randomNumber(r, depth-1), randomNumber(r, depth-1), randomNumber(r, depth-1), not}
	case 11:
		list := make([]string, 1+r.IntN(12))
		for i := range list {
			list[i] = pick(r, modelTexts)
		}
		return mIn{pick(r, modelNames), list, not}
	default:
		return mSearch{randomValue(r, depth-1), pick(r, []string{"CONTAINS", "STARTSWITH", "ENDSWITH"}), pick(r, modelTexts), not}
	}
}

// randomNumber is what may stand beside < and BETWEEN.
func randomNumber(r *rand.Rand, depth int) model {
	switch r.IntN(8) {
	case 0:
		return mSign{"-", pick(r, modelNumbers)}
	case 1:
		if depth > 0 {
			return mSign{"-", randomValue(r, depth-1)}
		}
	case 2:
		if depth > 0 {
			return mSign{"+", randomNumber(r, depth-1)}
		}
	case 3, 4, 5:
		return mProperty(pick(r, modelNames))
	}
	return pick(r, modelNumbers)
}

func randomValue(r *rand.Rand, depth int) model {
	switch r.IntN(6) {
	case 0:
		return mLiteral{v: pick(r, modelTexts)}
	case 1:
		return pick(r, modelWords)
	case 2:
		return randomNumber(r, depth)
	case 3:
		return randomCondition(r, depth)
	}
	return mProperty(pick(r, modelNames))
}

// checkModel generates an expression and messages from the random source and
// compares the compiled expression with the model. It reports false when the
// expression is one that compilation refuses.
func checkModel(t *testing.T, r *rand.Rand) bool {
	m := randomCondition(r, 1+r.IntN(5))
	text := m.text(r)
	e, err := Compile(text)
	if err != nil {
		for _, known := range []string{"use IS NULL", "lower bound", "expected TRUE or FALSE", "at most"} {
			if strings.Contains(err.Error(), known) {
				return false
			}
		}
		t.Fatalf("%q: %v", text, err)
	}
	for range 8 {
		props := map[string]string{}
		var section record.Properties
		for _, name := range modelNames[:9] {
			if r.IntN(3) == 0 {
				continue
			}
			v := pick(r, modelTexts)
			props[name] = v
			switch name {
			case "TAGS":
				section = record.AppendField(section, record.FieldTag, v)
			case "KEYS":
				for key := range strings.SplitSeq(v, " ") {
					section = record.AppendField(section, record.FieldKey, key)
				}
			default:
				section = record.AppendUser(section, name, v)
			}
		}
		v, err := m.eval(props)
		want := unknown
		switch {
		case err != nil:
			want = failed
		case v == true:
			want = isTrue
		case v == false:
			want = isFalse
		default:
			if _, ok := v.(string); ok {
				want = isFalse // a property alone
			}
		}
		msg := &record.Message{Properties: section}
		values := make([][]byte, e.names.count)
		e.names.bind(msg, values, new(scratch))
		if got := e.truth(e.root, values); got != want || e.Match(msg) != (want == isTrue) {
			t.Fatalf("%q\nover %q\nis %s, the model says %s", text, props, name(got), name(want))
		}
	}
	return true
}

func TestCompiledAgreesWithTheModel(t *testing.T) {
	seed := rand.Uint64()
	if s := os.Getenv("GANTRY_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("GANTRY_SEED=%d", seed)
	compiled, n := 0, 30000
	if testing.Short() {
		n = 3000
	}
	for i := range n {
		if checkModel(t, rand.New(rand.NewPCG(seed, uint64(i)))) {
			compiled++
		}
	}
	if compiled < n/2 {
		t.Errorf("only %d of %d expressions compile", compiled, n)
	}
}

func FuzzModel(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, a, b uint64) { checkModel(t, rand.New(rand.NewPCG(a, b))) })
}

func FuzzCompile(f *testing.F) {
	for _, s := range []string{
		"price>20", "(price BETWEEN 10 AND 100) AND regionId IS NOT NUll", "product = 'MQ'", "a NOT IN ('x', 'it''s') -- c\n",
		"NOT -+1.5e3 <> .5 OR KEYS ENDSWITH 'x' /* c */", "s NOT STARTSWITH '' = TRUE", "((((", "a = --5", "i BETWEEN 9223372036854775807 AND 0L",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, expr string) {
		e, err := Compile(expr)
		if err != nil {
			var at *Error
			if !errors.As(err, &at) || at.Pos < 0 || at.Pos > len(expr) || at.Msg == "" {
				t.Fatalf("%q: %#v", expr, err)
			}
			return
		}
		if len(e.nodes) > MaxTerms || e.names.count > MaxProperties || len(expr) > MaxLen {
			t.Fatalf("%q is beyond the limits", expr)
		}
		e.Match(everything)
		e.Match(&record.Message{})
	})
}

func FuzzNumbers(f *testing.F) {
	for _, s := range modelTexts {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		f, ok := parseDouble([]byte(s))
		want, err := javaDouble(s)
		if ok != (err == nil) || ok && math.Float64bits(f) != math.Float64bits(want) && !(math.IsNaN(f) && math.IsNaN(want)) {
			t.Errorf("%q as a double is %v, %v; want %v, %v", s, f, ok, want, err)
		}
		n, ok := parseInt([]byte(s))
		if want, err := strconv.ParseInt(s, 10, 64); ok != (err == nil) || ok && n != want {
			t.Errorf("%q as an integer is %d, %v; want %d, %v", s, n, ok, want, err)
		}
	})
}

func TestDoublesAreRoundedOnce(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 20000 {
		s := fmt.Sprintf("%d.%de%d", r.Uint64()>>r.IntN(64), r.Uint64()>>r.IntN(64), r.IntN(80)-40)
		got, ok := parseDouble([]byte(s))
		if want, err := strconv.ParseFloat(s, 64); err != nil || !ok || got != want {
			t.Fatalf("%s: %v, %v; want %v", s, got, ok, want)
		}
	}
}
