package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/broker/transaction"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/keyindex"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
	"github.com/gantry-mq/gantry/scheduler"
)

const (
	// MaxMessagePage bounds one page of FindMessages.
	MaxMessagePage = 1000

	// messageScan is how many records one page looks at before it answers with what
	// it has found.
	messageScan = 8 << 10
)

// MessageState is what is known of a message as a whole. Of several that hold, it
// is the one that needs a look most: dead, then retrying, then queued.
type MessageState int

const (
	MessageQueued     MessageState = iota // in its queue, for every group to receive
	MessageDead                           // the same, and at least one group has it among its open dead letters
	MessageHalf                           // nobody has decided on its transaction
	MessageParked                         // the same, and producers are not asked any more
	MessageRolledBack                     // by its producer or an operator
	MessageDelayed                        // until Due
	MessageRecalled                       // before it was due
	MessageGone                           // in the log still, but in no queue any more
	MessageRetrying                       // in its queue, and a group was handed it and has not settled it: it has it, or it will have it again
	MessageDeleted                        // by an operator
)

func (s MessageState) String() string {
	return [...]string{"queued", "dead letter", "half", "parked", "rolled back", "delayed", "recalled", "gone", "retrying", "deleted"}[s]
}

// FoundMessage is a message without its body.
type FoundMessage struct {
	Position record.Position // of the record that has its payload
	ID       string
	Tag      string
	Keys     []string
	Queue    uint32             // that it is in, or is to go to
	Offset   record.QueueOffset // NoOffset while it is in no queue
	State    MessageState
	Stored   int64 // Unix ms; of a copy that retention made: when that was stored
	Born     int64 // Unix ms
	Due      int64 // Unix ms, 0 = it was not delayed
	BodySize int   // bytes as stored
	Packed   bool  // compressed in a way that Unpack undoes: what clients get is larger
	Places   []MessagePlace
	// Deliveries says which groups have it in their hands, or have it waiting.
	Deliveries []MessageDelivery

	origin record.Position    // of the first record with its payload
	timer  record.QueueOffset // of a delayed message: its timer's place
}

// MessagePlace is a queue that a message was put into after it had been in
// another: among a group's dead letters, or from there back into a topic.
type MessagePlace struct {
	Topic   record.Resource
	Queue   uint32
	Offset  record.QueueOffset
	Time    int64 // Unix ms
	Dead    bool
	Reason  string // of a dead letter
	Settled bool   // a dead letter that was redriven or discarded, or a place that was deleted
}

// MessageQuery selects messages of a topic. Of ID and Key at most one is given.
type MessageQuery struct {
	Topic    record.Resource
	ID, Key  string
	From, To int64 // Unix ms, see FindMessages; in [From, To); To 0 = no end
	Limit    int   // 1 to MaxMessagePage
	Page     string

	// Of listings, without ID and Key:
	States []MessageState  // only these; none = all that can be listed
	Group  record.Resource // only what this group has retrying or dead; Name "" = any

	// LiteTopic leaves those that are queued in other lite topics out; "" = of all.
	LiteTopic string
}

// FindMessages returns messages of a topic, and where the next page begins, ""
// after the last. A page may be short, or empty, before that: a call looks at
// so many and then answers. A page is good for as long as the messages are there;
// what comes meanwhile does not disturb it.
//
// By id or key it finds all that the log still has, the newest first, stored in
// the time range, in whatever state.
//
// Otherwise it lists, one kind after the other:
//
//   - those in queues, the oldest first, by when they entered their queue; of
//     lite topics one after the other. They may be retrying or dead too.
//   - when only these are asked for: those retrying, by group, queue and offset,
//     once for each group, by when they entered their queue; and the dead ones,
//     by group, by when they died
//   - undecided ones, by when they were stored
func (b *Broker) FindMessages(ctx context.Context, q MessageQuery) (page []FoundMessage, next string, err error) {
	tp, err := b.Route(q.Topic)
	if err != nil {
		return nil, "", err
	}
	if q.To == 0 {
		q.To = math.MaxInt64
	}
	switch {
	case q.Limit < 1 || q.Limit > MaxMessagePage:
		return nil, "", Errorf(BadRequest, "the limit is %d, it must be 1 to %d", q.Limit, MaxMessagePage)
	case q.ID != "" && q.Key != "":
		return nil, "", Errorf(BadRequest, "a message id and a key are given: one of them")
	case q.ID != "":
		return b.findByHash(ctx, tp, &q, keyindex.ID(tp.ID, q.ID))
	case q.Key != "":
		return b.findByHash(ctx, tp, &q, keyindex.Key(tp.ID, q.Key))
	}
	return b.listMessages(ctx, tp, &q)
}

