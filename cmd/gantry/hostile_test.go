package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// What a page of another site, or somebody with a socket, tries on the HTTP port. None of
// it operates the broker; the port answers afterwards. api tries the port of clients.
func TestTheHTTPPortIsNotOperatedByStrangers(t *testing.T) {
	s := serve(t, t.TempDir())
	s.run(t, "topic", "create", "t", "--queues", "1")
	web := strings.TrimPrefix(s.web, "http://")
	came := map[string]int{}
	tried := 0
	answer := func(request string) string {
		t.Helper()
		tried++
		c, err := net.Dial("tcp", web)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		io.WriteString(c, request) // a server that has had enough closes
		c.(*net.TCPConn).CloseWrite()
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			came["connection closed"]++
			return ""
		}
		defer r.Body.Close()
		body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		came[fmt.Sprint(r.StatusCode)]++
		return r.Status + " " + string(body)
	}

	ours := "Host: " + web + "\r\n"
	call := func(method, host, headers string) string {
		const body = `{"name":"forged","queues":1}`
		return method + " /api/gantry.v1.Management/CreateTopic HTTP/1.1\r\nConnection: close\r\n" + host + headers + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
	}
	const good = "X-Gantry: 1\r\nContent-Type: application/json\r\n"
	for _, host := range []string{"evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "xn--80ak6aa92e.com", "[::1].evil.example", "localhost%00.evil.example"} {
		answer(call("POST", "Host: "+host+"\r\n", good))
		answer(call("POST", "Host: "+host+"\r\n", good+"Origin: http://"+host+"\r\n"))
		answer(call("POST", ours+"Host: "+host+"\r\n", good)) // two of them
	}
	for _, origin := range []string{"http://evil.example", "null", "http://localhost:1", "http://" + web + ".evil.example", "file://", "http://" + web + "@evil.example"} {
		answer(call("POST", ours, good+"Origin: "+origin+"\r\n"))
	}
	for _, headers := range []string{
		good + "Sec-Fetch-Site: cross-site\r\n", good + "Sec-Fetch-Site: same-site\r\n", "Content-Type: application/json\r\n", "X-Gantry: 1\r\n", "X-Gantry: 1\r\nContent-Type: text/plain\r\n",
		"X-Gantry: 1\r\nContent-Type: multipart/form-data\r\n", "X-Gantry: 1\r\nContent-Type: application/x-www-form-urlencoded\r\n", "X-Gantry:\r\nContent-Type: application/json\r\n",
	} {
		answer(call("POST", ours, headers))
	}
	for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "post"} {
		answer(call(method, ours, good))
	}
	for _, path := range []string{"/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/api/../../x", "/debug/pprof/", "/debug/pprof/heap", "/debug/vars", "/.git/config", "/api/", "/api/gantry.v1.Streams/Publish", "/metrics/../api", "//evil.example/", "/\\evil.example", "/" + strings.Repeat("a", 100_000)} {
		if got := answer("GET " + path + " HTTP/1.1\r\nConnection: close\r\n" + ours + "\r\n"); strings.Contains(got, "root:") || strings.Contains(got, "goroutine") || strings.Contains(got, "[core]") {
			t.Errorf("%s: %.200s", path, got)
		}
	}
	// Requests in requests, heads without end, bodies too long, and no HTTP at all.
	for _, raw := range []string{
		call("POST", ours, good+"Transfer-Encoding: chunked\r\n"), call("POST", ours, "X-Gantry: 1\nContent-Type: text/plain\n"), call("POST", ours, good+"Content-Length: 1\r\n"),
		"POST /api/gantry.v1.Management/CreateTopic HTTP/1.1\r\n" + ours + strings.Repeat("x: y\r\n", 1_000_000) + "\r\n",
		"POST /api/gantry.v1.Management/CreateTopic HTTP/1.1\r\n" + ours + "x: " + strings.Repeat("y", 8<<20) + "\r\n\r\n",
		"POST /api/gantry.v1.Management/ListTopics HTTP/1.1\r\nConnection: close\r\n" + ours + good + "Content-Length: 4194304\r\n\r\n" + strings.Repeat(" ", 4<<20),
		"POST /api/gantry.v1.Management/ListTopics HTTP/1.1\r\nConnection: close\r\n" + ours + good + "Content-Length: 200000\r\n\r\n" + strings.Repeat("[", 200_000),
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\x02\x00", "\r\n\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET\r\n\r\n",
	} {
		answer(raw)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		b := make([]byte, 1+r.IntN(2000))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		answer(string(b) + "\r\n\r\n")
	}
	half, err := net.Dial("tcp", web) // of a body, which a shutdown must not wait for
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	io.WriteString(half, call("POST", ours, good)[:len(call("POST", ours, good))-5])
	var silent []net.Conn
	for range 200 {
		c, err := net.Dial("tcp", web)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, "POST / HT")
		silent = append(silent, c)
	}
	came["silent, others served"] += len(silent)
	tried += len(silent)

	if out := s.run(t, "topic", "list"); strings.Contains(out, "forged") {
		t.Errorf("somebody made a topic:\n%s", out)
	}
	if got := answer("GET /readyz HTTP/1.1\r\nConnection: close\r\n" + ours + "\r\n"); !strings.HasPrefix(got, "200") {
		t.Errorf("afterwards: %s", got)
	}
	// What none of the above could do. The others have closed their half, which may end a call.
	own, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.web+"/api/gantry.v1.Management/CreateTopic", strings.NewReader(`{"name":"forged","queues":1}`))
	if err != nil {
		t.Fatal(err)
	}
	own.Header = http.Header{"X-Gantry": {"1"}, "Content-Type": {"application/json"}}
	if resp, err := http.DefaultClient.Do(own); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("the operator's own call: %v, %v", resp, err)
	} else {
		resp.Body.Close()
	}
	stopped := make(chan struct{})
	go func() { s.stop(); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(patience):
		half.Close()
		t.Error("half a body holds up the shutdown")
		<-stopped
	}
	var all []string
	for _, k := range slices.Sorted(maps.Keys(came)) {
		all = append(all, fmt.Sprintf("%d %s", came[k], k))
	}
	t.Logf("\n| the HTTP port: foreign hosts, origins, methods, paths, smuggling, garbage, silence | %d | %s |", tried, strings.Join(all, ", "))
}

