package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/broker/transaction"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// listing is one page of a topic's messages in the making.
type listing struct {
	b      *Broker
	ctx    context.Context
	q      *MessageQuery
	tp     topic.Topic
	subs   []consumption // of the groups asked for
	page   []FoundMessage
	budget int // how many more may be looked at
}

// source lists the messages of one kind of place, from where the page before
// ended, "" from the first, until the page is full; and says where the next page
// goes on, "" when these were all.
type source struct {
	name string // what a page token begins with
	used func(*listing) bool
	list func(l *listing, from string) (next string, err error)
}

var sources = []source{
	{"queued", func(l *listing) bool { return l.wants(MessageQueued) }, (*listing).queued},
	{"retrying", func(l *listing) bool { return l.wants(MessageRetrying) && !l.wants(MessageQueued) }, (*listing).retrying},
	{"dead", func(l *listing) bool { return l.wants(MessageDead) && !l.wants(MessageQueued) }, (*listing).dead},
	{"half", func(l *listing) bool { return l.wants(MessageHalf) || l.wants(MessageParked) }, (*listing).half},
}

// wants reports whether messages in a state are asked for.
func (l *listing) wants(s MessageState) bool {
	return len(l.q.States) == 0 || slices.Contains(l.q.States, s)
}

func (b *Broker) listMessages(ctx context.Context, tp topic.Topic, q *MessageQuery) (page []FoundMessage, next string, err error) {
	l := &listing{b: b, ctx: ctx, q: q, tp: tp, subs: b.subsOf(tp), budget: messageScan}
	if q.Group.Name != "" {
		g, err := b.groupOf(q.Group)
		if err != nil {
			return nil, "", err
		}
		l.subs = slices.DeleteFunc(l.subs, func(s consumption) bool { return s.group.ID != g.ID })
		if len(q.States) == 0 {
			q.States = []MessageState{MessageRetrying, MessageDead}
		}
	}
	for _, s := range q.States {
		switch {
		case s == MessageDelayed || s == MessageRolledBack || s == MessageRecalled || s == MessageGone:
			return nil, "", Errorf(BadRequest, "messages that are %v are found by id or key only", s)
		case q.Group.Name != "" && s != MessageRetrying && s != MessageDead:
			return nil, "", Errorf(BadRequest, "of a group there are retrying messages and dead ones, no %v ones", s)
		}
	}
	name, from, _ := strings.Cut(q.Page, ".")
	for _, s := range sources {
		if !s.used(l) || name != "" && name != s.name {
			continue
		}
		if l.full() {
			return l.page, s.name + ".", nil
		}
		next, err := s.list(l, from)
		if err != nil {
			return nil, "", err
		}
		if next != "" {
			return l.page, s.name + "." + next, nil
		}
		name, from = "", ""
	}
	if name != "" {
		return nil, "", badPage(q.Page)
	}
	return l.page, "", nil
}

func (l *listing) full() bool { return len(l.page) == l.q.Limit || l.budget <= 0 }

// look counts one look.
func (l *listing) look() error {
	l.budget--
	return l.ctx.Err()
}

// add adds a message, unless its state is not asked for. It may be dead in one
// group and retrying in another.
func (l *listing) add(f FoundMessage) {
	held := func(d MessageDelivery) bool { return d.State != DeliveryAside }
	if l.wants(f.State) || f.State == MessageDead && l.wants(MessageRetrying) && slices.ContainsFunc(f.Deliveries, held) {
		l.page = append(l.page, f)
	}
}

// addAt adds the message at a queue offset.
func (l *listing) addAt(queue uint32, offset record.QueueOffset, e consumequeue.Entry, subs []consumption) error {
	f, err := l.b.foundAt(l.tp, queue, offset, e)
	if isTrimmed(err) {
		return nil
	}
	if err == nil {
		l.b.deliveries(&f, l.tp, subs, false)
		l.add(f)
	}
	return err
}

