package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/internal/freeaddr"
)

// serveShards starts a cluster of one node with several shards.
func serveShards(t *testing.T, dir string, shards int, args ...string) *serving {
	t.Helper()
	at := freeaddr.Of(t, 2, shards)
	return serve(t, dir, append([]string{"--node", "n1", "--bootstrap", "--shards", fmt.Sprint(shards), "--listen", at[0], "--peer", at[1]}, args...)...)
}

// inShard runs a command against a shard.
func (s *serving) inShard(t *testing.T, shard int, args ...string) string {
	t.Helper()
	return s.run(t, append(args, "--shard", fmt.Sprint(shard))...)
}

func TestEachShardIsABrokerWithAPortOfItsOwn(t *testing.T) {
	dir := t.TempDir()
	s := serveShards(t, dir, 3)
	s.run(t, "topic", "create", "hello", "--queues", "2")

	var route []struct {
		Queue     int
		Broker    string
		Addresses []string
	}
	for shard := range 3 { // whichever is asked
		if err := json.Unmarshal([]byte(s.inShard(t, shard, "topic", "route", "hello", "--json")), &route); err != nil {
			t.Fatal(err)
		}
		host, port, err := splitAddr(s.server)
		if err != nil {
			t.Fatal(err)
		}
		for i, q := range route {
			name := []string{"gantry", "gantry-1", "gantry-2"}[i/2]
			if at := net.JoinHostPort(host, fmt.Sprint(port+10*(i/2))); q.Queue != i%2 || q.Broker != name || len(q.Addresses) != 1 || q.Addresses[0] != at {
				t.Errorf("queue %d of the route that shard %d tells: %+v, want %s at %s", i, shard, q, name, at)
			}
		}
		if len(route) != 6 {
			t.Errorf("shard %d knows %d queues, want 6", shard, len(route))
		}
	}

	// What is sent to a shard is there, and nowhere else. Groups are everywhere.
	s.inShard(t, 1, "send", "hello", "in shard 1")
	if code, _, _ := cli(t, "receive", "hello", "--group", "g", "--wait", "100ms", "--server", s.server); code == 0 {
		t.Error("shard 0 has the message of shard 1")
	}
	if out := s.inShard(t, 1, "receive", "hello", "--group", "readers"); !strings.Contains(out, "in shard 1") {
		t.Errorf("shard 1: %s", out)
	}
	for shard := range 3 {
		if out := s.inShard(t, shard, "group", "list"); !strings.Contains(out, "readers") {
			t.Errorf("the group is not in shard %d: %s", shard, out)
		}
	}

	code, _, errOut := cli(t, "topic", "create", "other", "--server", s.server, "--shard", "2")
	if code == 0 || !strings.Contains(errOut, "shard 0, at "+s.server) {
		t.Errorf("a topic is made in shard 2: exit %d: %s", code, errOut)
	}
	out := s.run(t, "cluster", "status")
	if rows := strings.Split(strings.TrimSpace(out), "\n"); len(rows) != 4 || !strings.HasPrefix(rows[0], "SHARD") || !strings.HasPrefix(rows[3], "2 ") {
		t.Errorf("cluster status:\n%s", out)
	}
	if out := s.inShard(t, 1, "cluster", "status"); strings.Count(out, "n1") != 1 || !strings.Contains(out, "\n1 ") {
		t.Errorf("cluster status of shard 1:\n%s", out)
	}
	s.run(t, "cluster", "digest")
	s.run(t, "topic", "delete", "hello")
	if code, _, _ := cli(t, "topic", "describe", "hello", "--server", s.server, "--shard", "2"); code == 0 {
		t.Error("a topic that was deleted is in shard 2")
	}

	get := func(path string) string {
		r, err := http.Get(s.web + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		text, err := io.ReadAll(r.Body)
		if err != nil || r.StatusCode != http.StatusOK {
			t.Errorf("%s: %s %s %v", path, r.Status, text, err)
		}
		return string(text)
	}
	get("/readyz")
	metrics := get("/metrics")
	for _, want := range []string{`gantry_clients\{shard="0"\}`, `gantry_clients\{shard="2"\}`, `gantry_grpc_calls_total\{.*shard="1".*\}`, `gantry_\w+\{shard="1"\}`} {
		if !regexp.MustCompile("(?m)^" + want + " ").MatchString(metrics) {
			t.Errorf("no metric %s", want)
		}
	}
	s.stop()

	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--node", "n1", "--shards", "2"}, "start it with --shards 3"},
		{[]string{"--node", "n1"}, "start it with --shards 3"},
		{[]string{"--shards", "3"}, "needs --node"},
		{[]string{"--node", "n1", "--shards", "17"}, "want 1 to 16"},
		{[]string{"--node", "n1", "--shards", "3", "--listen", "127.0.0.1:0"}, "none can be 0"},
		{[]string{"--node", "n1", "--shards", "3", "--listen", "127.0.0.1:65530"}, "20 higher"},
		{[]string{"--node", "n1", "--shards", "4"}, filepath.Join(dir, "shards", "3") + " is of no node of a cluster yet"},
	} {
		code, _, errOut := cli(t, append([]string{"serve", "--data", dir, "--http", "127.0.0.1:0"}, c.args...)...)
		if code != exitUsage || !strings.Contains(errOut, c.want) {
			t.Errorf("serve %q: exit %d: %s; want %q", c.args, code, errOut, c.want)
		}
	}
}