// Whatever versions clients make up, a scrape stays as large as its bounds say.
func TestClientsCannotMakeMetricsExplode(t *testing.T) {
	s := serve(t, t.TempDir())
	s.run(t, "topic", "create", "plain", "--queues", "1")
	cc, err := grpc.NewClient(s.server, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	client := v2.NewMessagingServiceClient(cc)
	series := func() (n int) {
		t.Helper()
		r, err := http.Get("http://" + strings.TrimPrefix(s.web, "http://") + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		for lines := bufio.NewScanner(r.Body); lines.Scan(); {
			if !strings.HasPrefix(lines.Text(), "#") {
				n++
			}
		}
		return n
	}
	before := series()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	for i := range 700 { // each a version of its own
		mine := metadata.AppendToOutgoingContext(ctx, "x-mq-client-id", fmt.Sprint("exploder", i), "x-mq-language", fmt.Sprint("L", i), "x-mq-client-version", fmt.Sprint("v", i))
		st, err := client.Telemetry(mine)
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Send(&v2.TelemetryCommand{Command: &v2.TelemetryCommand_Settings{Settings: &v2.Settings{
			ClientType: v2.ClientType_PRODUCER.Enum(), UserAgent: &v2.UA{Language: v2.Language(i % 13), Version: fmt.Sprint("v", i)},
			PubSub: &v2.Settings_Publishing{Publishing: &v2.Publishing{Topics: []*v2.Resource{{Name: "plain"}}}},
		}}}); err != nil {
			t.Fatal(err)
		}
		if _, err := st.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	more := series() - before
	if more < 100 || more > 600 {
		t.Errorf("700 kinds of clients make %d series", more)
	}
	t.Logf("\n| labels: clients of 700 versions | 700 | a scrape has %d series more |", more)
}
