package broker

import (
	"encoding/binary"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// redrive is the record that puts a dead letter back into a topic and settles
// it, in one step: a move of the payload, by position, so no crash can come
// between the two. After the move header (the queue it goes to):
//
//	dead-letter topic uvarint | dead-letter offset uvarint
//	| payload position uvarint | payload size uvarint | tag hash uvarint | group hash uvarint
type redrive struct {
	DLQ       record.TopicID
	Offset    record.QueueOffset // of the dead letter
	Position  record.Position    // of the payload's record
	Size      uint32
	TagHash   uint32
	GroupHash uint32
	StoreTime int64
}

func (r *redrive) append(dst []byte, to record.QueueKey) []byte {
	dst, start := record.BeginMove(dst, record.KindRedrive, to)
	for _, v := range []uint64{
		uint64(r.DLQ), uint64(r.Offset), uint64(r.Position), uint64(r.Size), uint64(r.TagHash), uint64(r.GroupHash),
	} {
		dst = binary.AppendUvarint(dst, v)
	}
	return record.EndCommand(dst, start)
}

func parseRedrive(rec []byte) (redrive, error) {
	data, stored, err := record.Move(rec)
	if err != nil {
		return redrive{}, err
	}
	d := record.NewDecoder(data)
	r := redrive{
		DLQ: record.TopicID(d.Uint32()), Offset: record.QueueOffset(d.Uvarint()),
		Position: record.Position(d.Uvarint()), Size: d.Uint32(), TagHash: d.Uint32(), GroupHash: d.Uint32(),
		StoreTime: stored,
	}
	return r, d.Err()
}

// appendDiscard encodes the record that gives dead letters up:
//
//	dead-letter topic uvarint | offsets: count, each uvarint
func appendDiscard(dst []byte, dlq record.TopicID, offsets []record.QueueOffset) []byte {
	dst, start := record.BeginCommand(dst, record.KindDiscard)
	dst = binary.AppendUvarint(dst, uint64(dlq))
	dst = binary.AppendUvarint(dst, uint64(len(offsets)))
	for _, off := range offsets {
		dst = binary.AppendUvarint(dst, uint64(off))
	}
	return record.EndCommand(dst, start)
}

func parseDiscard(data []byte) (dlq record.TopicID, offsets []record.QueueOffset, err error) {
	d := record.NewDecoder(data)
	dlq = record.TopicID(d.Uint32())
	for n := d.Count(1); n > 0 && !d.Failed(); n-- {
		offsets = append(offsets, record.QueueOffset(d.Uvarint()))
	}
	return dlq, offsets, d.Err()
}

// indexRedrive puts the entry of a redrive record into the index.
func (b *Broker) indexRedrive(rec []byte) error {
	r, err := parseRedrive(rec)
	if err != nil {
		return err
	}
	// Settled even when the topic it goes to was deleted meanwhile: what becomes
	// of the dead letter must not depend on when the index is rebuilt.
	if err := b.markEntry(record.Key(r.DLQ, 0), r.Offset, consumequeue.FlagRedriven); err != nil {
		return err
	}
	to := record.KeyOf(rec)
	if !b.topicExists(to.Topic()) {
		return nil
	}
	return b.index.Put(to, record.OffsetOf(rec), consumequeue.Entry{
		Position: r.Position, Size: r.Size, Flags: consumequeue.FlagMoved,
		TagHash: r.TagHash, GroupHash: r.GroupHash, StoreTime: r.StoreTime,
	})
}

// indexDiscard marks the entries of a discard record.
func (b *Broker) indexDiscard(data []byte) error {
	dlq, offsets, err := parseDiscard(data)
	if err != nil {
		return err
	}
	for _, off := range offsets {
		if err := b.markEntry(record.Key(dlq, 0), off, consumequeue.FlagDiscarded); err != nil {
			return err
		}
	}
	return nil
}

// settle is indexRedrive and indexDiscard for entries that a rebuild of the index
// knows from relocate records only so far.
func (m relocations) settle(rec []byte, kind record.Kind) error {
	if kind == record.KindRedrive {
		r, err := parseRedrive(rec)
		m.mark(record.Key(r.DLQ, 0), r.Offset, consumequeue.FlagRedriven)
		return err
	}
	dlq, offsets, err := parseDiscard(record.Command(rec))
	for _, off := range offsets {
		m.mark(record.Key(dlq, 0), off, consumequeue.FlagDiscarded)
	}
	return err
}

// settled marks dead letters that an operator has done with.
const settled = consumequeue.FlagRedriven | consumequeue.FlagDiscarded
