package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/proto/gantryv1"
	"github.com/gantry-mq/gantry/proto/stream"
)

// Start says where a reader begins in a queue.
type Start struct {
	policy gantryv1.StartPolicy
	offset int64 // -1 = by policy
	time   time.Time
}

var (
	// Committed begins at the group's committed offset, and at the first message
	// where there is none. It is the zero Start.
	Committed = Start{}
	// Earliest begins at the first message that is there.
	Earliest = Start{policy: gantryv1.StartPolicy_START_EARLIEST}
	// Latest begins behind the last message.
	Latest = Start{policy: gantryv1.StartPolicy_START_LATEST}
)

// AtTime begins at the first message stored at t or later.
func AtTime(t time.Time) Start { return Start{time: t} }

func (s Start) proto() *gantryv1.StartAt {
	if !s.time.IsZero() {
		return &gantryv1.StartAt{At: &gantryv1.StartAt_Time{Time: timestamppb.New(s.time)}}
	}
	return &gantryv1.StartAt{At: &gantryv1.StartAt_Policy{Policy: s.policy}}
}

// ReaderOptions of a reader. Topic must be given.
type ReaderOptions struct {
	Topic string
	// Group, when not "", is who commits; see [Reader.Commit].
	Group string

	// Tag ("a || b") or SQL chooses messages; at most one of them. The filter is this
	// reader's own.
	Tag string
	SQL string

	// Start is where all queues begin, unless Offsets names queues: then those are
	// read, from the offsets given, and no others.
	Start   Start
	Offsets map[uint32]int64

	// PrefetchBytes bounds what has arrived and was not taken. 0 = 16 MiB.
	PrefetchBytes int
	// FrameBytes is about how much comes at a time, at most 1 MiB. 0 = 256 KiB.
	FrameBytes int
}

// Reader reads a topic's queues by offset, without leases: whatever else reads
// them does not matter to it. What it has read is for its user to remember, or to
// commit.
type Reader struct {
	opts  ReaderOptions
	feed  feed
	inbox *inbox[Batch]
	store uint64 // of the stream that is open

	mu       sync.Mutex
	next     map[uint32]int64 // of each queue: where to go on after a broken connection
	untaken  int              // bytes in inbox
	owed     int              // bytes that were taken, without credit yet
	commits  []*commit        // not answered
	toCommit int              // commits[toCommit:] are to be sent
	commitID uint64
	err      error

	taking  sync.Mutex // held by Next
	current *Batch     // what Next is in
	walk    walk       // and where in it
}

// commit is a request under way.
type commit struct {
	id      uint64
	offsets map[uint32]int64
	done    chan error // capacity 1
}

// Record is one message as a reader reads it. What its methods return aliases its
// batch.
type Record struct{ view }

// Batch is messages of one queue that arrived together.
type Batch struct {
	r     *Reader
	store uint64
	frame stream.Frame
}

// NewReader begins to read. It connects in the background; what is wrong with the
// request is told by the first read.
func (c *Client) NewReader(opts ReaderOptions) (*Reader, error) {
	opts.PrefetchBytes = cmp.Or(opts.PrefetchBytes, defaultPrefetchBytes)
	switch {
	case opts.Topic == "":
		return nil, errors.New("gantry: a reader needs a topic")
	case opts.Tag != "" && opts.SQL != "":
		return nil, errors.New("gantry: a reader filters by tag or by SQL, not by both")
	case opts.PrefetchBytes < 0 || opts.FrameBytes < 0:
		return nil, errors.New("gantry: reader options: a size is negative")
	}
	r := &Reader{opts: opts, inbox: newInbox[Batch](), next: maps.Clone(opts.Offsets)}
	r.feed = feed{
		c: c, name: "reader of " + opts.Topic,
		subscribe: r.subscribe, subscribed: r.subscribed,
		frame: r.frame, answer: r.answer, next: r.request, broken: func() {}, ended: r.ended,
	}
	if err := c.adopt(r); err != nil {
		return nil, err
	}
	r.feed.start()
	return r, nil
}

func (r *Reader) subscribe() *gantryv1.Subscribe {
	r.mu.Lock()
	defer r.mu.Unlock()
	mode := &gantryv1.OffsetMode{Start: r.opts.Start.proto()}
	for _, q := range slices.Sorted(maps.Keys(r.next)) {
		mode.Queues = append(mode.Queues, &gantryv1.QueueStart{Queue: q, Start: &gantryv1.StartAt{At: &gantryv1.StartAt_Offset{Offset: r.next[q]}}})
	}
	s := &gantryv1.Subscribe{
		Agent:    agent(),
		ClientId: r.feed.c.opts.ID, Topic: r.feed.c.resource(r.opts.Topic),
		Mode: &gantryv1.Subscribe_Offsets{Offsets: mode}, FrameBytes: uint32(r.opts.FrameBytes),
	}
	if r.opts.Group != "" {
		s.Group = r.feed.c.resource(r.opts.Group)
	}
	setFilter(s, r.opts.Tag, r.opts.SQL)
	s.Credit = &gantryv1.ConsumeCredit{Bytes: uint64(max(r.opts.PrefetchBytes-r.untaken, 1))}
	r.owed = 0
	r.toCommit = 0 // what was not answered is sent again
	return s
}

func (r *Reader) subscribed(s *gantryv1.Subscribed) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.store = s.StoreId
	if r.next == nil {
		r.next = map[uint32]int64{}
	}
	for _, q := range s.Queues {
		r.next[q.Queue] = q.Offset
	}
}

