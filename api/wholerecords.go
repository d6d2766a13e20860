package api

import (
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/proto/stream"
)

// wholeRecords returns records that lie in pieces, cut anywhere, in pieces of whole
// records. A record that lies in several, as one in every frame of 16 KiB does, is
// copied together into memory that held holds too; all others stay where they are.
// What has not the shape of records is copied into one piece, for the broker to say
// what is wrong with it.
func wholeRecords(pieces [][]byte, held *stream.Held) [][]byte {
	if len(pieces) <= 1 {
		return pieces
	}
	copied := stream.GetBuffer(len(pieces) << 10) // pieces are bounded, see stream.Batch
	whole := make([][]byte, 0, 2*len(pieces))
	var torn []int // those of whole that are in copied, in order
	from := 0      // in copied, of the last
	open := false  // and whether there is more of it to come
	ok := true
	for _, p := range pieces {
		if open {
			need := record.Align // more than the word that says its size
			if len(copied.B)-from < need {
				p = fill(copied, from+need, p)
			}
			if len(copied.B)-from >= need {
				need = record.Padded(record.SizeOf(copied.B[from:]))
				ok = ok && need > 0
				p = fill(copied, from+need, p)
			}
			if open = len(copied.B)-from < need; open {
				continue
			}
			torn = append(torn, len(whole))
			whole = append(whole, nil)
		}
		n := 0
		for len(p)-n >= record.Align {
			size := record.Padded(record.SizeOf(p[n:]))
			if ok = ok && size > 0; !ok || size > len(p)-n {
				break
			}
			n += size
		}
		if n > 0 {
			whole = append(whole, p[:n:n])
		}
		if open = n < len(p); open {
			from = len(copied.B)
			copied.B = append(copied.B, p[n:]...)
		}
	}
	if open || !ok {
		copied.B = copied.B[:0]
		for _, p := range pieces {
			copied.B = append(copied.B, p...)
		}
		whole, torn = append(whole[:0], copied.B), nil
	}
	for rest := copied.B; len(torn) > 0; torn = torn[1:] {
		n := record.Padded(record.SizeOf(rest))
		whole[torn[0]], rest = rest[:n:n], rest[n:]
	}
	held.Copy(copied)
	return whole
}

// fill appends of p what is missing for so many bytes in b, and returns the rest.
func fill(b *stream.Buffer, size int, p []byte) []byte {
	n := max(min(size-len(b.B), len(p)), 0)
	b.B = append(b.B, p[:n]...)
	return p[n:]
}
