package broker

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// DeadLetter is one dead letter of a group, without its body.
type DeadLetter struct {
	Offset    record.QueueOffset // in the dead-letter queue: its name for an operator
	MessageID string
	Tag       string
	Keys      []string
	Attempts  int32 // deliveries it had
	Reason    string
	Died      int64 // Unix ms
	BodySize  int   // bytes as stored
	// Origin is where it was consumed, nil when it was sent to the dead-letter
	// topic itself.
	Origin *DeadOrigin
	// Owner is the client that held it last and LeaseEnd when that lease ended or
	// would have, Unix ms; "" and 0 when nobody ever held it.
	Owner    string
	LeaseEnd int64
	State    DeadLetterState
	// History is its deliveries, the oldest first, of many the newest.
	History []inflight.Attempt

	entry   consumequeue.Entry
	payload payload
}

// DeadOrigin is the place a dead letter was taken from.
type DeadOrigin struct {
	Topic  record.Resource
	ID     record.TopicID // the topic that had the name then
	Queue  uint32
	Offset record.QueueOffset
}

// DeadLetterState says what became of a dead letter.
type DeadLetterState int

const (
	DeadOpen DeadLetterState = iota
	DeadRedriven
	DeadDiscarded
	DeadLost // retention took the payload: only what is known about it is left
)

func (s DeadLetterState) String() string {
	return [...]string{"open", "redriven", "discarded", "lost"}[s]
}

// DeadLetterFilter selects dead letters. Zero fields select all.
type DeadLetterFilter struct {
	Reason    string // is part of the reason
	Topic     string // name of the topic it was consumed from
	From, To  int64  // died at From or later and before To, Unix ms
	MessageID string
	Offsets   []record.QueueOffset // only these
	Settled   bool                 // also those redriven or discarded
}

const (
	// MaxDeadLetterPage bounds one listing.
	MaxDeadLetterPage = 1000

	// deadScan is how many dead letters one listing looks at before it answers
	// with what it has found.
	deadScan = 64 << 10

	// deadBatch is how many dead letters are settled in one append.
	deadBatch = 256
)

// dlqOf returns a group's dead-letter topic. ok is false while it has none. The
// group itself may be gone: its dead letters stay.
func (b *Broker) dlqOf(name record.Resource) (dlq topic.Topic, ok bool, err error) {
	if err := checkGroupName(name); err != nil {
		return topic.Topic{}, false, err
	}
	dlq, ok = b.topics.Lookup(record.Resource{Namespace: name.Namespace, Name: DLQPrefix + name.Name})
	if _, there := b.groups.Lookup(name); !ok && !there {
		return topic.Topic{}, false, groupNotFound(name)
	}
	return dlq, ok, nil
}

// DeadLetters lists dead letters of a group, the oldest first, from offset from
// on. next is where the next page begins, record.NoOffset after the last one. A
// page may be short, or empty, while there are more: a listing looks at so many
// and then answers.
func (b *Broker) DeadLetters(ctx context.Context, groupName record.Resource, f DeadLetterFilter, from record.QueueOffset, limit int) (page []DeadLetter, next record.QueueOffset, err error) {
	dlq, ok, err := b.dlqOf(groupName)
	if err != nil || !ok {
		return nil, record.NoOffset, err
	}
	if limit < 1 || limit > MaxDeadLetterPage {
		limit = MaxDeadLetterPage
	}
	_, high, _ := b.index.Bounds(record.Key(dlq.ID, 0))
	next, err = b.walkDead(ctx, dlq, &f, from, min(high, max(from, 0)+deadScan), func(dl *DeadLetter, _ *record.Message) error {
		page = append(page, *dl)
		if len(page) == limit {
			return errEnough
		}
		return nil
	})
	if err != nil {
		return nil, record.NoOffset, err
	}
	if next >= high {
		next = record.NoOffset
	}
	return page, next, nil
}

