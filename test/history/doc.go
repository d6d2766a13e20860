// Package history kills a gantry process again and again while clients work,
// records what the clients saw, and has package check judge it.
//
//	go test ./test/history            short: both durabilities, about a minute
//	make crash                        long
//
// The flags -rounds, -round-time, -seed, -history and -server-race are for
// longer, repeated and recorded runs. A seed fixes what the driver does, not
// when the kernel lets it: a failing run is best studied from its -history.
package history
