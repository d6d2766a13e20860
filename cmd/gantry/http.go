package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"

	"github.com/gantry-mq/gantry/api"
	"github.com/gantry-mq/gantry/api/dashboard"
	"github.com/gantry-mq/gantry/api/gateway"
	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/metrics"
	"github.com/gantry-mq/gantry/internal/logging"
	"github.com/gantry-mq/gantry/internal/tally"
)

// web is the HTTP port: for people, probes and scrapers, never for clients.
//
//	/         the dashboard
//	/api/     what it calls: gantry.v1 as JSON
//	/healthz  200 while the process runs
//	/readyz   200 when clients are served, else 503 and why not
//	/metrics  Prometheus
//
// What tells of clients and messages is told only to who asks by an address or one of
// our names: see gateway.Hosts. The probes say nothing that a port does not, and load
// balancers ask by any name.
type web struct {
	listener net.Listener
	server   *http.Server
	registry *prometheus.Registry
	shards   []*shown      // one, for a broker that has none
	closed   atomic.Bool   // set before using is taken for the last time
	done     chan struct{} // closed when Serve returned
}

// shown is the broker of a shard.
type shown struct {
	registry prometheus.Registerer
	calling  *tally.Calls                  // what clients called
	broker   atomic.Pointer[broker.Broker] // nil until recovery is over
	calls    atomic.Pointer[http.Handler]  // of /api/, nil until then and while another node leads
	led      atomic.Pointer[func() error]  // of a node of a cluster: why nobody is served
	leader   atomic.Pointer[http.Handler]  // of a node of a cluster: who answers /api/ when it does not lead
	using    sync.RWMutex                  // read-held by whoever uses the broker
}

// listenHTTP serves at once, so that probes get an answer during recovery.
func listenHTTP(addr string, hosts gateway.Hosts, withPprof bool, shards int, logger *slog.Logger) (*web, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	w := &web{listener: l, registry: prometheus.NewRegistry(), done: make(chan struct{})}
	for i := range shards {
		v := &shown{registry: w.registry, calling: tally.NewCalls()}
		if shards > 1 {
			v.registry = prometheus.WrapRegistererWith(prometheus.Labels{"shard": strconv.Itoa(i)}, w.registry)
		}
		v.registry.MustRegister(metrics.NewCallCollector(v.calling, api.CodeName))
		w.shards = append(w.shards, v)
	}
	w.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	logger = logger.With(logging.Component, "http")
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", hosts.Only(promhttp.HandlerFor(w.registry, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelError)})))
	mux.HandleFunc("GET /healthz", func(out http.ResponseWriter, _ *http.Request) { fmt.Fprintln(out, "ok") })
	mux.HandleFunc("GET /readyz", w.readyz)
	mux.Handle("/", dashboard.Handler())
	mux.Handle(gateway.Prefix, hosts.Calls(http.HandlerFunc(w.call)))
	if withPprof {
		profiles := http.NewServeMux()
		profiles.HandleFunc("/debug/pprof/", pprof.Index)
		profiles.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		profiles.HandleFunc("/debug/pprof/profile", pprof.Profile)
		profiles.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		profiles.HandleFunc("/debug/pprof/trace", pprof.Trace)
		mux.Handle("/debug/pprof/", hosts.Only(profiles))
	}
	w.server = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
	go func() {
		defer close(w.done)
		w.server.Serve(l) // returns when closed, which is all that ends it
	}()
	return w, nil
}

func (w *web) addr() net.Addr { return w.listener.Addr() }

// ready connects a broker that is alone: /readyz asks it, /metrics shows it, calls
// operates it.
func (w *web) ready(b *broker.Broker, calls http.Handler) {
	v := w.shards[0]
	v.registry.MustRegister(metrics.NewCollector(func() broker.Stats {
		v.using.RLock()
		defer v.using.RUnlock()
		if w.closed.Load() {
			return broker.Stats{}
		}
		return b.Stats()
	}))
	v.calls.Store(&calls)
	v.broker.Store(b)
}

// shardsHeader is on each answer to a call: how many shards there are to ask for.
const shardsHeader = "Gantry-Shards"

// call is for the leader of a shard: POST /api/METHOD?shard=N, 0 if it does not say.
func (w *web) call(out http.ResponseWriter, r *http.Request) {
	out.Header().Set(shardsHeader, strconv.Itoa(len(w.shards)))
	shard, err := strconv.Atoi(cmp.Or(r.URL.Query().Get("shard"), "0"))
	if err != nil || shard < 0 || shard >= len(w.shards) {
		gateway.Fail(out, codes.InvalidArgument, fmt.Sprintf("there is no shard %q: there are %d, from 0", r.URL.Query().Get("shard"), len(w.shards)))
		return
	}
	v := w.shards[shard]
	switch leader := v.leader.Load(); {
	case v.answer(out, r):
	case w.closed.Load():
		gateway.Fail(out, codes.Unavailable, "the broker is closing")
	case leader == nil:
		gateway.Fail(out, codes.Unavailable, "this broker is recovering")
	default:
		(*leader).ServeHTTP(out, r)
	}
}

// answer reports false, and does nothing, when no broker that leads is here.
func (v *shown) answer(out http.ResponseWriter, r *http.Request) bool {
	v.using.RLock()
	defer v.using.RUnlock()
	calls := v.calls.Load()
	if calls == nil {
		return false
	}
	(*calls).ServeHTTP(out, r)
	return true
}

// release waits for what uses the broker, and lets nothing use it any more: it can be
// closed then. Calls that go on for long end because the server was shut down before.
func (w *web) release() {
	w.closed.Store(true)
	v := w.shards[0]
	v.using.Lock()
	v.calls.Store(nil)
	v.using.Unlock()
}

func (w *web) readyz(out http.ResponseWriter, _ *http.Request) {
	for i, v := range w.shards {
		if err := v.ready(w); err != nil {
			why := err.Error()
			if len(w.shards) > 1 {
				why = fmt.Sprintf("shard %d: %s", i, why)
			}
			http.Error(out, why, http.StatusServiceUnavailable)
			return
		}
	}
	fmt.Fprintln(out, "ok")
}

// ready is why clients of the shard cannot be served, nil when they can.
func (v *shown) ready(w *web) error {
	v.using.RLock()
	defer v.using.RUnlock()
	b := v.broker.Load()
	switch {
	case w.closed.Load():
		return errors.New("closing")
	case b == nil:
		return errors.New("recovering")
	}
	err := b.Ready()
	if led := v.led.Load(); led != nil && err == nil {
		err = (*led)()
	}
	return err
}

func (w *web) close() {
	w.server.Close()
	<-w.done
}
