package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
)

// decoded runs a command with --json and reads what it prints.
func decoded[T any](t *testing.T, s *serving, args ...string) (v T) {
	t.Helper()
	out := s.run(t, append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("gantry %s: %v in %q", strings.Join(args, " "), err, out)
	}
	return v
}

// bury sends messages to topic t and has group g skip all of them.
func (s *serving) bury(t *testing.T, n int) {
	t.Helper()
	for i := range n {
		s.run(t, "send", "t", fmt.Sprint("body-", i), "--tag", "A", "--key", fmt.Sprint("k", i))
		s.run(t, "receive", "t", "--group", "g", "--no-ack")
		s.run(t, "group", "skip", "g", fmt.Sprint("t/0/", i))
	}
}

func TestDeadLettersAreHandledFromTheCommandLine(t *testing.T) {
	s := serve(t, t.TempDir())
	s.run(t, "topic", "create", "t", "--queues", "1")
	s.run(t, "group", "create", "g")
	if out := s.run(t, "dlq", "list", "g"); out != "no dead letter\n" {
		t.Error(out)
	}
	if code, _, errOut := cli(t, "dlq", "redrive", "g", "--all", "--to", "none", "--server", s.server); code != exitFailed || !strings.Contains(errOut, `"none" does not exist`) {
		t.Errorf("a target that is not there, and nothing to put into it: exit %d: %s", code, errOut)
	}
	s.bury(t, 4)
	table := s.run(t, "dlq", "list", "g")
	if lines := strings.Split(strings.TrimSpace(table), "\n"); len(lines) != 5 || strings.Join(strings.Fields(lines[0]), " ") != "OFFSET DIED FROM ID TAG KEYS ATTEMPTS SIZE STATE REASON" ||
		!strings.Contains(lines[2], "t/0/1") || !strings.Contains(lines[2], "k1") || !strings.Contains(lines[2], "open") || !strings.HasSuffix(lines[2], "skipped by an operator") {
		t.Fatalf("dlq list shows\n%s", table)
	}
	if v := decoded[[]deadView](t, s, "dlq", "list", "g", "--offset", "2,3", "--limit", "1"); len(v) != 1 || v[0].Offset != 2 || v[0].Topic != "t" ||
		v[0].State != "open" || v[0].Attempts != 1 || v[0].Size != 6 || v[0].LastClient == "" || v[0].LeaseEnd == "" {
		t.Fatalf("%+v", v)
	}
	if code, _, errOut := cli(t, "dlq", "list", "g", "--limit", "3", "--server", s.server); code != 0 || !strings.Contains(errOut, "--start 3") {
		t.Errorf("nothing says that there is more: exit %d: %s", code, errOut)
	}
	if v := decoded[[]deadView](t, s, "dlq", "list", "g", "--until", "1h"); len(v) != 0 {
		t.Errorf("nothing died more than an hour ago: %+v", v)
	}
	if out := s.run(t, "dlq", "show", "g", "1"); !strings.Contains(out, "body-1") || !strings.Contains(out, "t/0/1") || !strings.Contains(out, "skipped by an operator") ||
		!strings.Contains(out, "HANDED OUT") || !strings.Contains(out, "skipped 2") {
		t.Errorf("dlq show shows\n%s", out)
	}
	if v := decoded[deadMessageView](t, s, "dlq", "show", "g", "1"); string(v.Body) != "body-1" || v.Tag != "A" || len(v.History) != 1 ||
		v.History[0].Client != v.LastClient || v.History[0].End != "skipped" || v.History[0].Attempt != 1 {
		t.Errorf("%+v", v)
	}
	var exported []string
	for line := range strings.Lines(s.run(t, "dlq", "export", "g", "--topic", "t")) {
		var v deadMessageView
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatal(err)
		}
		exported = append(exported, string(v.Body))
	}
	if got := strings.Join(exported, " "); got != "body-0 body-1 body-2 body-3" {
		t.Errorf("exported %s", got)
	}
	if out := s.run(t, "dlq", "discard", "g", "--offset", "0"); out != "1 dead letter discarded\n" {
		t.Error(out)
	}
	if out := s.run(t, "dlq", "redrive", "g", "--all", "--dry-run"); out != "3 dead letters would be redriven\n" {
		t.Error(out)
	}
	if v := decoded[progressView](t, s, "dlq", "redrive", "g", "--reason", "skipped", "--rate", "1000"); v != (progressView{Matched: 3, Done: 3}) {
		t.Errorf("%+v", v)
	}
	if out := s.run(t, "receive", "t", "--group", "g", "--count", "3"); strings.Count(out, "body-") != 3 || strings.Contains(out, "body-0") {
		t.Errorf("came back:\n%s", out)
	}
	if out := s.run(t, "dlq", "redrive", "g", "--offset", "0,1"); !strings.HasPrefix(out, "no dead letter is selected") {
		t.Error(out)
	}
	settled := decoded[[]deadView](t, s, "dlq", "list", "g", "--settled")
	if len(settled) != 4 || settled[0].State != "discarded" || settled[3].State != "redriven" {
		t.Errorf("%+v", settled)
	}
	s.run(t, "topic", "delete", "t")
	s.run(t, "topic", "create", "other", "--type", "fifo")
	s.run(t, "send", "%DLQ%g", "stray")
	for _, args := range [][]string{{"--all"}, {"--all", "--to", "other"}, {"--all", "--to", "none"}} {
		if code, _, errOut := cli(t, append([]string{"dlq", "redrive", "g", "--server", s.server}, args...)...); code != exitFailed || errOut == "" {
			t.Errorf("redrive %v: exit %d: %s", args, code, errOut)
		}
	}
}

