package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
)

// asMain makes the test binary be gantry, so that tests can start it as another
// process.
const asMain = "GANTRY_TEST_AS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
	}
	os.Exit(m.Run())
}

// patience bounds waits for something that should happen soon.
const patience = 30 * time.Second

// cli runs one command line in this process.
func cli(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	return cliWith(t, "", args...)
}

func cliWith(t *testing.T, stdin string, args ...string) (code int, out, errOut string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var o, e bytes.Buffer
	code = execute(ctx, args, strings.NewReader(stdin), &o, &e)
	return code, o.String(), e.String()
}

// ok runs a command line that must succeed, and returns what it printed.
func ok(t *testing.T, args ...string) string {
	t.Helper()
	code, out, errOut := cli(t, args...)
	if code != 0 {
		t.Fatalf("gantry %s: exit %d: %s", strings.Join(args, " "), code, errOut)
	}
	return out
}

// serving is a broker that runs in this process.
type serving struct {
	dir, server, web string
	greeting         string
	stop             func()
}

// serve starts a broker on dir, and stops it when the test is over. Both must
// succeed.
func serve(t *testing.T, dir string, args ...string) *serving {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	var errOut bytes.Buffer
	code := make(chan int, 1)
	go func() {
		c := execute(ctx, append([]string{"serve", "--data", dir, "--segment-size", "4MiB",
			"--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log-level", "error"}, args...), nil, w, &errOut)
		w.Close()
		code <- c
	}()
	s := &serving{dir: dir}
	s.read(t, r)
	stopped := false
	s.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if c := <-code; c != 0 {
			t.Errorf("serve: exit %d: %s", c, errOut.String())
		}
	}
	t.Cleanup(s.stop)
	if s.server == "" {
		t.Fatalf("serve did not start: exit %d: %s", <-code, errOut.String())
	}
	return s
}

// read takes the addresses from the greeting.
func (s *serving) read(t *testing.T, r io.Reader) {
	t.Helper()
	lines := bufio.NewScanner(r)
	var greeting strings.Builder
	for lines.Scan() {
		fmt.Fprintln(&greeting, lines.Text())
		switch f := strings.Fields(lines.Text()); {
		case len(f) == 2 && f[0] == "clients":
			s.server = f[1]
		case len(f) == 2 && f[0] == "http":
			s.web = strings.TrimSuffix(f[1], "/metrics")
		case strings.Contains(lines.Text(), " receive hello"):
			s.greeting = greeting.String()
			go io.Copy(io.Discard, r) // until the writer is closed
			return
		}
	}
}

func (s *serving) run(t *testing.T, args ...string) string {
	t.Helper()
	return ok(t, append(args, "--server", s.server)...)
}

func TestGreetingsThreeCommandsWork(t *testing.T) {
	s := serve(t, t.TempDir())
	var shown []string
	for line := range strings.Lines(s.greeting) {
		if _, command, found := strings.Cut(line, "  "+invocation()+" "); found {
			command = strings.ReplaceAll(strings.TrimSpace(command), "'it works'", "it_works")
			shown = append(shown, ok(t, strings.Fields(command)...))
		}
	}
	if len(shown) != 3 || !strings.Contains(shown[2], "it_works") {
		t.Fatalf("the commands of the greeting showed %q\n%s", shown, s.greeting)
	}
	if !strings.Contains(s.greeting, s.dir) {
		t.Errorf("the greeting does not name %s:\n%s", s.dir, s.greeting)
	}
}

func TestMessagesKeepWhatTheyCarryAcrossARestart(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, dir)
	s.run(t, "topic", "create", "orders", "--queues", "3")
	sent := s.run(t, "send", "orders", "body one", "--tag", "paid", "--key", "k1", "--key", "k2", "--property", "a=b=c", "--json")
	s.stop()

	s = serve(t, dir)
	var m messageView
	if err := json.Unmarshal([]byte(s.run(t, "receive", "orders", "--group", "g", "--json")), &m); err != nil {
		t.Fatal(err)
	}
	if string(m.Body) != "body one" || m.Tag != "paid" || !slices.Equal(m.Keys, []string{"k1", "k2"}) ||
		m.Properties["a"] != "b=c" || m.Attempt != 1 || !strings.Contains(sent, m.ID) {
		t.Errorf("sent %s, received %+v", sent, m)
	}
	if code, _, errOut := cli(t, "receive", "orders", "--group", "g", "--wait", "10ms", "--server", s.server); code != exitFailed || !strings.Contains(errOut, "received 0 of 1") {
		t.Errorf("it came again after its acknowledgement: exit %d: %s", code, errOut)
	}
}