// Who does not say which shard sees what is in all of them, and finds a message wherever it is.
func TestOperatorsCommandsAreAboutAllShards(t *testing.T) {
	s := serveShards(t, t.TempDir(), 2)
	s.run(t, "topic", "create", "hello", "--queues", "1")
	s.run(t, "send", "hello", "in shard 0")
	id := strings.Fields(s.inShard(t, 1, "send", "hello", "in shard 1"))[0]
	if out := s.run(t, "topic", "describe", "hello"); !strings.HasPrefix(out, "shard 0:\n") || !strings.Contains(out, "\nshard 1:\n") || strings.Count(out, "1 message") != 2 {
		t.Errorf("topic describe:\n%s", out)
	}
	if out := s.inShard(t, 1, "topic", "describe", "hello"); strings.Contains(out, "shard") {
		t.Errorf("topic describe --shard 1:\n%s", out)
	}
	var described []struct {
		Shard    *int
		Messages int64
	}
	if err := json.Unmarshal([]byte(s.run(t, "topic", "describe", "hello", "--json")), &described); err != nil || len(described) != 2 || described[1].Shard == nil || *described[1].Shard != 1 || described[1].Messages != 1 {
		t.Errorf("topic describe --json: %+v, %v", described, err)
	}
	var listed []struct {
		Shard    int
		Messages []struct{ ID string }
	}
	if err := json.Unmarshal([]byte(s.run(t, "message", "list", "hello", "--json")), &listed); err != nil || len(listed) != 2 || listed[1].Shard != 1 || len(listed[1].Messages) != 1 || listed[1].Messages[0].ID != id {
		t.Errorf("message list --json: %+v, %v", listed, err)
	}
	if out := s.run(t, "message", "get", "hello", "--id", id); !strings.Contains(out, "in shard 1") {
		t.Errorf("message get --id: %s", out)
	}
	if out := s.run(t, "message", "get", "hello", "--queue", "0", "--offset", "0"); !strings.Contains(out, "in shard 0") {
		t.Errorf("message get --offset: %s", out)
	}
	if out := s.run(t, "why", id); !strings.Contains(out, id) {
		t.Errorf("why: %s", out)
	}
	code, _, errOut := cli(t, "topic", "describe", "nowhere", "--server", s.server)
	if code == 0 || strings.Count(errOut, "nowhere") != 1 {
		t.Errorf("what is in no shard is told once: %s", errOut)
	}
	if code, _, errOut := cli(t, "group", "blocked", "g", "--limit", "0", "--server", s.server); code != exitUsage || strings.Count(errOut, "want 1") != 1 {
		t.Errorf("a wrong flag is told once: exit %d: %s", code, errOut)
	}
	s.run(t, "topic", "purge", "hello", "--yes")
	if out := s.run(t, "topic", "describe", "hello"); strings.Count(out, "0 messages") != 2 {
		t.Errorf("after a purge:\n%s", out)
	}
}

// A cluster begins with one shard and gets others later.
func TestShardsAreAddedToACluster(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, dir, "--node", "n1", "--bootstrap", "--peer", "127.0.0.1:0")
	s.run(t, "topic", "create", "hello")
	s.run(t, "send", "hello", "from before")
	s.stop()
	s = serveShards(t, dir, 2)
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if code, _, errOut := cli(t, "send", "hello", "in the new shard", "--server", s.server, "--shard", "1"); code == 0 {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("shard 1 has no topic: %s", errOut)
		}
	}
	for shard, want := range []string{"from before", "in the new shard"} {
		if out := s.inShard(t, shard, "receive", "hello", "--group", "g"); !strings.Contains(out, want) {
			t.Errorf("shard %d: %s", shard, out)
		}
	}
}

