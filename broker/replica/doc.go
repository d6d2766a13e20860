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
package replica
