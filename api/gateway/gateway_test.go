package gateway_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gantry-mq/gantry/api/gateway"
	"github.com/gantry-mq/gantry/proto/gantryv1"
)

// letters is a service with one method of each kind.
type letters struct {
	gantryv1.UnimplementedDeadLettersServer
	called int
}

func (l *letters) List(_ context.Context, req *gantryv1.ListDeadLettersRequest) (*gantryv1.ListDeadLettersResponse, error) {
	l.called++
	if req.GetGroup() == "" {
		return nil, status.Error(codes.NotFound, "no such group")
	}
	return &gantryv1.ListDeadLettersResponse{DeadLetters: []*gantryv1.DeadLetter{{Offset: 1 << 60, Reason: req.GetGroup()}}}, nil
}

func (l *letters) Redrive(req *gantryv1.RedriveRequest, s gantryv1.DeadLetters_RedriveServer) error {
	l.called++
	for i := range req.GetRate() {
		if err := s.Send(&gantryv1.DeadLetterProgress{Done: int64(i)}); err != nil {
			return err
		}
	}
	return status.Error(codes.FailedPrecondition, "enough")
}

func newGateway(hosts ...string) (http.Handler, *letters) {
	g := gateway.New(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		return handle(ctx, req)
	}, func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
		return handle(srv, s)
	})
	l := &letters{}
	gantryv1.RegisterDeadLettersServer(g, l)
	return gateway.Hosts(hosts).Calls(g), l
}

const list = "/api/gantry.v1.DeadLetters/List"

// post makes a call that is as it must be, but for change.
func post(g http.Handler, path, body string, change func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "http://127.0.0.1:8082"+path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(gateway.Header, "1")
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	g.ServeHTTP(w, r)
	return w
}

func TestCallsAreAnsweredInJSON(t *testing.T) {
	g, _ := newGateway()
	for _, c := range []struct {
		name, path, body string
		code             int
		want             string
	}{
		{"zeros are shown, and 64 bits are text", list, `{"group":"g"}`, 200, `"offset":"1152921504606846976","messageId":""`},
		{"a failure", list, `{}`, 404, `{"code":"NOT_FOUND","message":"no such group"}`},
		{"a field that is not there", list, `{"grupo":"g"}`, 400, `"INVALID_ARGUMENT"`},
		{"no JSON", list, `group=g`, 400, `"INVALID_ARGUMENT"`},
		{"no method", "/api/gantry.v1.DeadLetters/Destroy", `{}`, 404, `"UNIMPLEMENTED"`},
		{"a method that is left out", "/api/gantry.v1.DeadLetters/Show", `{}`, 501, `"UNIMPLEMENTED"`},
		{"a stream", "/api/gantry.v1.DeadLetters/Redrive", `{"rate":2}`, 200, `{"error":{"code":"FAILED_PRECONDITION","message":"enough"}}`},
		{"a stream that fails at once", "/api/gantry.v1.DeadLetters/Redrive", `{}`, 400, `{"code":"FAILED_PRECONDITION"`},
		{"too much", list, `{"group":"` + strings.Repeat("g", 2<<20) + `"}`, 400, `too large`},
	} {
		w := post(g, c.path, c.body, nil)
		if got := strings.ReplaceAll(w.Body.String(), ", ", ","); w.Code != c.code || !strings.Contains(strings.ReplaceAll(got, ": ", ":"), c.want) {
			t.Errorf("%s: %d %s, want %d with %s", c.name, w.Code, got, c.code, c.want)
		}
	}
	w := post(g, "/api/gantry.v1.DeadLetters/Redrive", `{"rate":3}`, nil)
	if lines := strings.Count(w.Body.String(), "\n"); lines != 4 {
		t.Errorf("three messages and an error came in %d lines:\n%s", lines, w.Body)
	}
}

func TestPagesOfOtherSitesCannotCall(t *testing.T) {
	g, l := newGateway("broker.example")
	for _, c := range []struct {
		name   string
		change func(*http.Request)
		code   int
	}{
		{"no header, as from a form", func(r *http.Request) { r.Header.Del(gateway.Header) }, 403},
		{"a form's content type", func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, 415},
		{"no content type", func(r *http.Request) { r.Header.Del("Content-Type") }, 415},
		{"another origin", func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") }, 403},
		{"another port of this host", func(r *http.Request) { r.Header.Set("Origin", "http://127.0.0.1:9999") }, 403},
		{"no origin at all", func(r *http.Request) { r.Header.Set("Origin", "null") }, 403},
		{"another site, as browsers say", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, 403},
		{"a name that was given our address", func(r *http.Request) { r.Host = "evil.example:8082" }, 421},
		{"the same, with its origin", func(r *http.Request) { r.Host = "evil.example"; r.Header.Set("Origin", "http://evil.example") }, 421},
		{"a link", func(r *http.Request) { r.Method = "GET" }, 405},
		{"what browsers ask first", func(r *http.Request) { r.Method = "OPTIONS" }, 405},
	} {
		w := post(g, list, `{"group":"g"}`, c.change)
		if w.Code != c.code || w.Header().Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: %d, want %d; %s", c.name, w.Code, c.code, w.Body)
		}
	}
	if l.called != 0 {
		t.Fatalf("%d of them were carried out", l.called)
	}
	for name, change := range map[string]func(*http.Request){
		"its own page": func(r *http.Request) {
			r.Header.Set("Origin", "http://127.0.0.1:8082")
			r.Header.Set("Sec-Fetch-Site", "same-origin")
		},
		"localhost":   func(r *http.Request) { r.Host = "localhost:8082" },
		"IPv6":        func(r *http.Request) { r.Host = "[::1]:8082" },
		"a name told": func(r *http.Request) { r.Host = "Broker.example" },
		"a script":    nil,
	} {
		if w := post(g, list, `{"group":"g"}`, change); w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
}

func TestAStreamIsSentAsItComes(t *testing.T) {
	g, _ := newGateway()
	server := httptest.NewServer(g)
	defer server.Close()
	r, err := http.NewRequest("POST", server.URL+"/api/gantry.v1.DeadLetters/Redrive", strings.NewReader(`{"rate":1}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	r.Header.Set(gateway.Header, "1")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || !strings.HasPrefix(string(raw), `{"result":{`) || resp.Header.Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("%v %v: %s", err, resp.Header, raw)
	}
}