// ExportDeadLetters calls f with each dead letter and its message, the oldest
// first, body verified. Both are valid only during the call. The message is nil
// when retention took it. Dead letters that come after the call are left out.
func (b *Broker) ExportDeadLetters(ctx context.Context, groupName record.Resource, filter DeadLetterFilter, f func(*DeadLetter, *record.Message) error) error {
	dlq, ok, err := b.dlqOf(groupName)
	if err != nil || !ok {
		return err
	}
	_, high, _ := b.index.Bounds(record.Key(dlq.ID, 0))
	_, err = b.walkDead(ctx, dlq, &filter, 0, high, func(dl *DeadLetter, m *record.Message) error {
		if m != nil {
			if err := m.VerifyBody(); err != nil {
				return b.damaged(dl.payload.pos, err)
			}
		}
		return f(dl, m)
	})
	return err
}

// DeadLetter calls f with one dead letter and its message, as ExportDeadLetters
// does: MessageNotFound when there is none at the offset.
func (b *Broker) DeadLetter(ctx context.Context, groupName record.Resource, offset record.QueueOffset, f func(*DeadLetter, *record.Message) error) error {
	found := false
	only := DeadLetterFilter{Offsets: []record.QueueOffset{offset}, Settled: true}
	err := b.ExportDeadLetters(ctx, groupName, only, func(dl *DeadLetter, m *record.Message) error {
		found = true
		return f(dl, m)
	})
	if err == nil && !found {
		return Errorf(MessageNotFound, "the group %q has no dead letter %d", groupName, offset)
	}
	return err
}

// errEnough ends a walk.
var errEnough = errors.New("enough")

// walkDead visits the dead letters in [from, to) that the filter selects, with
// their messages (nil when lost), until visit returns an error; errEnough is
// none. It returns where it stopped.
func (b *Broker) walkDead(ctx context.Context, dlq topic.Topic, f *DeadLetterFilter, from, to record.QueueOffset, visit func(*DeadLetter, *record.Message) error) (record.QueueOffset, error) {
	key := record.Key(dlq.ID, 0)
	low, _, _ := b.index.Bounds(key)
	from = max(from, low)
	if f.From > 0 {
		first, err := b.index.OffsetAt(key, f.From)
		if err != nil {
			return from, b.indexError(dlq, 0, from, err)
		}
		from = max(from, first)
	}
	end := to
	if f.Offsets != nil {
		if len(f.Offsets) == 0 {
			return end, nil
		}
		from, to = max(from, slices.Min(f.Offsets)), min(to, slices.Max(f.Offsets)+1)
	}
	var entries [128]consumequeue.Entry
	for from < to {
		if err := ctx.Err(); err != nil {
			return from, err
		}
		n, err := b.index.Read(key, from, entries[:min(int64(len(entries)), int64(to-from))])
		if isTrimmed(err) {
			from, _, _ = b.index.Bounds(key) // retention passed by
			continue
		}
		if err != nil || n == 0 {
			return from, err
		}
		for _, e := range entries[:n] {
			err := b.visitDead(dlq, from, e, f, visit)
			from++
			if errors.Is(err, errEnough) {
				return from, nil
			}
			if err != nil {
				return from, err
			}
		}
	}
	return max(from, end), nil // the filter selects none behind its last offset
}

