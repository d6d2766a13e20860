// Package scheduler keeps delayed messages until they are due.
//
// # State
//
// A timer is an index entry: 32 bytes in the consume queue of the minute it is
// due in, its bucket. What the entry does not say is in memory and in the
// snapshot: how far each bucket goes, and one bit for each of its entries that is
// settled, that is fired, cancelled or moved. So ten million pending timers cost
// 320 MB of index and at most 1.3 MB of memory, and a restart reads none of them.
// A bucket goes when its minute is past and nothing in it is pending.
//
// The settled bits are not flags in the entries, although there is room, because
// the index is written through a mapping: a flag may reach the disk while the
// record that set it is lost with the log's tail, and the timer would be lost
// with it. The bits are as old as the snapshot that replay starts from.
//
// State changes only in the Apply functions and Advance, in log order.
//
// # Firing
//
// [Scheduler.Run] reads the bucket of the current minute once, a few seconds
// ahead, into a wheel of 60,000 slots of a millisecond, at four bytes a timer.
// What is added to a bucket that was read goes into its wheel at once. When a
// slot has come by the wall clock, never earlier, its timers are reserved and
// the moves that put them into their queues are submitted, many to a batch and
// several batches at a time. Who cancels or moves a timer reserves it first, in
// the same way, so the log never holds two decisions about one timer.
//
// # Concurrency
//
// Apply functions, Advance, AppendSnapshot and Restore are called by the
// goroutine that applies the log. All else may be called from anywhere. mu is
// held for memory only, never during a read of the index.
package scheduler
