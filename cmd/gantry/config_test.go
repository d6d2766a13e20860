package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func configFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "gantry.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func settings(t *testing.T, args ...string) map[string]setting {
	t.Helper()
	var list []setting
	if err := json.Unmarshal([]byte(ok(t, append([]string{"config", "show", "--json"}, args...)...)), &list); err != nil {
		t.Fatal(err)
	}
	m := map[string]setting{}
	for _, s := range list {
		m[s.Name] = s
	}
	return m
}

func TestAFlagGoesBeforeTheEnvironmentAndThatBeforeTheFile(t *testing.T) {
	file := configFile(t, `# how this broker runs
data: /var/lib/gantry
retention-age: 72h     # three days
retention-size: "50GiB"
auto-create-groups: false
log-level: warn
`)
	t.Setenv("GANTRY_SERVE_RETENTION_SIZE", "40GiB")
	t.Setenv("GANTRY_SERVE_LOG_LEVEL", "error")
	t.Setenv("GANTRY_SERVICE_HOST", "10.0.0.1") // what Kubernetes sets for a service named gantry
	got := settings(t, "--config", file, "--log-level", "debug")
	for name, want := range map[string]setting{
		"data":               {"data", "/var/lib/gantry", "file " + file + ":2"},
		"retention-age":      {"retention-age", "72h0m0s", "file " + file + ":3"},
		"auto-create-groups": {"auto-create-groups", "false", "file " + file + ":5"},
		"retention-size":     {"retention-size", "40GiB", "environment GANTRY_SERVE_RETENTION_SIZE"},
		"log-level":          {"log-level", "debug", "flag --log-level"},
		"listen":             {"listen", defaultAddr, "default"},
	} {
		if got[name] != want {
			t.Errorf("%s is %+v, want %+v", name, got[name], want)
		}
	}
	if _, shown := got["config"]; shown {
		t.Error("the file's own name is shown as a setting")
	}
	t.Setenv("GANTRY_SERVE_CONFIG", file)
	if got := settings(t); got["data"].Value != "/var/lib/gantry" {
		t.Errorf("the file that the environment names was not read: %+v", got["data"])
	}
	if out := ok(t, "config", "show"); !strings.Contains(out, "SETTING") || !strings.Contains(out, "retention-age") {
		t.Errorf("as a table:\n%s", out)
	}
}

func TestSettingsThatMeanNothingAreRefused(t *testing.T) {
	for _, c := range []struct{ name, file, says string }{
		{"a mistyped name", "retention-ago: 72h\n", `:1: "retention-ago" is no setting; did you mean retention-age?`},
		{"a name like no other", "data: x\nfrobnicate: 1\n", `:2: "frobnicate" is no setting`},
		{"a value of another kind", "retention-age: often\n", ":1: "},
		{"a list", "data: [1, {a: b}]\n", "want one plain value"},
		{"nothing", "data:\n", "there is no value"},
		{"twice", "data: a\ndata: b\n", ""},
		{"a section", "retention:\n  age: 72h\n", "is no setting"},
		{"no mapping", "- data\n", "want lines like"},
		{"no YAML", "data: [\n", ""},
		{"not --help either", "help: true\n", "is no setting"},
		{"what serve refuses", "listen: 0.0.0.0:8081\n", "--insecure-allow-remote"},
		{"a durability that there is not", "durability: never\n", "--durability"},
	} {
		for _, command := range [][]string{{"config", "show"}, {"serve"}} {
			code, _, errOut := cli(t, append(command, "--config", configFile(t, c.file))...)
			if code != exitUsage || !strings.Contains(errOut, c.says) {
				t.Errorf("%s: %v: exit %d: %s", c.name, command, code, errOut)
			}
		}
	}
	if code, _, errOut := cli(t, "serve", "--config", "/none"); code != exitFailed || !strings.Contains(errOut, "/none") {
		t.Errorf("no file: exit %d: %s", code, errOut)
	}
	t.Setenv("GANTRY_SERVE_RETENTION_AGO", "72h")
	if code, _, errOut := cli(t, "serve"); code != exitUsage || !strings.Contains(errOut, "did you mean GANTRY_SERVE_RETENTION_AGE?") {
		t.Errorf("a mistyped variable: exit %d: %s", code, errOut)
	}
}

func TestAnEmptyFileChangesNothing(t *testing.T) {
	for _, text := range []string{"", "# only a comment\n", "---\n"} {
		for _, s := range settings(t, "--config", configFile(t, text)) {
			if s.From != "default" {
				t.Errorf("%q: %+v", text, s)
			}
		}
	}
}

func TestABrokerRunsWithItsFile(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, dir, "--config", configFile(t, "durability: unsafe-async\nauto-create-groups: false\n"))
	if !strings.Contains(s.greeting, "durability unsafe-async") {
		t.Errorf("it greets with:\n%s", s.greeting)
	}
}
