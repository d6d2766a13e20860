package broker

import (
	"fmt"
	"strings"
	"testing"

	"github.com/gantry-mq/gantry/broker/topic"
)

func TestAFilterIsTriedOnTheNewestMessages(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 3)
	for i := range 400 {
		m := msg(fmt.Sprint("id-", i), "x")
		m.Tag = string("AB"[i%2])
		if i%4 != 0 {
			m.User = []Property{{"n", fmt.Sprint(i)}}
		}
		if i == 399 {
			m.User[0].Value = "many"
		}
		send(t, b, "T", m)
		later() // so that the order of the queues is known
	}
	for _, c := range []struct {
		kind FilterType
		expr string
		last int
		want string
	}{
		{FilterTag, "A", 10, "10 looked 5 matched 0 unknown 0 failed id-398 id-396"},
		{FilterTag, "*", MaxFilterTest, "400 looked 400 matched 0 unknown 0 failed id-399 id-398"},
		{FilterSQL, "n > 395", 10, "10 looked 2 matched 2 unknown 1 failed id-398 id-397"},
		{FilterSQL, "n IS NULL", 400, "400 looked 100 matched 0 unknown 0 failed id-396 id-392"},
		{FilterSQL, "FALSE", 1, "1 looked 0 matched 0 unknown 0 failed"},
	} {
		got, err := b.TestFilter(t.Context(), name("T"), c.kind, c.expr, c.last, 2)
		if err != nil {
			t.Fatal(err)
		}
		s := fmt.Sprintf("%d looked %d matched %d unknown %d failed", got.Looked, got.Matched, got.Unknown, got.Failed)
		for _, x := range got.Examples {
			s += " " + x.ID
		}
		if s != c.want {
			t.Errorf("%s of %d: %s, want %s", c.expr, c.last, s, c.want)
		}
	}
	if m := receive(t, b, "T", "G"); len(m) == 0 {
		t.Error("something was consumed")
	}
	for what, err := range map[string]error{
		"at byte 3":  ignore(b.TestFilter(t.Context(), name("T"), FilterSQL, "a >", 1, 0)),
		"100000":     ignore(b.TestFilter(t.Context(), name("T"), FilterTag, "*", MaxFilterTest+1, 0)),
		"0 to 100 e": ignore(b.TestFilter(t.Context(), name("T"), FilterTag, "*", 1, -1)),
		"none":       ignore(b.TestFilter(t.Context(), name("none"), FilterTag, "*", 1, 0)),
	} {
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func ignore(_ FilterTest, err error) error { return err }

func TestAFilterIsTriedOnTheYoungestLiteTopics(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Lite, 1)
	for i := range 9 {
		m := msg(fmt.Sprint("id-", i), "x")
		m.LiteTopic = string("abc"[i%3])
		send(t, b, "T", m)
	}
	got, err := b.TestFilter(t.Context(), name("T"), FilterTag, "*", 4, 9)
	if err != nil || got.Matched != 4 {
		t.Fatalf("%+v, %v", got, err)
	}
	for i, want := range []string{"id-8", "id-5", "id-2", "id-7"} {
		if got.Examples[i].ID != want {
			t.Errorf("%d is %s, want %s", i, got.Examples[i].ID, want)
		}
	}
}
