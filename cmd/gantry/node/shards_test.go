package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/api"
	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/replica"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/freeaddr"
	"github.com/gantry-mq/gantry/internal/sharding"
)

// patience bounds waits for something that should happen soon.
const patience = 60 * time.Second

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not in %v", what, patience)
		}
	}
}

// process runs a node of each shard.
type process struct {
	name   string
	shards *Shards
	leads  []atomic.Pointer[broker.Broker] // by shard, while this node leads
	dir    string
	at     string   // where the clients of shard 0 are
	peers  []string // by shard
	stop   func()
	end    func() error // waits until it ends by itself
}

// begin starts a node; the first one makes the cluster.
func begin(t *testing.T, name string, shards int, first *process) *process {
	t.Helper()
	p := &process{name: name, dir: t.TempDir(), at: freeaddr.Of(t, 1, 3)[0], peers: freeaddr.Of(t, 3, 1)}
	p.up(t, shards, first)
	return p
}

// up starts it, with no fewer shards than before.
func (p *process) up(t *testing.T, shards int, first *process) {
	t.Helper()
	names := make([]string, shards)
	for i := range names {
		names[i] = fmt.Sprint("b", i)
	}
	name, dir := p.name, p.dir
	p.shards, p.leads = NewShards(names...), make([]atomic.Pointer[broker.Broker], shards)
	logFile, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.NewTextHandler(logFile, nil)).With("process", name)
	ready := make(chan struct{}, shards)
	var all []Options
	for i := range shards {
		at, err := sharding.Address(p.at, i)
		if err != nil {
			t.Fatal(err)
		}
		clients, err := net.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		o := Options{
			Broker: broker.Options{Dir: filepath.Join(dir, fmt.Sprint(i)), BrokerName: names[i], SegmentSize: 4 << 20, AutoCreateGroups: true, Logger: logger},
			Replica: replica.Options{
				Name: name, Listen: p.peers[i], Client: clients.Addr().String(), Bootstrap: first == nil,
				Timing: replica.Timing{Heartbeat: 300 * time.Millisecond}, Logger: logger, Fatal: func(err error) { t.Errorf("%s: %v", name, err) },
			},
			Server: api.Options{Logger: logger}, Clients: clients, Drain: time.Second, Logger: logger,
			Show: func(b *broker.Broker, s *api.Server) {
				if s == nil {
					b = nil
				}
				p.leads[i].Store(b)
			},
			Ready: func(*replica.Node, http.Handler) { ready <- struct{}{} },
			Shard: i, Shards: p.shards, SpreadAfter: 300 * time.Millisecond,
		}
		if first != nil {
			o.Replica.Join = first.peers[i]
		}
		all = append(all, o)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- RunAll(ctx, all) }()
	stopped := false
	p.end = func() error {
		stopped = true
		return <-ended
	}
	p.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	t.Cleanup(func() {
		p.stop()
		if logFile.Close(); t.Failed() {
			text, _ := os.ReadFile(logFile.Name())
			t.Logf("the log of %s:\n%s", name, text[max(0, len(text)-8000):])
		}
	})
	for range shards {
		select {
		case <-ready:
		case <-time.After(patience):
			t.Fatalf("%s is no member of all shards after %v", name, patience)
		}
	}
}

// three are the nodes of a cluster in which all count.
func three(t *testing.T, shards int) []*process {
	t.Helper()
	n1 := begin(t, "n1", shards, nil)
	all := []*process{n1, begin(t, "n2", shards, n1), begin(t, "n3", shards, n1)}
	eventually(t, "all nodes count in all shards", func() bool {
		for _, p := range all {
			for i := range shards {
				voters := 0
				for _, m := range p.shards.all[i].Load().node.Members() {
					if m.Voter {
						voters++
					}
				}
				if voters != len(all) {
					return false
				}
			}
		}
		return true
	})
	return all
}

// leader is who leads a shard, and its broker.
func leader(t *testing.T, all []*process, shard int) (p *process, b *broker.Broker) {
	t.Helper()
	eventually(t, fmt.Sprintf("a leader of shard %d", shard), func() bool {
		for _, p = range all {
			if b = p.leads[shard].Load(); b != nil {
				return true
			}
		}
		return false
	})
	return p, b
}

