package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/broker/replay"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

const (
	// maxReplayQueues bounds the queues of one replay: what is left of each is state.
	maxReplayQueues = 8192

	// replayBatch is how many messages one record hands to the group.
	replayBatch = 256

	// replayWindow is how many messages a group may have outstanding in a queue for
	// a replay to add more. It bounds memory, and leaves room for new messages.
	replayWindow = 2048

	// replayPause is how long a replay waits where all queues are full or busy.
	replayPause = 20 * time.Millisecond

	// replayBeat is how often a replay tells its progress at least.
	replayBeat = time.Second
)

// ReplayRequest says which messages of a topic go to a group again.
type ReplayRequest struct {
	From, To   int64 // Unix ms: those that entered their queue in [From, To); To 0 = until now
	FilterType FilterType
	Filter     string // of these; "" = all
	Rate       int    // at most so many a second; 0 = as fast as the group takes them
	DryRun     bool   // only count
	// Resume goes on with the replay that is not finished, whatever its range and
	// filter are.
	Resume bool
}

// ReplayProgress is how far a replay is, since its very beginning.
type ReplayProgress struct {
	Total   int64 // messages in the range
	Passed  int64 // of these looked at
	Done    int64 // of these handed to the group: the filter took them, and the group had done with them
	Waiting bool  // the group has enough to do: nothing is added until it settles some
}

// Replay hands messages that a group has done with to that group again, as if
// for the first time: their offsets are opened again in what the group knows of
// its queues, which no other group sees and no payload is copied for. From there
// they are like others: leased, acknowledged, tried again, dead in the end. They
// go before messages that are new, and behind others that wait for another try.
// What a consumer's own filter does not want is left out when it is received.
// What the group has in its hands, or has not come to, is left alone: it comes
// anyway.
//
// A replay that was interrupted, by ctx or a crash, goes on where it was when it
// is asked for again. A group has one unfinished replay of a topic at a time;
// another range is refused until it is done or cancelled: PreconditionFailed.
//
// report is called now and then; an error of it ends the replay.
func (b *Broker) Replay(ctx context.Context, groupName, topicName record.Resource, req ReplayRequest, report func(ReplayProgress) error) (ReplayProgress, error) {
	tp, g, err := b.topicAndGroup(topicName, groupName)
	if err != nil {
		return ReplayProgress{}, err
	}
	switch {
	case req.Rate < 0:
		return ReplayProgress{}, Errorf(BadRequest, "the rate is %d, it must be 0 or more", req.Rate)
	case req.To != 0 && req.To <= req.From:
		return ReplayProgress{}, Errorf(BadRequest, "the range ends before it begins")
	}
	r := &replaying{b: b, topic: tp, group: g, key: inflight.SubKey{Group: g.ID, Topic: tp.ID}, pace: pacer{b: b, rate: req.Rate}, report: report}
	if req.DryRun {
		if err = r.plan(&req); err == nil {
			err = r.count(ctx)
		}
		return r.progress(), err
	}
	if _, running := b.replaysRunning.LoadOrStore(r.key, true); running {
		return ReplayProgress{}, Errorf(PreconditionFailed, "a replay of topic %q to group %q is running at this moment", tp.Name, g.Name)
	}
	defer b.replaysRunning.Delete(r.key)
	if err = r.begin(&req); err == nil {
		err = r.run(ctx)
	}
	return r.progress(), err
}

// CancelReplay forgets the unfinished replay of a topic to a group. What was
// handed to the group stays with it. It returns how far the replay was.
func (b *Broker) CancelReplay(_ context.Context, groupName, topicName record.Resource) (ReplayProgress, error) {
	tp, g, err := b.topicAndGroup(topicName, groupName)
	if err != nil {
		return ReplayProgress{}, err
	}
	key := replay.Key{Group: g.ID, Topic: tp.ID}
	old, ok := b.replays.Get(key)
	if !ok {
		return ReplayProgress{}, noReplay(tp, g)
	}
	return progressOf(&old), b.commit(record1(replay.AppendEnd(nil, key)))
}

func (b *Broker) topicAndGroup(topicName, groupName record.Resource) (topic.Topic, group.Group, error) {
	tp, err := b.Route(topicName)
	if err != nil {
		return topic.Topic{}, group.Group{}, err
	}
	g, err := b.groupOf(groupName)
	return tp, g, err
}

func noReplay(tp topic.Topic, g group.Group) error {
	return Errorf(PreconditionFailed, "no replay of topic %q to group %q is unfinished", tp.Name, g.Name)
}

