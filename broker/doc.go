// Package broker is what Gantry does: send, receive, acknowledge, and the
// tables of topics and groups. It opens the log, the index and the state
// machines below it, wires them, and closes them in reverse. It has not heard
// of gRPC.
//
// # Concurrency
//
// A Broker's methods may be called concurrently. Open starts, and Close joins:
// the log's own goroutines; the dispatcher, the only one that changes state;
// the lease timer; the session expiry; the checks of undecided transactions; and
// housekeeping (checkpoints, retention, release of leases whose clients are gone).
package broker
