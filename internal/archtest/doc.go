// Package archtest keeps imports pointing one way. It holds tests only: the
// rules are in rules_test.go, and `go test ./internal/archtest` checks every
// package of the module against them.
package archtest
