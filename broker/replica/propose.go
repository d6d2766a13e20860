package replica

import (
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/gantry-mq/gantry/commitlog"
)

const (
	// entryBytes is the payload after which the next batch starts another entry.
	entryBytes = 512 << 10
	// overlapBytes is how much must wait before it is proposed while something is
	// under way: less is left to gather.
	overlapBytes = 128 << 10
	// maxProposed bounds what is under way: raft stores all of what waits at one
	// time in one go.
	maxProposed = 8 << 20
	// maxQueue bounds the bytes of batches that wait to be proposed: beyond it Submit
	// blocks.
	maxQueue = 32 << 20
)

// ErrNotLeading: nothing was stored, another node leads, or none does.
var ErrNotLeading = errors.New("replica: this node does not lead")

// ErrUnknown: this node has lost its leadership while others were being asked.
// The batch may be committed or not.
var ErrUnknown = errors.New("replica: leadership was lost, whether the append will be committed is not known")

// Term is a time in which this node leads: what orders batches into the log
// while it lasts. All methods may be called concurrently, after Begin.
type Term struct {
	number uint64 // raft's
	serial uint64 // among the node's Terms, of which one of raft's may have several
	raft   *raft.Raft
	log    *commitlog.Log

	mu         sync.Mutex
	wake       *sync.Cond // the proposer: work, less under way, or the end
	room       *sync.Cond // Submit
	queue      []*commitlog.Batch
	queueBytes int
	proposed   int // bytes under way
	err        error
	over       chan struct{}
	run        sync.WaitGroup // of what Begin started; the next Lead, or Close, waits
	settling   chan proposal
}

type proposal struct {
	future  raft.ApplyFuture
	batches []*commitlog.Batch
	size    int
}

func newTerm(number, serial uint64, r *raft.Raft, log *commitlog.Log) *Term {
	t := &Term{number: number, serial: serial, raft: r, log: log, over: make(chan struct{}), settling: make(chan proposal, 64)}
	t.wake, t.room = sync.NewCond(&t.mu), sync.NewCond(&t.mu)
	return t
}

// Begin lets Submit append, once. sequence and now are as in commitlog.Options:
// sequence sees every batch in the log's order, by one goroutine. The caller's
// state is that of the whole log.
func (t *Term) Begin(now func() int64, sequence func(now int64, b *commitlog.Batch)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return // it ended before it began
	}
	t.run.Go(func() { t.propose(now, sequence) })
	t.run.Go(t.settle)
}

// Over is closed when the term has ended.
func (t *Term) Over() <-chan struct{} { return t.over }

// Number is raft's.
func (t *Term) Number() uint64 { return t.number }

// Submit is as commitlog.Log.Submit. After nil, the batch's Wait may return
// ErrUnknown.
func (t *Term) Submit(b *commitlog.Batch) error {
	if err := t.log.Admits(b); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.err == nil && t.queueBytes > 0 && t.queueBytes+b.Size() > maxQueue {
		t.room.Wait()
	}
	if t.err != nil {
		return notLeading(t.err)
	}
	if err := b.Claim(); err != nil {
		return err
	}
	t.queue = append(t.queue, b)
	t.queueBytes += b.Size()
	t.wake.Signal()
	return nil
}

// take waits for batches to propose; nil when the term is over.
func (t *Term) take() []*commitlog.Batch {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.err == nil {
		if len(t.queue) > 0 && (t.proposed == 0 || t.queueBytes >= overlapBytes && t.proposed < maxProposed) {
			taken := t.queue
			t.queue, t.queueBytes = nil, 0
			t.room.Broadcast()
			return taken
		}
		t.wake.Wait()
	}
	return nil
}

// propose orders batches and hands them to raft.
func (t *Term) propose(now func() int64, sequence func(now int64, b *commitlog.Batch)) {
	defer close(t.settling)
	last := t.log.Time()
	for number := uint64(1); ; {
		batches := t.take()
		if batches == nil {
			return
		}
		last = max(last, now())
		for len(batches) > 0 {
			n, size := 1, batches[0].Size()
			for n < len(batches) && size+batches[n].Size() <= entryBytes {
				size += batches[n].Size()
				n++
			}
			if err := t.begin(size); err != nil {
				finish(batches, err)
				return
			}
			payload := make([]byte, 0, size)
			for _, b := range batches[:n] {
				sequence(last/1e6, b)
				payload = b.AppendPayload(payload)
			}
			f := t.raft.ApplyLog(raft.Log{Data: payload, Extensions: stamp(last, t.number, t.serial, number)}, 0)
			t.settling <- proposal{future: f, batches: batches[:n], size: size}
			batches = batches[n:]
			number++
		}
	}
}

// begin counts a proposal as under way, or says why there are no more.
func (t *Term) begin(size int) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return notLeading(t.err)
	}
	t.proposed += size
	return nil
}

// settle tells callers what became of their batches, in order.
func (t *Term) settle() {
	for p := range t.settling {
		var at placed
		err := p.future.Error()
		switch {
		case err == nil:
			at = p.future.Response().(placed)
			err = at.err
		case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, commitlog.ErrDiskFull):
			t.end(err) // it was turned away
			err = notLeading(err)
		default:
			t.end(err)
			err = fmt.Errorf("%w: %w", ErrUnknown, err)
		}
		off := 0
		for _, b := range p.batches {
			if err == nil {
				b.Place(at.start, at.end, off)
			}
			off += b.Size()
		}
		finish(p.batches, err)
		t.mu.Lock()
		t.proposed -= p.size
		t.wake.Signal()
		t.mu.Unlock()
	}
}

func finish(batches []*commitlog.Batch, err error) {
	for _, b := range batches {
		b.Finish(err)
	}
}

func notLeading(cause error) error { return fmt.Errorf("%w: %w", ErrNotLeading, cause) }

// end is idempotent: from here on nothing is proposed any more.
func (t *Term) end(cause error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return
	}
	t.err = cause
	close(t.over)
	t.wake.Broadcast()
	t.room.Broadcast()
	finish(t.queue, notLeading(cause))
	t.queue = nil
}
