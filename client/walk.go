package client

import (
	"fmt"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/proto/stream"
)

// walk goes through the records of a frame's runs.
type walk struct {
	frame  *stream.Frame
	run    int             // runs begun
	left   uint32          // records of the current run to come
	off    int             // where the next begins in the frame's records
	pos    record.Position // and in the log
	padded int             // bytes of the record that next returned
	err    error
}

// next reads the next record into v: all but what the stream is about. It returns
// false at the end, and at a record that is damaged: then err is set.
func (w *walk) next(v *view) bool {
	if w.err != nil {
		return false
	}
	for w.left == 0 {
		if w.run == len(w.frame.Runs) {
			return false
		}
		w.left, w.pos = w.frame.Runs[w.run].Count, record.Position(w.frame.Runs[w.run].Position)
		w.run++
	}
	run := &w.frame.Runs[w.run-1]
	offset := run.Offset + int64(run.Count-w.left)
	padded, err := v.msg.Open(w.frame.Records[w.off:])
	if err != nil {
		w.err = fmt.Errorf("gantry: queue %d, offset %d: %w", w.frame.Queue, offset, err)
		return false
	}
	v.pos, v.offset, v.attempt, v.origin = w.pos, offset, run.Attempt, nil
	v.packed = packedBodyOf(&v.msg)
	if run.Origin != nil {
		v.origin = &Origin{Topic: run.Origin.Topic, MessageID: run.Origin.MessageId}
	}
	w.padded = padded
	w.off += w.padded
	w.pos += record.Position(w.padded)
	w.left--
	return true
}

// lease is the lease id of the record that next returned.
func (w *walk) lease() uint64 {
	run := &w.frame.Runs[w.run-1]
	return run.LeaseID + uint64(run.Count-w.left-1)
}
