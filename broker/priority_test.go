package broker

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/gantry-mq/gantry/broker/topic"
)

func urgent(priority int32, id string) Outgoing {
	m := msg(id, id)
	m.Priority, m.HasPriority = priority, true
	return m
}

func batchOf(n int) func(*ReceiveRequest) { return func(r *ReceiveRequest) { r.Batch = n } }

func TestMostUrgentMessageGoesFirst(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Priority, 4)
	send(t, b, "T", urgent(0, "low1"), urgent(99, "top1"), urgent(2, "mid1"), urgent(0, "low2"), urgent(3, "top2"), urgent(2, "mid2"))
	want(t, receive(t, b, "T", "G", batchOf(1)), "top1#1") // above the highest queue is the highest
	want(t, receive(t, b, "T", "G", batchOf(4)), "top2#1", "mid1#1", "mid2#1", "low1#1")
	send(t, b, "T", urgent(1, "later"))
	want(t, receive(t, b, "T", "G"), "later#1", "low2#1")
}

func TestRedeliveryKeepsItsPriority(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Priority, 3)
	send(t, b, "T", urgent(0, "low1"), urgent(1, "mid1"))
	for _, m := range receive(t, b, "T", "G") {
		if _, err := b.ChangeInvisible(t.Context(), name("G"), name("T"), m.Handle, 0, false); err != nil {
			t.Fatal(err)
		}
	}
	send(t, b, "T", urgent(2, "top1"), urgent(1, "mid2"), urgent(0, "low2"))
	want(t, receive(t, b, "T", "G", batchOf(3)), "top1#1", "mid1#2", "mid2#1")
	want(t, receive(t, b, "T", "G"), "low1#2", "low2#1")
}

// A flood of urgent messages never ends, and messages wait on every level below.
func TestFloodOfUrgentMessagesHoldsBackOthersForABoundedNumber(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	const levels, rounds = 5, 400
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Priority, levels)
	flood := make([]Outgoing, MaxReceiveBatch)
	for i := range flood {
		flood[i] = urgent(levels-1, "u")
	}
	send(t, b, "T", flood...)
	for level := range int32(levels - 1) {
		send(t, b, "T", slices.Repeat([]Outgoing{urgent(level, "l")}, 500)...)
	}
	total, lower := 0, 0
	last := make([]int, levels) // how many were handed out when the level had its last turn
	for range rounds {
		got := receive(t, b, "T", "G", batchOf(1+r.IntN(MaxReceiveBatch)))
		for _, m := range got {
			if q := m.Queue; q < levels-1 {
				lower++
				if passed := total - last[q]; passed > PriorityShare*(levels-1) {
					t.Fatalf("level %d waited while %d messages were handed out, want at most %d", q, passed, PriorityShare*(levels-1))
				}
			}
		}
		total += len(got)
		for _, m := range got {
			last[m.Queue] = total
		}
		ack(t, b, "T", "G", got...)
		send(t, b, "T", flood[:len(got)]...)
	}
	for q, at := range last {
		if total-at > PriorityShare*(levels-1) {
			t.Errorf("level %d has waited for the last %d messages", q, total-at)
		}
	}
	if lower > total/PriorityShare {
		t.Errorf("%d of %d messages are from below, want at most one of %d", lower, total, PriorityShare)
	}
}

// Many receives at once hand out what one after the other would.
func TestConcurrentReceivesKeepPriority(t *testing.T) {
	const levels, perLevel = 4, 300
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Priority, levels)
	for i := range perLevel {
		for level := range int32(levels) {
			send(t, b, "T", urgent(level, fmt.Sprint(level, "/", i)))
		}
	}
	var mu sync.Mutex
	var all []Delivered
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for {
				d, err := b.Receive(t.Context(), ReceiveRequest{ClientID: fmt.Sprint("c", i), Group: name("G"), Topic: name("T"), Queue: -1, Batch: 3, Invisible: MaxInvisible})
				if err != nil {
					if ReasonOf(err) != MessageNotFound {
						t.Error(err)
					}
					return
				}
				mu.Lock()
				all = append(all, d.Messages...)
				mu.Unlock()
				d.Release() // the messages are not looked into
			}
		})
	}
	wg.Wait()
	if len(all) != levels*perLevel {
		t.Fatalf("received %d messages, want %d", len(all), levels*perLevel)
	}
	// Lease ids are given in the order in which receives had their turn.
	slices.SortFunc(all, func(a, b Delivered) int { return cmp.Compare(a.leaseRef.held.LeaseID, b.leaseRef.held.LeaseID) })
	early, most := 0, uint32(0)
	for _, m := range slices.Backward(all) {
		if m.Queue < most {
			early++
		}
		most = max(most, m.Queue)
	}
	if early > len(all)/PriorityShare {
		t.Errorf("%d of %d messages went before a more urgent one, want at most one of %d", early, len(all), PriorityShare)
	}
}
