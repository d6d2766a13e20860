package filter

import (
	"testing"

	"github.com/gantry-mq/gantry/commitlog/record"
)

func TestTagExpressions(t *testing.T) {
	for _, c := range []struct {
		expr  string
		match []string
		miss  []string
	}{
		{"", []string{"", "A", "*"}, nil},
		{" ", []string{"", "A"}, nil},
		{"*", []string{"", "A", "*"}, nil},
		{"A", []string{"A"}, []string{"", "a", "B", "AA", "*"}},
		{"A*", []string{"A*"}, []string{"A", "AB"}},
		{"A||B", []string{"A", "B"}, []string{"", "C", "A||B"}},
		{" A  ||  B ||", []string{"A", "B"}, []string{"", " "}},
		{"*||A", []string{"*", "A"}, []string{"", "B"}},
		{"Aa", []string{"Aa"}, []string{"BB"}}, // equal Java hash codes
		{"航班 || 😀", []string{"航班", "😀"}, []string{"航"}},
	} {
		f, err := CompileTags(c.expr)
		if err != nil {
			t.Errorf("%q: %v", c.expr, err)
			continue
		}
		matches := func(tag string) bool {
			var b []byte
			hash := uint32(0)
			if tag != "" {
				b, hash = []byte(tag), record.Hash32(tag)
			}
			if f.Match(b) && !f.MatchHash(hash) {
				t.Errorf("%q: the hash of %q does not match but the tag does", c.expr, tag)
			}
			return f.Match(b)
		}
		for _, tag := range c.match {
			if !matches(tag) {
				t.Errorf("%q should match %q", c.expr, tag)
			}
		}
		for _, tag := range c.miss {
			if matches(tag) {
				t.Errorf("%q should not match %q", c.expr, tag)
			}
		}
	}
	for _, expr := range []string{"||", " || ||"} {
		if _, err := CompileTags(expr); err == nil {
			t.Errorf("%q should not compile", expr)
		}
	}
}
