package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
)

func TestARangeIsReplayedFromTheCommandLine(t *testing.T) {
	s := serve(t, t.TempDir())
	s.run(t, "topic", "create", "t", "--queues", "2")
	for i := range 6 {
		s.run(t, "send", "t", fmt.Sprint("body-", i), "--tag", string("AB"[i%2]), "--property", fmt.Sprint("n=", i))
	}
	s.run(t, "receive", "t", "--group", "g", "--count", "6")
	replay := func(args ...string) []string {
		return append([]string{"group", "replay", "g", "--topic", "t"}, args...)
	}
	if out := s.run(t, replay("--from", "1h", "--dry-run")...); out != "6 messages of 6 in the range would be replayed to group g\n" {
		t.Error(out)
	}
	if v := decoded[replayView](t, s, replay("--from", "1h", "--filter", "A", "--rate", "1000")...); v != (replayView{Total: 6, Passed: 6, Replayed: 3}) {
		t.Errorf("%+v", v)
	}
	if out := s.run(t, "receive", "t", "--group", "g", "--count", "3"); strings.Count(out, "body-") != 3 || strings.Contains(out, "body-1") {
		t.Errorf("came again:\n%s", out)
	}
	if out := s.run(t, replay("--from", "1h", "--sql", "n = 5")...); out != "1 message of 6 in the range replayed to group g\n" {
		t.Error(out)
	}
	if out := s.run(t, replay("--from", "2h", "--to", "1h")...); out != "0 messages of 0 in the range replayed to group g\n" {
		t.Error(out)
	}
	for _, c := range []struct {
		code int
		args []string
		told string
	}{
		{exitFailed, replay("--resume"), "no replay"},
		{exitFailed, replay("--cancel"), "no replay"},
		{exitFailed, replay("--from", "1h", "--sql", "n ="), "at byte"},
		{exitFailed, []string{"group", "replay", "none", "--topic", "t", "--from", "1h"}, "none"},
		{exitUsage, replay(), "from"},
		{exitUsage, []string{"group", "replay", "g", "--from", "1h"}, "topic"},
		{exitUsage, replay("--from", "1h", "--resume"), "resume"},
		{exitUsage, replay("--resume", "--sql", "n = 1"), "resume"},
		{exitUsage, replay("--from", "1h", "--rate", "-1"), "--rate"},
		{exitUsage, replay("--from", "yesterday"), "--from"},
	} {
		if code, _, errOut := cli(t, append(c.args, "--server", s.server)...); code != c.code || !strings.Contains(errOut, c.told) {
			t.Errorf("%v: exit %d: %s", c.args, code, errOut)
		}
	}
}

func TestAReplayGoesOnAfterKill9AndCtrlC(t *testing.T) {
	dir := t.TempDir()
	broker, s := process(t, dir, io.Discard)
	const n = 200
	s.run(t, "topic", "create", "t", "--queues", "3")
	s.run(t, "send", "t", "body", "--count", fmt.Sprint(n))
	s.run(t, "receive", "t", "--group", "g", "--count", fmt.Sprint(n))
	// begun runs the replay until so many messages wait for the group, and what
	// interrupts it then; it must say how to go on.
	begun := func(many int64, interrupt func(cancel func()), args ...string) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var errOut bytes.Buffer
		code := make(chan int)
		go func() {
			code <- execute(ctx, append(args, "--rate", "40", "--server", s.server), nil, io.Discard, &errOut)
		}()
		for waiting := int64(0); waiting < many; {
			waiting = 0
			for _, q := range decoded[groupView](t, s, "group", "describe", "g").Topics[0].Queues {
				waiting += q.Ready
			}
		}
		interrupt(cancel)
		if c := <-code; c != exitFailed || !strings.Contains(errOut.String(), "--resume") {
			t.Fatalf("exit %d: %s", c, errOut.String())
		}
	}
	begun(15, func(cancel func()) { cancel() }, "group", "replay", "g", "--topic", "t", "--from", "1h")
	begun(30, func(func()) { broker.Process.Kill(); broker.Wait() }, "group", "replay", "g", "--topic", "t", "--resume")
	_, s = process(t, dir, io.Discard)
	if v := decoded[replayView](t, s, "group", "replay", "g", "--topic", "t", "--resume"); v != (replayView{Total: n, Passed: n, Replayed: n}) {
		t.Errorf("%+v", v)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(s.run(t, "receive", "t", "--group", "g", "--count", fmt.Sprint(n), "--json")) {
		var m messageView
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatal(err)
		}
		if seen[m.ID] || m.Attempt != 1 {
			t.Errorf("%s came twice, or with attempt %d", m.ID, m.Attempt)
		}
		seen[m.ID] = true
	}
	if code, out, _ := cli(t, "receive", "t", "--group", "g", "--wait", "10ms", "--server", s.server); len(seen) != n || code != exitFailed {
		t.Errorf("%d messages came again, want %d; then %q", len(seen), n, out)
	}
}
