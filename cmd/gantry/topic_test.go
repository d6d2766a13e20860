package main

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestTopicIsChangedAndDescribed(t *testing.T) {
	s := serve(t, t.TempDir())
	created := s.run(t, "topic", "create", "orders", "--queues", "2", "--dedup-window", "10m", "--retention-size", "5GiB")
	if want := "topic orders created: normal, 2 queues, keeps up to 5GiB, a message sent again within 10m is not stored (same id, up to 262144 remembered)\n"; created != want {
		t.Errorf("printed %q, want %q", created, want)
	}
	updated := s.run(t, "topic", "update", "orders", "--queues", "3", "--retention-age", "36h", "--retention-size", "0", "--dedup-key", "property:order")
	if want := "topic orders updated: normal, 3 queues, keeps messages for 36h, a message sent again within 10m is not stored (same property:order, up to 262144 remembered)\n"; updated != want {
		t.Errorf("printed %q, want %q", updated, want)
	}
	s.run(t, "send", "orders", "one", "--property", "order=1")
	s.run(t, "send", "orders", "two", "--property", "order=1")
	var v topicView
	if err := json.Unmarshal([]byte(s.run(t, "topic", "describe", "orders", "--json")), &v); err != nil {
		t.Fatal(err)
	}
	if *v.Messages != 1 || *v.Bytes < 64 || v.RetentionAge != "36h" || v.DedupWindow != "10m" || v.DedupKey != "property:order" ||
		v.DedupMax != 262144 || v.DedupRemembered != 1 || v.DedupSince == "" || v.Queues != 3 || len(v.Offsets) != 3 {
		t.Errorf("%+v", v)
	}
	if out := s.run(t, "topic", "describe", "orders"); !strings.Contains(out, "1 message (") ||
		!strings.Contains(out, "\n  keeps messages for 36h\n") || !strings.Contains(out, "1 message remembered, since ") {
		t.Errorf("described as\n%s", out)
	}
	if out := s.run(t, "topic", "update", "orders", "--dedup-window", "0", "--retention-age", "0"); out != "topic orders updated: normal, 3 queues\n" {
		t.Errorf("printed %q", out)
	}
	for _, c := range []struct {
		args string
		want int
		says string
	}{
		{"topic update orders", exitUsage, "at least one"},
		{"topic update orders --queues 1", exitFailed, "can be added"},
		{"topic update orders --dedup-key id", exitFailed, "without a key"},
		{"topic create x --dedup-window 10m --dedup-key order", exitFailed, "property:NAME"},
		{"topic create x --retention-age 1ms", exitFailed, "at least 1s"},
		{"topic update none --queues 9", exitFailed, "does not exist"},
	} {
		if code, _, errOut := cli(t, append(strings.Fields(c.args), "--server", s.server)...); code != c.want || !strings.Contains(errOut, c.says) {
			t.Errorf("gantry %s: exit %d: %s", c.args, code, errOut)
		}
	}
}

func TestPurgeAsksFirst(t *testing.T) {
	s := serve(t, t.TempDir())
	s.run(t, "topic", "create", "orders", "--type", "mixed", "--queues", "1")
	s.run(t, "send", "orders", "one", "two", "three")
	s.run(t, "send", "orders", "later", "--delay", "1h")
	if out := s.run(t, "topic", "purge", "orders", "--dry-run"); out != "topic orders: 3 messages, 1 delayed message would be purged\n" {
		t.Errorf("dry run printed %q", out)
	}
	for answer, want := range map[string]int{"": exitUsage, "n\n": exitFailed, "\n": exitFailed, "maybe\n": exitFailed} {
		code, out, errOut := cliWith(t, answer, "topic", "purge", "orders", "--server", s.server)
		if code != want || out != "" || !strings.Contains(errOut, "Purge 3 messages, 1 delayed message of topic orders? [y/N]") {
			t.Errorf("answer %q: exit %d: %s%s", answer, code, out, errOut)
		}
	}
	code, out, errOut := cliWith(t, "y\n", "topic", "purge", "orders", "--before", "1h", "--server", s.server)
	if code != 0 || out != "topic orders: 0 messages purged\n" {
		t.Errorf("of what is older than an hour: exit %d: %s%s", code, out, errOut)
	}
	code, out, errOut = cliWith(t, "yes\n", "topic", "purge", "orders", "--server", s.server)
	if code != 0 || out != "topic orders: 3 messages, 1 delayed message purged\n" {
		t.Errorf("exit %d: %s%s", code, out, errOut)
	}
	s.run(t, "send", "orders", "four")
	var v purgeView
	if err := json.Unmarshal([]byte(s.run(t, "topic", "purge", "orders", "--yes", "--json")), &v); err != nil {
		t.Fatal(err)
	}
	if v.Topic != "orders" || v.Messages != 1 || v.DryRun || len(v.Offsets) != 1 || v.Offsets[0] != (queueView{0, 4, 4}) {
		t.Errorf("%+v", v)
	}
	if code, _, errOut := cli(t, "topic", "purge", "orders", "--before", "soon", "--server", s.server); code != exitUsage {
		t.Errorf("exit %d: %s", code, errOut)
	}
}

func TestDeletedMessageIsNotReceived(t *testing.T) {
	s := serve(t, t.TempDir())
	s.run(t, "topic", "create", "t", "--type", "mixed", "--queues", "1")
	ids := map[string]string{}
	for _, args := range [][]string{{"one"}, {"two"}, {"later", "--delay", "1h"}} {
		var v sentView
		if err := json.Unmarshal([]byte(s.run(t, append([]string{"send", "t", "--json"}, args...)...)), &v); err != nil {
			t.Fatal(err)
		}
		ids[args[0]] = v.ID
	}
	for _, c := range []struct{ id, want string }{
		{ids["one"], "deleted (1 in queues)"}, {ids["one"], "deleted (it was gone already)"}, {ids["later"], "deleted (1 delayed)"},
	} {
		if out := s.run(t, "message", "delete", c.id, "--topic", "t"); out != "message "+c.id+" "+c.want+"\n" {
			t.Errorf("printed %q, want %s", out, c.want)
		}
	}
	if out := s.run(t, "message", "query", "t", "--id", ids["one"]); !strings.Contains(out, "deleted") {
		t.Errorf("found as\n%s", out)
	}
	if out := s.run(t, "receive", "t", "--group", "g"); !strings.Contains(out, "two") {
		t.Errorf("received %q", out)
	}
	for args, want := range map[string]int{"message delete x": exitUsage, "message delete x --topic t": exitFailed} {
		if code, _, errOut := cli(t, append(strings.Fields(args), "--server", s.server)...); code != want {
			t.Errorf("gantry %s: exit %d: %s", args, code, errOut)
		}
	}
}

// The names would be one as RocketMQ writes them.
func TestTopicsOfTwoNamespacesAreNeverShownAlike(t *testing.T) {
	s := serve(t, t.TempDir())
	s.run(t, "topic", "create", "a%orders")
	s.run(t, "topic", "create", "orders", "--namespace", "a")
	if out := s.run(t, "topic", "list"); !strings.Contains(out, "\na%orders ") || !strings.Contains(out, "\n~a%orders ") {
		t.Errorf("they are listed as\n%s", out)
	}
}
