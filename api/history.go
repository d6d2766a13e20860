package api

import (
	"context"
	"sync"
	"time"

	"github.com/gantry-mq/gantry/broker"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
)

const (
	// sampleEvery and samplesKept make an hour of history, at some 400 bytes each.
	sampleEvery = 5 * time.Second
	samplesKept = 720

	// sampleShare bounds what sampling costs: with so many queues that one sample
	// takes long, they are further apart.
	sampleShare = 100
)

// history is the newest samples, for charts that are there when somebody looks for
// the first time, which is usually when something is wrong already.
type history struct {
	mu   sync.Mutex
	ring []*gantryv1.Sample // guarded by mu
	next int                // guarded by mu; where the next one goes once the ring is full
}

// run samples until ctx is done.
func (h *history) run(ctx context.Context, stats func() broker.Stats) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		begun := time.Now()
		st := stats()
		h.add(wireSample(begun, &st))
		pause.Reset(max(sampleEvery, sampleShare*time.Since(begun)))
	}
}

func (h *history) add(s *gantryv1.Sample) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.ring) < samplesKept {
		h.ring = append(h.ring, s)
		return
	}
	h.ring[h.next] = s
	h.next = (h.next + 1) % samplesKept
}

// since returns the samples taken after a time, the oldest first.
func (h *history) since(after time.Time) (out []*gantryv1.Sample) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.ring {
		if s := h.ring[(h.next+i)%len(h.ring)]; s.Time.AsTime().After(after) {
			out = append(out, s)
		}
	}
	return out
}
