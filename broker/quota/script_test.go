package quota

import (
	"bufio"
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// scripts are run against a table with a clock of its own:
//
//	set KIND NAME LIMIT=N...      sets a quota; NAME is namespace%name, - for none
//	unset KIND NAME
//	send WHO N BYTES              WHO is topic=T group=G client=C user=U, comma separated
//	receive WHO N BYTES           looks for N and takes all it may, of BYTES each
//	lease N, ack N                what group g has leased besides
//	+DURATION                     time passes
//	idle                          those that are idle go; how many are left
//
// followed by what comes of it behind "->".
var scripts = map[string]string{
	"a rate has a burst of one second, and then its pace": `
		set topic t send-messages=10
		send topic=t 10 1 -> ok
		send topic=t 1 1 -> topic "t" send-messages 10 in 100ms
		send topic=other 1000 1 -> ok
		+99ms
		send topic=t 1 1 -> topic "t" send-messages 10 in 1ms
		+1ms
		send topic=t 1 1 -> ok
		send topic=t 1 1 -> topic "t" send-messages 10 in 100ms
		+10s
		send topic=t 10 1 -> ok
		send topic=t 1 1 -> topic "t" send-messages 10 in 100ms`,
	"a batch is taken or refused whole": `
		set topic t send-messages=10
		send topic=t 8 1 -> ok
		send topic=t 3 1 -> topic "t" send-messages 10 in 100ms
		send topic=t 2 1 -> ok`,
	"a batch larger than a second's worth is taken by a full bucket, and paid for": `
		set topic t send-bytes=100
		send topic=t 1 500 -> ok
		send topic=t 1 1 -> topic "t" send-bytes 100 in 4.01s
		+4s
		send topic=t 1 500 -> topic "t" send-bytes 100 in 1s
		+1s
		send topic=t 1 500 -> ok`,
	"every limit counts, and one that refuses lets the others take nothing": `
		set topic t send-messages=10 send-bytes=1000
		set client c send-messages=4
		set user u send-bytes=100
		set namespace n send-messages=20
		send topic=n%t,client=c,user=u 5 60 -> ok
		send topic=n%t,client=c,user=u 1 1 -> client "c" send-messages 4 in 500ms
		send topic=n%x,user=u 1 50 -> user "u" send-bytes 100 in 100ms
		send topic=n%x,user=u 1 40 -> ok
		send topic=n%x 14 1 -> ok
		send topic=n%x 1 1 -> namespace "n" send-messages 20 in 50ms
		send topic=t,client=d 10 1000 -> ok`,
	"what has to be waited for longest is told": `
		set topic t send-messages=10
		set namespace - send-messages=1
		send topic=t 10 1 -> ok
		send topic=t 1 1 -> namespace "" send-messages 1 in 10s`,
	"each has a bucket of its own, unless it has a quota of its own": `
		set client * send-messages=2
		set client big send-messages=100
		send topic=t,client=a 2 1 -> ok
		send topic=t,client=a 1 1 -> client "a" send-messages 2 in 500ms
		send topic=t,client=b 2 1 -> ok
		send topic=t,client=big 100 1 -> ok
		send topic=t 1000 1 -> ok
		set topic n%* send-messages=1
		send topic=n%t 1 1 -> ok
		send topic=n%u 1 1 -> ok
		send topic=n%t 1 1 -> topic "n%t" send-messages 1 in 1s
		send topic=t 1000 1 -> ok`,
	"a change is in force at once and leaves the others alone": `
		set topic t send-messages=1
		set client c send-messages=4
		send topic=t,client=c 1 1 -> ok
		send topic=t,client=c 1 1 -> topic "t" send-messages 1 in 1s
		set topic t send-messages=100
		send topic=t,client=c 3 1 -> ok
		send topic=t,client=c 1 1 -> client "c" send-messages 4 in 250ms
		unset client c
		send topic=t,client=c 97 1 -> ok
		unset topic t
		send topic=t,client=c 1000 1 -> ok`,
	"a receive takes what there is, and owes what it found beyond": `
		set group g receive-messages=10 receive-bytes=100
		receive topic=t,group=g 32 10 -> 10
		receive topic=t,group=g 32 10 -> group "g" receive-messages 10 in 100ms
		+1s
		receive topic=t,group=g 32 60 -> 2
		receive topic=t,group=g 32 60 -> group "g" receive-bytes 100 in 210ms
		receive topic=t,group=h 32 60 -> 32`,
	"a receive that is held back waits for a while, not for each message": `
		set topic t receive-messages=1000
		receive topic=t,group=g 1000 1 -> 1000
		receive topic=t,group=g 1 1 -> topic "t" receive-messages 1000 in 100ms`,
	"sends and receives have buckets of their own": `
		set topic t send-messages=1 receive-messages=1
		send topic=t 1 1 -> ok
		receive topic=t,group=g 1 1 -> 1
		send topic=t 1 1 -> topic "t" send-messages 1 in 1s`,
	"what is in flight is bounded by what is leased": `
		set group g in-flight=5
		receive topic=t,group=g 3 1 -> 3
		lease 3
		receive topic=t,group=g 32 1 -> 2
		lease 2
		receive topic=t,group=g 32 1 -> group "g" in-flight 5 in 1s
		ack 1
		receive topic=t,group=g 32 1 -> 1
		receive topic=t,group=h 32 1 -> 32`,
	"limiters of those who have left are forgotten": `
		set client * send-messages=2
		set topic t send-messages=1
		send topic=t,client=a 1 1 -> ok
		send topic=u,client=b 1 1 -> ok
		idle -> 3
		+500ms
		idle -> 1
		+500ms
		idle -> 0`,
}

func TestScripts(t *testing.T) {
	for name, script := range scripts {
		t.Run(name, func(t *testing.T) { run(t, script) })
	}
}

func subject(t *testing.T, kind, name string) Subject {
	t.Helper()
	k := Topic
	for k.String() != kind {
		if k++; k == Kinds {
			t.Fatalf("kind %q", kind)
		}
	}
	if name == "-" {
		name = ""
	}
	s := Subject{Kind: k}
	if s.Namespace, s.Name, _ = strings.Cut(name, "%"); s.Name == "" {
		s.Namespace, s.Name = "", name
	}
	return s
}

func number(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func apply(t *testing.T, tb *Table, rec []byte) {
	t.Helper()
	if err := record.Verify(rec); err != nil {
		t.Fatal(err)
	}
	if err := tb.Apply(record.KindOf(rec), record.Command(rec)); err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, script string) {
	now, leased := int64(12345), 0
	tb := NewTable(func() int64 { return now })
	lines := bufio.NewScanner(strings.NewReader(script))
	for lines.Scan() {
		line, want, _ := strings.Cut(strings.TrimSpace(lines.Text()), " -> ")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		got := ""
		excess := func(e *Excess) string {
			return fmt.Sprintf("%v %s %d in %v", e.Of, Names[e.Limit], e.Max, e.Retry.Round(time.Microsecond))
		}
		ask := func() (a Ask) {
			for _, part := range strings.Split(words[1], ",") {
				k, v, _ := strings.Cut(part, "=")
				switch s := subject(t, k, v); s.Kind {
				case Topic:
					a.Topic = s.Resource
				case Group:
					a.Group = s.Resource
				case Client:
					a.Client = v
				case User:
					a.User = v
				}
			}
			return a
		}
		switch words[0] {
		case "set":
			q := Quota{Subject: subject(t, words[1], words[2])}
			for _, w := range words[3:] {
				k, v, _ := strings.Cut(w, "=")
				q.Limits[slices.Index(Names[:], k)] = uint64(number(t, v))
			}
			apply(t, tb, AppendPut(nil, q))
		case "unset":
			apply(t, tb, AppendDelete(nil, subject(t, words[1], words[2])))
		case "send":
			a := ask()
			got = "ok"
			if short := tb.Send(&a, number(t, words[2]), number(t, words[3])); short != nil {
				got = excess(short)
			}
		case "receive":
			a, each := ask(), number(t, words[3])
			g, short := tb.Receive(&a, number(t, words[2]), 1<<20, func(limit int) int { return min(leased, limit) })
			if short != nil {
				got = excess(short)
				break
			}
			n := min(g.Messages, (g.Bytes+each-1)/each)
			g.Done(n, n*each)
			got = fmt.Sprint(n)
		case "lease":
			leased += number(t, words[1])
		case "ack":
			leased -= number(t, words[1])
			tb.Freed(record.Resource{Name: "g"})
		case "idle":
			tb.mu.Lock()
			tb.sweepAt = 0
			tb.limiter(Subject{Client, record.Resource{Name: "new"}}, now)
			delete(tb.limiters, Subject{Client, record.Resource{Name: "new"}})
			got = fmt.Sprint(len(tb.limiters))
			tb.mu.Unlock()
		default:
			d, err := time.ParseDuration(strings.TrimPrefix(words[0], "+"))
			if err != nil {
				t.Fatal(err)
			}
			now += int64(d)
		}
		if got != want {
			t.Errorf("%s: %s, want %s", line, got, want)
		}
	}
}

func TestThoseWhoWaitAreTold(t *testing.T) {
	tb := NewTable(func() int64 { return 0 })
	g := Subject{Group, record.Resource{Name: "g"}}
	apply(t, tb, AppendPut(nil, Quota{g, Limits{InFlight: 2}}))
	ask, leased := Ask{Group: g.Resource}, 2
	count := func(int) int { return leased }
	_, short := tb.Receive(&ask, 1, 1, count)
	if short == nil {
		t.Fatal("not held back")
	}
	ready := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	if ready(short.Freed) || ready(short.Changed) {
		t.Error("told of nothing")
	}
	leased = 0
	tb.Freed(g.Resource)
	tb.Freed(g.Resource)
	if !ready(short.Freed) {
		t.Error("not told of messages that are acknowledged")
	}
	if ready(short.Freed) {
		t.Error("two of those that wait were told of the same")
	}
	grant, again := tb.Receive(&ask, 1, 1, count)
	if again != nil || !ready(short.Freed) {
		t.Error("who was told leaves room, and tells nobody:", again)
	}
	grant.Done(1, 1)
	apply(t, tb, AppendPut(nil, Quota{g, Limits{InFlight: 3}}))
	if !ready(short.Changed) {
		t.Error("not told of another quota")
	}
}

func TestTableSurvivesRecordsAndSnapshot(t *testing.T) {
	tb := NewTable(func() int64 { return 0 })
	if tb.Active() {
		t.Error("active without a quota")
	}
	for i, s := range []Subject{{Topic, record.Resource{Namespace: "n", Name: "t"}}, {Namespace, record.Resource{}}, {Client, record.Resource{Name: Each}}} {
		apply(t, tb, AppendPut(nil, Quota{s, Limits{SendMessages: 9, ReceiveBytes: uint64(i + 1)}}))
	}
	apply(t, tb, AppendPut(nil, Quota{Subject{Topic, record.Resource{Namespace: "n", Name: "t"}}, Limits{SendBytes: MaxLimit}}))
	apply(t, tb, AppendDelete(nil, Subject{Client, record.Resource{Name: Each}}))
	again := NewTable(func() int64 { return 0 })
	d := record.NewDecoder(tb.AppendSnapshot(nil))
	if again.Restore(d); d.Err() != nil {
		t.Fatal(d.Err())
	}
	if !again.Active() || !bytes.Equal(again.AppendSnapshot(nil), tb.AppendSnapshot(nil)) || len(again.List()) != 2 {
		t.Errorf("%v, want %v", again.List(), tb.List())
	}
	for _, q := range again.List() {
		apply(t, again, AppendDelete(nil, q.Subject))
	}
	if again.Active() {
		t.Error("active without a quota")
	}
}

func FuzzRecordsAndSnapshots(f *testing.F) {
	q := Quota{Subject{Topic, record.Resource{Namespace: "n", Name: "t"}}, Limits{SendMessages: 1, InFlight: 1 << 40}}
	f.Add(record.Command(AppendPut(nil, q)))
	f.Add([]byte{1, 1, 0, 1, 't', 9, 1, 2, 3, 4, 5, 6, 7, 8, 9})
	f.Fuzz(func(t *testing.T, data []byte) {
		tb := NewTable(func() int64 { return 0 })
		for _, k := range []record.Kind{record.KindQuotaPut, record.KindQuotaDelete} {
			_ = tb.Apply(k, data) // an error is an answer
		}
		d := record.NewDecoder(data)
		if tb = NewTable(func() int64 { return 0 }); d.Err() == nil {
			tb.Restore(d)
		}
		_ = tb.AppendSnapshot(nil)
	})
}