// replaying is a replay under way.
type replaying struct {
	b      *Broker
	topic  topic.Topic
	group  group.Group
	key    inflight.SubKey
	filter matcher
	pace   pacer
	report func(ReplayProgress) error

	row     replay.Replay // as the table has it
	found   []reopening   // by queue of row
	waiting bool
	told    time.Time // when report was called last
}

// reopening is what was found in a queue and not handed out yet.
type reopening struct {
	held []inflight.Held
	next record.QueueOffset // the queue was looked at below; 0 = nothing was found yet
}

func progressOf(r *replay.Replay) ReplayProgress {
	return ReplayProgress{Total: r.Total, Passed: r.Total - r.Left(), Done: r.Done}
}

func (r *replaying) progress() ReplayProgress {
	p := progressOf(&r.row)
	p.Waiting = r.waiting
	return p
}

// begin takes up the unfinished replay, or makes a new one.
func (r *replaying) begin(req *ReplayRequest) (err error) {
	old, unfinished := r.b.replays.Get(r.tableKey())
	switch {
	case unfinished && (req.Resume || isSame(&old, req)):
		r.row = old
		r.found = make([]reopening, len(old.Queues))
		r.filter, err = compileFilter(filterTypeOf(old.SQL), old.Filter)
		return err
	case unfinished:
		p := progressOf(&old)
		return Errorf(PreconditionFailed, "a replay of topic %q to group %q is not finished, %d of %d messages are left: from %s to %s, filter %q; go on with that one, or cancel it",
			r.topic.Name, r.group.Name, p.Total-p.Passed, p.Total, utc(old.From), utc(old.To), clip(old.Filter))
	case req.Resume:
		return noReplay(r.topic, r.group)
	}
	if err := r.plan(req); err != nil {
		return err
	}
	if len(r.row.Queues) == 0 {
		return nil
	}
	return r.b.commit(record1(replay.AppendBegin(nil, &r.row)))
}

func utc(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }

func (r *replaying) tableKey() replay.Key { return replay.Key{Group: r.key.Group, Topic: r.key.Topic} }

func filterTypeOf(sql bool) FilterType {
	if sql {
		return FilterSQL
	}
	return FilterTag
}

// isSame reports whether a request is for the replay. One until now goes on with
// one until then.
func isSame(old *replay.Replay, req *ReplayRequest) bool {
	return old.From == req.From && (old.To == req.To || req.To == 0) && old.SQL == (req.FilterType == FilterSQL) && old.Filter == strings.TrimSpace(req.Filter)
}

// plan finds the range in each queue.
func (r *replaying) plan(req *ReplayRequest) (err error) {
	if r.filter, err = compileFilter(req.FilterType, req.Filter); err != nil {
		return err
	}
	r.row = replay.Replay{Key: r.tableKey(), From: req.From, To: req.To, SQL: req.FilterType == FilterSQL, Filter: strings.TrimSpace(req.Filter)}
	if req.To == 0 {
		r.row.To = r.b.now()
	}
	queues, err := r.b.resetQueues(r.topic, -1)
	if err != nil {
		return err
	}
	for _, q := range queues {
		key := record.Key(r.topic.ID, q)
		from, err := r.b.index.OffsetAt(key, r.row.From)
		if err != nil {
			return r.b.indexError(r.topic, q, from, err)
		}
		to, err := r.b.index.OffsetAt(key, r.row.To)
		if err != nil {
			return r.b.indexError(r.topic, q, to, err)
		}
		if from < to {
			r.row.Queues = append(r.row.Queues, replay.Range{Queue: q, Next: from, End: to})
		}
		if len(r.row.Queues) > maxReplayQueues {
			return Errorf(BadRequest, "more than %d queues of topic %q have messages in the range: take a shorter one", maxReplayQueues, r.topic.Name)
		}
	}
	r.row.Total = r.row.Left()
	r.found = make([]reopening, len(r.row.Queues))
	return nil
}

// count is a dry run.
func (r *replaying) count(ctx context.Context) error {
	sub := r.b.inflight.Find(r.key)
	for len(r.row.Queues) > 0 {
		q := &r.row.Queues[0]
		found, err := r.find(ctx, *q)
		if err != nil {
			return err
		}
		low, high := r.bounds(q.Queue)
		begin := inflight.Begin(q.Queue, low, high)
		for _, h := range found.held {
			if !sub.Outstanding(q.Queue, h.Offset, begin) {
				r.row.Done++
			}
		}
		if q.Next = found.next; q.Next >= q.End {
			r.row.Queues = r.row.Queues[1:]
		}
		if err := r.tell(false); err != nil {
			return err
		}
	}
	return nil
}

