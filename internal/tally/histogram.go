// Package tally counts what metrics show, at the price of an atomic add: storage and
// servers count here, and know nothing of who exports it.
//
// # Concurrency
//
// Everything may be called concurrently. What is read together is not from one instant.
package tally

import (
	"math/bits"
	"sync/atomic"
)

// Buckets of a histogram: of values below 1, 2, 4, ... 2^(Buckets-2), and of the rest.
const Buckets = 40

// Histogram counts values by powers of two. The zero value is empty.
type Histogram struct {
	counts [Buckets]atomic.Uint64
	sum    atomic.Int64
}

// Add counts a value n times. One below 0 counts as 0.
func (h *Histogram) Add(v int64, n uint64) {
	v = max(v, 0)
	h.counts[min(bits.Len64(uint64(v)), Buckets-1)].Add(n)
	h.sum.Add(v * int64(n))
}

// Counts is a histogram as it was read.
type Counts struct {
	Count uint64
	Sum   int64
	below [Buckets]uint64 // of values below 2^i, cumulative
}

// Read returns what was counted.
func (h *Histogram) Read() (c Counts) {
	c.Sum = h.sum.Load()
	for i := range h.counts {
		c.Count += h.counts[i].Load()
		c.below[i] = c.Count
	}
	return c
}

// Below returns how many values were less than 2^i, 0 <= i < Buckets-1.
func (c *Counts) Below(i int) uint64 { return c.below[i] }