// UnmarshalJSON is for tests: text is printed, never read.
func (b *text) UnmarshalJSON(raw []byte) error {
	var s string
	err := json.Unmarshal(raw, &s)
	*b = text(s)
	return err
}

func TestReceiveFiltersByTag(t *testing.T) {
	s := serve(t, t.TempDir())
	s.run(t, "topic", "create", "t", "--queues", "1")
	for _, tag := range []string{"a", "b", "c"} {
		s.run(t, "send", "t", "is-"+tag, "--tag", tag)
	}
	out := s.run(t, "receive", "t", "--group", "g", "--filter", "a || c", "--count", "2")
	if !strings.Contains(out, "is-a") || !strings.Contains(out, "is-c") || strings.Contains(out, "is-b") {
		t.Errorf("a || c gave:\n%s", out)
	}
}

func TestReceiveFiltersByProperties(t *testing.T) {
	s := serve(t, t.TempDir())
	s.run(t, "topic", "create", "t", "--queues", "1")
	for _, price := range []string{"5", "50"} {
		s.run(t, "send", "t", "costs-"+price, "--property", "price="+price)
	}
	if out := s.run(t, "receive", "t", "--group", "g", "--sql", "price > 10"); !strings.Contains(out, "costs-50") {
		t.Errorf("price > 10 gave:\n%s", out)
	}
	code, _, errOut := cli(t, "receive", "t", "--group", "h", "--sql", "price >", "--server", s.server)
	if code != exitFailed || !strings.Contains(errOut, "ILLEGAL_FILTER_EXPRESSION") {
		t.Errorf("half an expression: exit %d: %s", code, errOut)
	}
}

func TestDelayedMessageIsNotThereBeforeItsTime(t *testing.T) {
	s := serve(t, t.TempDir())
	s.run(t, "topic", "create", "t", "--type", "delay")
	if out := s.run(t, "send", "t", "later", "--delay", "1h"); !strings.Contains(out, "waits for its time") {
		t.Errorf("sent:\n%s", out)
	}
	s.run(t, "send", "t", "soon", "--delay", "1s")
	if out := s.run(t, "receive", "t", "--group", "g", "--wait", "20s"); !strings.Contains(out, "soon") {
		t.Errorf("received %q, want the message that is due", out)
	}
}

func TestUrgentMessagesComeFirst(t *testing.T) {
	s := serve(t, t.TempDir())
	s.run(t, "topic", "create", "t", "--type", "priority")
	s.run(t, "send", "t", "later", "--priority", "0")
	s.run(t, "send", "t", "sooner", "--priority", "7")
	for _, want := range []string{"sooner", "later"} {
		if out := s.run(t, "receive", "t", "--group", "g"); !strings.Contains(out, want) {
			t.Errorf("received %q, want %s", out, want)
		}
	}
}

func TestSendTakesLinesFromStandardInput(t *testing.T) {
	s := serve(t, t.TempDir())
	s.run(t, "topic", "create", "t", "--queues", "1")
	code, out, errOut := cliWith(t, "one\ntwo\r\nthree", "send", "t", "--stdin", "--count", "2", "--server", s.server)
	if code != 0 || !strings.Contains(out, "sent 6 messages to t") {
		t.Fatalf("exit %d: %s%s", code, out, errOut)
	}
	var bodies []string
	for line := range strings.Lines(s.run(t, "receive", "t", "--group", "g", "--count", "6")) {
		bodies = append(bodies, strings.Fields(line)[1])
	}
	if want := []string{"one", "one", "two", "two", "three", "three"}; !slices.Equal(bodies, want) {
		t.Errorf("received %q, want %q", bodies, want)
	}
}

