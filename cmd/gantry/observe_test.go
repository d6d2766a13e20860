package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	streams "github.com/gantry-mq/gantry/client"
	"github.com/gantry-mq/gantry/internal/freeaddr"
	"github.com/gantry-mq/gantry/proto/gantryv1"
)

func decode[T any](t *testing.T, raw string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(raw), &v); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	return v
}

func TestWhySaysWhoHasAMessage(t *testing.T) {
	s := serve(t, t.TempDir())
	s.run(t, "topic", "create", "t", "--queues", "1")
	id := strings.Fields(s.run(t, "send", "t", "x"))[0]
	if out := s.run(t, "why", id); !strings.Contains(out, "queued") || !strings.Contains(out, "no group has begun with this topic") {
		t.Errorf("before anybody came:\n%s", out)
	}
	s.run(t, "receive", "t", "--group", "g", "--no-ack")
	v := decode[[]whyView](t, s.run(t, "why", id, "--json"))
	if len(v) != 1 || v[0].Topic != "t" || v[0].Message.State != "retrying" || len(v[0].Groups) != 1 || v[0].Groups[0].Standing != "has it" || v[0].Groups[0].Next == "" {
		t.Fatalf("while it is held: %+v", v)
	}
	if out := s.run(t, "why", id, "--topic", "t"); !strings.Contains(out, v[0].Groups[0].Client+" has it, attempt 1") {
		t.Errorf("while it is held:\n%s", out)
	}
	if code, _, errOut := cli(t, "why", "nothing", "--server", s.server); code != exitFailed || !strings.Contains(errOut, "no topic has a message") {
		t.Errorf("of no message: exit %d: %s", code, errOut)
	}
}

