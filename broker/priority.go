package broker

import (
	"cmp"
	"context"
	"iter"
	"slices"
)

// On a topic with priorities a message's queue is its priority, and a group is
// handed the most urgent first; inflight/priority.go says what that means beside
// redeliveries and for those that wait.

// planLevels decides from which queues this receive takes, and keeps others from
// doing so until planned.
func (r *receiving) planLevels(ctx context.Context, now int64) (err error) {
	if r.leave, err = r.sub.Alone(ctx); err == nil {
		r.plan = r.sub.PlanLevels(r.topic.Queues, r.boundsOf, MaxInFlight, r.req.Batch, PriorityShare, now)
	}
	return err
}

// planned ends planLevels: what was found has its place in the log, or was left.
func (r *receiving) planned() {
	if r.leave != nil {
		r.leave()
		r.leave = nil
	}
}

// sortLevels puts the most urgent first.
func sortLevels(ms []found) {
	slices.SortStableFunc(ms, func(a, b found) int { return cmp.Compare(b.held.Queue, a.held.Queue) })
}

// one is the order of one queue.
func one(queue uint32) iter.Seq[uint32] {
	return func(yield func(uint32) bool) { yield(queue) }
}