func TestUnacknowledgedMessageIsLeftInFlight(t *testing.T) {
	s := serve(t, t.TempDir())
	s.run(t, "topic", "create", "t")
	s.run(t, "send", "t", "x")
	s.run(t, "receive", "t", "--group", "g", "--no-ack")
	var g groupView
	if err := json.Unmarshal([]byte(s.run(t, "group", "describe", "g", "--json")), &g); err != nil {
		t.Fatal(err)
	}
	if len(g.Topics) != 1 || g.Topics[0].InFlight != 1 {
		t.Errorf("group describe shows %+v, want one message in flight", g.Topics)
	}
}

func TestTopicsAndGroupsAreManaged(t *testing.T) {
	s := serve(t, t.TempDir())
	for _, kind := range topicTypes {
		s.run(t, "topic", "create", "t-"+kind, "--type", kind, "--queues", "2")
	}
	s.run(t, "group", "create", "g", "--fifo", "--max-attempts", "5", "--retry-steps", "1s,5s,1m")
	var topics []topicView
	if err := json.Unmarshal([]byte(s.run(t, "topic", "list", "--json")), &topics); err != nil {
		t.Fatal(err)
	}
	if len(topics) != len(topicTypes) {
		t.Errorf("%d topics are listed, want %d", len(topics), len(topicTypes))
	}
	for _, v := range topics {
		if v.Name != "t-"+v.Type || v.Queues != 2 {
			t.Errorf("listed %+v", v)
		}
	}
	if out := s.run(t, "group", "describe", "g"); !strings.Contains(out, "fifo, up to 5 attempts") || !strings.Contains(out, "1s,5s,1m") {
		t.Errorf("group describe shows:\n%s", out)
	}
	s.run(t, "topic", "delete", "t-normal")
	s.run(t, "group", "delete", "g")
	for _, args := range [][]string{{"topic", "describe", "t-normal"}, {"group", "describe", "g"}, {"topic", "create", "t-fifo"}} {
		if code, _, errOut := cli(t, append(args, "--server", s.server)...); code != exitFailed {
			t.Errorf("gantry %v: exit %d: %s", args, code, errOut)
		}
	}
}

func TestTerminalSeesNoControlCharactersFromClients(t *testing.T) {
	s := serve(t, t.TempDir())
	s.run(t, "topic", "create", "t")
	s.run(t, "send", "t", "\x1b]0;owned\a\u202ebody\n")
	out := s.run(t, "receive", "t", "--group", "g")
	if line := strings.TrimSuffix(out, "\n"); clean(line) != line || !strings.Contains(line, `\x1b]0;owned\x07\u202ebody\n`) {
		t.Errorf("printed %q", out)
	}
}

