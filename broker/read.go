package broker

import (
	"context"
	"math"

	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/broker/longpoll"
	"github.com/gantry-mq/gantry/broker/quota"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// ReadRequest asks for a topic's messages by offset, without leases.
type ReadRequest struct {
	Topic      record.Resource
	Group      record.Resource // of whom offsets are committed; none when its name is ""
	Queues     []QueueFrom     // nil = all, from Start
	Start      Start
	FilterType FilterType
	Filter     string
	From       Caller
}

// QueueFrom is a queue to read.
type QueueFrom struct {
	Queue uint32
	Start Start
}

// Start says where reading begins.
type Start struct {
	Policy StartPolicy
	Value  int64 // an offset, or Unix ms
}

// StartPolicy is the meaning of a Start.
type StartPolicy int

const (
	StartCommitted StartPolicy = iota // the group's committed offset, else the first
	StartEarliest
	StartLatest
	StartOffset // Value, within the queue
	StartTime   // the first message stored at Value or later
)

// Reader reads queues of a topic as they grow. It belongs to one goroutine.
type Reader struct {
	b      *Broker
	topic  topic.Topic
	group  record.GroupID // 0 = none
	ask    quota.Ask
	filter matcher
	check  matcher // filter, or nil when that is all messages
	queues []readQueue
	turn   int
	wait   *longpoll.Waiter

	entries [512]consumequeue.Entry
}

type readQueue struct {
	number uint32
	next   record.QueueOffset
	told   record.QueueOffset // that the consumer knows
}

// passedUntold is how many messages that nobody wants a reader passes before it
// says so.
const passedUntold = 4096

// Read begins to read a topic. Close it.
func (b *Broker) Read(ctx context.Context, req ReadRequest) (*Reader, error) {
	tp, err := b.Route(req.Topic)
	if err != nil {
		return nil, err
	}
	f, err := compileFilter(req.FilterType, req.Filter)
	if err != nil {
		return nil, err
	}
	r := &Reader{b: b, topic: tp, filter: f, ask: quota.Ask{Topic: tp.Name, Group: req.Group, Client: req.From.Client, User: req.From.User}}
	if tags, ok := f.(tagMatcher); !ok || !tags.All() {
		r.check = f
	}
	if req.Group.Name != "" {
		g, err := b.EnsureGroup(ctx, req.Group)
		if err != nil {
			return nil, err
		}
		r.group = g.ID
	}
	if req.Queues == nil {
		for q := range tp.Queues {
			req.Queues = append(req.Queues, QueueFrom{Queue: q, Start: req.Start})
		}
	}
	seen := map[uint32]bool{}
	for _, q := range req.Queues {
		if q.Queue >= tp.Queues || seen[q.Queue] {
			return nil, Errorf(BadRequest, "queue %d of topic %q: it has queues 0 to %d, and each is read once", q.Queue, tp.Name, tp.Queues-1)
		}
		seen[q.Queue] = true
		at, err := r.begin(q)
		if err != nil {
			return nil, err
		}
		r.queues = append(r.queues, readQueue{number: q.Queue, next: at, told: at})
	}
	if r.wait, err = b.hub.Register(longpoll.Key{Topic: tp.ID}); err != nil {
		return nil, Errorf(TooManyRequests, "too many readers wait for topic %q: %w", tp.Name, err)
	}
	return r, nil
}

func (r *Reader) begin(q QueueFrom) (record.QueueOffset, error) {
	key := record.Key(r.topic.ID, q.Queue)
	low, high, ok := r.b.index.Bounds(key)
	switch q.Start.Policy {
	case StartCommitted:
		if s := r.b.inflight.Find(inflight.SubKey{Group: r.group, Topic: r.topic.ID}); s != nil && r.group != 0 {
			if off, ok := s.Committed(q.Queue); ok {
				return max(off, low), nil
			}
		}
		return low, nil
	case StartEarliest:
		return low, nil
	case StartLatest:
		return high, nil
	case StartOffset:
		at := record.QueueOffset(q.Start.Value)
		if at < low || at > high {
			return 0, Errorf(IllegalOffset, "offset %d is outside queue %d, which has %d to %d", at, q.Queue, low, high)
		}
		return at, nil
	case StartTime:
		if !ok {
			return 0, nil
		}
		at, err := r.b.index.OffsetAt(key, q.Start.Value)
		if err != nil {
			return 0, r.b.indexError(r.topic, q.Queue, 0, err)
		}
		return at, nil
	}
	return 0, Errorf(BadRequest, "the start policy %d is unknown", q.Start.Policy)
}

// Begins returns where each queue is read from next.
func (r *Reader) Begins() []QueueOffset {
	var out []QueueOffset
	for _, q := range r.queues {
		out = append(out, QueueOffset{q.number, q.next})
	}
	return out
}

// QueueOffset is a place in a queue.
type QueueOffset struct {
	Queue  uint32
	Offset record.QueueOffset
}

// Next returns messages of one queue, about as many bytes and at most so many
// messages as asked for, but one at least; nil when there are none now. A chunk
// without messages says how far the reader has come. While quotas hold it back it is a
// *quota.Excess.
func (r *Reader) Next(bytes, messages int) (*Chunk, error) {
	if !r.b.quotas.Active() {
		return r.next(bytes, messages)
	}
	grant, short := r.b.quotas.Receive(&r.ask, messages, bytes, nil)
	if short != nil {
		r.b.quotas.Throttle(short)
		return nil, short
	}
	c, err := r.next(grant.Bytes, grant.Messages)
	if c != nil {
		grant.Done(c.Messages, c.Bytes)
	}
	return c, err
}

func (r *Reader) next(bytes, messages int) (*Chunk, error) {
	if _, ok := r.b.topics.ByID(r.topic.ID); !ok {
		return nil, topicNotFound(r.topic.Name)
	}
	for range r.queues {
		q := &r.queues[r.turn]
		r.turn = (r.turn + 1) % len(r.queues)
		c, err := r.read(q, bytes, messages)
		if c != nil || err != nil {
			return c, err
		}
	}
	return nil, nil
}

// Untold returns a chunk without messages for a queue that was read further than
// the consumer knows; nil when there is none.
func (r *Reader) Untold() *Chunk {
	for i := range r.queues {
		if q := &r.queues[i]; q.told < q.next {
			_, high, _ := r.b.index.Bounds(record.Key(r.topic.ID, q.number))
			return r.tell(&Chunk{Queue: q.number}, q, high)
		}
	}
	return nil
}

func (r *Reader) tell(c *Chunk, q *readQueue, high record.QueueOffset) *Chunk {
	c.Next, c.End = q.next, high
	q.told = q.next
	r.b.counters.deliveries.Add(uint64(c.Messages))
	return c
}

// read looks for messages of one queue.
func (r *Reader) read(q *readQueue, bytes, messages int) (*Chunk, error) {
	key := record.Key(r.topic.ID, q.number)
	c := &Chunk{Queue: q.number}
	for {
		low, high, _ := r.b.index.Bounds(key)
		q.next = max(q.next, low) // retention may have passed by
		if q.next >= high || c.Messages >= messages || c.Bytes >= bytes {
			break
		}
		if c.Messages == 0 && q.next-q.told >= passedUntold {
			break
		}
		want := r.entries[:min(int64(len(r.entries)), int64(high-q.next))]
		n, err := r.b.index.Read(key, q.next, want)
		if isTrimmed(err) {
			continue
		}
		if err != nil {
			c.Release()
			return nil, r.b.indexError(r.topic, q.number, q.next, err)
		}
		passed, err := r.take(c, q.next, want[:n], bytes, messages)
		if err != nil {
			c.Release()
			return nil, err
		}
		q.next += passed
		if passed < record.QueueOffset(n) {
			break
		}
	}
	if c.Messages == 0 && q.next-q.told < passedUntold {
		return nil, nil
	}
	_, high, _ := r.b.index.Bounds(key)
	return r.tell(c, q, high), nil
}

// take adds those of entries that match, until the chunk is full, and returns how
// many it looked at.
func (r *Reader) take(c *Chunk, offset record.QueueOffset, entries []consumequeue.Entry, bytes, messages int) (passed record.QueueOffset, err error) {
	for at := 0; at < len(entries); {
		if !r.wants(&entries[at]) {
			at++
			passed = record.QueueOffset(at)
			continue
		}
		end, size := at, 0
		for ; end < len(entries) && end-at < messages-c.Messages; end++ {
			e := &entries[end]
			if end > at && !follows(&entries[end-1], e) || !r.wants(e) {
				break
			}
			if size += record.Padded(int(e.Size)); size+c.Bytes > bytes && (end > at || c.Messages > 0) {
				break
			}
		}
		if end == at { // full
			return passed, nil
		}
		if err := c.addSpan(r.b, span{entries: entries[at:end], offset: offset + record.QueueOffset(at)}, r.check); err != nil {
			return passed, err
		}
		at = end
		passed = record.QueueOffset(at)
	}
	return passed, nil
}

// wants reports whether an entry may be of a message to read.
func (r *Reader) wants(e *consumequeue.Entry) bool {
	return e.Flags&consumequeue.FlagDeleted == 0 && r.filter.MatchHash(e.TagHash)
}

// Woken tells that there may be something to read. Whoever received from it calls
// Requeue, and then Next until that has nothing.
func (r *Reader) Woken() <-chan struct{} { return r.wait.Woken() }

// Requeue has the reader told again.
func (r *Reader) Requeue() { r.wait.Requeue() }

// Close ends the reading.
func (r *Reader) Close() { r.wait.Leave() }

// Commit submits the group's offsets and returns how to wait until they are
// durable and can be asked for.
func (r *Reader) Commit(offsets []QueueOffset) (wait func() error, err error) {
	if r.group == 0 {
		return nil, Errorf(BadRequest, "the subscription names no group whose offset it could be")
	}
	batch := &commitlog.Batch{}
	for _, o := range offsets {
		switch {
		case o.Queue >= r.topic.Queues:
			return nil, Errorf(BadRequest, "queue %d of topic %q: it has queues 0 to %d", o.Queue, r.topic.Name, r.topic.Queues-1)
		case o.Offset < 0 || o.Offset == math.MaxInt64:
			return nil, Errorf(IllegalOffset, "the offset %d is negative or too large", o.Offset)
		}
		batch.Add(inflight.AppendOffset(nil, inflight.SubKey{Group: r.group, Topic: r.topic.ID}, o.Queue, o.Offset), nil)
	}
	if len(offsets) == 0 {
		return nil, Errorf(BadRequest, "no queue is named")
	}
	if err := r.b.append.Submit(batch); err != nil {
		return nil, wrapAppend(err)
	}
	return func() error { return r.b.await(batch) }, nil
}
