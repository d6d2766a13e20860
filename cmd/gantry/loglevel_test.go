package main

import (
	"slices"
	"strings"
	"testing"
)

func TestLogLevelsAreChangedWhileTheBrokerRuns(t *testing.T) {
	s := serve(t, t.TempDir())
	levels := func(args ...string) []levelView {
		t.Helper()
		return decode[[]levelView](t, s.run(t, append([]string{"config", "log-level", "--json"}, args...)...))
	}
	before := levels()
	for _, name := range []string{"all", "api", "broker", "commitlog", "consumequeue", "http", "keyindex"} {
		if !slices.ContainsFunc(before, func(v levelView) bool { return v.Component == name }) {
			t.Errorf("no component %s: %v", name, before)
		}
	}
	after := levels("commitlog", "debug")
	for i, v := range after {
		if want := v.Component == "commitlog"; want != (v != before[i]) || want && v.Level != "debug" {
			t.Errorf("%v became %v", before[i], v)
		}
	}
	if code, _, errOut := cli(t, "config", "log-level", "nothing", "debug", "--server", s.server); code != exitFailed || !strings.Contains(errOut, "commitlog") {
		t.Errorf("a component that is not there: exit %d, %s", code, errOut)
	}
	for _, wrong := range [][]string{{"commitlog"}, {"commitlog", "loud"}} {
		if code, _, errOut := cli(t, append([]string{"config", "log-level", "--server", s.server}, wrong...)...); code != exitUsage {
			t.Errorf("%q: exit %d, %s", wrong, code, errOut)
		}
	}
}
