// Package keyindex finds records by what they are called: a message by its id or
// one of its keys, and what was done with a payload by its position.
//
// It maps a 64-bit hash to positions in the log and knows no more. Whoever asks
// reads the records and drops those that only have the same hash. It is derived
// data: deleted, it is made again from the log.
//
// # Shape
//
// Entries, 16 bytes each, are appended to segments of a fixed number of entries.
// The newest segment is raw: entries in the order they came, stored through a
// mapping, with chains by hash in memory, so that Put makes no system call and
// allocates nothing. A full one is sorted by hash into a sealed segment, of
// which only the first entry of each 4 KiB block is in memory, 0.4 % of it; a
// search reads one block of each, and more where a hash has many entries.
//
// # Checkpoints
//
// As of package consumequeue: AppendSnapshot by the goroutine that puts, then
// Flush by another while Puts go on, then the snapshot is made durable, then
// Persisted. A raw segment may be further than its snapshot says: what is beyond
// is put again by the replay. Files that the newest snapshot names are there
// until a newer one is persisted.
//
// # Concurrency
//
// Put and AppendSnapshot are called by one goroutine, the one that applies the
// log. Flush and Persisted take turns. Everything may run at the same time as
// everything else. Index.mu is held for memory only.
package keyindex