// queued merges the queues by store time. A token is the time of the page's last
// message and, of each queue with messages of that time in the page, where it
// goes on: others may get messages of that time still.
func (l *listing) queued(from string) (next string, err error) {
	if l.tp.Type == topic.Lite {
		return l.queuedLite(from)
	}
	type cursor struct {
		at, end record.QueueOffset
		e       consumequeue.Entry
	}
	at, begin, err := parseTies(from)
	if err != nil {
		return "", badPage(l.q.Page)
	}
	cursors := make([]cursor, l.tp.Queues)
	load := func(i uint32) error {
		c := &cursors[i]
		for c.at < c.end {
			e, ok, err := l.b.entryAt(record.Key(l.tp.ID, i), c.at)
			if err != nil {
				return l.b.indexError(l.tp, i, c.at, err)
			}
			if ok {
				if c.e = e; e.StoreTime >= l.q.To {
					c.at = c.end
				}
				return nil
			}
			low, _, _ := l.b.index.Bounds(record.Key(l.tp.ID, i))
			c.at = max(c.at+1, low) // retention passed by
		}
		return nil
	}
	for i := range cursors {
		key, c := record.Key(l.tp.ID, uint32(i)), &cursors[i]
		if c.at, err = l.b.index.OffsetAt(key, max(at, l.q.From)); err != nil {
			return "", l.b.indexError(l.tp, uint32(i), 0, err)
		}
		c.at = max(c.at, begin[uint32(i)])
		_, c.end, _ = l.b.index.Bounds(key)
		if err := load(uint32(i)); err != nil {
			return "", err
		}
	}
	for {
		best := -1
		for i := range cursors {
			if c := &cursors[i]; c.at < c.end && (best < 0 || c.e.StoreTime < cursors[best].e.StoreTime) {
				best = i
			}
		}
		switch {
		case best < 0:
			return "", nil
		case l.full():
			return formatTies(at, begin), nil
		}
		if err := l.look(); err != nil {
			return "", err
		}
		c := &cursors[best]
		if err := l.addAt(uint32(best), c.at, c.e, l.subs); err != nil {
			return "", err
		}
		if c.e.StoreTime > at {
			at, begin = c.e.StoreTime, map[uint32]record.QueueOffset{}
		}
		c.at++
		begin[uint32(best)] = c.at
		if err := load(uint32(best)); err != nil {
			return "", err
		}
	}
}

func formatTies(at int64, begin map[uint32]record.QueueOffset) string {
	var s strings.Builder
	fmt.Fprint(&s, at)
	for _, q := range slices.Sorted(maps.Keys(begin)) {
		fmt.Fprintf(&s, "-%d:%d", q, begin[q])
	}
	return s.String()
}

func parseTies(s string) (at int64, begin map[uint32]record.QueueOffset, err error) {
	begin = map[uint32]record.QueueOffset{}
	if s == "" {
		return math.MinInt64, begin, nil
	}
	time, queues, _ := strings.Cut(s, "-")
	at, err = strconv.ParseInt(time, 10, 64)
	for part := range strings.SplitSeq(queues, "-") {
		if part == "" {
			continue
		}
		var n [2]int64
		if e := parseNumbers(part, ":", n[:]); e != nil {
			err = e
		}
		begin[uint32(n[0])] = record.QueueOffset(n[1])
	}
	return at, begin, err
}

// parseNumbers reads the numbers of a page token.
func parseNumbers(s, sep string, into []int64) error {
	if s == "" {
		return nil
	}
	parts := strings.Split(s, sep)
	if len(parts) != len(into) {
		return errors.New("broker: not a page")
	}
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 10, 63)
		if err != nil {
			return err
		}
		into[i] = int64(n)
	}
	return nil
}

// queuedLite lists one lite topic after the other. A token is a queue and where
// it goes on.
func (l *listing) queuedLite(from string) (next string, err error) {
	at := [2]int64{record.FirstLiteQueue, 0}
	if parseNumbers(from, "-", at[:]) != nil {
		return "", badPage(l.q.Page)
	}
	queue, off := uint32(at[0]), record.QueueOffset(at[1])
	end := l.b.lites.Next(l.tp.ID)
	if l.q.LiteTopic != "" {
		only, ok := l.b.lites.Lookup(l.tp.ID, l.q.LiteTopic)
		if !ok {
			return "", nil
		}
		queue, end = max(queue, only), only+1
	}
	for ; queue < end; queue, off = queue+1, 0 {
		if l.full() {
			return fmt.Sprintf("%d-%d", queue, off), nil
		}
		if err := l.look(); err != nil {
			return "", err
		}
		key := record.Key(l.tp.ID, queue)
		if !l.b.lites.Has(key) {
			continue
		}
		first, err := l.b.index.OffsetAt(key, l.q.From)
		if err != nil {
			return "", l.b.indexError(l.tp, queue, 0, err)
		}
		off = max(off, first)
		for _, high, _ := l.b.index.Bounds(key); off < high; off++ {
			if l.full() {
				return fmt.Sprintf("%d-%d", queue, off), nil
			}
			if err := l.look(); err != nil {
				return "", err
			}
			e, ok, err := l.b.entryAt(key, off)
			if err != nil {
				return "", l.b.indexError(l.tp, queue, off, err)
			}
			if !ok {
				continue
			}
			if e.StoreTime >= l.q.To {
				break
			}
			if err := l.addAt(queue, off, e, l.subs); err != nil {
				return "", err
			}
		}
	}
	return "", nil
}

// retrying lists what groups were handed and have not settled, once for each
// group. A token is a group, a queue and an offset.
func (l *listing) retrying(from string) (next string, err error) {
	var at [3]int64
	if parseNumbers(from, "-", at[:]) != nil {
		return "", badPage(l.q.Page)
	}
	queue, off := uint32(at[1]), record.QueueOffset(at[2])
	for i, s := range l.subs {
		if int64(s.group.ID) < at[0] {
			continue
		}
		if int64(s.group.ID) > at[0] {
			queue, off = 0, 0
		}
		for {
			held := s.HandedOut(queue, off, messageScan)
			for _, h := range held {
				if l.full() {
					return fmt.Sprintf("%d-%d-%d", s.group.ID, h.Queue, h.Offset), nil
				}
				if err := l.addHeld(h, l.subs[i:i+1]); err != nil {
					return "", err
				}
				queue, off = h.Queue, h.Offset+1
			}
			if len(held) < messageScan {
				break
			}
		}
	}
	return "", nil
}

