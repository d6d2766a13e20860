package commitlog

import "github.com/gantry-mq/gantry/commitlog/record"

// What stands between the callers of a replicated log and its Store packs their
// batches by itself: Claim, then AppendPayload, then, when the frame is
// committed, Place and Finish.

// Claim takes the batch over, as Submit does, to be finished later.
func (b *Batch) Claim() error {
	if b.waiting || len(b.recs) == 0 {
		return ErrBatchState
	}
	if b.done == nil {
		b.done = make(chan error, 1)
	}
	b.waiting, b.err = true, nil
	return nil
}

// AppendPayload appends the batch's records as they are in a frame.
func (b *Batch) AppendPayload(dst []byte) []byte {
	for i := range b.recs {
		r := &b.recs[i]
		dst = append(dst, r.head...)
		dst = append(dst, r.body...)
		n := len(r.head) + len(r.body)
		dst = append(dst, zeroPad[:record.Padded(n)-n]...)
	}
	return dst
}

// Place tells the batch that its records begin off bytes into the payload of the
// frame at start, which ends at end.
func (b *Batch) Place(start, end record.Position, off int) {
	b.base, b.end = start+frameHeaderLen+record.Position(off), end
}

// Finish ends the wait of whoever submitted the batch.
func (b *Batch) Finish(err error) { b.finish(err) }
