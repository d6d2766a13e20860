package history

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/internal/freeaddr"
	"github.com/gantry-mq/gantry/proto/gantryv1"
	"github.com/gantry-mq/gantry/test/history/check"
)

// shardsOfThree is how many shards three nodes have here.
const shardsOfThree = 2

// Three nodes with two shards, which different nodes lead, under kills, and with topics
// that come and go: in each shard all is as on a broker that is alone, and both have the
// same topics in the end.
func TestNothingIsLostInAnyShardWhenNodesFail(t *testing.T) {
	t.Logf("-seed %d", *seed)
	r := rand.New(rand.NewPCG(*seed, 2))
	c := newShards(t, build(t))
	all := faults{}
	var second *check.Report
	createAll(t, gantryv1.NewManagementClient(c.dial(t)))
	topics := []string{plainTopic, plainTopic, fifoTopic, fifoTopic, mixedTopic, mixedTopic, mixedTopic, dyingTopic}
	first := underLoadOf(t, c, *seed, append(topics, liteTopic, liteTopic), func() { // lite topics are in the first shard alone
		c.sameTopics()
		second = underLoadOf(t, c.in(1), *seed+1, topics, func() {
			for began, n := time.Now(), 0; time.Since(began) < *clusterTime; n++ {
				f := c.pickOf(r, "leader killed", "follower killed", "all killed", "node stopped for a while", "ended and started", "one after the other restarted", "leadership handed over")
				in := c.in(r.IntN(shardsOfThree)) // whose leader it is
				t.Logf("%8v %s, of shard %d", time.Since(began).Round(time.Millisecond), f.name, in.shard)
				changed := make(chan struct{})
				go func() {
					defer close(changed)
					c.changeTopics(n)
				}()
				f.do(in, r)
				<-changed
				all[f.name]++
				for shard := range shardsOfThree {
					c.in(shard).sameState()
				}
			}
		})
	})
	c.sameTopics()
	for shard := range shardsOfThree {
		c.in(shard).sameState()
	}
	c.stopAll()
	for _, s := range c.nodes {
		if out, err := exec.Command(s.binary, "log", "check", filepath.Join(s.data(), "shards", "1")).CombinedOutput(); err != nil {
			t.Errorf("gantry log check: %v\n%s", err, out)
		}
	}
	t.Logf("%v\nshard 0: %v\nshard 1: %v", all, first, second)
}

// newShards is newCluster with shards, without faults of the network.
func newShards(t *testing.T, binary string) *cluster {
	c := &cluster{t: t}
	at := freeaddr.Of(t, 6, shardsOfThree)
	for i := range 3 {
		s := newServer(t, binary, "sync")
		s.addr = at[2*i]
		c.add(s, at[2*i+1], "--peer", at[2*i+1], "--shards", fmt.Sprint(shardsOfThree))
		must(t, s.start())
	}
	for _, s := range c.nodes {
		must(t, s.await())
	}
	for shard := range shardsOfThree {
		c.in(shard).await(c.settled)
	}
	must(t, exec.Command(binary, "cluster", "transfer", "n2", "--shard", "1", "--server", c.nodes[0].addr).Run())
	return c
}

// pickOf is pick among the faults of some names.
func (c *cluster) pickOf(r *rand.Rand, names ...string) fault {
	name := names[r.IntN(len(names))]
	return faultsOfThree[slices.IndexFunc(faultsOfThree, func(f fault) bool { return f.name == name })]
}

// changeTopics makes a topic and deletes the one before. An answer may be lost with its
// leader, so each is tried until it is known.
func (c *cluster) changeTopics(n int) {
	admin := gantryv1.NewManagementClient(c.in(0).dial(c.t))
	until := func(call func(context.Context) error) {
		for begun := time.Now(); ; {
			ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
			err := call(ctx)
			cancel()
			if err == nil || strings.Contains(err.Error(), "exist") { // already, or no more
				return
			}
			if time.Since(begun) > 2*startLimit {
				c.t.Errorf("the topics are not changed after %v: %v", 2*startLimit, err)
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	until(func(ctx context.Context) error {
		_, err := admin.CreateTopic(ctx, &gantryv1.CreateTopicRequest{Name: fmt.Sprint("come-", n), Type: gantryv1.TopicType_NORMAL, Queues: 1})
		return err
	})
	until(func(ctx context.Context) error {
		_, err := admin.DeleteTopic(ctx, &gantryv1.DeleteTopicRequest{Name: fmt.Sprint("come-", n-1)})
		return err
	})
}

// sameTopics waits until all shards have the same topics.
func (c *cluster) sameTopics() {
	c.t.Helper()
	topics := func(shard int) (names []string) {
		conn := c.in(shard).dial(c.t)
		defer conn.Close()
		ctx, cancel := context.WithTimeout(c.t.Context(), startLimit)
		defer cancel()
		r, err := gantryv1.NewManagementClient(conn).ListTopics(ctx, &gantryv1.ListTopicsRequest{})
		must(c.t, err)
		for _, t := range r.GetTopics() {
			if name := t.GetName(); name != liteTopic && !strings.HasPrefix(name, "%DLQ%") {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return names
	}
	for begun := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		first, second := topics(0), topics(1)
		if slices.Equal(first, second) {
			return
		}
		if time.Since(begun) > startLimit {
			c.t.Fatalf("shard 0 has %q, shard 1 %q, after %v", first, second, startLimit)
		}
	}
}