func TestClientListShowsWhatIsHeld(t *testing.T) {
	s := serve(t, t.TempDir())
	if out := s.run(t, "client", "list"); out != "no client is connected\n" {
		t.Errorf("of nobody: %q", out)
	}
	s.run(t, "topic", "create", "t", "--queues", "1")
	s.run(t, "send", "t", "x", "--count", "3")
	c, err := streams.Dial(t.Context(), []string{s.server}, streams.Options{ID: "worker"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	co, err := c.NewConsumer(streams.ConsumerOptions{Group: "g", Topic: "t", Tag: "*"})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := co.Receive(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	v := decode[[]connectedView](t, s.run(t, "client", "list", "--json"))
	if len(v) != 1 || !strings.HasPrefix(v[0].ID, "worker") || v[0].Language != "GO" || !strings.HasPrefix(v[0].Version, "gantry") || v[0].Group != "g" || v[0].InFlight != 3 || v[0].LastError != nil {
		t.Fatalf("%+v", v)
	}
	if out := s.run(t, "client", "list", "--group", "g"); !strings.Contains(out, "push consumer") || !strings.Contains(out, v[0].ID) {
		t.Errorf("of the group:\n%s", out)
	}
	if out := s.run(t, "client", "list", "--group", "other"); !strings.Contains(out, "no client") {
		t.Errorf("of another group:\n%s", out)
	}
}

func TestTopShowsRatesAndWhoIsBehind(t *testing.T) {
	s := serve(t, t.TempDir())
	s.run(t, "topic", "create", "busy", "--queues", "1")
	s.run(t, "topic", "create", "idle", "--queues", "1")
	s.run(t, "send", "busy", "x", "--count", "7")
	s.run(t, "receive", "busy", "--group", "g", "--count", "2")
	v := decode[topView](t, s.run(t, "top", "--every", "100ms", "--looks", "1", "--json"))
	if len(v.Topics) != 2 || len(v.Groups) != 1 || v.Groups[0].Lag != 5 || v.Lag != 5 || v.Resident == 0 || v.DiskFree == 0 {
		t.Errorf("%+v", v)
	}
	if out := s.run(t, "top", "--every", "100ms", "--looks", "2", "--rows", "1"); strings.Count(out, "TOPIC ") != 4 || strings.Contains(out, "\x1b") {
		t.Errorf("two looks, to a file:\n%s", out)
	}
	counters := func(at time.Time, in uint64) look {
		return look{&gantryv1.OverviewResponse{
			Time: timestamppb.New(at), Traffic: &gantryv1.Traffic{MessagesIn: in}, Process: &gantryv1.ProcessStatus{Cpu: durationpb.New(time.Duration(in) * time.Millisecond)},
			Log: &gantryv1.LogStatus{Syncs: int64(in), SyncTime: durationpb.New(time.Duration(in) * 3 * time.Millisecond)},
		}, &gantryv1.TopicsResponse{}, &gantryv1.GroupsResponse{}}
	}
	now := time.Now()
	if v := viewTop(counters(now, 100), counters(now.Add(2*time.Second), 300)); v.Stored != 100 || v.SyncMS != 3 || v.CPU != 0.1 {
		t.Errorf("100 in two seconds more: %+v", v)
	}
	if v := viewTop(counters(now, 100), counters(now.Add(time.Second), 3)); v.Stored != 0 {
		t.Errorf("after a restart %v a second", v.Stored)
	}
}

func TestDoctorFindsWhatIsWrong(t *testing.T) {
	good := serve(t, t.TempDir())
	good.run(t, "topic", "create", "t")
	good.run(t, "send", "t", "x")
	all := decode[[]finding](t, mayFail(t, "doctor", "--json", "--server", good.server))
	if len(all) < 12 {
		t.Fatalf("%d findings: %+v", len(all), all)
	}
	for _, f := range all {
		if f.Check != "disk" && f.Check != "file system" && f.Result == failed || f.Result != fine && f.Advice == "" {
			t.Errorf("of a broker that is well: %+v", f)
		}
	}
	if out := mayFail(t, "doctor", "--server", good.server); !strings.Contains(out, "RESULT") || !strings.Contains(out, "advertised address") {
		t.Errorf("as a table:\n%s", out)
	}

	// An advertised address where nobody listens, one of another broker, and the right one.
	nobody := freeaddr.Of(t, 1, 1)[0]
	for _, c := range []struct{ advertise, result, found string }{
		{nobody, failed, "does not answer"}, {good.server, failed, "another broker"},
	} {
		s := serve(t, t.TempDir(), "--advertise", c.advertise)
		code, out, _ := cli(t, "doctor", "--json", "--server", s.server)
		f := findingOf(t, out, "advertised address")
		if code != exitFailed || f.Result != c.result || !strings.Contains(f.Found, c.found) || f.Advice == "" {
			t.Errorf("advertising %s: exit %d, %+v", c.advertise, code, f)
		}
		s.stop()
	}
	if code, out, _ := cli(t, "doctor", "--json", "--server", nobody); code != exitFailed || findingOf(t, out, "server").Result != failed {
		t.Errorf("of no broker: exit %d, %s", code, out)
	}
}

// mayFail runs a command whose outcome depends on the host too.
func mayFail(t *testing.T, args ...string) string {
	t.Helper()
	code, out, errOut := cli(t, args...)
	if code == exitUsage || out == "" {
		t.Fatalf("gantry %v: exit %d: %s", args, code, errOut)
	}
	return out
}

func findingOf(t *testing.T, raw, check string) finding {
	t.Helper()
	for _, f := range decode[[]finding](t, raw) {
		if f.Check == check {
			return f
		}
	}
	t.Fatalf("no finding about %q: %s", check, raw)
	return finding{}
}

func TestEachCheckFires(t *testing.T) {
	now := time.Now()
	well := func() *gantryv1.OverviewResponse {
		return &gantryv1.OverviewResponse{
			Server: &gantryv1.ServerInfoResponse{Durability: "sync", DataDir: "/d"}, Time: timestamppb.New(now), Traffic: &gantryv1.Traffic{},
			Log: &gantryv1.LogStatus{Syncs: 10, SyncTime: durationpb.New(10 * time.Millisecond)}, Disk: &gantryv1.DiskStatus{Total: 100, Free: 50, Kind: "ext4", Mode: 0o700},
			Process: &gantryv1.ProcessStatus{OpenFiles: 10, OpenFilesLimit: 1 << 20, Heap: 10, MemoryLimit: 100},
		}
	}
	every := func(o *gantryv1.OverviewResponse) []finding {
		return append(checkDisk(o), checkServing(o), checkClock(o, now, 0), checkKept(o), checkFiles(o), checkMemory(o), checkSyncs(o), checkDurability(o), checkParked(o))
	}
	for _, f := range every(well()) {
		if f.Result != fine || f.Advice != "" {
			t.Errorf("of a broker that is well: %+v", f)
		}
	}
	for _, c := range []struct {
		check, result string
		harm          func(*gantryv1.OverviewResponse)
	}{
		{"server", failed, func(o *gantryv1.OverviewResponse) { o.NotReady = "closing" }},
		{"server", failed, func(o *gantryv1.OverviewResponse) { o.Log.Failure = "EIO" }},
		{"disk", failed, func(o *gantryv1.OverviewResponse) { o.Disk.Free = 4 }},
		{"disk", warning, func(o *gantryv1.OverviewResponse) { o.Disk.Free = 14 }},
		{"disk", failed, func(o *gantryv1.OverviewResponse) { o.Log.DiskFull = true }},
		{"disk", warning, func(o *gantryv1.OverviewResponse) { o.Disk.Total = 0 }},
		{"file system", failed, func(o *gantryv1.OverviewResponse) { o.Disk.Kind = "tmpfs" }},
		{"file system", warning, func(o *gantryv1.OverviewResponse) { o.Disk.Kind = "overlay" }},
		{"directory", warning, func(o *gantryv1.OverviewResponse) { o.Disk.Mode = 0o755 }},
		{"clock", failed, func(o *gantryv1.OverviewResponse) { o.Time = timestamppb.New(now.Add(-3 * time.Second)) }},
		{"clock is kept", warning, func(o *gantryv1.OverviewResponse) { o.Process.ClockUnsynchronized = true }},
		{"open files", warning, func(o *gantryv1.OverviewResponse) { o.Process.OpenFilesLimit = 1024 }},
		{"open files", warning, func(o *gantryv1.OverviewResponse) { o.Process.OpenFiles = 1 << 20 }},
		{"memory", warning, func(o *gantryv1.OverviewResponse) { o.Process.Heap = 95 }},
		{"fdatasync", warning, func(o *gantryv1.OverviewResponse) { o.Log.SyncTime = durationpb.New(time.Second) }},
		{"durability", warning, func(o *gantryv1.OverviewResponse) { o.Server.Durability = "unsafe-async" }},
		{"transactions", warning, func(o *gantryv1.OverviewResponse) { o.Traffic.HalfParked = 2 }},
	} {
		o := well()
		c.harm(o)
		hit := false
		for _, f := range every(o) {
			if f.Check == c.check {
				hit = f.Result == c.result && f.Advice != ""
			}
		}
		if !hit {
			t.Errorf("%s is not %s: %+v", c.check, c.result, every(o))
		}
	}
	left := &gantryv1.GroupsResponse{Groups: []*gantryv1.GroupTraffic{{Group: &gantryv1.Group{Name: "left"}, Topics: []*gantryv1.GroupTopicTraffic{{Lag: 3}}}}}
	if f := checkGroups(left); f.Result != warning || !strings.Contains(f.Found, "left (3 messages)") {
		t.Errorf("of a group that nobody serves: %+v", f)
	}
	if s := fmt.Sprint(about(int64(1536)), " ", about(3.0)); s != "1.5 KiB 3 B" {
		t.Error(s)
	}
}
