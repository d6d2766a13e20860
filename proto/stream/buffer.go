package stream

import (
	"math/bits"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/mem"
)

// Buffer is memory for the records of one request or response, from a pool. It
// goes back there when its last holder releases it.
//
// GetBuffer, Retain and Release may be called by any goroutine; B belongs to
// whoever fills it until it is shared.
type Buffer struct {
	B []byte

	holders atomic.Int32
}

// Buffers come in powers of two, from 4 KiB, so that gRPC takes none for too
// small to be counted (see mem.NewBuffer), to 16 MiB.
const (
	minBufferBits = 12
	maxBufferBits = 24
)

var buffers [maxBufferBits + 1]sync.Pool

// GetBuffer returns a buffer with room for n bytes and none in it, held by the
// caller.
func GetBuffer(n int) *Buffer {
	class := max(bits.Len(uint(max(n, 1)-1)), minBufferBits)
	if class > maxBufferBits {
		b := &Buffer{B: make([]byte, 0, n)}
		b.holders.Store(1)
		return b
	}
	b, _ := buffers[class].Get().(*Buffer)
	if b == nil {
		b = &Buffer{B: make([]byte, 0, 1<<class)}
	}
	b.holders.Store(1)
	return b
}

// Retain adds a holder: one more Release is needed.
func (b *Buffer) Retain() { b.holders.Add(1) }

// Release gives one hold back. Nothing that aliases B may be used afterwards.
func (b *Buffer) Release() {
	if b == nil {
		return
	}
	switch n := b.holders.Add(-1); {
	case n > 0:
		return
	case n < 0:
		panic("stream: buffer released too often")
	}
	// Its class is what it has room for by now: it may have grown.
	if class := bits.Len(uint(cap(b.B))) - 1; class >= minBufferBits && class <= maxBufferBits {
		b.B = b.B[:0]
		buffers[class].Put(b)
	}
}

// lent returns p, a part of B, for gRPC to write and then to release.
func (b *Buffer) lent(p []byte) mem.Buffer {
	if mem.IsBelowBufferPoolingThreshold(cap(p)) { // gRPC would not say when it is done
		return mem.SliceBuffer(append([]byte(nil), p...))
	}
	b.Retain()
	return mem.NewBuffer(&p, (*lender)(b))
}

// lender is the Buffer as the pool to which gRPC gives back what it was lent.
type lender Buffer

func (*lender) Get(int) *[]byte { panic("stream: nothing is got from a lender") }
func (l *lender) Put(*[]byte)   { (*Buffer)(l).Release() }

// Held is the memory of records that were received. nil is none.
type Held struct {
	data   mem.BufferSlice
	copied *Buffer
}

// Copy makes h hold b too, and Release release it.
func (h *Held) Copy(b *Buffer) { h.copied = b }

// Release gives the memory back. It is called once, after the last use.
func (h *Held) Release() {
	if h != nil {
		h.data.Free()
		h.copied.Release()
	}
}

// gather copies what gRPC received into one piece of memory that is ours.
func gather(data mem.BufferSlice) *Buffer {
	n := data.Len()
	b := GetBuffer(n)
	b.B = b.B[:n]
	data.CopyTo(b.B)
	return b
}