func TestShardsAreLedByDifferentNodes(t *testing.T) {
	all := three(t, 3)
	spread := func() bool {
		for i, p := range all {
			if p.leads[i].Load() == nil {
				return false
			}
		}
		return true
	}
	eventually(t, "n1 leads shard 0, n2 shard 1, n3 shard 2", spread)

	// A leader that an operator chose stays.
	view := members{Node: all[1].shards.all[1].Load().node}
	if err := view.Transfer(t.Context(), "n3"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "n3 leads shard 1", func() bool { return all[2].leads[1].Load() != nil })
	time.Sleep(5 * 300 * time.Millisecond)
	if all[2].leads[1].Load() == nil {
		t.Error("the leadership did not stay where an operator put it")
	}
}

var tp = record.Resource{Name: "t"}

func TestTablesOfShard0AreInAllShardsWhoeverLeads(t *testing.T) {
	all := three(t, 2)
	eventually(t, "n2 leads shard 1", func() bool { return all[1].leads[1].Load() != nil })
	p, first := leader(t, all, 0)
	if _, err := first.CreateTopic(t.Context(), topic.Topic{Name: tp}); err != nil {
		t.Fatal(err)
	}
	settled, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	shards{p.shards, 0}.Settle(settled)
	_, second := leader(t, all, 1)
	if _, err := second.Route(tp); err != nil {
		t.Fatalf("the topic is not in shard 1: %v", err)
	}

	// A group that is named in shard 1 comes into being in shard 0 first.
	g, err := second.EnsureGroup(t.Context(), record.Resource{Name: "g"})
	if err != nil {
		t.Fatal(err)
	}
	if there, ok := first.Group(g.Name); !ok || there.Created != g.Created {
		t.Errorf("shard 0 has the group as %+v, %v", there, ok)
	}

	// What is deleted while shard 1 has no leader is deleted in it when it has one.
	view := members{Node: p.shards.all[1].Load().node}
	if err := view.Transfer(t.Context(), "n3"); err != nil {
		t.Fatal(err)
	}
	if err := first.DeleteTopic(t.Context(), tp); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the topic is gone from shard 1 on all nodes", func() bool {
		for _, p := range all {
			if _, err := p.shards.state(1).Route(tp); err == nil {
				return false
			}
		}
		return true
	})
}

// The leader of a shard follows what its node has of shard 0 when that is not older than
// what another one has followed: a topic would be deleted with its messages.
func TestTablesOfANodeThatIsBehindAreNotFollowed(t *testing.T) {
	n1 := begin(t, "n1", 2, nil)
	_, first := leader(t, []*process{n1}, 0)
	if _, err := first.CreateTopic(t.Context(), topic.Topic{Name: tp}); err != nil {
		t.Fatal(err)
	}
	at := first.Committed()
	r, err := n1.shards.order(t.Context(), 0, order{Reach: true})
	if err != nil || r.Position < at {
		t.Fatalf("all that is committed ends at %d, %v; the topic was made before %d", r.Position, err, at)
	}
	behind, err := broker.Open(t.Context(), broker.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer behind.Close()
	late, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := n1.shards.reach(late, behind); err == nil {
		t.Error("a broker that has nothing of the log is followed")
	}
	if err := n1.shards.reach(t.Context(), first); err != nil {
		t.Error(err)
	}
}

func TestARecallFindsTheShardThatMadeTheHandle(t *testing.T) {
	n1 := begin(t, "n1", 2, nil)
	_, first := leader(t, []*process{n1}, 0)
	_, second := leader(t, []*process{n1}, 1)
	if _, err := first.CreateTopic(t.Context(), topic.Topic{Name: tp, Type: topic.Delay}); err != nil {
		t.Fatal(err)
	}
	shards{n1.shards, 0}.Settle(t.Context())
	for i, b := range []*broker.Broker{first, second} {
		sent, err := b.Send(t.Context(), []broker.Outgoing{{Topic: tp, ID: fmt.Sprint("m", i), Body: []byte("x"), DueTime: time.Now().Add(time.Hour).UnixMilli()}})
		if err != nil {
			t.Fatal(err)
		}
		asked := shards{n1.shards, 1 - i}
		if id, err := asked.Recall(t.Context(), tp, sent[0].RecallHandle); err != nil || id != fmt.Sprint("m", i) {
			t.Errorf("of shard %d: %q, %v", i, id, err)
		}
		if _, err := asked.Recall(t.Context(), tp, sent[0].RecallHandle); broker.ReasonOf(err) != broker.BadRequest {
			t.Errorf("once more: %v", err)
		}
	}
}
