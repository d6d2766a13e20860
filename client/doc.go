// Package client is the Go client of Gantry's own door, gantry.v1: producers that
// batch, consumers that acknowledge in bulk, readers that keep their own offsets.
// Its messages are those of apache.rocketmq.v2: what one side sends the other
// receives. It links nothing of that contract, so a program may hold this client
// and the official one.
//
// # Connections
//
// [Dial] makes a [Client], one connection shared by everything made of it. A
// connection that breaks is made again, with growing pauses, for as long as the
// client is open: producers send again what was not answered, under the numbers
// by which the broker knows it, so that it is stored once; consumers and readers
// go on where they were.
//
// A cluster may have several shards; then there is a connection to each. Messages are
// spread over all, those of a message group are in one, and consumers and readers get those
// of all. Queues are numbered in each shard by itself; see [Queue].
//
// # Concurrency
//
// Every method of every type may be called by any number of goroutines at once,
// except the iterators, of which each range loop has its own. Callbacks run on
// the client's goroutines: they must not block.
//
// # Errors
//
// What the broker refuses is an [*Error] with the code that the official clients
// know. [ErrUnknown] says that a message may or may not have been stored;
// [ErrLeaseLost] that a message was not the caller's any more; [ErrClosed] that
// the object was closed.
package client
