package main

import (
	"encoding/json"
	"slices"
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
	found := decoded[messagesView](t, s, "message", "query", "plain", "--key", "k-1")
	views := found.Messages
	if len(views) != 2 || *views[0].Offset != 1 || views[1].State != "queued" || found.Next != "" {
		t.Fatalf("%+v", views)
	}
	if list := gantry("message", "list", "plain", "--from", "1h", "--limit", "1"); !strings.Contains(list, views[1].ID) || strings.Contains(list, views[0].ID) || !strings.Contains(list, "STATE") {
		t.Errorf("first page:\n%s", list)
	}
	if v := decoded[messagesView](t, s, "message", "list", "plain", "--to", "1h"); len(v.Messages) > 0 {
		t.Errorf("before all: %+v", v)
	}
	var paged []string
	for page := ""; ; {
		v := decoded[messagesView](t, s, "message", "list", "plain", "--limit", "1", "--page", page)
		for _, m := range v.Messages {
			paged = append(paged, m.ID)
		}
		if page = v.Next; page == "" {
			break
		}
	}
	if !slices.Equal(paged, []string{views[1].ID, views[0].ID}) {
		t.Errorf("page by page: %v", paged)
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
		{exitFailed, []string{"list", "plain", "--page", "x"}, "not a page"},
		{exitFailed, []string{"list", "plain", "--group", "none"}, "none"},
		{exitUsage, []string{"list", "plain", "--state", "queued,gone"}, "gone"},
		{exitUsage, []string{"query", "plain"}, "key"},
		{exitUsage, []string{"get", "plain"}, "id"},
		{exitUsage, []string{"get", "plain", "--queue", "1"}, "offset"},
		{exitUsage, []string{"list", "plain", "--from", "x"}, "--from"},
		{exitUsage, []string{"query", "plain", "--id", "x", "--limit", "-1"}, "--limit"},
	} {
		code, _, errOut := cli(t, append(append([]string{"message"}, c.args...), "--server", s.server)...)
		if code != c.code || !strings.Contains(errOut, c.told) {
			t.Errorf("%v: exit %d: %s", c.args, code, errOut)
		}
	}
}

func TestMessagesAreListedWithTheirState(t *testing.T) {
	s := serve(t, t.TempDir())
	s.run(t, "topic", "create", "t", "--type", "mixed", "--queues", "1")
	s.bury(t, 1)
	s.run(t, "send", "t", "held")
	s.run(t, "receive", "t", "--group", "g", "--no-ack")
	s.run(t, "send", "t", "waits")
	s.sendHalf(t, "t", "m-1", "half one")
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "dead letter,retrying,queued,half"},
		{[]string{"--state", "retrying"}, "retrying"},
		{[]string{"--state", "dead,half"}, "dead letter,half"},
		{[]string{"--group", "g"}, "retrying,dead letter"},
	} {
		var got []string
		for _, m := range decoded[messagesView](t, s, append([]string{"message", "list", "t"}, c.args...)...).Messages {
			got = append(got, m.State)
		}
		if strings.Join(got, ",") != c.want {
			t.Errorf("%v: %v, want %s", c.args, got, c.want)
		}
	}
	if list := s.run(t, "message", "list", "t"); !strings.Contains(list, "g has it until 2") || !strings.Contains(list, "dead letter %DLQ%g/0/0") {
		t.Errorf("list:\n%s", list)
	}
	shown := s.run(t, "message", "get", "t", "--queue", "0", "--offset", "1")
	for _, part := range []string{"retrying", "g has it until 2", "deliveries to group g:", "HANDED OUT", "leased until 2"} {
		if !strings.Contains(shown, part) {
			t.Errorf("get lacks %q:\n%s", part, shown)
		}
	}
}
