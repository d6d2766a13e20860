// Package descriptors proves that Gantry's text of apache.rocketmq.v2 and the one
// the official clients were built from are the same contract.
//
// It is a module of its own, and the official side a program of its own: both
// generated packages register the same names, so no binary can hold them both,
// and the client must not become a dependency of the broker.
package descriptors