func TestOrderedGroupIsSeenFreedAndMoved(t *testing.T) {
	s := serve(t, t.TempDir())
	s.run(t, "topic", "create", "t", "--queues", "1")
	s.run(t, "group", "create", "g", "--fifo")
	if out := s.run(t, "group", "blocked", "g"); out != "nothing is blocked\n" {
		t.Error(out)
	}
	s.run(t, "send", "t", "x", "--count", "3")
	s.run(t, "receive", "t", "--group", "g", "--no-ack")
	table := s.run(t, "group", "blocked", "g")
	lines := strings.Split(strings.TrimSpace(table), "\n")
	if len(lines) != 2 || strings.Join(strings.Fields(lines[0]), " ") != "KEY MESSAGE ID ATTEMPT CLIENT SINCE UNTIL BEHIND" || !strings.Contains(lines[1], "t/0/0") || !strings.HasSuffix(lines[1], " 2") {
		t.Fatalf("group blocked shows\n%s", table)
	}
	v := decoded[[]blockedView](t, s, "group", "blocked", "g")
	if len(v) != 1 || v[0].Topic != "t" || v[0].Attempt != 1 || v[0].Behind != 2 || v[0].Client == "" || v[0].Since >= v[0].Until {
		t.Fatalf("%+v", v)
	}
	if code, _, errOut := cli(t, "group", "skip", "g", "t/9/0", "--server", s.server); code != exitFailed || !strings.Contains(errOut, "queues 0 to 0") {
		t.Errorf("a queue that is not there: exit %d: %s", code, errOut)
	}
	if out := s.run(t, "group", "skip", "g", "t/0/0"); !strings.Contains(out, "t/0/0 is a dead letter of group g") {
		t.Error(out)
	}
	if out := s.run(t, "receive", "t", "--group", "g"); !strings.HasPrefix(out, "t/0/1 ") {
		t.Errorf("after the skip came %s", out)
	}
	dry := s.run(t, "group", "reset", "g", "t", "--to", "0", "--dry-run")
	if lines := strings.Split(dry, "\n"); strings.Join(strings.Fields(lines[0]), " ") != "QUEUE FROM TO END IN FLIGHT WAITING" || !strings.Contains(dry, "nothing was changed") {
		t.Errorf("a dry run shows\n%s", dry)
	}
	for _, c := range []struct {
		to   string
		want int64
	}{{"latest", 3}, {"1", 1}, {"1h", 0}, {"2999-01-01T00:00:00Z", 3}, {"earliest", 0}} {
		if v := decoded[[]resetView](t, s, "group", "reset", "g", "t", "--to", c.to, "--queue", "0"); len(v) != 1 || v[0].To != c.want || v[0].Max != 3 {
			t.Errorf("to %s: %+v", c.to, v)
		}
	}
	if out := s.run(t, "receive", "t", "--group", "g"); !strings.HasPrefix(out, "t/0/0 ") {
		t.Errorf("after the reset came %s", out)
	}
	for args, says := range map[string]string{
		"group skip g t":                   "TOPIC/QUEUE/OFFSET",
		"group skip g t/0/x":               "TOPIC/QUEUE/OFFSET",
		"group reset g t":                  "--to",
		"group reset g t --to soon":        "--to",
		"group blocked g --limit 0":        "--limit",
		"dlq redrive g":                    "--all",
		"dlq discard g":                    "--all",
		"dlq discard g --all --topic t":    "--all",
		"dlq redrive g --all --rate -1":    "--rate",
		"dlq list g --since someday":       "--since",
		"dlq show g first":                 "OFFSET",
		"dlq show g 1 --server 127.0.0.1":  "HOST:PORT",
		"group reset g t --to 1 --queue x": "--queue",
	} {
		code, _, errOut := cli(t, strings.Fields(args)...)
		if code != exitUsage || !strings.Contains(errOut, says) {
			t.Errorf("gantry %s: exit %d, want %d with %q; it said: %s", args, code, exitUsage, says, errOut)
		}
	}
}

