package logging_test

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/gantry-mq/gantry/internal/logging"
)

func TestAComponentHasTheLevelOfAllUntilItHasItsOwn(t *testing.T) {
	var out bytes.Buffer
	levels := logging.New(slog.LevelInfo)
	root := slog.New(levels.Handler(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	disk, net := root.With(logging.Component, "disk"), root.With("node", 1, logging.Component, "net")
	written := func() (lines []string) {
		for _, l := range []struct {
			name string
			*slog.Logger
		}{{"root", root}, {"disk", disk}, {"net", net}, {"child", disk.With("file", "x")}, {"grouped", net.WithGroup("g").With(logging.Component, "disk")}} {
			l.Debug("debug " + l.name)
			l.Warn("warn " + l.name)
		}
		for line := range strings.Lines(out.String()) {
			_, line, _ = strings.Cut(line, `msg="`)
			line, _, _ = strings.Cut(line, `"`)
			lines = append(lines, line)
		}
		out.Reset()
		return lines
	}
	check := func(want ...string) {
		t.Helper()
		if got := written(); !slices.Equal(got, want) {
			t.Errorf("written %q, want %q", got, want)
		}
	}
	check("warn root", "warn disk", "warn net", "warn child", "warn grouped")
	if err := levels.Set("disk", slog.LevelDebug); err != nil {
		t.Fatal(err)
	}
	check("warn root", "debug disk", "warn disk", "warn net", "debug child", "warn child", "warn grouped")
	if err := levels.Set("net", slog.LevelError); err != nil {
		t.Fatal(err)
	}
	check("warn root", "debug disk", "warn disk", "debug child", "warn child")
	want := []logging.Level{{"all", slog.LevelInfo, true}, {"disk", slog.LevelDebug, true}, {"net", slog.LevelError, true}}
	if got := levels.List(); !slices.Equal(got, want) {
		t.Errorf("levels %v, want %v", got, want)
	}
	if err := levels.Set(logging.All, slog.LevelError); err != nil {
		t.Fatal(err)
	}
	check()
	if got := levels.List(); got[1].Own || got[1].Level != slog.LevelError {
		t.Errorf("after the level of all was set: %v", got)
	}
	if err := levels.Set("dsik", slog.LevelDebug); err == nil || !strings.Contains(err.Error(), "disk, net, all") {
		t.Errorf("a component that is not there: %v", err)
	}
}
