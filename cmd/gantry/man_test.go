package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEachCommandHasAManPage(t *testing.T) {
	dir := t.TempDir()
	ok(t, "man", dir)
	for page, says := range map[string]string{"gantry.1": "RocketMQ 5", "gantry-serve.1": "retention-age", "gantry-group-reset.1": "dry-run"} {
		raw, err := os.ReadFile(filepath.Join(dir, page))
		if err != nil || !strings.Contains(strings.ReplaceAll(string(raw), `\-`, "-"), says) {
			t.Errorf("%s does not tell of %q: %v", page, says, err)
		}
	}
}