// findByHash asks the key index. A page token is the position that the page
// before ended at.
func (b *Broker) findByHash(ctx context.Context, tp topic.Topic, q *MessageQuery, hash uint64) (page []FoundMessage, next string, err error) {
	before := record.Position(math.MaxUint64)
	if q.Page != "" {
		at, err := strconv.ParseUint(q.Page, 10, 64)
		if err != nil {
			return nil, "", badPage(q.Page)
		}
		before = record.Position(at)
	}
	looked := 0
	subs := b.subsOf(tp)
	var failed error
	visit := func(pos record.Position) bool {
		if failed = ctx.Err(); failed != nil {
			return false
		}
		if len(page) == q.Limit || looked == messageScan {
			next = strconv.FormatUint(uint64(before), 10)
			return false
		}
		before = pos
		looked++
		if pos < b.wal.First() {
			return false // and so are all that follow
		}
		var m record.Message
		var found FoundMessage
		var v commitlog.View
		if v, m, failed = b.viewMessage(pos); failed != nil {
			if errors.Is(failed, errTrimmed) {
				failed = nil
			}
			return failed == nil
		}
		defer v.Release()
		if m.StoreTime < q.From && m.Kind != record.KindCopy {
			return false // store times do not decrease along the log
		}
		var match bool
		if found, match, failed = b.describe(pos, &m, q); failed != nil || !match || m.Topic != tp.ID {
			return failed == nil
		}
		origin := originAt(pos, &m)
		if origin != pos {
			if origin >= b.wal.First() {
				return true // the first copy is there and will be found
			}
			var copies []record.Position
			if copies, failed = b.copiesOf(origin); failed != nil || len(copies) > 0 && copies[len(copies)-1] != pos {
				return failed == nil // the newest stands for all
			}
		}
		if failed = b.trace(&found, &m, origin); failed == nil {
			b.deliveries(&found, tp, subs, false)
			page = append(page, found)
		}
		return failed == nil
	}
	err = b.keys.Find(hash, before, visit)
	if pos, ok := b.positionOf(q.ID); ok && err == nil && failed == nil && next == "" && pos < before {
		visit(pos) // the first of its copies, which the key index does not have
	}
	if err = errors.Join(failed, err); err != nil {
		return nil, "", err
	}
	return page, next, nil
}

func badPage(s string) error { return Errorf(BadRequest, "%q is not a page of this query", clip(s)) }

// viewMessage maps the message record at a position.
func (b *Broker) viewMessage(pos record.Position) (commitlog.View, record.Message, error) {
	v, err := b.viewWhole(pos)
	if err != nil {
		return v, record.Message{}, err
	}
	m, err := record.ParseMessage(v.Bytes())
	if err != nil {
		v.Release()
		return v, m, b.damaged(pos, err)
	}
	return v, m, nil
}

// viewWhole maps a record of which only the position is known.
func (b *Broker) viewWhole(pos record.Position) (commitlog.View, error) {
	v, err := b.wal.View(pos, 16)
	if errors.Is(err, commitlog.ErrOutOfRange) && pos < b.wal.First() {
		return v, errTrimmed
	}
	if err != nil {
		return v, fmt.Errorf("broker: %w", err)
	}
	size := binary.LittleEndian.Uint32(v.Bytes())
	v.Release()
	if size > record.MaxSize {
		return v, b.damaged(pos, record.ErrMalformed)
	}
	return b.viewRecord(pos, int(size))
}

