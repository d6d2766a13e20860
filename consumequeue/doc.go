// Package consumequeue is the per-queue index over the commit log: queue offset
// -> [Entry], 32 bytes each, for 100,000 queues in a few shared files.
//
// It is derived data. Deleted, it is rebuilt by replaying the log; after a crash
// it is restored to the last checkpoint and rolled forward by the same replay,
// which may put entries that are already there again.
//
// It holds positions, never messages, and has not heard of the commit log.
//
// # Shape
//
// Files (arenas) are cut into extents, runs of 4 KiB pages, each of which belongs
// to one queue. A queue in memory is its bounds and its extents, so finding an
// entry is a shift; nothing but the list of extents grows with a backlog. Who
// owns which extent is not in the files but in the snapshot, which the broker
// writes into its checkpoint. format.go draws both.
//
// # Not obvious
//
//   - The checksum of an entry covers its queue and offset. It is how a reader
//     that was overtaken by a drop, or a page that a crash left half written,
//     cannot pass for another queue's entry.
//   - Freed pages are not reused until a snapshot without them is durable
//     ([Store.Persisted]): the one before would find another queue's entries there.
//     The arena says so from then on, so that nobody opens it with that.
//   - Entries are stored through a mapping, so Put makes no system call and cannot
//     report a failed write: [Store.Flush] does, and is then final.
//   - An empty queue has no pages, but keeps its bounds.
//   - DropBefore is not a function of the log alone: an entry that entered its
//     queue late with an old position goes or stays depending on when it is called.
//     What it leaves behind below the log's start, readers must skip.
package consumequeue