func TestExitCodesTellUsageFromFailure(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		args string
		want int
		says string
	}{
		{"--help", 0, ""},
		{"--version", 0, ""},
		{"topic --help", 0, ""},
		{"frobnicate", exitUsage, "unknown command"},
		{"topic frobnicate", exitUsage, "unknown command"},
		{"lag --server 127.0.0.1:1", exitUsage, "unknown command \"lag\" for \"gantry\", did you mean log?\nRun"},
		{"topic lst --server 127.0.0.1:1", exitUsage, "unknown command \"lst\" for \"gantry topic\", did you mean list?\nRun"},
		{"topic list --serve x", exitUsage, "unknown flag: --serve"},
		{"topic create", exitUsage, "0 arguments: want gantry topic create NAME"},
		{"txn list x", exitUsage, "1 argument: want gantry txn list [flags]"},
		{"topic create t --type odd", exitUsage, "--type"},
		{"topic create t --queues many", exitUsage, "--queues"},
		{"send t", exitUsage, "nothing to send"},
		{"send t body --stdin", exitUsage, "exclude"},
		{"send t body --count 0", exitUsage, "--count"},
		{"send t body --property novalue", exitUsage, "KEY=VALUE"},
		{"receive t", exitUsage, "--group"},
		{"receive t --group g --filter a --sql b=1", exitUsage, "sql"},
		{"receive t --group g --wait -1s", exitUsage, "--wait"},
		{"topic list --server nonsense", exitUsage, "HOST:PORT"},
		{"topic list --server 127.0.0.1:1", exitFailed, "no broker answers at 127.0.0.1:1 (dial tcp 127.0.0.1:1: connect: connection refused); start one"},
		{"log check " + dir, exitFailed, "not a data directory"},
		{"log dump " + dir + "/none", exitFailed, "not a data directory"},
		{"serve --durability never", exitUsage, "--durability"},
		{"serve --log-level loud", exitUsage, "--log-level"},
		{"serve --segment-size big", exitUsage, "--segment-size"},
		{"serve --listen 8081", exitUsage, "HOST:PORT"},
		{"serve --listen :0", exitUsage, "--insecure-allow-remote"},
		{"serve --http 0.0.0.0:0", exitUsage, "--insecure-allow-remote"},
		{"serve --http 0.0.0.0:0 --insecure-allow-remote --pprof", exitUsage, "loopback"},
		{"serve --advertise nowhere", exitUsage, "--advertise"},
	} {
		code, _, errOut := cli(t, strings.Fields(c.args)...)
		if code != c.want || !strings.Contains(errOut, c.says) {
			t.Errorf("gantry %s: exit %d, want %d with %q; it said: %s", c.args, code, c.want, c.says, errOut)
		}
	}
}

func TestUnknownTopicIsSaidInWords(t *testing.T) {
	s := serve(t, t.TempDir())
	for _, args := range [][]string{{"send", "nope", "x"}, {"receive", "nope", "--group", "g"}} {
		code, _, errOut := cli(t, append(args, "--server", s.server)...)
		if code != exitFailed || !strings.Contains(errOut, "TOPIC_NOT_FOUND") || !strings.Contains(errOut, "nope") {
			t.Errorf("gantry %v: exit %d: %s", args, code, errOut)
		}
	}
}

func TestShellCompletesNamesFromTheBroker(t *testing.T) {
	s := serve(t, t.TempDir())
	s.run(t, "topic", "create", "orders")
	s.run(t, "group", "create", "billing")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"__complete", "topic", "describe", "--server", s.server, ""}, "orders"},
		{[]string{"__complete", "receive", "--server", s.server, ""}, "orders"},
		{[]string{"__complete", "receive", "orders", "--server", s.server, "--group", ""}, "billing"},
		{[]string{"__complete", "topic", "create", "x", "--type", ""}, "fifo"},
		{[]string{"__complete", "topic", "purge", "--server", s.server, ""}, "orders"},
		{[]string{"__complete", "topic", "update", "--server", s.server, ""}, "orders"},
		{[]string{"__complete", "topic", "update", "orders", "--dedup-key", ""}, "property:"},
		{[]string{"__complete", "message", "delete", "ID", "--server", s.server, "--topic", ""}, "orders"},
	} {
		if out := ok(t, c.args...); !slices.Contains(strings.Fields(out), c.want) {
			t.Errorf("%v gave %q, want %q among it", c.args, out, c.want)
		}
	}
}

func TestHTTPPortAnswers(t *testing.T) {
	s := serve(t, t.TempDir(), "--pprof")
	s.run(t, "topic", "create", "t")
	s.run(t, "send", "t", "x")
	for path, want := range map[string]string{
		"/healthz": "ok", "/readyz": "ok", "/metrics": `rocketmq_messages_in_total{topic="t"} 1`, "/debug/pprof/cmdline": "",
	} {
		r, err := http.Get(s.web + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil || r.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("%s: %s %v, without %q", path, r.Status, err, want)
		}
	}
	plain := serve(t, t.TempDir())
	r, err := http.Get(plain.web + "/debug/pprof/")
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusNotFound {
		t.Errorf("/debug/pprof/ without --pprof: %s", r.Status)
	}
}

