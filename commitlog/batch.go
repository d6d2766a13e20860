package commitlog

import (
	"context"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// Batch is the unit that a caller appends: records that become durable
// together, in one frame. The zero value is ready for use.
//
// A Batch belongs to one goroutine at a time, and to the log between Submit and
// the return of Wait. Reset makes it ready for the next use and keeps its
// memory.
type Batch struct {
	recs []rec
	size int  // payload bytes, padding included
	body bool // some record has a body

	base record.Position // of the first record
	end  record.Position // of the frame

	// done carries the outcome. It has room for it, so that the log never waits
	// for a caller that gave up.
	done chan error
	// waiting is true from Submit until Wait took the outcome.
	waiting bool
	err     error
}

type rec struct {
	head, body []byte
	off        int // within the batch
	pack       bool
	note       any
	noted      int // bytes from here on that note is about
}

// Reset empties the batch. It must not be called while the log has the batch: a
// batch whose Wait was cancelled must be left to the garbage collector.
func (b *Batch) Reset() {
	clear(b.recs)
	*b = Batch{recs: b.recs[:0], done: b.done}
}

// Add appends one record: head, then body, which may be nil. Neither is copied
// before the batch is written; body must stay unchanged, and both must stay
// allocated, until Wait returned nil.
func (b *Batch) Add(head, body []byte) {
	b.recs = append(b.recs, rec{head: head, body: body, off: b.size})
	b.size += record.Padded(len(head) + len(body))
	b.body = b.body || len(body) > 0
}

// AddPack appends a pack: records one after the other, each padded to
// record.Align as they are in a frame (see record.CutMessage). It is not copied
// either, and is held to the same. For Len, Head and Position a pack counts as
// one record, which Pack tells from the others; it has no body. A note, unless it
// is nil, may reach the reader that follows the log together with the pack: it
// must be good until that reader has passed the batch.
func (b *Batch) AddPack(pack []byte, note any) { b.AddPacks([][]byte{pack}, note) }

// AddPacks appends packs that follow each other as if they were one, with one
// note, but for Len, Head and Position each counts.
func (b *Batch) AddPacks(packs [][]byte, note any) {
	first := len(b.recs)
	start := b.size
	for _, p := range packs {
		if len(p) == 0 {
			continue
		}
		b.recs = append(b.recs, rec{head: p, off: b.size, pack: true})
		b.size += len(p)
	}
	if b.size > start {
		b.recs[first].note, b.recs[first].noted = note, b.size-start
		b.body = true // as far as a full disk is concerned
	}
}

// Pack reports whether record i is a pack.
func (b *Batch) Pack(i int) bool { return b.recs[i].pack }

// Len is the number of records.
func (b *Batch) Len() int { return len(b.recs) }

// Size is the number of payload bytes, alignment included.
func (b *Batch) Size() int { return b.size }

// Head returns the head of record i, for Sequence to change in place and for
// the caller to read afterwards.
func (b *Batch) Head(i int) []byte { return b.recs[i].head }

// Body returns the body of record i.
func (b *Batch) Body(i int) []byte { return b.recs[i].body }

// Position returns where record i is. Valid after Wait returned nil.
func (b *Batch) Position(i int) record.Position { return b.base + record.Position(b.recs[i].off) }

// End returns the end of the frame that holds the batch: a reader whose frame
// has this End, or a later one, has seen the batch. Valid after Wait returned
// nil.
func (b *Batch) End() record.Position { return b.end }

// Wait waits until the batch is committed. When ctx is done first it returns
// ctx's error: the outcome is unknown, and the batch must not be used again.
func (b *Batch) Wait(ctx context.Context) error {
	if !b.waiting {
		return b.err
	}
	select {
	case b.err = <-b.done:
		b.waiting = false
		return b.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Over reports that the outcome is there, and Wait returns at once. It is for the
// goroutine that will call Wait.
func (b *Batch) Over() bool { return !b.waiting || len(b.done) > 0 }

// finish hands the batch back.
func (b *Batch) finish(err error) { b.done <- err }
