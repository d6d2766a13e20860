// Package replica has several nodes agree on one commit log, by raft: the raft
// log is the commit log, so a byte is written once per replica and a position
// means the same on all of them.
//
//	Term.Submit      batches that wait at the same time share one entry
//	raft             has a majority store it: logStore.StoreLogs -> commitlog.Store
//	fsm.Apply        commitlog.Commit; from there on it is as with one node: the
//	                 broker's dispatcher reads what is committed and applies it
//
// So raft's state machine is nothing but the log's watermark, its snapshots hold
// nothing but the membership, and raft never sees what a record means. A [Node]
// takes part in the agreement for as long as the process lives; a [Term] is the
// time in which it leads, and the only thing that appends. What the broker
// decides from memory is good for one Term: afterwards it is opened anew.
//
// # The life of a node
//
//	replicated, err := replica.Exists(dir)         // or this start bootstraps or joins
//	node, err := replica.Open(ctx, replica.Options{Store: store, ...})
//	log := node.Log()
//
//	for {                                          // one goroutine
//		term, err := node.Lead(ctx)                // ErrClosed, ErrRemoved: no more
//		// state up to log.Committed(), then
//		term.Begin(now, sequence)                  // Submit works from here on
//		<-term.Over()                              // stop deciding, forget what was decided
//	}
//
//	node.Leader()                                  // where to send clients meanwhile
//	<-node.Removed()                               // the node is no member any more: stop
//	node.Close()                                   // hands the leadership over first
//	log.Close()
//
// A node begins its life in one of two ways. With Options.Bootstrap it is the first
// of a new cluster; what its log holds already is the cluster's from then on. With
// Options.Join it asks any node of a cluster, which names the leader; the leader
// makes it a member that does not count, sends it the log, and lets it count when it
// has caught up; before that, the node fetches what raft can not send any more (see
// backfill.go). With Options.Learner it only counts when somebody says so
// ([Node.Promote]). Both are taken up where they were left when the process dies on the
// way, and mean nothing to a node that is a member already, so they may stay on the
// command line.
//
// A node's ID is its name and the random number of its data directory
// ([peer.NewID]). A node that has lost its directory is another node: it neither
// votes nor is taken for the one that did. It joins under the old name at the old
// address, and the leader takes the one before out (see replace.go); elsewhere only
// after that was removed. A node that was removed, and finds out by being told or by
// asking, stops. A node that is damaged leaves and comes back as another by itself, if
// two others count (see repair.go).
//
// The membership says where each node is, for nodes and for clients; a node that
// comes back at another address tells the leader.
package replica
