// Package filter decides whether a message matches a subscription. It sees
// index entries first (a tag's hash) and looks at the message only when that
// may match. It is pure: no I/O, no state.
package filter

import (
	"errors"
	"slices"
	"strings"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// ErrEmpty reports a tag expression of bars only.
var ErrEmpty = errors.New("filter: the tag expression has bars but no tag")

// Tags is a compiled tag expression. It is immutable.
type Tags struct {
	all    bool
	tags   []string
	hashes []uint32
}

// CompileTags compiles a tag expression: tags separated by "||", compared
// exactly; blank or "*" alone is everything (wire-contract 6.1).
func CompileTags(expr string) (*Tags, error) {
	if expr = strings.TrimSpace(expr); expr == "" || expr == "*" {
		return &Tags{all: true}, nil
	}
	t := &Tags{}
	for part := range strings.SplitSeq(expr, "||") {
		if part = strings.TrimSpace(part); part != "" && !slices.Contains(t.tags, part) {
			t.tags = append(t.tags, part)
			t.hashes = append(t.hashes, record.Hash32(part))
		}
	}
	if len(t.tags) == 0 {
		return nil, ErrEmpty
	}
	return t, nil
}

// All reports that every message matches.
func (t *Tags) All() bool { return t.all }

// MatchHash reports whether a message whose tag hashes to h (0 = no tag) may
// match. false is certain.
func (t *Tags) MatchHash(h uint32) bool { return t.all || slices.Contains(t.hashes, h) }

// Match reports whether a message with the tag matches; nil is no tag.
func (t *Tags) Match(tag []byte) bool {
	return t.all || slices.ContainsFunc(t.tags, func(s string) bool { return s == string(tag) })
}
