package main

import (
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/gantry-mq/gantry/api"
	"github.com/gantry-mq/gantry/api/gateway"
	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/metrics"
	"github.com/gantry-mq/gantry/broker/replica"
	"github.com/gantry-mq/gantry/cmd/gantry/node"
	"github.com/gantry-mq/gantry/internal/pki"
)

// nodeFlags are what makes a broker a node of a cluster.
type nodeFlags struct {
	name, peer, peerAdvertise string
	bootstrap                 bool
	join                      string
	shards                    int
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
	flags.IntVar(&f.shards, "shards", 1, "divide the cluster into `N` shards, 1 to 16, the same for all nodes: each has a log and a leader of its\n"+
		"own, and the ports of each (--listen, --advertise, --peer, --peer-advertise, --join) are higher by 10\n"+
		"than those of the one before; later N may be raised, not lowered")
	cmd.MarkFlagDirname("certs")
}

// check reports flags that do not go together, with each other or with dir.
func (f *nodeFlags) check(dir string) error {
	have, err := shardsIn(dir)
	switch {
	case err != nil:
		return err
	case f.name == "" && f.shards > 1:
		return usageErrorf("--shards %d needs --node", f.shards)
	case f.name == "" && (f.bootstrap || f.join != "" || f.learner):
		return usageErrorf("--bootstrap, --join and --learner need --node")
	case f.bootstrap && f.learner:
		return usageErrorf("the first node of a cluster is its majority: no --learner")
	case f.shards < have:
		return usageErrorf("%s has %d shards, and messages in each: start it with --shards %d; shards can be added, not taken away", dir, have, have)
	}
	for i := range f.shards {
		of := shardDir(dir, i)
		member, err := replica.Exists(filepath.Join(of, node.Dir))
		switch {
		case err != nil:
			return err
		case f.name == "" && member:
			return usageErrorf("%s is of a node of a cluster: start it with its --node", dir)
		case f.name != "" && !member && !f.bootstrap && f.join == "":
			return usageErrorf("%s is of no node of a cluster yet: add --bootstrap to begin one, or --join", of)
		}
	}
	if f.bootstrap && f.join != "" {
		return usageErrorf("a node begins a cluster or joins one: --bootstrap or --join")
	}
	return nil
}

// serveNode is serve for a node of a cluster, with a listener for the clients of each
// shard.
func (f *serveFlags) serveNode(cmd *cobra.Command, b broker.Options, s api.Options, clients []net.Listener, web *web, begun time.Time) error {
	var identity *pki.Identity
	if f.node.certs != "" {
		var err error
		if identity, err = loadIdentity(f.node.certs, f.node.name); err != nil {
			return err
		}
	}
	dir, shards := b.Dir, node.NewShards(shardNames(len(clients))...)
	var ready atomic.Int32
	all := make([]node.Options, len(clients))
	for i := range all {
		o, err := f.shard(i, b, s, clients[i])
		if err != nil {
			return err
		}
		o.Shards, o.Replica.Certificates, o.Server.Calls = shards, identity, web.shards[i].calling
		o.Show, o.Calls = web.show(i), web.shards[i].passed()
		o.Ready = func(n *replica.Node, leader http.Handler) {
			web.shards[i].member(n, leader)
			if int(ready.Add(1)) == len(all) {
				f.greet(cmd, dir, clients, web.addr(), time.Since(begun))
			}
		}
		all[i] = o
	}
	return node.RunAll(cmd.Context(), all)
}

// show returns what shows one broker of a shard after the other; nil is none. Operators'
// calls are for the one that leads.
func (w *web) show(shard int) func(*broker.Broker, *api.Server) {
	v := w.shards[shard]
	v.registry.MustRegister(metrics.NewCollector(func() broker.Stats {
		v.using.RLock()
		defer v.using.RUnlock()
		if b := v.broker.Load(); b != nil {
			return b.Stats()
		}
		return broker.Stats{}
	}))
	return func(b *broker.Broker, s *api.Server) {
		var calls *http.Handler
		if s != nil {
			h := s.HTTP()
			calls = &h
		}
		v.using.Lock() // what uses the one before has ended when this returns
		defer v.using.Unlock()
		v.broker.Store(b)
		v.calls.Store(calls)
	}
}

// member connects a shard with this node of its cluster, and with whoever leads.
func (v *shown) member(n *replica.Node, leader http.Handler) {
	led := func() error {
		if _, ok := n.Leader(); !ok {
			return replica.ErrNoLeader
		}
		return nil
	}
	v.led.Store(&led)
	v.leader.Store(&leader)
	v.registry.MustRegister(metrics.NewNodeCollector(func() metrics.Node {
		s := n.State()
		return metrics.Node{Term: s.Term, Last: s.Last, Committed: s.Committed, Leads: s.Leads, Contact: s.Contact}
	}))
}

// passed answers calls that another node took for its leader's.
func (v *shown) passed() http.Handler {
	return http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		if !v.answer(out, r) {
			gateway.Fail(out, codes.Unavailable, "another node was asked, and passed it on to one that does not lead: the leader has just changed")
		}
	})
}

// fatal ends the process: what is on the disk is not known any more, and a recovery
// finds out.
func fatal(logger *slog.Logger) func(error) {
	return func(err error) {
		logger.Error("cannot go on", "error", err)
		os.Exit(exitFailed)
	}
}
