// Package record says what one entry of the commit log means: its kind, its
// bytes, and how to read it in place.
//
// The log itself ([github.com/gantry-mq/gantry/commitlog]) moves frames whose
// payload is a run of records; it never looks inside one. Everything that must
// survive a restart is a record of some [Kind], and state changes only by
// applying records in log order, so this package is the vocabulary that every
// other package shares. It does no I/O and imports the standard library only.
//
// # Two kinds of number
//
// A [Position] is a byte position in the log: physical, equal on all replicas.
// A [QueueOffset] counts the messages of one queue: logical, dense, what clients
// see. They are distinct types because mixing them is the classic bug of this
// architecture.
//
// # Aliasing
//
// Parse functions return structs whose byte slices alias the input. When the
// input is a mapped view, they are valid only until the view is released.
package record
