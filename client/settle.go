package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

// settle is what is to become of one delivery.
type settle struct {
	d       *Delivery
	action  gantryv1.SettleAction
	delay   *durationpb.Duration
	suspend bool
	again   bool        // was sent before and not answered
	done    func(error) // may be nil
}

// settling is one request under way.
type settling struct {
	id      uint64
	entries []settle
}

// Ack says that the message is done with, and waits until that is durable. When the lease
// has ended it fails with [ErrLeaseLost], unless the message is done with already, whoever
// it was that acknowledged it.
func (d *Delivery) Ack(ctx context.Context) error {
	return d.wait(ctx, settle{d: d, action: gantryv1.SettleAction_SETTLE_ACK})
}

// AckAsync says that the message is done with. done, if not nil, is called when
// that is durable, or failed.
func (d *Delivery) AckAsync(done func(error)) {
	d.of.settle(settle{d: d, action: gantryv1.SettleAction_SETTLE_ACK, done: done})
}

// Retry gives the message back: it is handed out again after delay, or, when that
// is negative, when the group's retry policy says.
func (d *Delivery) Retry(ctx context.Context, delay time.Duration) error {
	return d.wait(ctx, settle{d: d, action: gantryv1.SettleAction_SETTLE_RETRY, delay: retryDelay(delay)})
}

func retryDelay(d time.Duration) *durationpb.Duration {
	if d < 0 {
		return nil
	}
	return durationpb.New(d)
}

// Extend holds the message for d from now on.
func (d *Delivery) Extend(ctx context.Context, by time.Duration) error {
	return d.wait(ctx, settle{d: d, action: gantryv1.SettleAction_SETTLE_EXTEND, delay: durationpb.New(by)})
}

// DeadLetter puts the message among the group's dead letters, at once.
func (d *Delivery) DeadLetter(ctx context.Context) error {
	return d.wait(ctx, settle{d: d, action: gantryv1.SettleAction_SETTLE_DEAD_LETTER})
}

func (d *Delivery) wait(ctx context.Context, s settle) error {
	done := make(chan error, 1)
	s.done = func(err error) { done <- err }
	d.of.settle(s)
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnknown, ctx.Err())
	}
}

// settle puts s among what is sent next.
func (s *subscription) settle(one settle) {
	s.mu.Lock()
	if err := s.err; err != nil {
		s.mu.Unlock()
		if one.done != nil {
			one.done(err)
		}
		return
	}
	s.settles = append(s.settles, one)
	s.mu.Unlock()
	s.feed.wake()
}

const (
	// maxSettling bounds the requests that are not answered: while so many are
	// under way, entries gather for the next.
	maxSettling = 4
	// maxSettles bounds the messages of one request.
	maxSettles = 4096
)

// next returns what to tell the broker now.
func (s *subscription) next() *gantryv1.ConsumeRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping && !s.stopped {
		s.stopped = true
		return &gantryv1.ConsumeRequest{Content: &gantryv1.ConsumeRequest_Stop{Stop: &gantryv1.StopConsuming{}}}
	}
	if len(s.settles) > 0 && len(s.sent) < maxSettling {
		n := min(len(s.settles), maxSettles)
		st := settling{entries: slices.Clone(s.settles[:n])}
		s.settles = slices.Delete(s.settles, 0, n)
		s.settleID++
		st.id = s.settleID
		s.sent = append(s.sent, st)
		return &gantryv1.ConsumeRequest{Content: &gantryv1.ConsumeRequest_Settle{Settle: &gantryv1.Settle{Id: st.id, Entries: ranges(st.entries)}}}
	}
	// Credit goes back in large steps: a quarter of what there is.
	if !s.stopping && (s.owed*4 >= s.opts.Prefetch || s.owedBytes*4 >= s.opts.PrefetchBytes) && s.owed > 0 {
		c := &gantryv1.ConsumeCredit{Bytes: uint64(s.owedBytes), Messages: uint32(s.owed)}
		s.owed, s.owedBytes = 0, 0
		return &gantryv1.ConsumeRequest{Content: &gantryv1.ConsumeRequest_Credit{Credit: c}}
	}
	return nil
}

// ranges says the same with as few entries as possible.
func ranges(s []settle) (out []*gantryv1.SettleEntry) {
	slices.SortStableFunc(s, func(a, b settle) int {
		return cmp.Or(cmp.Compare(a.d.queue, b.d.queue), cmp.Compare(a.d.offset, b.d.offset))
	})
	for i := range s {
		e := &s[i]
		_, queue := ShardOf(e.d.queue)
		if n := len(out); n > 0 {
			last := out[n-1]
			k := int64(last.Count)
			if last.Action == e.action && last.Queue == queue && last.Offset+k == e.d.offset && last.LeaseId+uint64(k) == e.d.lease &&
				last.Suspend == e.suspend && sameDuration(last.Delay, e.delay) {
				last.Count++
				continue
			}
		}
		out = append(out, &gantryv1.SettleEntry{
			Action: e.action, Queue: queue, Offset: e.d.offset, LeaseId: e.d.lease, Count: 1, Delay: e.delay, Suspend: e.suspend,
		})
	}
	return out
}

func sameDuration(a, b *durationpb.Duration) bool {
	return (a == nil) == (b == nil) && a.AsDuration() == b.AsDuration()
}

// answer handles what the broker says of a settle.
func (s *subscription) answer(m *gantryv1.ConsumeResponse) {
	r := m.GetSettled()
	if r == nil {
		return
	}
	s.mu.Lock()
	if len(s.sent) == 0 || s.sent[0].id != r.Id {
		s.mu.Unlock()
		return
	}
	st := s.sent[0]
	s.sent = slices.Delete(s.sent, 0, 1)
	for _, e := range st.entries {
		if e.action != gantryv1.SettleAction_SETTLE_EXTEND {
			s.held--
			s.heldBytes -= e.d.bytes
			s.owed++
			s.owedBytes += e.d.bytes
		}
	}
	s.notify()
	s.mu.Unlock()
	s.feed.wake()
	for i := range st.entries {
		e := &st.entries[i]
		if e.done != nil {
			e.done(e.outcome(r))
		}
	}
}

func (e *settle) outcome(r *gantryv1.SettleResult) error {
	if err := statusError(r.Status); err != nil {
		return err
	}
	_, queue := ShardOf(e.d.queue)
	for _, f := range r.Failures {
		if f.Queue == queue && e.d.offset >= f.Offset && e.d.offset < f.Offset+int64(max(f.Count, 1)) {
			err := statusError(f.Status)
			if e.again && errors.Is(err, ErrLeaseLost) { // perhaps because it was done the first time
				return fmt.Errorf("%w: %w", ErrUnknown, err)
			}
			return err
		}
	}
	return nil
}

func failSettles(s []settle, err error) {
	for i := range s {
		if s[i].done != nil {
			s[i].done(err)
		}
	}
}