// run hands out what is left, a little of each queue in turn.
func (r *replaying) run(ctx context.Context) error {
	moved := time.Now()
	for len(r.row.Queues) > 0 {
		if _, ok := r.b.replays.Get(r.tableKey()); !ok {
			return Errorf(PreconditionFailed, "the replay was cancelled, or its topic or group deleted")
		}
		stuck := true
		for i := 0; i < len(r.row.Queues); i++ {
			ok, err := r.step(ctx, i)
			if err != nil {
				return err
			}
			stuck = stuck && !ok
			if q := r.row.Queues[i]; q.Next >= q.End {
				r.row.Queues = append(r.row.Queues[:i], r.row.Queues[i+1:]...)
				r.found = append(r.found[:i], r.found[i+1:]...)
				i--
			}
		}
		if !stuck {
			moved = time.Now()
		} else if err := r.b.sleepFor(ctx, replayPause); err != nil {
			return err
		}
		r.waiting = time.Since(moved) > replayBeat
		if err := r.tell(!stuck); err != nil {
			return err
		}
	}
	return r.b.commit(record1(replay.AppendEnd(nil, r.tableKey())))
}

// tell reports the progress, when there is some or at times.
func (r *replaying) tell(now bool) error {
	if r.report == nil || !now && time.Since(r.told) < replayBeat {
		return nil
	}
	r.told = time.Now()
	return r.report(r.progress())
}

// find looks for what the filter takes, up to a batch, and as far as scanBudget
// goes.
func (r *replaying) find(ctx context.Context, q replay.Range) (f reopening, err error) {
	key, size := record.Key(r.topic.ID, q.Queue), r.pace.batch(replayBatch)
	f.next = q.Next
	var entries [128]consumequeue.Entry
	for end := min(q.End, q.Next+scanBudget); f.next < end && len(f.held) < size; {
		if err := ctx.Err(); err != nil {
			return f, err
		}
		n, err := r.b.index.Read(key, f.next, entries[:min(int64(len(entries)), int64(end-f.next))])
		if errors.Is(err, consumequeue.ErrOutOfRange) || err == nil && n == 0 {
			// Retention passed by, or the queue is gone.
			low, high := r.bounds(q.Queue)
			if f.next = max(f.next, low); f.next >= min(high, q.End) {
				f.next = q.End
			}
			return f, nil
		}
		if err != nil {
			return f, r.b.indexError(r.topic, q.Queue, f.next, err)
		}
		for _, e := range entries[:n] {
			if len(f.held) == size {
				break
			}
			wanted, err := r.wants(e, q.Queue, f.next)
			if err != nil {
				return f, err
			}
			if wanted {
				f.held = append(f.held, inflight.Held{Queue: q.Queue, Offset: f.next, GroupHash: e.GroupHash})
			}
			f.next++
		}
	}
	return f, nil
}

func (r *replaying) wants(e consumequeue.Entry, queue uint32, offset record.QueueOffset) (bool, error) {
	if !r.filter.MatchHash(e.TagHash) {
		return false, nil
	}
	l, err := r.b.loadEntry(e, queue, offset)
	if isTrimmed(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("topic %q queue %d offset %d: %w", r.topic.Name, queue, offset, err)
	}
	defer l.release()
	return r.filter.Match(&l.msg), nil
}

// step hands out one batch of a queue. It is false when the queue takes none now.
func (r *replaying) step(ctx context.Context, i int) (ok bool, err error) {
	q, found := &r.row.Queues[i], &r.found[i]
	if found.next == 0 {
		if *found, err = r.find(ctx, *q); err != nil {
			return false, err
		}
	}
	if err := r.pace.wait(ctx, len(found.held)); err != nil {
		return false, err
	}
	_, fifo := r.b.subExists(r.key)
	sub := r.b.inflight.Sub(r.key, fifo)
	sc, ok := sub.BeginReopen(q.Queue, r.bounds, replayWindow-len(found.held)+1)
	if !ok {
		return false, nil
	}
	sc.Held = found.held
	batch := &commitlog.Batch{}
	err = sub.EndReopen(&sc, func() error {
		batch.Add(inflight.AppendReopen(nil, r.key, &sc, r.b.now()), nil)
		batch.Add(replay.AppendStep(nil, r.tableKey(), q.Queue, found.next, len(sc.Held)), nil)
		return r.b.append.Submit(batch)
	})
	if err != nil {
		return false, wrapAppend(err)
	}
	if err := r.b.await(batch); err != nil {
		return false, err
	}
	r.b.wakeSub(r.key) // for these, and for what came while the queue was claimed
	r.row.Done += int64(len(sc.Held))
	q.Next, *found = found.next, reopening{}
	return true, nil
}

func (r *replaying) bounds(queue uint32) (low, high record.QueueOffset) {
	low, high, _ = r.b.index.Bounds(record.Key(r.topic.ID, queue))
	return low, high
}
