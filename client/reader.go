package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
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
	// read, from the offsets given, and no others. Queues of a shard that comes into being
	// meanwhile begin at their first message when Start is Latest.
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
	c     *Client
	opts  ReaderOptions
	inbox *inbox[Batch]
	feeds feeds

	mu   sync.Mutex
	subs map[uint32]*reading // by shard

	taking  sync.Mutex // held by Next
	current *Batch     // what Next is in
	walk    walk       // and where in it
}

// Record is one message as a reader reads it. What its methods return aliases its
// batch.
type Record struct{ view }

// Batch is messages of one queue that arrived together.
type Batch struct {
	of    *reading
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
	for q := range opts.Offsets {
		if n, _ := ShardOf(q); int(n) >= c.count() {
			return nil, fmt.Errorf("gantry: reader options: there is no queue %d: the cluster has no shard %d", q, n)
		}
	}
	r := &Reader{c: c, opts: opts, inbox: newInbox[Batch](), subs: map[uint32]*reading{}}
	if err := c.adopt(r); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *Reader) extend(shards []*shard) {
	r.feeds.extend(shards, func(at *shard, late bool) *feed {
		s := &reading{opts: r.opts, inbox: r.inbox}
		s.opts.PrefetchBytes = max(r.opts.PrefetchBytes/len(shards), 1)
		if late && s.opts.Start == Latest {
			s.opts.Start = Earliest // whatever is there has come meanwhile
		}
		s.feed = feed{
			c: r.c, at: at, name: "reader of " + r.opts.Topic,
			subscribe: s.subscribe, subscribed: s.subscribed,
			frame: s.frame, answer: s.answer, next: s.request, broken: func() {}, ended: s.ended,
		}
		for q, offset := range r.opts.Offsets {
			if n, queue := ShardOf(q); n == at.number {
				if s.next == nil {
					s.next = map[uint32]int64{}
				}
				s.next[queue] = offset
			}
		}
		if r.opts.Offsets != nil && s.next == nil {
			return nil
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.subs[at.number] = s
		return &s.feed
	})
}

// Batch returns the messages that arrived next, when there are any. ctx's error
// when it is done first; [ErrClosed] after Close; the broker's refusal. It
// and Next take from the same messages.
func (r *Reader) Batch(ctx context.Context) (*Batch, error) {
	b, err := r.inbox.take(ctx)
	if err != nil {
		return nil, err
	}
	b.of.taken(len(b.frame.Records))
	return b, nil
}

// Queue is the queue of the batch's messages.
func (b *Batch) Queue() uint32 { return b.of.feed.at.queue(b.frame.Queue) }

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
		rec.store, rec.topic, rec.queue = b.store, b.of.opts.Topic, b.Queue()
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
			rec.store, rec.topic, rec.queue = r.current.store, r.opts.Topic, r.current.Queue()
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
	in := map[*reading]map[uint32]int64{}
	for q, offset := range offsets {
		n, queue := ShardOf(q)
		r.mu.Lock()
		s := r.subs[n]
		r.mu.Unlock()
		if s == nil {
			return fmt.Errorf("gantry: the reader does not read queue %d", q)
		}
		if in[s] == nil {
			in[s] = map[uint32]int64{}
		}
		in[s][queue] = offset
	}
	var under []*commit
	for s, offsets := range in {
		c, err := s.commit(offsets)
		if err != nil {
			return err
		}
		under = append(under, c)
	}
	var errs []error
	for _, c := range under {
		select {
		case err := <-c.done:
			errs = append(errs, err)
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrUnknown, ctx.Err())
		}
	}
	return errors.Join(errs...)
}

// Close ends the reader. It does not wait for ctx; nothing is lost by it.
func (r *Reader) Close(context.Context) error {
	r.inbox.end(ErrClosed)
	r.inbox.drop(func(*Batch) bool { return true })
	r.feeds.stop()
	r.c.disown(r)
	return nil
}