// describe fills in what the record says, and whether the query wants it.
func (b *Broker) describe(pos record.Position, m *record.Message, q *MessageQuery) (f FoundMessage, match bool, err error) {
	f = FoundMessage{
		Position: pos, ID: b.messageID(m, pos), Queue: m.Queue, Offset: record.NoOffset, Stored: m.StoreTime, Born: m.BornTime, Due: m.DueTime, BodySize: len(m.Body),
		Packed: packed(m),
	}
	byKey := q.Key == ""
	err = m.Properties.Each(func(field record.Field, _, value []byte) bool {
		switch field {
		case record.FieldTag:
			f.Tag = string(value)
		case record.FieldKey:
			f.Keys = append(f.Keys, string(value))
			byKey = byKey || string(value) == q.Key
		}
		return true
	})
	if err != nil {
		return f, false, b.damaged(pos, err)
	}
	return f, byKey && (q.ID == "" || f.ID == q.ID) && f.Stored >= q.From && f.Stored < q.To, nil
}

// trace finds out what became of a message, of which f is a record. Each entry that
// refers to a payload is given a copy of its own when retention takes that, so what
// is known of one copy's entries is not known of another's.
func (b *Broker) trace(f *FoundMessage, m *record.Message, origin record.Position) error {
	if err := b.traceRecord(f, m, origin); err != nil {
		return err
	}
	copies, err := b.copiesOf(origin)
	if err != nil {
		return err
	}
	for _, pos := range copies {
		if pos == f.Position {
			continue
		}
		v, m, err := b.viewMessage(pos)
		if errors.Is(err, errTrimmed) {
			continue
		}
		if err != nil {
			return err
		}
		g := FoundMessage{Position: pos, Offset: record.NoOffset}
		err = b.traceRecord(&g, &m, origin)
		v.Release()
		if err != nil {
			return err
		}
		switch {
		case g.Offset == record.NoOffset:
		case f.Offset == record.NoOffset:
			f.Queue, f.Offset, f.State = g.Queue, g.Offset, g.State
		default: // redriven into its own queue
			err = b.addPlace(f, m.Key(), g.Offset, MessagePlace{})
		}
		if err != nil {
			return err
		}
		for _, p := range g.Places {
			f.addPlace(p)
		}
	}
	own, _ := b.topics.ByID(m.Key().Topic())
	f.Places = slices.DeleteFunc(f.Places, func(p MessagePlace) bool { // one copy's place, another's own queue
		return p.Topic == own.Name && p.Queue == f.Queue && p.Offset == f.Offset
	})
	for _, p := range f.Places {
		if p.Dead && !p.Settled {
			f.State = MessageDead
		}
	}
	return nil
}

// copiesOf returns where the copies are that retention made of the payload that
// was first written at origin, in log order.
func (b *Broker) copiesOf(origin record.Position) (copies []record.Position, err error) {
	moves, err := b.findMoves(keyindex.Move(origin), MaxMessagePage)
	for _, pos := range moves {
		v, err := b.viewWhole(pos)
		if errors.Is(err, errTrimmed) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if record.KindOf(v.Bytes()) == record.KindCopy {
			var m record.Message
			if m, err = record.ParseMessage(v.Bytes()); err == nil && originAt(pos, &m) == origin {
				copies = append(copies, pos)
			}
		}
		v.Release()
		if err != nil {
			return nil, b.damaged(pos, err)
		}
	}
	return copies, err
}

