package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
)

// FuzzConfigFile reads files that nobody wrote. One that is taken names in each
// setting a line that is there, one that is refused is so in plain text.
func FuzzConfigFile(f *testing.F) {
	shipped, err := os.ReadFile(deploy + "gantry.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{
		string(shipped), "", "---\n", "data: [a, b]\n", "data: {a: b}\n", "? data\n: x\n", "data: &a x\nlisten: *a\n", "<<: *a\n", "data: !!binary eA==\n",
		"data: |\n  x\n  y\n", "data: \"\\u0000\\e[31m\"\n", "retention-age: 1e99h\n", "retention-age: \x7f\n", "retention-size: 99999999999999999999GiB\n", "pprof: yes\n", "- a\n", "data: [\n",
		"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", strings.Repeat("[", 2000), strings.Repeat("a: ", 500), "\xff\xfe", "data: x\n...\n---\nlisten: y\n",
	} {
		f.Add([]byte(seed))
	}
	name := filepath.Join(f.TempDir(), "gantry.yaml")
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > 16<<10 {
			return
		}
		if err := os.WriteFile(name, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		flags := newServe().Flags()
		if err := flags.Set(configFlag, name); err != nil {
			t.Fatal(err)
		}
		all, err := loadSettings(flags, nil)
		if err != nil {
			if i := strings.IndexFunc(err.Error(), func(r rune) bool { return r != '\t' && r != '\n' && unicode.IsControl(r) }); i >= 0 {
				t.Fatalf("the error is not text: %q", err)
			}
			return
		}
		for _, s := range all {
			line := 0
			if _, err := fmt.Sscanf(s.From, "file "+name+":%d", &line); err == nil && (line < 1 || line > strings.Count(string(raw), "\n")+strings.Count(string(raw), "\r")+1) {
				t.Fatalf("%+v of %q", s, raw)
			}
		}
	})
}
