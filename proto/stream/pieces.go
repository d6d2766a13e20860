package stream

import (
	"sync/atomic"

	"google.golang.org/grpc/mem"
)

// Pieces are records to be sent that lie in several places and stay there: one
// slice for each run. Whoever made them holds them until Release, gRPC until it
// has written them; then free is called, once.
type Pieces struct {
	slices  [][]byte
	size    int
	free    func()
	holders atomic.Int32
}

// NewPieces returns pieces without any. free says that nobody uses them any more;
// it may be called by any goroutine.
func NewPieces(free func()) *Pieces {
	p := &Pieces{free: free}
	p.holders.Store(1)
	return p
}

// Add appends a piece, whose length is a multiple of 8.
func (p *Pieces) Add(b []byte) {
	p.slices = append(p.slices, b)
	p.size += len(b)
}

// Size is the number of bytes.
func (p *Pieces) Size() int { return p.size }

// Release ends the hold of whoever made the pieces.
func (p *Pieces) Release() {
	if p.holders.Add(-1) == 0 {
		p.free()
	}
}

// lend returns head and the pieces for gRPC to write. What is too small for gRPC
// to say when it is done is copied.
func (p *Pieces) lend(head []byte) mem.BufferSlice {
	out := make(mem.BufferSlice, 1, 1+len(p.slices))
	out[0] = mem.SliceBuffer(head)
	var small []byte // the end of out, if that is a copy
	for i := range p.slices {
		s := &p.slices[i]
		if !mem.IsBelowBufferPoolingThreshold(len(*s)) {
			p.holders.Add(1)
			out = append(out, mem.NewBuffer(s, (*pieceLender)(p)))
			small = nil
			continue
		}
		if small == nil {
			out = append(out, nil)
		}
		small = append(small, *s...)
		out[len(out)-1] = mem.SliceBuffer(small)
	}
	return out
}

type pieceLender Pieces

func (*pieceLender) Get(int) *[]byte { panic("stream: nothing is got from a lender") }
func (l *pieceLender) Put(*[]byte)   { (*Pieces)(l).Release() }
