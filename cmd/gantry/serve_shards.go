package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/gantry-mq/gantry/api"
	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/replica"
	"github.com/gantry-mq/gantry/cmd/gantry/node"
	"github.com/gantry-mq/gantry/internal/logging"
	"github.com/gantry-mq/gantry/internal/sharding"
)

// A node runs all shards of its cluster in one process. Shard 0 is what a cluster of one
// shard is; each further one has a directory below, and ports that are higher.
//
//	shard 0   data/            clients 8081   nodes 8083
//	shard 1   data/shards/1/   clients 8091   nodes 8093
//	shard 2   data/shards/2/   clients 8101   nodes 8103
const shardsDir = "shards"

// shardDir is where a shard has its data.
func shardDir(dir string, shard int) string {
	if shard == 0 {
		return dir
	}
	return filepath.Join(dir, shardsDir, strconv.Itoa(shard))
}

// shardNames are those of the shards' brokers in routes.
func shardNames(shards int) []string {
	names := []string{"gantry"}
	for i := 1; i < shards; i++ {
		names = append(names, fmt.Sprint("gantry-", i))
	}
	return names
}

// shardsIn is how many shards a data directory has.
func shardsIn(dir string) (int, error) {
	entries, err := os.ReadDir(filepath.Join(dir, shardsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return 1, nil
	}
	have := 1
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			have = max(have, n+1)
		}
	}
	return have, err
}

// checkShards looks for addresses that cannot be those of all shards.
func (f *serveFlags) checkShards() error {
	last := f.node.shards - 1
	if last < 0 || last >= sharding.Max {
		return usageErrorf("--shards %d: want 1 to %d", f.node.shards, sharding.Max)
	}
	for _, a := range []struct{ flag, addrs string }{
		{"--listen", f.listen}, {"--advertise", f.advertise}, {"--peer", f.node.peer}, {"--peer-advertise", f.node.peerAdvertise}, {"--join", f.node.join},
	} {
		if _, err := shardAddrs(a.addrs, last); err != nil {
			return usageErrorf("%s %s: with --shards %d, ports up to %d higher are needed, and none can be 0", a.flag, a.addrs, f.node.shards, last*sharding.Step)
		}
	}
	return nil
}

// shardAddrs is sharding.Address of addresses with commas between them; none is "".
func shardAddrs(addrs string, shard int) (string, error) {
	if addrs == "" {
		return "", nil
	}
	all := strings.Split(addrs, ",")
	for i := range all {
		var err error
		if all[i], err = sharding.Address(all[i], shard); err != nil {
			return "", err
		}
	}
	return strings.Join(all, ","), nil
}

// listenClients takes the ports for the clients of all shards.
func (f *serveFlags) listenClients() (all []net.Listener, err error) {
	for i := range f.node.shards {
		addr, err := sharding.Address(f.listen, i)
		var l net.Listener
		if err == nil {
			l, err = net.Listen("tcp", addr)
		}
		if err != nil {
			closeAll(all)
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

func closeAll(all []net.Listener) {
	for _, l := range all {
		l.Close()
	}
}

// shard is what one shard of this node is made of: b and s are of shard 0 alone.
func (f *serveFlags) shard(i int, b broker.Options, s api.Options, clients net.Listener) (o node.Options, err error) {
	r := replica.Options{Name: f.node.name, Bootstrap: f.node.bootstrap, Learner: f.node.learner, NoRepair: f.node.noRepair}
	for _, a := range []struct {
		to   *string
		from string
	}{{&r.Listen, f.node.peer}, {&r.Advertise, f.node.peerAdvertise}, {&r.Join, f.node.join}, {&r.Client, f.advertise}} {
		if *a.to, err = shardAddrs(a.from, i); err != nil {
			return o, err
		}
	}
	if r.Client == "" {
		if a := clients.Addr().(*net.TCPAddr); a.IP.IsUnspecified() {
			return o, usageErrorf("--listen %s: other nodes have to tell clients where this one is: add --advertise", f.listen)
		}
		r.Client = clients.Addr().String()
	}
	s.Advertise = r.Client
	if f.advertise == "" {
		s.Advertise = ""
	}
	if f.node.shards > 1 { // what was meant for the whole node is shared out
		b.Logger = b.Logger.With("shard", i)
		s.Logger = b.Logger
		b.SendMemory = max(b.SendMemory/int64(f.node.shards), broker.MinSendMemory)
		b.Fatal = fatal(b.Logger)
	}
	if i > 0 {
		b.Dir, b.BrokerName = shardDir(b.Dir, i), shardNames(i + 1)[i]
		s.DataDir = b.Dir
	}
	r.Logger, r.Fatal = b.Logger, b.Fatal
	return node.Options{
		Broker: b, Replica: r, Server: s, Clients: clients, Drain: drainTimeout, Shard: i,
		Logger: b.Logger.With(logging.Component, "node"),
		Prepare: func(ctx context.Context, leads *broker.Broker) error {
			if i > 0 { // users come from shard 0
				return f.auth.checkKey(leads)
			}
			return f.auth.prepare(ctx, leads, b.Logger)
		},
	}, nil
}
