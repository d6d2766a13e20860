package main

import (
	"testing"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

func TestANodeHasArrivedWhenAllKnowThatItCounts(t *testing.T) {
	leader := &gantryv1.ClusterNode{Name: "n1", Leader: true, Voter: true, Last: 9, Committed: 9, Peer: "h:1"}
	other := &gantryv1.ClusterNode{Name: "n2", Voter: true, Committed: 9}
	a := arrival{node: "n3"}
	want := func(what string, end bool, nodes ...*gantryv1.ClusterNode) {
		t.Helper()
		if state, done := a.state(nodes); state != what || done != end {
			t.Errorf("%q, %v; want %q, %v", state, done, what, end)
		}
	}
	want("waiting for: gantry serve --node n3 --join h:1, with an empty directory", false, leader, other)
	want("n3 does not answer: gone", false, leader, other, &gantryv1.ClusterNode{Name: "n3", Error: "gone"})
	want("n3 has joined, and does not count yet", false, leader, other, &gantryv1.ClusterNode{Name: "n3", Committed: 9})
	counts := &gantryv1.ClusterNode{Name: "n3", Voter: true, Committed: 9}
	leader.Last, leader.Committed = 12, 12
	want("n3 counts; waiting until n2 has heard so", false, leader, other, counts)
	leader.Last, leader.Committed = 20, 20 // what came later does not matter
	other.Committed = 12
	want("n3 counts; waiting until n3 has heard so", false, leader, other, counts)
	counts.Committed = 12
	want("n3 counts, and all nodes know", true, leader, other, counts)
}
