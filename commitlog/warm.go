package commitlog

import (
	"sync/atomic"
	"time"
)

// To bring bytes into memory costs a system call, and records that are read one after
// the other lie side by side. So it is done by pieces, and those brought a moment ago
// are not brought again. The moment is short: memory may run out, and a page that was
// taken back since is a fault, which holds up more than its reader.
const (
	pieceBytes = 64 << 10 // what the kernel maps for one fault, if it has it in its cache
	pieceLasts = 100 * time.Millisecond
	warmPieces = 16 // remembered of a mapping
)

// warm remembers pieces: piece n in slot n%warmPieces as n+1, in pieceBits bits, and
// above them when it was brought, in ms since warmEpoch.
type warm [warmPieces]atomic.Uint64

const pieceBits = 24

var warmEpoch = time.Now()

func (w *warm) has(first, last int64) bool {
	now := warmTime()
	for p := first; p <= last; p++ {
		v := w[p%warmPieces].Load()
		piece, brought := v%(1<<pieceBits), v>>pieceBits<<pieceBits
		if piece != uint64(p+1) || (now-brought)>>pieceBits > uint64(pieceLasts.Milliseconds()) {
			return false
		}
	}
	return true
}

func (w *warm) add(first, last int64) {
	now := warmTime()
	for p := first; p <= last; p++ {
		w[p%warmPieces].Store(now | uint64(p+1))
	}
}

// warmTime is now, above the bits of a piece.
func warmTime() uint64 { return uint64(time.Since(warmEpoch).Milliseconds()) << pieceBits }

// bring brings [off, off+size) into memory, in one of slots, or finds that it is
// there.
func (m *mapping) bring(off, size int64, slots chan struct{}) error {
	first, last := off/pieceBytes, (off+size)/pieceBytes
	if m.warm.has(first, last) {
		return nil
	}
	slots <- struct{}{}
	defer func() { <-slots }()
	from := first * pieceBytes
	if m.Populate(from, min((last+1)*pieceBytes, int64(len(m.Bytes())))-from) != nil {
		return m.Populate(off, size) // what cannot be read may be beside it
	}
	m.warm.add(first, last)
	return nil
}
