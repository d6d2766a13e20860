// Package inflight knows, for every consumer group and queue, which messages
// have been handed out and not settled yet, and where the group reads next.
//
// # State
//
// One [Sub] is one group's consumption of one topic. Per queue it holds a
// cursor (the next offset to hand out for the first time) and the outstanding
// offsets below the cursor. Everything below the cursor that is not outstanding
// is done. An outstanding offset is leased until a deadline; after the deadline
// it is ready to be handed out again. Nothing happens at the deadline itself:
// no record, no state change, only somebody waiting is woken.
//
// # Reservation, then record, then apply
//
// State changes only in the Apply functions, in log order. Before a record is
// appended its subject is reserved under the Sub's lock, so that the log never
// holds two commands that contradict each other:
//
//	Resume, TakeReady, BeginScan/EndScan    reserve messages for a new lease
//	BeginAck, BeginMove, BeginRelease,
//	BeginSkip                               reserve one lease for its end or change
//	Apply*                                  make it so, and drop the reservation
//
// Reservations are this node's memory only; they are not part of snapshots. An
// offset that is reserved for its first lease is a ghost: in the table, so that
// order and limits hold, but not in the state.
//
// # Order
//
// In a FIFO Sub only the lowest outstanding offset of a message group (by its
// hash, per queue) may be handed out. Later messages of the group that a scan
// meets are put aside as outstanding with attempt 0. A message without a group
// belongs to the group of hash 0.
//
// # Concurrency
//
// All methods may be called concurrently. Apply functions are called by the
// dispatcher only. No lock is held during I/O; locks are taken Tracker, Sub,
// timer in that order.
package inflight
