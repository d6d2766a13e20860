package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/gantry-mq/gantry/api"
	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/metrics"
	"github.com/gantry-mq/gantry/broker/replica"
	"github.com/gantry-mq/gantry/cmd/gantry/node"
	"github.com/gantry-mq/gantry/internal/logging"
	"github.com/gantry-mq/gantry/internal/pki"
)

// nodeFlags are what makes a broker a node of a cluster.
type nodeFlags struct {
	name, peer, peerAdvertise string
	bootstrap                 bool
	join                      string
	learner, noRepair         bool
	certs                     string
}

func (f *nodeFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.name, "node", "", "`NAME` of this node in a cluster (default: no cluster)")
	flags.StringVar(&f.peer, "peer", "127.0.0.1:8083", "`HOST:PORT` for the other nodes of the cluster")
	flags.StringVar(&f.peerAdvertise, "peer-advertise", "", "`HOST:PORT` under which other nodes reach this one (default: --peer)")
	flags.BoolVar(&f.bootstrap, "bootstrap", false, "be the first node of a new cluster, with the data there is; without meaning later")
	flags.StringVar(&f.join, "join", "", "join the cluster of the nodes whose --peer is `HOST:PORT`[,HOST:PORT...]; without meaning later")
	flags.BoolVar(&f.learner, "learner", false, "have the log and do not count for a majority, until gantry cluster promote")
	flags.BoolVar(&f.noRepair, "no-repair", false, "when this node is damaged, end and stay as it is; otherwise, with two others that count,\n"+
		"it sets its files aside and comes back with those of the others")
	flags.StringVar(&f.certs, "certs", "", "`DIR` with ca.crt, NODE.crt and NODE.key from gantry cert: nodes talk TLS and\n"+
		"know each other by it; without, --peer must be a loopback address")
	cmd.MarkFlagDirname("certs")
}

// check reports flags that do not go together, with each other or with dir.
func (f *nodeFlags) check(dir string) error {
	member, err := replica.Exists(filepath.Join(dir, node.Dir))
	switch {
	case err != nil:
		return err
	case f.name == "" && member:
		return usageErrorf("%s is of a node of a cluster: start it with its --node", dir)
	case f.name == "" && (f.bootstrap || f.join != "" || f.learner):
		return usageErrorf("--bootstrap, --join and --learner need --node")
	case f.bootstrap && f.learner:
		return usageErrorf("the first node of a cluster is its majority: no --learner")
	case f.name != "" && !member && !f.bootstrap && f.join == "":
		return usageErrorf("%s is of no node of a cluster yet: add --bootstrap to begin one, or --join", dir)
	case f.bootstrap && f.join != "":
		return usageErrorf("a node begins a cluster or joins one: --bootstrap or --join")
	}
	return nil
}

// serveNode is serve for a node of a cluster.
func (f *serveFlags) serveNode(cmd *cobra.Command, b broker.Options, s api.Options, clients net.Listener, web *web, begun time.Time) error {
	advertised := f.advertise
	if advertised == "" {
		if a := clients.Addr().(*net.TCPAddr); a.IP.IsUnspecified() {
			return usageErrorf("--listen %s: other nodes have to tell clients where this one is: add --advertise", f.listen)
		}
		advertised = clients.Addr().String()
	}
	var identity *pki.Identity
	if f.node.certs != "" {
		var err error
		if identity, err = loadIdentity(f.node.certs, f.node.name); err != nil {
			return err
		}
	}
	return node.Run(cmd.Context(), node.Options{
		Broker: b,
		Replica: replica.Options{
			Name: f.node.name, Listen: f.node.peer, Advertise: f.node.peerAdvertise, Client: advertised,
			Certificates: identity, Bootstrap: f.node.bootstrap, Join: f.node.join, Learner: f.node.learner, NoRepair: f.node.noRepair, Logger: b.Logger, Fatal: b.Fatal,
		},
		Server: s, Clients: clients, Drain: drainTimeout, Logger: b.Logger.With(logging.Component, "node"),
		Show: web.show(f.hosts()),
		Prepare: func(ctx context.Context, leads *broker.Broker) error {
			return f.auth.prepare(ctx, leads, b.Logger)
		},
		Ready: func(led func() error, state func() replica.State) {
			web.led.Store(&led)
			web.registry.MustRegister(metrics.NewNodeCollector(func() metrics.Node {
				s := state()
				return metrics.Node{Term: s.Term, Last: s.Last, Committed: s.Committed, Leads: s.Leads, Contact: s.Contact}
			}))
			f.greet(cmd, b.Dir, clients.Addr(), web.addr(), time.Since(begun))
		},
	})
}

// show returns what shows one broker after the other; nil is none. Operators' calls
// are for the one that leads.
func (w *web) show(hosts []string) func(*broker.Broker, *api.Server) {
	w.registry.MustRegister(metrics.NewCollector(func() broker.Stats {
		w.using.RLock()
		defer w.using.RUnlock()
		if b := w.broker.Load(); b != nil {
			return b.Stats()
		}
		return broker.Stats{}
	}))
	return func(b *broker.Broker, s *api.Server) {
		var calls *http.Handler
		if s != nil {
			h := s.HTTP(hosts...)
			calls = &h
		}
		w.using.Lock() // what uses the one before has ended when this returns
		defer w.using.Unlock()
		w.broker.Store(b)
		w.calls.Store(calls)
	}
}

// fatal ends the process: what is on the disk is not known any more, and a recovery
// finds out.
func fatal(logger *slog.Logger) func(error) {
	return func(err error) {
		logger.Error("cannot go on", "error", err)
		os.Exit(exitFailed)
	}
}