// A page that has its own name pointed at our address is of our origin to its browser.
func TestMetricsAreNotToldToWhoAsksByAStrangersName(t *testing.T) {
	s := serve(t, t.TempDir(), "--pprof", "--http-names", "gantry.example,metrics")
	port := s.web[strings.LastIndex(s.web, ":"):]
	for path, guarded := range map[string]bool{"/metrics": true, "/debug/pprof/": true, "/debug/pprof/cmdline": true, "/healthz": false, "/readyz": false} {
		for host, known := range map[string]bool{
			"127.0.0.1" + port: true, "[::1]" + port: true, "10.1.2.3": true, "LOCALHOST" + port: true, "gantry.example": true, "metrics" + port: true,
			"evil.example" + port: false, "evil.example": false, "127.0.0.1.evil.example": false, "xgantry.example": false,
		} {
			r, err := http.NewRequest(http.MethodGet, s.web+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Host = host
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			want := http.StatusOK
			if guarded && !known {
				want = http.StatusMisdirectedRequest
			}
			if resp.StatusCode != want {
				t.Errorf("%s of %s: %s, want %d", path, host, resp.Status, want)
			}
		}
	}
}

func TestHTTPPortIsAskedWhileTheBrokerCloses(t *testing.T) {
	s := serve(t, t.TempDir())
	s.run(t, "topic", "create", "t")
	s.run(t, "send", "t", "x", "--count", "100")
	var asking sync.WaitGroup
	var answered atomic.Int64
	busy := make(chan struct{})
	for _, path := range []string{"/metrics", "/readyz", "/api/gantry.v1.Messages/Query", "/api/gantry.v1.Observe/Topics", "/api/gantry.v1.GroupOps/Replay"} {
		asking.Go(func() {
			for {
				body, method := "", http.MethodGet
				if strings.HasPrefix(path, "/api/") {
					method, body = http.MethodPost, "{}"
				}
				if strings.HasSuffix(path, "Query") {
					body = `{"topic":"t"}`
				}
				r, err := http.NewRequest(method, s.web+path, strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				r.Header.Set("Content-Type", "application/json")
				r.Header.Set("X-Gantry", "1")
				resp, err := http.DefaultClient.Do(r)
				if err != nil {
					return // it is closed
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if answered.Add(1) == 100 {
					close(busy)
				}
			}
		})
	}
	<-busy
	s.stop() // exits 0, or the test fails
	asking.Wait()
}

func TestLogIsDumpedAndCheckedWhileInUse(t *testing.T) {
	s := serve(t, t.TempDir())
	s.run(t, "topic", "create", "t")
	s.run(t, "send", "t", "x", "--tag", "paid", "--count", "3")
	var all []recordView
	for line := range strings.Lines(ok(t, "log", "dump", s.dir, "--json")) {
		var v recordView
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatal(err)
		}
		all = append(all, v)
	}
	messages := 0
	for _, v := range all {
		if v.Kind == "message" && v.Tag == "paid" && v.Error == "" {
			messages++
		}
	}
	if messages != 3 {
		t.Errorf("the dump shows %d messages of 3: %+v", messages, all)
	}
	last := all[len(all)-1]
	if out := ok(t, "log", "dump", s.dir, "--from", fmt.Sprint(last.Position), "--json"); strings.Count(out, "\n") != 1 || !strings.Contains(out, last.ID) {
		t.Errorf("--from the last record shows:\n%s", out)
	}
	if out := ok(t, "log", "dump", s.dir, "--limit", "2"); strings.Count(out, "\n") != 2 {
		t.Errorf("--limit 2 shows:\n%s", out)
	}
	if out := ok(t, "log", "check", s.dir); !strings.Contains(out, fmt.Sprintf("%d records, 3 messages", len(all))) {
		t.Errorf("check of %d records says: %s", len(all), out)
	}
}

func TestCheckNamesSegmentAndPositionOfDamage(t *testing.T) {
	s := serve(t, t.TempDir())
	s.run(t, "topic", "create", "t")
	s.run(t, "send", "t", "some body", "--count", "3")
	s.stop()
	segments, err := filepath.Glob(filepath.Join(s.dir, "commitlog", "*.log"))
	if err != nil || len(segments) == 0 {
		t.Fatal(segments, err)
	}
	raw, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(raw, []byte("some body"))
	raw[at] ^= 1
	if err := os.WriteFile(segments[0], raw, 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errOut := cli(t, "log", "check", s.dir)
	if code != exitFailed || !strings.Contains(errOut, segments[0]) || !strings.Contains(errOut, "position") {
		t.Fatalf("exit %d: %s%s", code, out, errOut)
	}
	var v checkView
	code, out, _ = cli(t, "log", "check", s.dir, "--json")
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatal(err)
	}
	if code != exitFailed || v.OK || v.Position == nil || int(*v.Position) > at || v.Segment != segments[0] {
		t.Errorf("a bit was flipped at %d; exit %d: %s", at, code, out)
	}
}

// process starts gantry as a process of its own.
func process(t *testing.T, dir string, errOut io.Writer, args ...string) (*exec.Cmd, *serving) {
	t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"serve", "--data", dir, "--segment-size", "4MiB", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"}, args...)...)
	cmd.Env = append(os.Environ(), asMain+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = errOut
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	s := &serving{dir: dir}
	s.read(t, out)
	return cmd, s
}

func TestTermDrainsAndExitsZero(t *testing.T) {
	var errOut bytes.Buffer
	cmd, s := process(t, t.TempDir(), &errOut)
	s.run(t, "topic", "create", "t")
	// A poll that would wait for long must not hold the drain up.
	polled := make(chan int, 1)
	go func() {
		code, _, _ := cli(t, "receive", "t", "--group", "g", "--wait", "20s", "--server", s.server)
		polled <- code
	}()
	waitFor(t, s, "gantry_waiting_receives 1")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	killer := time.AfterFunc(drainTimeout/2, func() { cmd.Process.Kill() })
	defer killer.Stop()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, errOut.String())
	}
	if code := <-polled; code != exitFailed {
		t.Errorf("the poll ended with exit %d", code)
	}
}

func TestSecondSignalEndsItAtOnce(t *testing.T) {
	stderr, w := io.Pipe()
	cmd, s := process(t, t.TempDir(), w)
	// A stream that its client leaves open keeps the drain waiting.
	conn, err := grpc.NewClient("passthrough:///"+s.server, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	list := &reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}
	if err := stream.Send(list); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}

	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(stderr); lines.Scan() && !strings.Contains(lines.Text(), "draining"); {
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, stderr) // until the process is gone
	killer := time.AfterFunc(drainTimeout/2, func() { cmd.Process.Kill() })
	defer killer.Stop()
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitFailed {
		t.Errorf("exit %d, want %d", code, exitFailed)
	}
}

