package broker

import (
	"errors"
	"fmt"

	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// errTrimmed reports that retention has taken a message that the index still names,
// or that an operator has deleted it.
var errTrimmed = errors.New("broker: the message is gone")

// isTrimmed reports that retention has taken a message, from the log or already
// from the index, or that it was deleted.
func isTrimmed(err error) bool {
	return err != nil && tellsTrimmed(err)
}

// tellsTrimmed is apart because what errors.As is given is on the heap: a receive
// asks isTrimmed for every message, nearly always of no error.
func tellsTrimmed(err error) bool {
	var r *consumequeue.RangeError
	return errors.Is(err, errTrimmed) || errors.As(err, &r) && r.Offset < r.Min
}

// split parts messages whose payload is still there from those that retention
// has taken.
func (b *Broker) split(tp topic.Topic, held []inflight.Held) (there, lost []inflight.Held, err error) {
	for _, h := range held {
		switch _, _, err := b.payloadOf(tp, h.Queue, h.Offset); {
		case isTrimmed(err):
			lost = append(lost, h)
		case err != nil:
			return held, nil, err
		default:
			there = append(there, h)
		}
	}
	return there, lost, nil
}

// loaded is a message with the view that holds its bytes.
type loaded struct {
	msg    record.Message
	view   commitlog.View
	pos    record.Position // of the message's record
	id     string          // of a message that came without one, else ""
	origin *Origin
}

func (l loaded) release() { l.view.Release() }

func (l loaded) delivered(topic record.Resource, queue uint32, offset record.QueueOffset) Delivered {
	return Delivered{Message: l.msg, Topic: topic, Queue: queue, Offset: offset, ID: l.id, Origin: l.origin, view: l.view}
}

// load reads the message at a queue offset.
func (b *Broker) load(tp topic.Topic, queue uint32, offset record.QueueOffset) (loaded, error) {
	var e [1]consumequeue.Entry
	n, err := b.index.Read(record.Key(tp.ID, queue), offset, e[:])
	if err != nil {
		return loaded{}, b.indexError(tp, queue, offset, err)
	}
	if n == 0 {
		return loaded{}, fmt.Errorf("broker: topic %q queue %d has no entry %d", tp.Name, queue, offset)
	}
	return b.loadEntry(e[0], queue, offset)
}

// loadEntry reads and verifies the message that an entry names: head and body.
func (b *Broker) loadEntry(e consumequeue.Entry, queue uint32, offset record.QueueOffset) (loaded, error) {
	if e.Flags&consumequeue.FlagDeleted != 0 {
		return loaded{}, errTrimmed
	}
	v, err := b.viewRecord(e.Position, int(e.Size))
	if err != nil {
		return loaded{}, err
	}
	pos := e.Position
	var origin *Origin
	if e.Flags&consumequeue.FlagIndirect != 0 {
		dl, err := parseDeadLetter(v.Bytes())
		v.Release()
		if err != nil {
			return loaded{}, b.damaged(e.Position, err)
		}
		if v, err = b.viewRecord(dl.Position, int(dl.Size)); err != nil {
			return loaded{}, err
		}
		pos, origin = dl.Position, &Origin{Topic: dl.TopicName, MessageID: dl.MessageID}
	}
	m, err := record.ParseMessage(v.Bytes())
	if err == nil {
		err = m.VerifyBody()
	}
	if err != nil {
		v.Release()
		return loaded{}, b.damaged(pos, err)
	}
	l := loaded{msg: m, view: v, pos: pos, origin: origin}
	if _, named := m.Properties.Lookup(record.FieldMessageID); !named {
		l.id = b.messageID(&m, pos)
	}
	return l, nil
}

// viewRecord maps a record and verifies its head.
func (b *Broker) viewRecord(pos record.Position, size int) (commitlog.View, error) {
	if pos < b.logBegin() {
		return commitlog.View{}, errTrimmed
	}
	v, err := b.wal.View(pos, size)
	if errors.Is(err, commitlog.ErrOutOfRange) && pos < b.wal.First() {
		return commitlog.View{}, errTrimmed // meanwhile
	}
	if err != nil {
		return commitlog.View{}, fmt.Errorf("broker: %w", err)
	}
	if err := record.Verify(v.Bytes()); err != nil {
		v.Release()
		return commitlog.View{}, b.damaged(pos, err)
	}
	return v, nil
}

// damaged is a record that fails its checks. It is never skipped: the receive
// fails, visibly, until an operator has looked (gantry log check); a node of a cluster
// repairs itself when its log is what is damaged.
func (b *Broker) damaged(pos record.Position, err error) error {
	b.wal.Suspect(pos)
	return fmt.Errorf("broker: the record at %d is damaged: %w", pos, err)
}

func (b *Broker) indexError(tp topic.Topic, queue uint32, offset record.QueueOffset, err error) error {
	return fmt.Errorf("broker: topic %q queue %d offset %d: %w", tp.Name, queue, offset, err)
}

// payload says where a message's own record is, through any dead-letter records.
type payload struct {
	pos  record.Position
	size uint32
	id   string
}

// payloadOf returns the entry at a queue offset and where its payload is.
func (b *Broker) payloadOf(tp topic.Topic, queue uint32, offset record.QueueOffset) (consumequeue.Entry, payload, error) {
	var e [1]consumequeue.Entry
	if _, err := b.index.Read(record.Key(tp.ID, queue), offset, e[:]); err != nil {
		return e[0], payload{}, b.indexError(tp, queue, offset, err)
	}
	if e[0].Flags&consumequeue.FlagDeleted != 0 {
		return e[0], payload{}, errTrimmed
	}
	p := payload{pos: e[0].Position, size: e[0].Size}
	v, err := b.viewRecord(p.pos, int(p.size))
	if err != nil {
		return e[0], payload{}, err
	}
	defer v.Release()
	if e[0].Flags&consumequeue.FlagIndirect != 0 {
		dl, err := parseDeadLetter(v.Bytes())
		if err != nil {
			return e[0], payload{}, b.damaged(p.pos, err)
		}
		return e[0], payload{pos: dl.Position, size: dl.Size, id: dl.MessageID}, nil
	}
	m, err := record.ParseMessage(v.Bytes())
	if err != nil {
		return e[0], payload{}, b.damaged(p.pos, err)
	}
	p.id = b.messageID(&m, p.pos)
	return e[0], p, nil
}
