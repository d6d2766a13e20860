package main

import (
	"strings"
	"testing"
)

func TestGroupsArePausedChangedAndCloned(t *testing.T) {
	s := serve(t, t.TempDir())
	s.run(t, "topic", "create", "t", "--queues", "1")
	s.run(t, "group", "create", "g")
	s.run(t, "group", "create", "h")
	s.run(t, "send", "t", "a", "b", "c")
	s.run(t, "receive", "t", "--group", "g")
	if out := s.run(t, "group", "pause", "g"); !strings.HasPrefix(out, "group g paused: ") {
		t.Error(out)
	}
	if code, _, _ := cli(t, "receive", "t", "--group", "g", "--wait", "10ms", "--server", s.server); code != exitFailed {
		t.Error("a paused group was handed something")
	}
	if out := s.run(t, "group", "describe", "g"); !strings.Contains(out, "\npaused: ") {
		t.Error(out)
	}
	if v := decoded[groupView](t, s, "group", "update", "g", "--max-attempts", "3", "--retry-steps", "1s,1m"); !v.Paused || v.MaxAttempts != 3 || v.Retry != "1s,1m" {
		t.Errorf("%+v", v)
	}
	if v := decoded[groupView](t, s, "group", "resume", "g"); v.Paused {
		t.Errorf("%+v", v)
	}
	if code, _, errOut := cli(t, "group", "update", "g", "--max-attempts", "0", "--server", s.server); code != exitFailed || !strings.Contains(errOut, "1 to") {
		t.Error(errOut)
	}

	if out := s.run(t, "group", "clone", "g", "h", "t", "--dry-run"); !strings.Contains(out, "nothing was changed") {
		t.Error(out)
	}
	if v := decoded[[]resetView](t, s, "group", "clone", "g", "h", "t"); len(v) != 1 || v[0].To != 1 || v[0].Max != 3 {
		t.Errorf("%+v", v)
	}
	if out := s.run(t, "receive", "t", "--group", "h"); out != "t/0/1  b\n" {
		t.Error(out)
	}
}

func TestMessagesAreWatchedAndResent(t *testing.T) {
	s := serve(t, t.TempDir())
	s.run(t, "topic", "create", "t", "--queues", "1")
	s.run(t, "topic", "create", "copies", "--queues", "1")
	s.run(t, "send", "t", "a", "--tag", "A", "--key", "k", "--property", "p=1")
	s.run(t, "send", "t", "b", "--tag", "B")
	if out := s.run(t, "message", "tail", "t", "--from", "earliest", "--wait", "500ms"); out != "t/0/0 tag=A key=k p=1  a\nt/0/1 tag=B  b\n" {
		t.Error(out)
	}
	v := decoded[messageView](t, s, "message", "tail", "t", "--from", "1h", "--sql", "p = 1", "--count", "1")
	if v.ID == "" || v.Tag != "A" || string(v.Properties["p"]) != "1" {
		t.Fatalf("%+v", v)
	}
	s.run(t, "message", "resend", v.ID, "--topic", "t", "--to", "copies")
	if out := s.run(t, "receive", "copies", "--group", "g"); out != "copies/0/0 tag=A key=k p=1  a\n" {
		t.Error(out)
	}
	if out := s.run(t, "topic", "route", "t"); !strings.Contains(out, s.server) {
		t.Error(out)
	}
	if code, _, errOut := cli(t, "client", "stack", "nobody", "--group", "g", "--server", s.server); code != exitFailed || errOut == "" {
		t.Errorf("exit %d: %s", code, errOut)
	}
}
