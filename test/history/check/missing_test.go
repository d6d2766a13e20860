package check

import "testing"

func TestMissingIsWhatWasAcknowledgedAndNotReceived(t *testing.T) {
	for seed := range uint64(10) {
		h := healthy(seed)
		if n := h.Missing("plain"); n != 0 {
			t.Fatalf("seed %d: %d of a healthy history", seed, n)
		}
		h.Deliveries = nil
		ids := map[string]bool{}
		for _, s := range h.Sends {
			if s.OK && s.Topic == "plain" {
				ids[s.ID] = true
			}
		}
		if n := h.Missing("plain"); n != len(ids) {
			t.Fatalf("seed %d: %d are missing of %d that nobody received", seed, n, len(ids))
		}
	}
}