// waitFor polls /metrics until a line of it is as wanted.
func waitFor(t *testing.T, s *serving, line string) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		r, err := http.Get(s.web + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(body), "\n"+line+"\n") {
			return
		}
	}
	t.Fatalf("/metrics never showed %s", line)
}

func TestSecondBrokerOnTheSameDirectoryIsRefused(t *testing.T) {
	dir := t.TempDir()
	cmd, s := process(t, dir, io.Discard)
	code, _, errOut := cli(t, "serve", "--data", dir, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
	if want := fmt.Sprintf("%s is in use by process %d", dir, cmd.Process.Pid); code != exitFailed || !strings.Contains(errOut, want) {
		t.Errorf("exit %d, want %q: %s", code, want, errOut)
	}
	s.run(t, "topic", "list")
}

func TestPortInUseIsSaidBeforeTheDataIsTouched(t *testing.T) {
	s := serve(t, t.TempDir())
	dir := filepath.Join(t.TempDir(), "new")
	code, _, errOut := cli(t, "serve", "--data", dir, "--listen", s.server, "--http", "127.0.0.1:0")
	if code != exitFailed || !strings.Contains(errOut, "--listen") || !strings.Contains(errOut, "in use") {
		t.Errorf("exit %d: %s", code, errOut)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s was made: %v", dir, err)
	}
}
