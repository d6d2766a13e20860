package main

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestQuotasAreSetListedAndUnset(t *testing.T) {
	s := serve(t, t.TempDir())
	s.run(t, "topic", "create", "orders")
	if out := s.run(t, "quota", "list"); !strings.Contains(out, "there are no quotas") {
		t.Error(out)
	}
	s.run(t, "quota", "set", "topic", "orders", "--send-messages", "2", "--namespace", "a")
	s.run(t, "quota", "set", "topic", "orders", "--send-messages", "5000")
	out := s.run(t, "quota", "set", "topic", "orders", "--send-bytes", "1") // beside what there is
	if f := strings.Fields(strings.Split(out, "\n")[1]); strings.Join(f, " ") != "topic orders 5000 1 - - -" {
		t.Errorf("%q", f)
	}
	s.run(t, "quota", "set", "client", "*", "--receive-messages", "5000")
	s.run(t, "quota", "set", "namespace", "", "--send-messages", "5000")
	s.run(t, "send", "orders", "one")
	code, _, errOut := cli(t, "send", "orders", "two", "--server", s.server)
	if code != exitFailed || !strings.Contains(errOut, `the quota of topic "orders" is 1 bytes/s sent; try again in`) {
		t.Errorf("above the quota: exit %d: %s", code, errOut)
	}
	var list []quotaView
	if err := json.Unmarshal([]byte(s.run(t, "quota", "list", "--json")), &list); err != nil || len(list) != 4 || list[1] != (quotaView{Kind: "topic", Namespace: "a", Name: "orders", SendMessages: 2}) {
		t.Errorf("%+v, %v", list, err)
	}
	s.run(t, "quota", "unset", "topic", "orders")
	s.run(t, "send", "orders", "two")
	s.run(t, "send", "orders", "three")
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"unset", "topic", "orders"}, exitFailed, "there is no quota"}, {[]string{"set", "queue", "q"}, exitUsage, "want topic, group"},
		{[]string{"set", "topic", "orders"}, exitFailed, "would bound nothing"}, {[]string{"set", "group", "g", "--send-messages", "1"}, exitFailed, "a group sends nothing"},
		{[]string{"set", "topic"}, exitUsage, "1 argument"},
	} {
		if code, _, errOut := cli(t, append(append([]string{"quota"}, c.args...), "--server", s.server)...); code != c.code || !strings.Contains(errOut, c.says) {
			t.Errorf("%v: exit %d: %s", c.args, code, errOut)
		}
	}
	if out := s.run(t, "namespace", "list"); !strings.Contains(out, "(default)") || strings.Contains(out, "\na ") {
		t.Error(out)
	}
}
