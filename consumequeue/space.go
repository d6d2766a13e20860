package consumequeue

import "math/bits"

// space knows the free pages of one arena: a binary buddy allocator whose free
// lists are bitmaps, so that the lowest block is taken first and the arenas of a
// shrinking store empty from the top. 4 KiB for an arena of 64 MiB.
type space struct {
	free  [maxOrder + 1][]uint64 // bit i of free[o]: the 2^o pages from i<<o are free
	count [maxOrder + 1]int
	limit uint8 // the largest order
}

// orderLimit is the largest extent in an arena of 2^pageBits pages. It is less
// than the arena, whose first page is taken by the header.
func orderLimit(pageBits uint) uint8 { return uint8(min(maxOrder, pageBits-1)) }

// newSpace returns an arena of which only the header is taken.
func newSpace(pageBits uint) *space {
	s := &space{limit: orderLimit(pageBits)}
	for o := range s.limit + 1 {
		s.free[o] = make([]uint64, (1<<(pageBits-uint(o))+63)/64)
	}
	for i := range uint32(1) << (pageBits - uint(s.limit)) {
		s.set(s.limit, i)
	}
	s.reserve(0, 0)
	return s
}

func (s *space) has(o uint8, i uint32) bool { return s.free[o][i/64]&(1<<(i%64)) != 0 }
func (s *space) set(o uint8, i uint32)      { s.free[o][i/64] |= 1 << (i % 64); s.count[o]++ }
func (s *space) clear(o uint8, i uint32)    { s.free[o][i/64] &^= 1 << (i % 64); s.count[o]-- }

// alloc takes 2^order pages and returns the first.
func (s *space) alloc(order uint8) (page uint32, ok bool) {
	for o := order; o <= s.limit; o++ {
		if s.count[o] == 0 {
			continue
		}
		for w, word := range s.free[o] {
			if word != 0 {
				page = (uint32(w)*64 + uint32(bits.TrailingZeros64(word))) << o
				s.take(page, order, o)
				return page, true
			}
		}
	}
	return 0, false
}

// reserve takes the 2^order pages at page and reports whether they were free.
func (s *space) reserve(page uint32, order uint8) bool {
	for o := order; o <= s.limit; o++ {
		if s.has(o, page>>o) {
			s.take(page, order, o)
			return true
		}
	}
	return false
}

// take cuts the block of 2^order pages at page out of the free block of order o
// that holds it, and frees the rest.
func (s *space) take(page uint32, order, o uint8) {
	s.clear(o, page>>o)
	for o > order {
		o--
		s.set(o, page>>o^1)
	}
}

// release gives 2^order pages back, joining them with their free neighbours.
func (s *space) release(page uint32, order uint8) {
	o := order
	for o < s.limit && s.has(o, page>>o^1) {
		s.clear(o, page>>o^1)
		o++
	}
	s.set(o, page>>o)
}

// pages counts the free ones.
func (s *space) pages() (n int) {
	for o, c := range s.count {
		n += c << o
	}
	return n
}
