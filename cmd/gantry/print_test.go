package main

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestCleanLeavesNothingThatATerminalObeys(t *testing.T) {
	for in, want := range map[string]string{
		"plain {\"a\": 1}":      "plain {\"a\": 1}",
		"Grüße 你好 🙂":            "Grüße 你好 🙂",
		"\x1b[2Jgone":           `\x1b[2Jgone`,
		"two\nlines\r\ttab":     `two\nlines\x0d\ttab`,
		"C1 \u009b2J":           `C1 \u009b2J`,
		"bidi \u202egnp.exe":    `bidi \u202egnp.exe`,
		"not utf-8 \xff\xfe.":   `not utf-8 \xff\xfe.`,
		"nul \x00 del \x7f end": `nul \x00 del \x7f end`,
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestPrintJSONIsExactAndSafe(t *testing.T) {
	for _, in := range []string{"plain", "\x1b[2J", "\u009b2J", "\u202e", "\U000e0001 tag", "\x7f", "<&>", "你好"} {
		var b strings.Builder
		if err := printJSON(&b, map[string]string{"v": in}); err != nil {
			t.Fatal(err)
		}
		if line := strings.TrimSuffix(b.String(), "\n"); clean(line) != line {
			t.Errorf("%q printed as %q", in, line)
		}
		var back map[string]string
		if err := json.Unmarshal([]byte(b.String()), &back); err != nil || back["v"] != in {
			t.Errorf("%q came back as %q, %v", in, back["v"], err)
		}
	}
}
