package main

import (
	"fmt"
	"strings"
	"testing"
)

func TestFiltersAreTriedFromTheCommandLine(t *testing.T) {
	s := serve(t, t.TempDir())
	s.run(t, "topic", "create", "t", "--queues", "2")
	for i := range 6 {
		s.run(t, "send", "t", "x", "--tag", string("AB"[i%2]), "--key", fmt.Sprint("k", i), "--property", fmt.Sprint("price=", i), "--property", "region=eu")
	}
	s.run(t, "send", "t", "x", "--property", "price=1.5")
	s.run(t, "send", "t", "x")
	out := s.run(t, "filter", "test", "price >= 4", "--topic", "t")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 4 || lines[0] != "2 of 8 messages would match; 1 lack what the expression needs; 1 have a value that it cannot compare" ||
		strings.Join(strings.Fields(lines[1]), " ") != "STORED QUEUE OFFSET ID TAG KEYS PROPERTIES" || !strings.Contains(lines[2], "k5") || !strings.Contains(lines[3], "price=4") || !strings.Contains(lines[3], "region=eu") {
		t.Errorf("printed\n%s", out)
	}
	if v := decoded[filterView](t, s, "filter", "test", "A", "--tag", "--topic", "t", "--last", "7", "--examples", "1"); v.Looked != 7 || v.Matched != 2 || len(v.Examples) != 1 || v.Examples[0].Keys[0] != "k4" || v.Examples[0].Properties["price"] != "4" {
		t.Errorf("%+v", v)
	}
	if out := s.run(t, "filter", "test", "FALSE", "--topic", "t"); out != "0 of 8 messages would match\n" {
		t.Error(out)
	}
	for _, c := range []struct {
		code int
		args []string
		told string
	}{
		{exitFailed, []string{"price >", "--topic", "t"}, "  price >\n         ^\ngantry: expected a property"},
		{exitFailed, []string{"price > 1 AND\n'ä' ==\t1", "--topic", "t"}, "  'ä' ==\\t1\n       ^\ngantry: expected"},
		{exitFailed, []string{"A || B", "--topic", "t"}, "  A || B\n    ^\n"},
		{exitFailed, []string{"A || B", "--topic", "t"}, "tags need --tag"},
		{exitFailed, []string{"||", "--tag", "--topic", "t"}, "no tag"},
		{exitFailed, []string{"TRUE", "--topic", "none"}, "does not exist"},
		{exitFailed, []string{"TRUE", "--topic", "t", "--last", "100001"}, "100000"},
		{exitUsage, []string{"TRUE"}, "topic"},
		{exitUsage, []string{"TRUE", "--topic", "t", "--last", "0"}, "--last"},
		{exitUsage, []string{"TRUE", "--topic", "t", "--sql", "--tag"}, "tag"},
	} {
		code, _, errOut := cli(t, append(append([]string{"filter", "test"}, c.args...), "--server", s.server)...)
		if code != c.code || !strings.Contains(errOut, c.told) {
			t.Errorf("%q: exit %d: %s", c.args, code, errOut)
		}
	}
}
