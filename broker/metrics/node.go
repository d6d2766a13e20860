package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A follower's lag is the difference between nodes, which whoever scrapes all of them
// knows: max(gantry_raft_last_index) - gantry_raft_last_index.
var (
	raftTerm      = desc("gantry_raft_term", "The term of raft in which this node is.")
	raftLeader    = desc("gantry_raft_leader", "1 on the node that leads.")
	raftLast      = desc("gantry_raft_last_index", "The last entry that is on this node's disk.")
	raftCommitted = desc("gantry_raft_committed_index", "The last entry that this node knows to be committed.")
	raftContact   = desc("gantry_raft_contact_seconds", "Time since this node heard from the leader, 0 on the leader; absent while it never did.")
)

// Node is how far a node of a cluster is.
type Node struct {
	Term, Last, Committed uint64
	Leads                 bool
	Contact               time.Duration // since it heard from the leader; below 0: it never did
}

// NodeCollector exports a node of a cluster.
type NodeCollector struct{ state func() Node }

// NewNodeCollector returns a collector that calls state once for each scrape.
func NewNodeCollector(state func() Node) *NodeCollector { return &NodeCollector{state} }

// Describe implements prometheus.Collector.
func (c *NodeCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{raftTerm, raftLeader, raftLast, raftCommitted, raftContact} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *NodeCollector) Collect(out chan<- prometheus.Metric) {
	n := c.state()
	gauge := func(d *prometheus.Desc, v float64) { out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	gauge(raftTerm, float64(n.Term))
	gauge(raftLeader, bit(n.Leads))
	gauge(raftLast, float64(n.Last))
	gauge(raftCommitted, float64(n.Committed))
	if n.Contact >= 0 {
		gauge(raftContact, n.Contact.Seconds())
	}
}