func TestRedriveOfAKilledBrokerGoesOnWhereItWas(t *testing.T) {
	const n = 30
	dir := t.TempDir()
	cmd, s := process(t, dir, io.Discard)
	s.run(t, "topic", "create", "t", "--queues", "1")
	s.bury(t, n)
	redrive := make(chan string, 1)
	go func() {
		_, _, errOut := cli(t, "dlq", "redrive", "g", "--all", "--rate", "20", "--server", s.server)
		redrive <- errOut
	}()
	for len(decoded[[]deadView](t, s, "dlq", "list", "g")) > n-10 {
	}
	if err := cmd.Process.Kill(); err != nil { // SIGKILL
		t.Fatal(err)
	}
	cmd.Wait()
	if errOut := <-redrive; !strings.Contains(errOut, "run the command again to go on") {
		t.Fatalf("the command said %s", errOut)
	}

	_, s = process(t, dir, io.Discard)
	v := decoded[progressView](t, s, "dlq", "redrive", "g", "--all")
	if v.Done != v.Matched || v.Done == 0 || v.Done > n-10 {
		t.Fatalf("the rest: %+v", v)
	}
	times := map[string]int{}
	for line := range strings.Lines(s.run(t, "receive", "t", "--group", "new", "--count", "0", "--wait", "500ms")) {
		f := strings.Fields(line)
		times[f[len(f)-1]]++
	}
	for i := range n { // as it was sent, and as it came back
		if body := fmt.Sprint("body-", i); times[body] != 2 {
			t.Errorf("%s is in the topic %d times, want 2", body, times[body])
		}
	}
}

func TestDeadLetterCommandsComplete(t *testing.T) {
	s := serve(t, t.TempDir())
	s.run(t, "topic", "create", "orders")
	s.run(t, "group", "create", "billing")
	for want, args := range map[string][]string{
		"billing":  {"dlq", "redrive"},
		"orders":   {"dlq", "redrive", "billing", "--to"},
		"earliest": {"group", "reset", "billing", "orders", "--to"},
	} {
		args = append([]string{"__complete", args[0], args[1], "--server", s.server}, append(args[2:], "")...)
		if out := ok(t, args...); !strings.Contains(out, want) {
			t.Errorf("%v gave %q, want %q among it", args, out, want)
		}
	}
	if out := ok(t, "__complete", "group", "reset", "--server", s.server, "billing", ""); !strings.Contains(out, "orders") {
		t.Errorf("the topic of a reset: %q", out)
	}
}