// traceRecord is trace for what follows from one record: what it says itself, the
// table of half messages, and what the log says of the payload there.
func (b *Broker) traceRecord(f *FoundMessage, m *record.Message, origin record.Position) error {
	f.State, f.origin = MessageGone, origin
	var timer *tracedTimer
	copied := m.Kind == record.KindCopy
	switch {
	case m.Kind == record.KindDelayed || m.Flags&record.FlagDelayed != 0:
		timer = &tracedTimer{due: m.DueTime, place: m.Offset}
	case m.Kind == record.KindMessage || copied && m.Offset != record.NoOffset:
		if err := b.place(f, m.Key(), m.Offset); err != nil {
			return err
		}
	case m.Kind == record.KindHalf || copied:
		f.State = MessageRolledBack // unless something below says otherwise
		half, err := b.transactions.Get(origin)
		switch {
		case err == nil && half.Parked:
			f.State = MessageParked
		case err == nil:
			f.State = MessageHalf
		case !errors.Is(err, transaction.ErrUnknown) && !isDecided(err):
			return err
		}
	}
	// A payload that retention copied is named by its first position in older
	// records and by that of the copy in newer ones.
	at := []record.Position{origin}
	if f.Position != origin {
		at = append(at, f.Position)
	}
	for _, at := range at {
		moves, err := b.findMoves(keyindex.Move(at), MaxMessagePage)
		if err != nil {
			return err
		}
		for _, pos := range moves {
			if timer != nil && pos < f.Position {
				continue // the copy knows
			}
			if err := b.traceMove(f, m, pos, at, timer); err != nil {
				return err
			}
		}
	}
	if timer != nil {
		return b.traceTimer(f, m.Key(), origin, timer)
	}
	return nil
}

// findMoves returns the newest records that the key index has under a hash, in log
// order.
func (b *Broker) findMoves(hash uint64, limit int) (moves []record.Position, err error) {
	err = b.keys.Find(hash, math.MaxUint64, func(pos record.Position) bool {
		if pos < b.wal.First() {
			return false // and so are all that follow
		}
		moves = append(moves, pos)
		return len(moves) < limit
	})
	slices.Reverse(moves)
	return moves, err
}

// tracedTimer is what is known of a delayed message: where its timer is now.
type tracedTimer struct {
	due       int64
	place     record.QueueOffset
	cancelled bool
}

// traceTimer says whether a delayed message is pending, or in its queue.
func (b *Broker) traceTimer(f *FoundMessage, to record.QueueKey, origin record.Position, t *tracedTimer) error {
	f.Due = t.due
	if t.cancelled {
		f.State = MessageRecalled
		return nil
	}
	pending, err := b.timers.Lookup(t.due, t.place)
	if err == nil {
		var same bool
		if same, err = b.isFirst(pending.Position, pending.Size, pending.Copied, origin); same {
			f.State, f.timer = MessageDelayed, t.place
			return nil
		}
	}
	if err != nil && !isSettled(err) {
		return err
	}
	fired, err := b.findMoves(keyindex.Due(to, scheduler.SecondOf(t.due)), messageScan)
	if err != nil {
		return err
	}
	var rec scheduler.Fired
	for _, pos := range fired {
		v, err := b.viewWhole(pos)
		if errors.Is(err, errTrimmed) {
			continue
		}
		if err != nil {
			return err
		}
		if record.KindOf(v.Bytes()) == record.KindTimerFired { // else it only has the same hash
			err = rec.Parse(v.Bytes())
		}
		v.Release()
		if err != nil {
			return b.damaged(pos, err)
		}
		i := slices.Index(rec.Places, t.place)
		if i < 0 || rec.To != to || !rec.Due(t.due) {
			continue
		}
		at := rec.First + record.QueueOffset(i)
		e, ok, err := b.entryAt(to, at)
		if ok && err == nil { // places are given again, see isFirst
			ok, err = b.isFirst(e.Position, e.Size, e.Flags&consumequeue.FlagCopied != 0, origin)
		}
		if ok {
			f.inQueue(to, at, e)
		}
		if ok || err != nil {
			return err
		}
	}
	return nil
}

func isDecided(err error) bool {
	var d *transaction.DecidedError
	return errors.As(err, &d)
}

