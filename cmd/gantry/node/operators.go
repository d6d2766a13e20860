package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/gantry-mq/gantry/api/gateway"
	"github.com/gantry-mq/gantry/broker/replica"
)

// An operator's call by HTTP may come to any node, as a client may. One that does not lead
// passes it on, by a connection of its own, to the leader's peer port, where it cannot be
// passed on again. Whether it may be called at all, the node it came to has judged.

// fromHeader is where the call came from: at the leader, the connection is another node's.
const fromHeader = "X-Gantry-From"

// operatorWait is how long a call waits for a leader: longer than most elections, and
// people do not like to wait for an error.
const operatorWait = 4 * time.Second

// passOn has calls answered by the leader, that dial connects with.
func passOn(dial func(context.Context) (net.Conn, error), log *slog.Logger) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", "leader"
			r.Out.Header.Set(fromHeader, r.In.RemoteAddr)
		},
		// A connection that was kept could be one to the leader before.
		Transport:     &http.Transport{DialContext: awaiting(dial), DisableKeepAlives: true},
		FlushInterval: -1, // an answer that is a stream goes on as it comes
		ErrorLog:      slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if errors.Is(err, replica.ErrNoLeader) {
				gateway.Fail(w, codes.Unavailable, "no node leads at the moment, or this one is about to")
				return
			}
			gateway.Fail(w, codes.Unavailable, "the leader does not answer: "+err.Error())
		},
	}
}

// awaiting is dial, again and again while there is no leader.
func awaiting(dial func(context.Context) (net.Conn, error)) func(_ context.Context, _, _ string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		patient, cancel := context.WithTimeout(ctx, operatorWait)
		defer cancel()
		for {
			conn, err := dial(patient)
			if !errors.Is(err, replica.ErrNoLeader) {
				return conn, err
			}
			select {
			case <-time.After(100 * time.Millisecond):
			case <-patient.Done():
				return nil, err
			}
		}
	}
}

// operators answers calls that other nodes have passed on.
type operators struct {
	passed *handed
	server *http.Server
	served chan struct{}
}

// answer has calls answered by next, until close.
func answer(next http.Handler, log *slog.Logger) *operators {
	o := &operators{passed: newHanded(&net.TCPAddr{}), served: make(chan struct{})}
	o.server = &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.RemoteAddr = r.Header.Get(fromHeader)
			next.ServeHTTP(w, r)
		}),
	}
	go func() {
		defer close(o.served)
		o.server.Serve(o.passed) // returns when closed, which is all that ends it
	}()
	return o
}

func (o *operators) take(conn net.Conn) {
	if !o.passed.give(conn) {
		conn.Close()
	}
}

func (o *operators) close() {
	o.server.Close()
	<-o.served
}