// Users are shard 0's, and who may not call any more may not call any shard.
func TestUsersOfAllShards(t *testing.T) {
	dir := t.TempDir()
	s := serveShards(t, filepath.Join(dir, "data"), 2, "--auth")
	t.Setenv(userEnv, firstUser)
	t.Setenv(secretEnv, filepath.Join(dir, "data.admin-secret"))
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) { // the first user comes when somebody leads
		if code, _, errOut := cli(t, "topic", "create", "orders", "--server", s.server); code == 0 {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(errOut)
		}
	}
	secret := filepath.Join(dir, "secret")
	if err := writePrivate(secret, "shop-secret"); err != nil {
		t.Fatal(err)
	}
	s.run(t, "user", "create", "shop", "--new-secret-file", secret)
	s.run(t, "acl", "grant", "--user", "shop", "--topic", "orders", "--action", "pub")
	send := func() int {
		code, _, _ := cli(t, "send", "orders", "x", "--server", s.server, "--shard", "1", "--user", "shop", "--secret-file", secret)
		return code
	}
	if send() != 0 {
		t.Fatal("a user of shard 0 may not send to shard 1")
	}
	s.run(t, "user", "delete", "shop")
	if send() == 0 {
		t.Fatal("a user that is gone from shard 0 may send to shard 1")
	}
}

// The page of any node shows each shard, whoever leads it.
func TestOperatorsCallAnyNodeByHTTP(t *testing.T) {
	at := freeaddr.Of(t, 4, 2)
	node := func(name, listen, peer string, args ...string) *serving {
		return serve(t, t.TempDir(), append([]string{"--node", name, "--shards", "2", "--listen", listen, "--peer", peer}, args...)...)
	}
	first := node("n1", at[0], at[1], "--bootstrap")
	second := node("n2", at[2], at[3], "--join", at[1])
	call := func(s *serving, method, body string, change func(*http.Request)) (int, string, http.Header) {
		t.Helper()
		r, err := http.NewRequest(http.MethodPost, strings.TrimSuffix(s.web, "/")+"/api/gantry.v1."+method, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("X-Gantry", "1")
		if change != nil {
			change(r)
		}
		got, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer got.Body.Close()
		text, err := io.ReadAll(got.Body)
		if err != nil {
			t.Fatal(err)
		}
		return got.StatusCode, string(text), got.Header
	}
	// With one node that leads all, the other answers nothing by itself.
	for _, s := range []*serving{first, second} {
		for shard, name := range []string{"gantry", "gantry-1"} {
			code, text, header := call(s, fmt.Sprint("Observe/Overview?shard=", shard), "{}", nil)
			var told struct{ Server struct{ Name string } }
			if err := json.Unmarshal([]byte(text), &told); err != nil || code != http.StatusOK || told.Server.Name != name || header.Get("Gantry-Shards") != "2" {
				t.Errorf("shard %d at %s: %d %s, of %s shards", shard, s.web, code, text, header.Get("Gantry-Shards"))
			}
		}
		if code, text, _ := call(s, "Management/DescribeTopic", `{"name":"nowhere"}`, nil); code != http.StatusNotFound || !strings.Contains(text, "nowhere") {
			t.Errorf("a failure: %d %s", code, text)
		}
		if code, text, _ := call(s, "Observe/Overview?shard=2", "{}", nil); code != http.StatusBadRequest || !strings.Contains(text, "there are 2") {
			t.Errorf("a shard that is not there: %d %s", code, text)
		}
		if code, text, _ := call(s, "Observe/Overview", "{}", func(r *http.Request) { r.Host = "evil.example" }); code != http.StatusMisdirectedRequest {
			t.Errorf("a name that was given our address: %d %s", code, text)
		}
		if code, text, _ := call(s, "Observe/Overview", "{}", func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") }); code != http.StatusForbidden {
			t.Errorf("a page of another site: %d %s", code, text)
		}
		if code, text, _ := call(s, "Observe/Overview", "{}", func(r *http.Request) { r.Header.Set("Origin", strings.TrimSuffix(s.web, "/")) }); code != http.StatusOK {
			t.Errorf("its own page: %d %s", code, text)
		}
	}
	if code, text, _ := call(second, "Management/CreateTopic", `{"name":"made"}`, nil); code != http.StatusOK {
		t.Errorf("%d %s", code, text)
	}
	if out := first.run(t, "topic", "list"); !strings.Contains(out, "made") {
		t.Errorf("what the second node's page made is not there:\n%s", out)
	}
	first.stop() // and nobody leads, for two nodes have no majority without one
	if code, text, _ := call(second, "Observe/Overview", "{}", nil); code != http.StatusServiceUnavailable || !strings.Contains(text, "UNAVAILABLE") {
		t.Errorf("without a leader: %d %s", code, text)
	}
}
