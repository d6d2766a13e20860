package broker

import (
	"errors"

	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// Chunk is messages of one queue on their way to a consumer of gantry.v1: slices
// of the log. Release it when they have been sent.
type Chunk struct {
	Queue    uint32
	Runs     []Run
	Bytes    int                // of the records
	Messages int                // how many
	Next     record.QueueOffset // read by offset: where to go on
	End      record.QueueOffset // one beyond the queue's last when the chunk was made
	LeaseEnd int64              // of leased ones, Unix ms

	views []commitlog.View
	held  []inflight.Held // of leased ones
}

// Run is messages with consecutive offsets, attempts alike and consecutive lease
// ids, whose records follow each other in the log.
type Run struct {
	Offset   record.QueueOffset
	Count    int
	Position record.Position // of the first record
	Attempt  int32           // 0 when not leased
	LeaseID  uint64          // of the first
	Origin   *Origin         // of a dead letter, which is a run by itself
	Records  []byte          // with their padding
}

// Release gives the mapped bytes back.
func (c *Chunk) Release() {
	for _, v := range c.views {
		v.Release()
	}
	c.views = nil
}

// span is entries of one queue that follow each other, also in the log.
type span struct {
	entries []consumequeue.Entry
	offset  record.QueueOffset // of the first
}

// follows reports whether e may be the next entry of a span after last.
func follows(last, e *consumequeue.Entry) bool {
	return e.Position == last.Position+record.Position(record.Padded(int(last.Size))) &&
		(last.Flags|e.Flags)&consumequeue.FlagIndirect == 0
}

// addSpan adds those messages of a span that match. With check, which is nil when
// the entries' hashes said enough, each is looked at. What retention has taken is
// passed over.
//
// A yes is believed of a record as it lies there: whoever gets it verifies it. A no
// is believed of a verified head only, or damage would look like a message that
// nobody wants.
func (c *Chunk) addSpan(b *Broker, s span, check matcher) error {
	first, last := &s.entries[0], &s.entries[len(s.entries)-1]
	if first.Flags&consumequeue.FlagIndirect != 0 {
		return c.addIndirect(b, s, check)
	}
	size := int(last.Position-first.Position) + record.Padded(int(last.Size))
	v, err := b.wal.View(first.Position, size)
	switch {
	case errors.Is(err, commitlog.ErrOutOfRange) && first.Position < b.wal.First():
		return nil
	case err != nil:
		return b.damaged(first.Position, err)
	}
	c.views = append(c.views, v)
	if check == nil {
		c.add(Run{Offset: s.offset, Count: len(s.entries), Position: first.Position, Records: v.Bytes()})
		return nil
	}
	from, begin := 0, 0 // of the run that is open
	at := 0
	for i := range s.entries {
		e := &s.entries[i]
		rec := v.Bytes()[at : at+int(e.Size)]
		end := at + record.Padded(int(e.Size))
		if !check.MatchRecord(rec) {
			if _, err := verified(rec); err != nil {
				return b.damaged(e.Position, err)
			}
			c.cut(s, from, i, v.Bytes()[begin:at:at], begin)
			from, begin = i+1, end
		}
		at = end
	}
	c.cut(s, from, len(s.entries), v.Bytes()[begin:at:at], begin)
	return nil
}

// cut adds the entries [from, to) of s, whose records are at begin of the span's
// bytes.
func (c *Chunk) cut(s span, from, to int, records []byte, begin int) {
	if from < to {
		c.add(Run{
			Offset: s.offset + record.QueueOffset(from), Count: to - from,
			Position: s.entries[0].Position + record.Position(begin), Records: records,
		})
	}
}

func (c *Chunk) add(r Run) {
	c.Runs = append(c.Runs, r)
	c.Bytes += len(r.Records)
	c.Messages += r.Count
}

// verified reads a message record whose head it checks. Its body is the client's
// to check.
func verified(rec []byte) (record.Message, error) {
	if err := record.Verify(rec); err != nil {
		return record.Message{}, err
	}
	return record.ParseMessage(rec)
}

// addIndirect adds a dead letter.
func (c *Chunk) addIndirect(b *Broker, s span, check matcher) error {
	v, err := b.viewRecord(s.entries[0].Position, int(s.entries[0].Size))
	if errors.Is(err, errTrimmed) {
		return nil
	}
	if err != nil {
		return err
	}
	dl, err := parseDeadLetter(v.Bytes())
	v.Release()
	if err != nil {
		return b.damaged(s.entries[0].Position, err)
	}
	at := len(c.Runs)
	direct := consumequeue.Entry{Position: dl.Position, Size: dl.Size}
	err = c.addSpan(b, span{entries: []consumequeue.Entry{direct}, offset: s.offset}, check)
	if len(c.Runs) > at {
		c.Runs[at].Origin = &Origin{Topic: dl.TopicName, MessageID: dl.MessageID}
	}
	return err
}
