// Package producer remembers which batches of a producer were stored, so that one
// that is sent again is stored once and gets the first answer.
//
// A batch of gantry.v1 is named by its producer's id and a sequence number. The
// mark that says so is a record in the same commit as the batch's messages, and
// points at them: the answer is read from the log again, not remembered.
//
// [Table] is a pure state machine over those records, bounded: a producer's newest
// [Window] batches, the newest [MaxProducers] producers, those for [Life]. Beside
// it are reservations, this node's own, for batches that are on their way.
//
// # Concurrency
//
// Apply, AppendSnapshot and Restore are called by the dispatcher only; everything
// else may be called concurrently with it.
package producer