func (b *Broker) visitDead(dlq topic.Topic, off record.QueueOffset, e consumequeue.Entry, f *DeadLetterFilter, visit func(*DeadLetter, *record.Message) error) error {
	switch {
	case e.Flags&consumequeue.FlagDeleted != 0,
		f.To > 0 && e.StoreTime >= f.To,
		f.From > 0 && e.StoreTime < f.From,
		!f.Settled && e.Flags&settled != 0,
		f.Offsets != nil && !slices.Contains(f.Offsets, off):
		return nil
	}
	dl := DeadLetter{Offset: off, Died: e.StoreTime, entry: e, payload: payload{pos: e.Position, size: e.Size}}
	switch {
	case e.Flags&consumequeue.FlagRedriven != 0:
		dl.State = DeadRedriven
	case e.Flags&consumequeue.FlagDiscarded != 0:
		dl.State = DeadDiscarded
	}
	v, err := b.viewRecord(e.Position, int(e.Size))
	if errors.Is(err, errTrimmed) {
		return nil // nothing is known of it any more
	}
	if err != nil {
		return err
	}
	defer func() { v.Release() }()
	lost := false
	if e.Flags&consumequeue.FlagIndirect != 0 {
		old, err := parseDeadLetter(v.Bytes())
		if err != nil {
			return b.damaged(e.Position, err)
		}
		b.describeDead(&dl, &old, dlq)
		v.Release()
		v, err = b.viewRecord(old.Position, int(old.Size))
		lost = errors.Is(err, errTrimmed)
		if err != nil && !lost {
			return err
		}
	}
	var m *record.Message
	if lost {
		if dl.State == DeadOpen {
			dl.State = DeadLost
		}
	} else {
		msg, err := record.ParseMessage(v.Bytes())
		if err != nil {
			return b.damaged(dl.payload.pos, err)
		}
		m = &msg
		dl.BodySize, dl.MessageID = len(m.Body), b.messageID(m, dl.payload.pos)
		err = m.Properties.Each(func(f record.Field, _, value []byte) bool {
			switch f {
			case record.FieldTag:
				dl.Tag = string(value)
			case record.FieldKey:
				dl.Keys = append(dl.Keys, string(value))
			}
			return true
		})
		if err != nil {
			return b.damaged(dl.payload.pos, err)
		}
	}
	switch {
	case !strings.Contains(dl.Reason, f.Reason),
		f.MessageID != "" && dl.MessageID != f.MessageID,
		f.Topic != "" && (dl.Origin == nil || dl.Origin.Topic.Name != f.Topic):
		return nil
	}
	return visit(&dl, m)
}

// describeDead fills in what the dead-letter record says.
func (b *Broker) describeDead(dl *DeadLetter, old *deadLetter, dlq topic.Topic) {
	dl.MessageID, dl.Attempts, dl.Reason = old.MessageID, old.Attempt, old.Reason
	dl.Owner, dl.LeaseEnd, dl.History = old.Owner, old.LeaseEnd, old.Attempts
	dl.payload = payload{pos: old.Position, size: old.Size, id: old.MessageID}
	dl.Origin = &DeadOrigin{
		Topic: record.Resource{Namespace: dlq.Name.Namespace, Name: old.TopicName},
		ID:    old.Topic, Queue: old.Queue, Offset: old.Offset,
	}
	if tp, ok := b.topics.ByID(old.Topic); ok {
		dl.Origin.Topic = tp.Name
	}
}

// RedriveRequest says which dead letters go back, where to and how fast.
type RedriveRequest struct {
	Filter DeadLetterFilter // Settled is ignored: nothing is sent twice
	Target *record.Resource // nil = the topic each was consumed from
	Rate   int              // at most so many a second; 0 = as fast as it goes
	DryRun bool             // only count
}

// DeadLetterProgress is how far a redrive or discard is. It is complete when
// Done and Failed together are Matched, unless others settled some meanwhile.
type DeadLetterProgress struct {
	Matched int64 // selected when it began
	Done    int64
	Failed  int64  // left as they are
	Failure string // what was wrong with the first of these, "" = none was
}

