//go:build interop

package interop

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/internal/freeaddr"
)

// The leader of three nodes dies by SIGKILL under producers and consumers of all languages. They know one follower, or all nodes, and go on with the next leader.
func TestClientsFollowTheLeader(t *testing.T) {
	for _, c := range []struct {
		name      string
		languages []string
		known     func(leader, follower, other *broker) []*broker
	}{
		{"one node known", languages, func(_, follower, _ *broker) []*broker { return []*broker{follower} }},
		// The Node.js client ends when it is given several.
		{"all nodes known", []string{"go", "java", "python"}, func(leader, follower, other *broker) []*broker { return []*broker{leader, follower, other} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			nodes := newCluster(t, "cluster-"+strings.ReplaceAll(c.name, " ", "-"), 1)
			at := leaderOf(t, nodes)
			leader, follower, other := nodes[at], nodes[(at+1)%3], nodes[(at+2)%3]
			var access []string
			for _, n := range c.known(leader, follower, other) {
				access = append(access, n.listen)
			}
			goOnAfter(t, follower, strings.Join(access, ";"), c.languages, func() { leader.kill() })
		})
	}
}

// newCluster starts three nodes and waits until all of them count, in each shard.
func newCluster(t *testing.T, name string, shards int) []*broker {
	var nodes []*broker
	at := freeaddr.Of(t, 6, shards)
	for i := range 3 {
		b, err := newBroker(fmt.Sprint(name, "-", i+1))
		if err != nil {
			t.Fatal(err)
		}
		b.listen, b.peer = at[2*i], at[2*i+1]
		b.args = []string{"--node", fmt.Sprint("n", i+1), "--peer", b.peer, "--shards", fmt.Sprint(shards)}
		if i == 0 {
			b.args = append(b.args, "--bootstrap")
		} else {
			b.args = append(b.args, "--join", nodes[0].peer)
		}
		if err := b.start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closing.Go(func() { time.Sleep(10 * time.Second); b.kill() }) }) // clients stop more quietly with a broker
		nodes = append(nodes, b)
	}
	for begun := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		count := 0
		for _, n := range statusOf(nodes[0]) {
			if n.Role == "leader" || n.Role == "follower" {
				count++
			}
		}
		if count == len(nodes)*shards {
			return nodes
		}
		if time.Since(begun) > patience {
			t.Fatalf("the cluster is not complete: %v", statusOf(nodes[0]))
		}
	}
}

type nodeStatus struct{ Name, Role string }

func statusOf(b *broker) (nodes []nodeStatus) {
	out, err := exec.Command(gantry, "cluster", "status", "--json", "--server", b.listen).Output()
	if err == nil {
		json.Unmarshal(out, &nodes)
	}
	return nodes
}

func leaderOf(t *testing.T, nodes []*broker) int {
	for _, s := range statusOf(nodes[0]) {
		if s.Role == "leader" {
			return int(s.Name[1] - '1')
		}
	}
	t.Fatal("nobody leads")
	return 0
}
