// Package history kills a gantry process again and again while clients work,
// records what the clients saw, and has package check judge it.
//
// All features are under load at all times, so kills happen within each: plain and
// ordered topics; one of all kinds with a deduplication window (half messages that
// are sent, committed and rolled back, delays that end, priorities, message groups,
// messages sent again); leases that end; dead letters that are redriven; lite
// topics; and our own client, whose streams go on by themselves.
//
//	go test ./test/history            short: both durabilities, about a minute
//	make crash                        long
//
// The flags -rounds, -round-time, -seed, -history and -server-race are for
// longer, repeated and recorded runs. A seed fixes what the driver does, not
// when the kernel lets it: a failing run is best studied from its -history.
package history
