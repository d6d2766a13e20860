// Package transaction is the state of half messages: those that are stored but
// in no queue, because their producer has yet to say whether they are to be
// delivered.
//
// A half message is named by the position of its record, for as long as the
// store lives. It is open until somebody decides, or until it was asked about
// often enough: then it is parked, and waits for a person to decide. A decision
// is final. The newest ones are remembered, so that whoever comes second is told
// what was decided.
//
// The state changes by Apply functions only, which look at records and at no
// clock, so two tables that were given the same records hold the same state, and
// the same bytes in a snapshot. A decision is taken before its record is
// appended: Begin reserves it, hence the log holds no two decisions about one
// message.
//
// # Concurrency
//
// A [Table] may be used concurrently; Apply functions, AppendSnapshot and
// Restore are called by one goroutine at a time.
package transaction