func (l *listing) addHeld(h inflight.Held, of []consumption) error {
	if err := l.look(); err != nil {
		return err
	}
	e, ok, err := l.b.entryAt(record.Key(l.tp.ID, h.Queue), h.Offset)
	if err != nil {
		return l.b.indexError(l.tp, h.Queue, h.Offset, err)
	}
	if !ok || e.StoreTime < l.q.From || e.StoreTime >= l.q.To {
		return nil
	}
	f, err := l.b.foundAt(l.tp, h.Queue, h.Offset, e)
	if err != nil {
		if isTrimmed(err) {
			return nil
		}
		return err
	}
	l.b.deliveries(&f, l.tp, of, false)
	if f.State != MessageQueued { // else it was settled just now
		f.State = MessageRetrying
		l.page = append(l.page, f)
	}
	return nil
}

// dead lists the open dead letters that were consumed from the topic. A token is
// a dead-letter topic and an offset of it.
func (l *listing) dead(from string) (next string, err error) {
	var at [2]int64
	if parseNumbers(from, "-", at[:]) != nil {
		return "", badPage(l.q.Page)
	}
	var letters []topic.Topic
	for _, tp := range l.b.topics.List() {
		if !isDLQ(tp) || tp.Name.Namespace != l.tp.Name.Namespace || int64(tp.ID) < at[0] {
			continue
		}
		if g := l.q.Group.Name; g == "" || tp.Name.Name == DLQPrefix+g {
			letters = append(letters, tp)
		}
	}
	slices.SortFunc(letters, func(a, b topic.Topic) int { return int(int64(a.ID) - int64(b.ID)) })
	for _, dlq := range letters {
		off := record.QueueOffset(0)
		if int64(dlq.ID) == at[0] {
			off = record.QueueOffset(at[1])
		}
		low, high, _ := l.b.index.Bounds(record.Key(dlq.ID, 0))
		for off = max(off, low); off < high; {
			if l.full() {
				return fmt.Sprintf("%d-%d", dlq.ID, off), nil
			}
			end := min(high, off+record.QueueOffset(l.budget))
			f := DeadLetterFilter{From: max(l.q.From, 0), To: l.q.To}
			stopped, err := l.b.walkDead(l.ctx, dlq, &f, off, end, l.addDead)
			if err != nil {
				return "", err
			}
			l.budget -= int(max(stopped-off, 1))
			off = max(stopped, off+1)
		}
	}
	return "", nil
}

func (l *listing) addDead(dl *DeadLetter, m *record.Message) error {
	if dl.Origin == nil || dl.Origin.ID != l.tp.ID {
		return nil
	}
	f := FoundMessage{Position: dl.payload.pos, ID: dl.MessageID, Stored: dl.Died, Offset: record.NoOffset}
	if m != nil {
		var err error
		if f, _, err = l.b.describe(dl.payload.pos, m, &MessageQuery{To: math.MaxInt64}); err == nil {
			err = l.b.trace(&f, m, originAt(dl.payload.pos, m))
		}
		if err != nil {
			return err
		}
		l.b.deliveries(&f, l.tp, l.subs, false)
	}
	f.Queue, f.Offset, f.State = dl.Origin.Queue, dl.Origin.Offset, MessageDead
	l.page = append(l.page, f)
	if len(l.page) == l.q.Limit {
		return errEnough
	}
	return nil
}

// half lists undecided half messages. A token is the position of the page's last.
func (l *listing) half(from string) (next string, err error) {
	var after [1]int64
	if parseNumbers(from, "-", after[:]) != nil {
		return "", badPage(l.q.Page)
	}
	halves := l.b.transactions.List(func(h *transaction.Half) bool {
		return h.Key.Topic() == l.tp.ID && h.Position > record.Position(after[0]) && h.Stored >= l.q.From && h.Stored < l.q.To &&
			(h.Parked && l.wants(MessageParked) || !h.Parked && l.wants(MessageHalf))
	})
	for i, h := range halves {
		if l.full() {
			return strconv.FormatUint(uint64(after[0]), 10), nil
		}
		if err := l.look(); err != nil {
			return "", err
		}
		if err := l.addHalf(&halves[i]); err != nil {
			return "", err
		}
		after[0] = int64(h.Position)
	}
	return "", nil
}

func (l *listing) addHalf(h *transaction.Half) error {
	v, m, err := l.b.viewMessage(h.Payload)
	if errors.Is(err, errTrimmed) { // decided just now
		return nil
	}
	if err != nil {
		return err
	}
	defer v.Release()
	f, _, err := l.b.describe(h.Payload, &m, &MessageQuery{To: math.MaxInt64})
	if f.State = MessageHalf; h.Parked {
		f.State = MessageParked
	}
	f.Stored = h.Stored
	l.page = append(l.page, f)
	return err
}
