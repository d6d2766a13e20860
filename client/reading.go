package client

import (
	"maps"
	"slices"
	"sync"

	"github.com/gantry-mq/gantry/proto/gantryv1"
	"github.com/gantry-mq/gantry/proto/stream"
)

// reading is what a reader has of one shard.
type reading struct {
	opts  ReaderOptions // the reader's; the prefetch is this one's share
	feed  feed
	inbox *inbox[Batch] // the reader's
	store uint64        // of the stream that is open

	mu       sync.Mutex
	next     map[uint32]int64 // of each queue: where to go on after a broken connection
	untaken  int              // bytes in inbox
	owed     int              // bytes that were taken, without credit yet
	commits  []*commit        // not answered
	toCommit int              // commits[toCommit:] are to be sent
	commitID uint64
	err      error
}

// commit is a request under way.
type commit struct {
	id      uint64
	offsets map[uint32]int64
	done    chan error // capacity 1
}

func (r *reading) subscribe() *gantryv1.Subscribe {
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

func (r *reading) subscribed(s *gantryv1.Subscribed) {
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

func (r *reading) frame(f *stream.Frame) error {
	r.mu.Lock()
	r.next[f.Queue] = f.NextOffset
	r.untaken += len(f.Records)
	r.mu.Unlock()
	if len(f.Runs) > 0 {
		r.inbox.put([]Batch{{of: r, store: r.store, frame: *f}})
	}
	return nil
}

// request returns what to tell the broker now.
func (r *reading) request() *gantryv1.ConsumeRequest {
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

func (r *reading) answer(m *gantryv1.ConsumeResponse) {
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

func (r *reading) ended(err error) {
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

// taken is told of what has left the inbox.
func (r *reading) taken(bytes int) {
	r.mu.Lock()
	r.untaken -= bytes
	r.owed += bytes
	due := r.owed*4 >= r.opts.PrefetchBytes
	r.mu.Unlock()
	if due {
		r.feed.wake()
	}
}

// commit begins one.
func (r *reading) commit(offsets map[uint32]int64) (*commit, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return nil, r.err
	}
	r.commitID++
	c := &commit{id: r.commitID, offsets: offsets, done: make(chan error, 1)}
	r.commits = append(r.commits, c)
	r.feed.wake()
	return c, nil
}
