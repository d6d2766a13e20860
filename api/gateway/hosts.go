package gateway

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Hosts are names, without ports, by which a server may be asked beside localhost and
// addresses. A page that has its own name pointed at our address comes with that name,
// and is no stranger to its browser then: only the server can tell.
type Hosts []string

// Has reports whether host, as a request has it, is one of them, localhost or an address.
func (h Hosts) Has(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return net.ParseIP(host) != nil || strings.EqualFold(host, "localhost") ||
		slices.ContainsFunc(h, func(known string) bool { return strings.EqualFold(known, host) })
}

// Only serves by next what is asked for by one of them.
func (h Hosts) Only(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !h.Has(r.Host) {
			http.Error(w, notKnown(r.Host), http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

const (
	// Header must be on every call, with any value.
	Header = "X-Gantry"

	maxRequest  = 1 << 20
	bodyTimeout = 5 * time.Second // to send one
)

// Calls serves calls by next, which finds the whole request, and none of the kind that
// another site's page, open in a browser on this host, can have made: nobody need be
// authenticated on a port that only this host reaches. Such a page could make a browser
// send a simple POST: so a call needs a header that the page cannot set without being
// asked first (which is never granted), a content type of the same kind, and no sign that
// it comes from another origin. And it could give its own name our address: see Hosts.
func (h Hosts) Calls(next http.Handler) http.Handler {
	origins := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if code, why := h.refuse(origins, r); why != "" {
			fail(w, code, status.New(codes.PermissionDenied, why))
			return
		}
		// Whoever sends half a body must not hold up a shutdown, which waits for calls. The
		// deadline is lifted then: it would end long answers, too.
		deadline := http.NewResponseController(w)
		deadline.SetReadDeadline(time.Now().Add(bodyTimeout)) // not everything that is served has one
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
		if err != nil {
			fail(w, http.StatusBadRequest, status.New(codes.InvalidArgument, "the request cannot be read: "+err.Error()))
			return
		}
		deadline.SetReadDeadline(time.Time{})
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		next.ServeHTTP(w, r)
	})
}

// refuse says what is wrong with a call before it is read, "" when nothing is.
func (h Hosts) refuse(origins *http.CrossOriginProtection, r *http.Request) (code int, why string) {
	content, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case r.Method != http.MethodPost:
		return http.StatusMethodNotAllowed, "calls are made with POST"
	case !h.Has(r.Host):
		return http.StatusMisdirectedRequest, notKnown(r.Host)
	case r.Header.Get(Header) == "":
		return http.StatusForbidden, "the header " + Header + " is missing"
	case content != "application/json":
		return http.StatusUnsupportedMediaType, "the content type must be application/json"
	}
	if err := origins.Check(r); err != nil {
		return http.StatusForbidden, "the call comes from a page of another site"
	}
	return 0, ""
}

func notKnown(host string) string {
	return fmt.Sprintf("this server is not known as %q: ask it by its address, as localhost, or by a name in its --http-names", host)
}
