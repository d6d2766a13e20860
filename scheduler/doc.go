// Package scheduler keeps delayed messages until they are due.
//
// # State
//
// A timer is an index entry: 32 bytes in the consume queue of the 17 minutes
// (2^20 ms) it is due in, its bucket. Its place there is given when its record is
// appended, as that of a message in its queue, so it is the same on every replica
// and after every rebuild, and bucket and place are its name. What the entry does
// not say is in memory and in the snapshot: how far each bucket goes, and one bit
// for each of its entries that is settled, that is fired, cancelled or moved. So
// ten million pending timers cost 320 MB of index and next to no memory, and a
// restart reads none of them. A bucket goes when its time is past and nothing in
// it is pending.
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
// [Scheduler.Run] reads a bucket through, some seconds ahead, once for each
// window of 65 s that something may be due in, and puts what is due in the window
// into a wheel with a slot for each millisecond. What is added to a window that
// was read goes into its wheel at once. When a slot has come by the wall's clock,
// never earlier, its timers are reserved, and records that put them into their
// queues are submitted, one for each queue, and several batches at a time. Who
// cancels or moves a timer reserves it first, in the same way, so the log never
// holds two decisions about one timer.
//
// Whatever the wall's clock does, a jump forward makes the next windows due at
// once, and after a jump back the wheels are forgotten and read again.
//
// # Concurrency
//
// Apply functions, Advance, AppendSnapshot and Restore are called by the
// goroutine that applies the log. All else may be called from anywhere. mu is
// held for memory only, never during a read of the index.
package scheduler