// place says that a message is in a queue, if it still is.
func (b *Broker) place(f *FoundMessage, key record.QueueKey, off record.QueueOffset) error {
	e, ok, err := b.entryAt(key, off)
	if ok {
		f.inQueue(key, off, e)
	}
	return err
}

func (f *FoundMessage) inQueue(key record.QueueKey, off record.QueueOffset, e consumequeue.Entry) {
	f.Queue, f.Offset, f.State = key.Queue(), off, MessageQueued
	if e.Flags&consumequeue.FlagDeleted != 0 {
		f.State = MessageDeleted
	}
}

func (b *Broker) entryAt(key record.QueueKey, off record.QueueOffset) (consumequeue.Entry, bool, error) {
	var e [1]consumequeue.Entry
	n, err := b.index.Read(key, off, e[:])
	if errors.Is(err, consumequeue.ErrOutOfRange) {
		return e[0], false, nil
	}
	return e[0], n == 1, err
}

// traceMove takes in one record about a payload at from.
func (b *Broker) traceMove(f *FoundMessage, m *record.Message, pos, from record.Position, timer *tracedTimer) error {
	v, err := b.viewWhole(pos)
	if errors.Is(err, errTrimmed) {
		return nil
	}
	if err != nil {
		return err
	}
	defer v.Release()
	rec := v.Bytes()
	kind := record.KindOf(rec)
	if kind == record.KindRelocate {
		return b.traceRelocate(f, m, pos, rec, from)
	}
	if payload, ok, err := movedPayload(rec, kind); err != nil || !ok || payload != from {
		return err // it only has the same hash
	}
	switch kind {
	case record.KindTransactionEnd:
		return b.place(f, record.KeyOf(rec), record.OffsetOf(rec))
	case record.KindTimerCancel:
		if timer != nil {
			timer.cancelled = true
		}
	case record.KindTimerMove:
		c, err := scheduler.ParseMove(rec)
		if err == nil && timer != nil {
			timer.due, timer.place = c.Due, c.NewPlace
		}
		return err
	case record.KindDeadLetter, record.KindDeadLetterCopy:
		dl, err := parseDeadLetter(rec)
		if err != nil {
			return b.damaged(pos, err)
		}
		return b.addPlace(f, record.KeyOf(rec), record.OffsetOf(rec), MessagePlace{Dead: true, Reason: dl.Reason})
	case record.KindRedrive:
		return b.addPlace(f, record.KeyOf(rec), record.OffsetOf(rec), MessagePlace{})
	}
	return nil
}

// traceRelocate takes in where else than in its own queue, of which a copy itself
// knows, a payload is that was copied to from.
func (b *Broker) traceRelocate(f *FoundMessage, m *record.Message, pos record.Position, rec []byte, from record.Position) error {
	rs, err := parseRelocate(record.Command(rec))
	if err != nil {
		return b.damaged(pos, err)
	}
	for _, r := range rs {
		if r.Entry.Position != from || r.Entry.Flags&consumequeue.FlagMoved == 0 || r.Key == m.Key() {
			continue
		}
		if err := b.addPlace(f, r.Key, r.Offset, MessagePlace{}); err != nil {
			return err
		}
	}
	return nil
}

// addPlace adds the place that a move put a message into, if it is still there.
func (b *Broker) addPlace(f *FoundMessage, key record.QueueKey, off record.QueueOffset, p MessagePlace) error {
	tp, ok := b.topics.ByID(key.Topic())
	if !ok {
		return nil
	}
	e, ok, err := b.entryAt(key, off)
	if ok {
		p.Topic, p.Queue, p.Offset, p.Time = tp.Name, key.Queue(), off, e.StoreTime
		p.Settled = e.Flags&(settled|consumequeue.FlagDeleted) != 0
		f.addPlace(p)
	}
	return err
}

