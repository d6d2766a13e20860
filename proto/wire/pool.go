package wire

import (
	"math/bits"
	"sync"

	"google.golang.org/grpc/mem"
)

// Sizes that are pooled, as powers of two. gRPC reads frames of up to 16 KiB and
// never asks for less than it would allocate by itself, 1 KiB.
const (
	minPooled = 11
	maxPooled = 25
)

// Buffers is the memory that requests are read into. Unlike gRPC's default pool
// it does not clear a buffer before it is used again (the default clears 1 MiB
// for a request of 33 KiB), so whoever gets one writes all of it before reading
// any. That is what gRPC does with frames, and what materialising does.
var Buffers mem.BufferPool = &bufferPool{}

type bufferPool struct {
	sizes [maxPooled + 1]sync.Pool
}

// Get returns a buffer of length bytes with whatever content.
func (p *bufferPool) Get(length int) *[]byte {
	class := max(bits.Len(uint(max(length, 1)-1)), minPooled)
	if class > maxPooled {
		b := make([]byte, length)
		return &b
	}
	if b, ok := p.sizes[class].Get().(*[]byte); ok {
		*b = (*b)[:length]
		return b
	}
	b := make([]byte, length, 1<<class)
	return &b
}

// Put takes back what Get returned, or a prefix of it.
func (p *bufferPool) Put(b *[]byte) {
	if class := bits.Len(uint(cap(*b))) - 1; class >= minPooled && class <= maxPooled && cap(*b) == 1<<class {
		p.sizes[class].Put(b)
	}
}