func (r *Reader) frame(f *stream.Frame) error {
	r.mu.Lock()
	r.next[f.Queue] = f.NextOffset
	r.untaken += len(f.Records)
	r.mu.Unlock()
	if len(f.Runs) > 0 {
		r.inbox.put([]Batch{{r: r, store: r.store, frame: *f}})
	}
	return nil
}

// request returns what to tell the broker now.
func (r *Reader) request() *gantryv1.ConsumeRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.toCommit < len(r.commits) {
		c := r.commits[r.toCommit]
		r.toCommit++
		m := &gantryv1.CommitOffset{Id: c.id}
		for _, q := range slices.Sorted(maps.Keys(c.offsets)) {
			m.Queues = append(m.Queues, &gantryv1.QueueOffset{Queue: q, Offset: c.offsets[q]})
		}
		return &gantryv1.ConsumeRequest{Content: &gantryv1.ConsumeRequest_Commit{Commit: m}}
	}
	if r.owed > 0 && r.owed*4 >= r.opts.PrefetchBytes {
		c := &gantryv1.ConsumeCredit{Bytes: uint64(r.owed)}
		r.owed = 0
		return &gantryv1.ConsumeRequest{Content: &gantryv1.ConsumeRequest_Credit{Credit: c}}
	}
	return nil
}

func (r *Reader) answer(m *gantryv1.ConsumeResponse) {
	a := m.GetCommitted()
	if a == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, c := range r.commits[:r.toCommit] {
		if c.id == a.Id {
			r.commits = slices.Delete(r.commits, i, i+1)
			r.toCommit--
			c.done <- statusError(a.Status)
			return
		}
	}
}

func (r *Reader) ended(err error) {
	if err == nil {
		err = ErrClosed
	}
	r.inbox.end(err)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
	for _, c := range r.commits {
		c.done <- err
	}
	r.commits, r.toCommit = nil, 0
}

// Batch returns the messages that arrived next, when there are any. ctx's error
// when it is done first; [ErrClosed] after Close; the broker's refusal. It
// and Next take from the same messages.
func (r *Reader) Batch(ctx context.Context) (*Batch, error) {
	b, err := r.inbox.take(ctx)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.untaken -= len(b.frame.Records)
	r.owed += len(b.frame.Records)
	due := r.owed*4 >= r.opts.PrefetchBytes
	r.mu.Unlock()
	if due {
		r.feed.wake()
	}
	return b, nil
}

// Queue is the queue of the batch's messages.
func (b *Batch) Queue() uint32 { return b.frame.Queue }

// NextOffset is the offset to go on from, and to commit, when the batch is done
// with.
func (b *Batch) NextOffset() int64 { return b.frame.NextOffset }

// Len is the number of messages.
func (b *Batch) Len() (n int) {
	for i := range b.frame.Runs {
		n += int(b.frame.Runs[i].Count)
	}
	return n
}

// Behind is how many messages of the queue, matching or not, were stored behind
// this batch when the broker made it.
func (b *Batch) Behind() int64 { return b.frame.EndOffset - b.frame.NextOffset }

// Records ranges over the messages. The Record is one and the same for all:
// copy it to keep it. A damaged message ends the range and is its last value.
func (b *Batch) Records() iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		w := walk{frame: &b.frame}
		var rec Record
		rec.store, rec.topic, rec.queue = b.store, b.r.opts.Topic, b.frame.Queue
		for w.next(&rec.view) {
			if !yield(&rec, nil) {
				return
			}
		}
		if w.err != nil {
			yield(nil, w.err)
		}
	}
}

// Release gives the batch's memory back for reuse, which is worth it at many
// thousand messages a second. Nothing that came of the batch may be used then.
func (b *Batch) Release() {
	b.frame.Buffer.Release()
	b.frame = stream.Frame{}
}

// Next returns the next message, when there is one; errors are those of Batch.
func (r *Reader) Next(ctx context.Context) (*Record, error) {
	r.taking.Lock()
	defer r.taking.Unlock()
	for {
		if r.current == nil {
			b, err := r.Batch(ctx)
			if err != nil {
				return nil, err
			}
			r.current, r.walk = b, walk{frame: &b.frame}
		}
		rec := new(Record)
		if r.walk.next(&rec.view) {
			rec.store, rec.topic, rec.queue = r.current.store, r.opts.Topic, r.current.frame.Queue
			return rec, nil
		}
		r.current = nil
		if err := r.walk.err; err != nil {
			return nil, err
		}
	}
}

// Messages ranges over the messages until ctx is done or the reader is closed,
// which ends the loop; any other error is its last value.
func (r *Reader) Messages(ctx context.Context) iter.Seq2[*Record, error] {
	return messages(ctx, r.Next)
}

// Commit stores, for the reader's group, from which offset of each queue to go on
// next time: one behind the last message that is done with. It waits until that
// is durable.
func (r *Reader) Commit(ctx context.Context, offsets map[uint32]int64) error {
	if r.opts.Group == "" {
		return errors.New("gantry: a reader without a group cannot commit")
	}
	r.mu.Lock()
	if r.err != nil {
		r.mu.Unlock()
		return r.err
	}
	r.commitID++
	c := &commit{id: r.commitID, offsets: maps.Clone(offsets), done: make(chan error, 1)}
	r.commits = append(r.commits, c)
	r.mu.Unlock()
	r.feed.wake()
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnknown, ctx.Err())
	}
}

// Close ends the reader. It does not wait for ctx; nothing is lost by it.
func (r *Reader) Close(context.Context) error {
	r.inbox.end(ErrClosed)
	r.inbox.drop()
	r.feed.stop()
	<-r.feed.done
	r.feed.c.disown(r)
	return nil
}
