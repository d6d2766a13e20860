package main

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestMessagesAreFoundAndShown(t *testing.T) {
	s := serve(t, t.TempDir())
	gantry := func(args ...string) string { return ok(t, append(args, "--server", s.server)...) }
	gantry("topic", "create", "orders", "--type", "transaction", "--queues", "1")
	gantry("topic", "create", "plain", "--queues", "1")
	s.sendHalf(t, "orders", "m-1", "half one")
	gantry("send", "plain", "hello", "--key", "k-1", "--tag", "A")
	gantry("send", "plain", "world", "--key", "k-1")

	if list := gantry("message", "query", "orders", "--id", "m-1"); !strings.Contains(list, "m-1") || !strings.Contains(list, "half") {
		t.Errorf("half:\n%s", list)
	}
	var views []storedView
	if err := json.Unmarshal([]byte(gantry("message", "query", "plain", "--key", "k-1", "--json")), &views); err != nil || len(views) != 2 || *views[0].Offset != 1 || views[1].State != "queued" {
		t.Fatalf("%+v, %v", views, err)
	}
	if list := gantry("message", "query", "plain", "--from", "1h", "--limit", "1"); !strings.Contains(list, views[1].ID) || strings.Contains(list, views[0].ID) || !strings.Contains(list, "STATE") {
		t.Errorf("first page:\n%s", list)
	}
	if list := gantry("message", "query", "plain", "--to", "1h", "--json"); strings.TrimSpace(list) != "[]" {
		t.Errorf("before all:\n%s", list)
	}
	for _, args := range [][]string{{"--id", views[1].ID}, {"--queue", "0", "--offset", "0"}} {
		shown := gantry(append([]string{"message", "get", "plain"}, args...)...)
		for _, part := range []string{"queued", "k-1", views[1].ID, "body, 5 bytes:\nhello"} {
			if !strings.Contains(shown, part) {
				t.Errorf("get %v lacks %q:\n%s", args, part, shown)
			}
		}
	}
	if shown := gantry("message", "get", "orders", "--id", "m-1"); !strings.Contains(shown, "half one") || !strings.Contains(shown, "property price") {
		t.Errorf("half:\n%s", shown)
	}
	var whole storedMessageView
	if err := json.Unmarshal([]byte(gantry("message", "get", "plain", "--id", views[0].ID, "--json")), &whole); err != nil || string(whole.Body) != "world" || whole.State != "queued" {
		t.Errorf("%+v, %v", whole, err)
	}
	for _, c := range []struct {
		code int
		args []string
		told string
	}{
		{exitFailed, []string{"get", "plain", "--id", "none"}, "no message with the id"},
		{exitFailed, []string{"get", "none", "--id", "x"}, "does not exist"},
		{exitFailed, []string{"query", "plain", "--page", "x"}, "not a page"},
		{exitUsage, []string{"get", "plain"}, "id"},
		{exitUsage, []string{"get", "plain", "--queue", "1"}, "offset"},
		{exitUsage, []string{"query", "plain", "--from", "x"}, "--from"},
		{exitUsage, []string{"query", "plain", "--limit", "-1"}, "--limit"},
	} {
		code, _, errOut := cli(t, append(append([]string{"message"}, c.args...), "--server", s.server)...)
		if code != c.code || !strings.Contains(errOut, c.told) {
			t.Errorf("%v: exit %d: %s", c.args, code, errOut)
		}
	}
}
