package gateway

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
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

func notKnown(host string) string {
	return fmt.Sprintf("this server is not known as %q: ask it by its address, as localhost, or by a name in its --http-names", host)
}
