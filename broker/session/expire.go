package session

import (
	"context"
	"time"
)

// scansPerExpiry bounds how late a silent client is noticed: by 1/24 of the
// expiry, 5 s with the contract's 120 s.
const scansPerExpiry = 24

// Run ends clients that fell silent, until ctx is done; then it returns nil.
// Call it once.
func (r *Registry) Run(ctx context.Context) error {
	tick := time.NewTicker(max(r.expiry/scansPerExpiry, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			for _, c := range r.expire(now) {
				r.gone(c)
			}
		}
	}
}

func (r *Registry) expire(now time.Time) []Client {
	r.mu.Lock()
	defer r.mu.Unlock()
	var silent []Client
	for id, c := range r.clients {
		if now.Sub(c.LastSeen) >= r.expiry {
			silent = append(silent, r.snapshot(c))
			delete(r.clients, id)
		}
	}
	return silent
}