// Redrive puts dead letters back, each into the topic it was consumed from or
// the target, without a copy of its payload: it keeps its message id. What goes
// back is a message of that topic like any other, for all of its groups.
//
// Each goes back once: it is settled by the same record that puts it into its
// queue. A redrive that was interrupted, by ctx or a crash, goes on where it was
// when it is asked for again. Dead letters that come after its begin are left
// alone, also when they are the same messages that died again.
//
// progress is called after each batch; an error of it ends the redrive.
func (b *Broker) Redrive(ctx context.Context, groupName record.Resource, req RedriveRequest, progress func(DeadLetterProgress) error) (DeadLetterProgress, error) {
	dlq, ok, err := b.dlqOf(groupName)
	if err != nil {
		return DeadLetterProgress{}, err
	}
	if req.Rate < 0 {
		return DeadLetterProgress{}, Errorf(BadRequest, "the rate is %d, it must be 0 or more", req.Rate)
	}
	var target *topic.Topic
	if req.Target != nil {
		tp, err := b.Route(*req.Target)
		if err != nil {
			return DeadLetterProgress{}, err
		}
		if ok && tp.ID == dlq.ID {
			return DeadLetterProgress{}, Errorf(BadRequest, "the topic %q is where these dead letters are", tp.Name)
		}
		target = &tp
	}
	if !ok { // the group has none, and what was asked for makes sense
		return DeadLetterProgress{}, nil
	}
	s := &settling{
		b: b, dlq: dlq, filter: req.Filter, pace: pacer{b: b, rate: req.Rate}, dryRun: req.DryRun, report: progress,
		prepare: func(dl *DeadLetter, m *record.Message) ([]byte, error) {
			to, err := b.redriveTo(dl, m, target)
			if err != nil {
				return nil, err
			}
			r := redrive{
				DLQ: dlq.ID, Offset: dl.Offset, Position: dl.payload.pos, Size: dl.payload.size,
				TagHash: dl.entry.TagHash, GroupHash: dl.entry.GroupHash,
			}
			return r.append(nil, to), nil
		},
		seal: func(batch *commitlog.Batch, ds []settlement) {
			for _, d := range ds {
				batch.Add(d.rec, nil)
			}
		},
	}
	return s.run(ctx)
}

// Discard gives dead letters up: they are no longer listed nor redriven, and go
// with their segments. Interrupted, it goes on like a redrive.
func (b *Broker) Discard(ctx context.Context, groupName record.Resource, filter DeadLetterFilter, dryRun bool, progress func(DeadLetterProgress) error) (DeadLetterProgress, error) {
	dlq, ok, err := b.dlqOf(groupName)
	if err != nil || !ok {
		return DeadLetterProgress{}, err
	}
	s := &settling{
		b: b, dlq: dlq, filter: filter, pace: pacer{b: b}, dryRun: dryRun, report: progress,
		prepare: func(*DeadLetter, *record.Message) ([]byte, error) { return nil, nil },
		seal: func(batch *commitlog.Batch, ds []settlement) {
			offsets := make([]record.QueueOffset, len(ds))
			for i, d := range ds {
				offsets[i] = d.offset
			}
			batch.Add(appendDiscard(nil, dlq.ID, offsets), nil)
		},
	}
	return s.run(ctx)
}

// redriveTo says which queue a dead letter goes back to.
func (b *Broker) redriveTo(dl *DeadLetter, m *record.Message, target *topic.Topic) (record.QueueKey, error) {
	if m == nil {
		return 0, errors.New("retention took the message")
	}
	var tp topic.Topic
	switch {
	case target != nil:
		tp = *target
		if !accepts(tp, m) {
			return 0, Errorf(TypeConflict, "the topic %q takes %v messages only", tp.Name, tp.Type)
		}
	case dl.Origin == nil:
		return 0, errors.New("it was sent to the dead-letter topic itself: name a topic to put it into")
	default:
		var ok bool
		if tp, ok = b.topics.ByID(dl.Origin.ID); ok {
			if name, isLite := m.Properties.Lookup(record.FieldLiteTopic); isLite {
				queue, ok := b.lites.Lookup(tp.ID, string(name))
				if !ok {
					return 0, Errorf(TopicNotFound, "the lite topic %q of %q is gone: name a topic to put it into", name, tp.Name)
				}
				return record.Key(tp.ID, queue), nil
			}
			return record.Key(tp.ID, dl.Origin.Queue), nil
		}
		if tp, ok = b.topics.Lookup(dl.Origin.Topic); !ok {
			return 0, Errorf(TopicNotFound, "the topic %q is gone: name another to put it into", dl.Origin.Topic)
		}
		if !accepts(tp, m) { // made again, as another type
			return 0, Errorf(TypeConflict, "the topic %q takes %v messages now", tp.Name, tp.Type)
		}
	}
	queue := robin.Add(1) % tp.Queues
	switch {
	case m.Flags&record.FlagFIFO != 0:
		queue = dl.entry.GroupHash % tp.Queues // as Send does
	case m.Flags&record.FlagPriority != 0:
		queue = uint32(min(max(int64(m.Priority), 0), int64(tp.Queues)-1))
	}
	return record.Key(tp.ID, queue), nil
}