// addPlace adds a place, unless it is known: a dead-letter record and its copy name
// the same.
func (f *FoundMessage) addPlace(p MessagePlace) {
	for _, old := range f.Places {
		if old.Topic == p.Topic && old.Queue == p.Queue && old.Offset == p.Offset {
			return
		}
	}
	f.Places = append(f.Places, p)
}

// originAt returns where the payload of the record at pos was first.
func originAt(pos record.Position, m *record.Message) record.Position {
	if o, ok := m.Properties.Lookup(record.FieldOrigin); ok {
		return originOf(o)
	}
	return pos
}

// foundAt describes the message at a queue offset.
func (b *Broker) foundAt(tp topic.Topic, queue uint32, offset record.QueueOffset, e consumequeue.Entry) (FoundMessage, error) {
	l, err := b.loadEntry(e, queue, offset)
	if err != nil {
		return FoundMessage{}, err
	}
	defer l.release()
	return b.foundLoaded(tp, queue, offset, e, l)
}

func (b *Broker) foundLoaded(tp topic.Topic, queue uint32, offset record.QueueOffset, e consumequeue.Entry, l loaded) (FoundMessage, error) {
	pos := e.Position
	if l.origin != nil {
		_, p, err := b.payloadOf(tp, queue, offset)
		if err != nil {
			return FoundMessage{}, err
		}
		pos = p.pos
	}
	f, _, err := b.describe(pos, &l.msg, &MessageQuery{To: math.MaxInt64})
	if err != nil {
		return f, err
	}
	if err := b.trace(&f, &l.msg, originAt(pos, &l.msg)); err != nil {
		return f, err
	}
	// Here it was found, whatever its own queue is.
	f.Queue, f.Offset = queue, offset
	if f.State == MessageGone {
		f.State = MessageQueued
	}
	return f, nil
}

// MessageAt calls f with the message at a queue offset and its body, verified;
// both are valid only during the call. MessageNotFound when there is none.
func (b *Broker) MessageAt(topicName record.Resource, queue uint32, offset record.QueueOffset, f func(FoundMessage, *record.Message) error) error {
	tp, err := b.Route(topicName)
	if err != nil {
		return err
	}
	notFound := Errorf(MessageNotFound, "the topic %q has no message at offset %d of queue %d", clip(topicName.String()), offset, queue)
	if offset < 0 {
		return notFound
	}
	e, ok, err := b.entryAt(record.Key(tp.ID, queue), offset)
	if err != nil {
		return b.indexError(tp, queue, offset, err)
	}
	if !ok {
		return notFound
	}
	l, err := b.loadEntry(e, queue, offset)
	if isTrimmed(err) {
		return notFound
	}
	if err != nil {
		return err
	}
	defer l.release()
	found, err := b.foundLoaded(tp, queue, offset, e, l)
	if err != nil {
		return err
	}
	b.deliveries(&found, tp, b.subsOf(tp), true)
	return f(found, &l.msg)
}

// MessageByID is MessageAt for the newest message with an id.
func (b *Broker) MessageByID(ctx context.Context, topicName record.Resource, id string, f func(FoundMessage, *record.Message) error) error {
	if id == "" {
		return Errorf(BadRequest, "the message id is empty")
	}
	page, _, err := b.FindMessages(ctx, MessageQuery{Topic: topicName, ID: id, Limit: 1})
	if err != nil {
		return err
	}
	notFound := Errorf(MessageNotFound, "the topic %q has no message with the id %q", clip(topicName.String()), clip(id))
	if len(page) == 0 {
		return notFound
	}
	v, m, err := b.viewMessage(page[0].Position)
	if errors.Is(err, errTrimmed) {
		return notFound
	}
	if err != nil {
		return err
	}
	defer v.Release()
	if err := m.VerifyBody(); err != nil {
		return b.damaged(page[0].Position, err)
	}
	if tp, err := b.Route(topicName); err == nil {
		b.deliveries(&page[0], tp, b.subsOf(tp), true)
	}
	return f(page[0], &m)
}
