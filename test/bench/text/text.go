// Package text writes measured numbers into pages.
package text

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// Spread shows a median and the range around it.
func Spread(v []float64) string {
	switch len(v) {
	case 0:
		return "-"
	case 1:
		return Number(v[0])
	}
	return fmt.Sprintf("%s (%s to %s)", Number(Median(v)), Number(slices.Min(v)), Number(slices.Max(v)))
}

// Median of at least one value, in any order.
func Median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// Number keeps three digits that mean something.
func Number(f float64) string {
	switch {
	case f >= 1000:
		s := fmt.Sprintf("%.0f", f)
		for i := len(s) - 3; i > 0; i -= 3 {
			s = s[:i] + "," + s[i:]
		}
		return s
	case f >= 100:
		return fmt.Sprintf("%.0f", f)
	case f >= 10:
		return fmt.Sprintf("%.1f", f)
	default:
		return fmt.Sprintf("%.2f", f)
	}
}

// Table is one in Markdown.
func Table(header []string, rows [][]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| %s |\n", strings.Join(header, " | "))
	fmt.Fprintf(&b, "|%s\n", strings.Repeat(" --- |", len(header)))
	for _, row := range rows {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
	}
	return b.String()
}

// Replace puts body between the marks begin and end of a file.
func Replace(file, begin, end, body string) error {
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(old), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no generated part to replace: want %q and then %q", file, begin, end)
	}
	return os.WriteFile(file, []byte(before+begin+"\n\n"+body+"\n"+end+after), 0o644)
}