// accepts reports whether a redriven message can be in a topic that it was not
// sent to. What has come due or was committed is an ordinary message by now.
func accepts(tp topic.Topic, m *record.Message) bool {
	switch {
	case tp.Type == topic.Mixed || isDLQ(tp):
		return true
	case tp.Type == topic.Lite: // which lite topic would it be?
		return false
	case m.Flags&record.FlagFIFO != 0:
		return tp.Type == topic.FIFO
	case m.Flags&record.FlagPriority != 0:
		return tp.Type == topic.Priority
	}
	return tp.Type != topic.FIFO
}

// settling is a redrive or discard under way.
type settling struct {
	b       *Broker
	dlq     topic.Topic
	filter  DeadLetterFilter
	pace    pacer
	dryRun  bool
	prepare func(*DeadLetter, *record.Message) ([]byte, error)
	seal    func(*commitlog.Batch, []settlement)
	report  func(DeadLetterProgress) error

	progress DeadLetterProgress
	pending  []record.QueueOffset
}

// settlement is one dead letter about to be settled.
type settlement struct {
	offset record.QueueOffset
	rec    []byte
}

// run counts first, so that progress has an end to go to, and then settles.
func (s *settling) run(ctx context.Context) (DeadLetterProgress, error) {
	s.filter.Settled = false
	_, high, _ := s.b.index.Bounds(record.Key(s.dlq.ID, 0))
	_, err := s.b.walkDead(ctx, s.dlq, &s.filter, 0, high, func(dl *DeadLetter, m *record.Message) error {
		s.progress.Matched++
		if s.dryRun {
			if _, err := s.prepare(dl, m); err != nil {
				s.failed(err)
			}
		}
		return nil
	})
	if err != nil || s.dryRun {
		return s.progress, err
	}
	size := s.pace.batch(deadBatch)
	_, err = s.b.walkDead(ctx, s.dlq, &s.filter, 0, high, func(dl *DeadLetter, _ *record.Message) error {
		s.pending = append(s.pending, dl.Offset)
		if len(s.pending) < size {
			return nil
		}
		return s.flush(ctx)
	})
	if err == nil {
		err = s.flush(ctx)
	}
	return s.progress, err
}

func (s *settling) failed(err error) {
	s.progress.Failed++
	if s.progress.Failure == "" {
		s.progress.Failure = err.Error()
	}
}

// flush settles what is pending, in one append, when the rate allows.
func (s *settling) flush(ctx context.Context) error {
	if err := s.pace.wait(ctx, len(s.pending)); err != nil {
		return err
	}
	if err := s.commit(ctx); err != nil {
		return err
	}
	s.pending = s.pending[:0]
	if s.report == nil {
		return nil
	}
	return s.report(s.progress)
}

// commit decides about what is pending and waits until that is applied. One does
// so at a time: between the look at a dead letter and the record that settles it
// nobody else may settle it, nor retention move its payload.
func (s *settling) commit(ctx context.Context) error {
	select {
	case s.b.deadOp <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.b.deadOp }()
	decided, err := s.decide()
	if err != nil || len(decided) == 0 {
		return err
	}
	batch := &commitlog.Batch{}
	s.seal(batch, decided)
	if err := s.b.commit(batch); err != nil {
		return err
	}
	s.progress.Done += int64(len(decided))
	return nil
}

// decide looks at what is pending once more.
func (s *settling) decide() (decided []settlement, err error) {
	key := record.Key(s.dlq.ID, 0)
	for _, off := range s.pending {
		var e [1]consumequeue.Entry
		n, err := s.b.index.Read(key, off, e[:])
		if isTrimmed(err) || err == nil && n == 0 {
			continue
		}
		if err == nil {
			err = s.b.visitDead(s.dlq, off, e[0], &DeadLetterFilter{}, func(dl *DeadLetter, m *record.Message) error {
				rec, err := s.prepare(dl, m)
				if err != nil {
					s.failed(err)
					return nil
				}
				decided = append(decided, settlement{off, rec})
				return nil
			})
		}
		if err != nil {
			return nil, err
		}
	}
	return decided, nil
}
